"""A drop-in replacement for the Kubernetes CSI sidecar `livenessprobe`."""

__version__ = "0.1.0"
UPSTREAM_VERSION = "v2.20.0"
"""The release of the Go program whose flags, answers, metrics and log lines this one matches."""
