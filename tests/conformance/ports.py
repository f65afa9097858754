"""
Free ports for processes that start later; no two tests get the same one.

A port is claimed by binding an abstract unix socket with the port in its name.  Only one process can bind it, in
whatever worker or run, and the kernel frees the name when that process ends, so no stale lock remains.
"""

from __future__ import annotations

import random
import socket
import time

FIRST, LAST = 24000, 31999
"""Below Linux's ephemeral range."""


class Ports:
    """Claims ports, and holds them until `release`."""

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []

    def free(self) -> int:
        """A port that no other test holds and no process listens on."""
        count = LAST - FIRST + 1
        start = random.randrange(count)
        for offset in range(count):
            port = FIRST + (start + offset) % count
            if self._claim(port):
                return port
        raise OSError(f"no port from {FIRST} to {LAST} is free")

    def wait_for(self, port: int, seconds: float) -> None:
        """Claim this port, as soon as no other test holds it."""
        end = time.monotonic() + seconds
        while not self._claim(port):
            if time.monotonic() > end:
                raise OSError(f"port {port} was in use for {seconds} s")
            time.sleep(0.02)

    def release(self) -> None:
        for claim in self._claims:
            claim.close()
        self._claims.clear()

    def _claim(self, port: int) -> bool:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0livenessprobe-conformance-{port}")
        except OSError:
            claim.close()
            return False
        if not _bindable(port):
            claim.close()
            return False
        self._claims.append(claim)
        return True


def _bindable(port: int) -> bool:
    """Whether no process listens on the port, on any address."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # otherwise a port in TIME_WAIT looks taken
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OSError:
            if family == socket.AF_INET6 and not has_ipv6():
                continue
            return False
    return True


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
