"""The image and the sidecar with real containers, foreign drivers, Prometheus and a kubelet."""
