"""Test doubles on real sockets, and what all tests share."""

from tests.support.common import ROOT, eventually, not_on_windows, plain
from tests.support.driver import FakeDriver, Relay, driver_process
from tests.support.files import ConfigMap, Content, nothing
from tests.support.http import Answer, free_port, raw, request
from tests.support.sidecar import COMMAND, Done, Sidecar, Start, command, never_reading, with_little_room

__all__ = [
    "COMMAND",
    "ROOT",
    "Answer",
    "ConfigMap",
    "Content",
    "Done",
    "FakeDriver",
    "Relay",
    "Sidecar",
    "Start",
    "command",
    "driver_process",
    "eventually",
    "free_port",
    "never_reading",
    "not_on_windows",
    "nothing",
    "plain",
    "raw",
    "request",
    "with_little_room",
]
