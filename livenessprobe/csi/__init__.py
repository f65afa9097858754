"""Generated from proto/livenessprobe/csi/csi.proto by `make proto`; nothing here is written by hand."""
