"""The check for descriptors before a dial."""

from __future__ import annotations

import errno
import os

import pytest

from livenessprobe.driver import connection
from livenessprobe.driver.address import parse_csi_address
from livenessprobe.driver.diagnosis import NotConnected
from livenessprobe.driver.result import Reason
from tests.support import not_on_windows

pytestmark = not_on_windows("descriptors are not limited")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_the_message_tells_whether_the_node_or_the_process_has_no_descriptors(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def pipe() -> tuple[int, int]:
        if len(taken) == connection.DESCRIPTORS - 2:
            raise OSError(number, os.strerror(number))
        taken.extend(pair := real())
        return pair

    real = os.pipe
    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(NotConnected) as refused:
        connection._refuse_without_descriptors(parse_csi_address("/csi/csi.sock", "linux"))

    assert refused.value.reason is Reason.INTERNAL
    assert refused.value.sentence.endswith(f"left to connect to /csi/csi.sock: {os.strerror(number)}")
    for descriptor in taken:  # all of them have been closed
        with pytest.raises(OSError):
            os.fstat(descriptor)
