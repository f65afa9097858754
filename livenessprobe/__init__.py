"""A drop-in replacement, in Python, for the Kubernetes CSI sidecar `livenessprobe`, the Go program that comments call upstream."""

__version__ = "0.1.0"
UPSTREAM_VERSION = "v2.20.0"
"""The release of the Go program whose flags, answers, metrics and log lines this one matches."""
