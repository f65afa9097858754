"""
A floor: the libraries the sidecar stands on, imported and nothing more; prints what memory that takes.

    python -m bench.floor_import
"""

import dynaconf
import google.protobuf.message
import grpc.aio
import hypercorn.asyncio
import prometheus_client
import quart

# Named here, they are loaded even where imports are lazy.
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
