"""
A floor: a bare ASGI app that responds ok without calling the driver.

    python -m bench.floor_ok SOCKET PORT
"""

import asyncio
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config

_SOCKET, PORT = sys.argv[1:]


async def app(scope, receive, send):
    """Answer any request."""
    assert scope["type"] == "http"  # an app without a lifespan refuses it
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


asyncio.run(serve(app, Config.from_mapping(bind=f"127.0.0.1:{PORT}")))
