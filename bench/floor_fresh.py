"""
A floor: a bare ASGI app that calls the driver's Probe for each request, each time on a new connection.

    python -m bench.floor_fresh SOCKET PORT
"""

import asyncio
import sys

import grpc.aio
from hypercorn.asyncio import serve
from hypercorn.config import Config

from livenessprobe.csi import csi_pb2

SOCKET, PORT = sys.argv[1:]
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]  # otherwise channels to one socket share a connection


async def app(scope, receive, send):
    """Answer any request with the result of Probe."""
    assert scope["type"] == "http"  # an app without a lifespan refuses it
    async with grpc.aio.insecure_channel(f"unix:{SOCKET}", options=OPTIONS) as channel:
        call = channel.unary_unary("/csi.v1.Identity/Probe", None, csi_pb2.ProbeResponse.FromString)
        try:
            answer = await call(b"", timeout=3)
            status, body = (500, b"not ready") if answer.HasField("ready") and not answer.ready.value else (200, b"ok")
        except grpc.aio.AioRpcError as error:
            status, body = 500, error.details().encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


asyncio.run(serve(app, Config.from_mapping(bind=f"127.0.0.1:{PORT}")))
