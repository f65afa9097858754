"""What will the kubelet do with this manifest?  `livenessprobe lint` judges sidecars and the probes that ask them, before they run."""
