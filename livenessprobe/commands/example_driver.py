"""
An example CSI driver with the Identity service alone, for the demo, the benchmarks and people who try things out.

`python -m livenessprobe.commands.example_driver ADDRESS`, in a form of --csi-address, serves it and takes orders from standard
input, a line each: `ready`, `not-ready`, `slow SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from livenessprobe.process import environment

if __name__ == "__main__":
    environment.take()
os.environ["GRPC_VERBOSITY"] = "NONE"

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import BoolValue

from livenessprobe.csi import csi_pb2
from livenessprobe.driver.address import CSIAddress, parse_csi_address

NAME = "example.csi.livenessprobe"


class ExampleDriver:
    """The driver; its attributes say how it behaves from the next call on."""

    def __init__(self) -> None:
        self.ready = True
        self.delay = 0.0

    async def get_plugin_info(self, _request: bytes, _context: object) -> bytes:
        """The name."""
        return csi_pb2.GetPluginInfoResponse(name=NAME, vendor_version="demo").SerializeToString()

    async def probe(self, _request: bytes, _context: object) -> bytes:
        """What `ready` says, after `delay` seconds."""
        await asyncio.sleep(self.delay)
        return csi_pb2.ProbeResponse(ready=BoolValue(value=self.ready)).SerializeToString()

    def obey(self, order: str) -> None:
        """Take one order; an unknown one changes nothing."""
        match order.split():
            case ["ready"]:
                self.ready, self.delay = True, 0.0
            case ["not-ready"]:
                self.ready = False
            case ["slow", seconds] if seconds.replace(".", "", 1).isdigit():
                self.delay = float(seconds)


async def serve(address: CSIAddress, driver: ExampleDriver) -> grpc.aio.Server:
    """A started server at `address`; a socket left over from a crash is replaced."""
    if address.network == "unix":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.name)
    server = grpc.aio.server()
    handlers = {
        "GetPluginInfo": grpc.unary_unary_rpc_method_handler(driver.get_plugin_info),
        "Probe": grpc.unary_unary_rpc_method_handler(driver.probe),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("csi.v1.Identity", handlers),))
    server.add_insecure_port(address.target)
    await server.start()
    return server


async def _main(address: str) -> None:
    driver = ExampleDriver()
    server = await serve(parse_csi_address(address, sys.platform), driver)
    print("serving", flush=True)
    loop = asyncio.get_running_loop()
    while order := await loop.run_in_executor(None, sys.stdin.readline):
        driver.obey(order)
    await server.stop(grace=None)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
