"""
A floor: imports the sidecar's libraries and does nothing else; prints its memory.

    python -m bench.floor_import
"""

import dynaconf
import google.protobuf.message
import grpc.aio
import hypercorn.asyncio
import prometheus_client
import quart

# The names below load the libraries even with lazy imports.
STACK = (
    dynaconf.Dynaconf,
    google.protobuf.message.Message,
    grpc.aio.insecure_channel,
    hypercorn.asyncio.serve,
    prometheus_client.CollectorRegistry,
    quart.Quart,
)

with open("/proc/self/smaps_rollup", encoding="ascii") as file:
    print(file.read())
