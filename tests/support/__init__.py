"""Test doubles on real sockets, and what all tests share."""

# ruff: noqa: F401

from tests.support.common import ROOT, eventually, not_on_windows, plain
from tests.support.driver import FakeDriver, Relay, driver_process
from tests.support.files import ConfigMap, Content, Mount, nothing
from tests.support.http import Answer, free_port, incomplete, is_closed, raw, request
from tests.support.sidecar import (
    COMMAND,
    Done,
    Sidecar,
    Start,
    command,
    injected,
    never_reading,
    process_status,
    watching,
    with_little_room,
    without_faults,
)
