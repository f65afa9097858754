"""Generated from proto/livenessprobe/csi/csi.proto by `make proto`; only this file is written by hand."""

from google.protobuf import wrappers_pb2

# csi_pb2 asks for this file by its name, without using the module.  Under Python's lazy imports nobody else loads it.
WRAPPERS = wrappers_pb2.DESCRIPTOR
