"""Which process listens on a port: the table of sockets, and this process itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.process.network import holder, listeners

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:2650 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:2650 0100007F:D9F6 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 0100007F:D9F6 0100007F:2650 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 20 4 30 10 -1
   3: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4714 1 0
   4: cut 0A
"""


@pytest.mark.parametrize(("port", "found"), [(0x2650, {"socket:[4711]"}), (0x1F90, {"socket:[4714]"}), (0xD9F6, set())])
def test_only_listening_sockets_count(port: int, found: set[str]) -> None:
    assert listeners(TABLE.splitlines(), port) == found


@given(st.lists(st.text(max_size=80), max_size=5), st.integers(0, 65535))
def test_any_table_is_read(lines: list[str], port: int) -> None:
    listeners(lines, port)


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/net/tcp"), reason="/proc is Linux's")


@needs_proc
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_process_that_can_be_seen_is_named(host: str) -> None:
    try:
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with listener:
        name = Path("/proc/self/comm").read_text().strip()
        assert holder(listener.getsockname()[1]) == f"held by {name} (PID {os.getpid()})"


@needs_proc
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_process_that_cannot_be_seen_is_no_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = f"from livenessprobe.process.network import holder; print(holder({listener.getsockname()[1]}))"
        command = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True)

    if done.returncode:
        pytest.skip("another user cannot read this folder")
    assert done.stdout.startswith("held by a process outside this container")


def test_a_port_without_a_listener_has_no_holder() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        assert holder(bound.getsockname()[1]) == ""
