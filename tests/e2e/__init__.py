"""The image and the sidecar on the real thing: containers, foreign drivers, Prometheus, a kubelet."""
