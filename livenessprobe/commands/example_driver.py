"""
An example CSI driver with only the Identity service, for the demo, the benchmarks and manual tests.

`python -m livenessprobe.commands.example_driver ADDRESS` serves at ADDRESS, which is written as for --csi-address, and reads
commands from standard input, one a line: `ready`, `not-ready`, `slow SECONDS`.
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
    """The driver's behaviour from the next call on: whether it is ready, and how many seconds a Probe takes."""

    def __init__(self) -> None:
        self.ready = True
        self.delay = 0.0

    async def get_plugin_info(self, _request: bytes, _context: object) -> bytes:
        """A GetPluginInfoResponse with the driver's name."""
        return csi_pb2.GetPluginInfoResponse(name=NAME, vendor_version="demo").SerializeToString()

    async def probe(self, _request: bytes, _context: object) -> bytes:
        """A ProbeResponse with `ready`, after `delay` seconds."""
        await asyncio.sleep(self.delay)
        return csi_pb2.ProbeResponse(ready=BoolValue(value=self.ready)).SerializeToString()

    def execute(self, command: str) -> None:
        """Change the behaviour by one line of input; an unknown command is ignored."""
        match command.split():
            case ["ready"]:
                self.ready, self.delay = True, 0.0
            case ["not-ready"]:
                self.ready = False
            case ["slow", seconds] if seconds.replace(".", "", 1).isdigit():
                self.delay = float(seconds)


async def serve(address: CSIAddress, driver: ExampleDriver) -> grpc.aio.Server:
    """Start a server at `address`; replaces a socket file that a crash left behind."""
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
    while command := await loop.run_in_executor(None, sys.stdin.readline):
        driver.execute(command)
    await server.stop(grace=None)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
