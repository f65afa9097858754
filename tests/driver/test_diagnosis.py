"""What each code and sentence of grpcio says about the driver."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.driver.address import parse_csi_address
from livenessprobe.driver.diagnosis import BYTES_BEHIND, SECOND_MESSAGE, Phase, judge
from livenessprobe.driver.result import Reason
from tests.support import not_on_windows

pytestmark = not_on_windows("gRPC's words for an errno differ there")

ADDRESS = parse_csi_address("/csi/csi.sock", "linux")
DIAL, GREETED, CALL, LOST = Phase
LOST_IT, WRONG, DRIVERS = Reason.CONNECTION_LOST, Reason.PROTOCOL_ERROR, Reason.DRIVER_ERROR
NOT_UNDERSTOOD = "gRPC's core does not understand the driver's HTTP/2: "
EARLY = (
    "the connection to /csi/csi.sock ended behind the driver's SETTINGS: "
    "the driver closes it, or gRPC's core does not understand the driver's HTTP/2"
)


def removed(cause: str) -> str:
    return f"Stream removed ({cause})"


def rst(code: int) -> str:
    return removed(f"RST_STREAM (Received RST_STREAM with error code {code})")


def dial(cause: str) -> str:
    return f"failed to connect to all addresses; last error: UNAVAILABLE: unix:/csi/csi.sock: {cause}"


# grpcio's code, its words, and the phase; then Go's code, the reason, the sentence (None: grpcio's words), and whether the
# call is made again.  The words were recorded from grpcio 1.83.2 and 1.85.3.
VERDICTS = [
    # The driver has not looked at the call.
    ("UNAVAILABLE", removed("GOAWAY received; Error code: 0; Debug Text: "), LOST, "Unavailable", LOST_IT, None, True),
    ("UNAVAILABLE", removed("GOAWAY received; Error code: 11; Debug Text: x"), CALL, "Unavailable", LOST_IT, None, True),
    ("UNAVAILABLE", rst(7), CALL, "Unavailable", LOST_IT, None, True),
    ("UNAVAILABLE", "", GREETED, "Unavailable", WRONG, EARLY, True),
    # It had looked at the call when the connection ended.
    ("UNAVAILABLE", removed("Socket closed (GOAWAY received; Error code: 0; Debug Text: )"), LOST, "Unavailable", LOST_IT, None, False),
    ("UNAVAILABLE", removed("Socket closed"), LOST, "Unavailable", LOST_IT, None, False),
    ("UNAVAILABLE", removed("Socket closed"), CALL, "Unavailable", LOST_IT, None, False),
    ("UNAVAILABLE", removed("sendmsg: Broken pipe (32)"), LOST, "Unavailable", LOST_IT, None, False),
    # Statuses that gRPC makes up, with the code of grpc-go.
    ("INTERNAL", rst(0), CALL, "Internal", WRONG, None, False),
    ("INTERNAL", rst(3), CALL, "ResourceExhausted", WRONG, None, False),
    ("CANCELLED", rst(8), CALL, "Canceled", WRONG, None, False),
    ("RESOURCE_EXHAUSTED", rst(11), CALL, "ResourceExhausted", WRONG, None, False),
    ("PERMISSION_DENIED", rst(12), CALL, "PermissionDenied", WRONG, None, False),
    ("INTERNAL", rst(13), CALL, "Internal", WRONG, None, False),
    ("INTERNAL", rst(14), CALL, "Unknown", WRONG, None, False),
    ("INTERNAL", rst(2**32 - 1), CALL, "Unknown", WRONG, None, False),
    ("UNKNOWN", removed("Data frame with END_STREAM flag received"), CALL, "Internal", WRONG, None, False),
    ("INTERNAL", removed("Error parsing 'grpc-status' metadata"), CALL, "Unknown", WRONG, None, False),
    ("INTERNAL", removed("Error parsing ':status' metadata"), CALL, "Internal", WRONG, None, False),
    ("INTERNAL", removed("Error parsing 'grpc-encoding' metadata"), CALL, "Internal", WRONG, None, False),
    ("INTERNAL", removed("Illegal header key: X-Foo"), CALL, "Internal", WRONG, None, False),
    ("RESOURCE_EXHAUSTED", removed("CLIENT: Received message larger than max (5 vs. 4)"), CALL, "ResourceExhausted", WRONG, None, False),
    ("UNKNOWN", "No status received", CALL, "Unknown", WRONG, None, False),
    ("UNAVAILABLE", "Received http2 header with status: 503", CALL, "Unavailable", WRONG, None, False),
    ("UNIMPLEMENTED", "Received http2 header with status: 404", CALL, "Unimplemented", WRONG, None, False),
    ("INTERNAL", "Compression bit set but no encoding configured", CALL, "Internal", WRONG, None, False),
    ("INTERNAL", "Decompression failed due to zlib error", CALL, "Internal", WRONG, None, False),
    # HTTP/2 that Go understands, and gRPC's core does not.
    ("UNKNOWN", "Received http2 header with status: 103", LOST, "Internal", WRONG, f"{NOT_UNDERSTOOD}Received http2 header with status: 103", False),
    ("INTERNAL", removed("unsupported data flags: 0x08 stream: 1"), CALL, "Internal", WRONG, f"{NOT_UNDERSTOOD}unsupported data flags: 0x08 stream: 1", False),
    ("UNKNOWN", removed("Failed parsing HTTP/2 (Received unexpected settings ack)"), LOST, "Internal", WRONG, f"{NOT_UNDERSTOOD}Failed parsing HTTP/2 (Received unexpected settings ack)", False),
    ("UNAVAILABLE", dial("Failed parsing HTTP/2 (invalid flags on settings frame)"), DIAL, "Unavailable", WRONG, f"{NOT_UNDERSTOOD}invalid flags on settings frame", False),
    # A call that succeeded, and its response did not.
    ("OK", "", CALL, "Internal", WRONG, "the answer has no complete message", False),
    ("OK", SECOND_MESSAGE, CALL, "Internal", WRONG, None, False),
    ("OK", BYTES_BEHIND, CALL, "Internal", WRONG, None, False),
    # The driver's own statuses.
    ("UNAVAILABLE", "GOAWAY received", CALL, "Unavailable", DRIVERS, None, False),
    ("UNAVAILABLE", "backend is down", LOST, "Unavailable", LOST_IT, None, False),
    ("NOT_FOUND", "m", CALL, "NotFound", DRIVERS, None, False),
    ("CANCELLED", "m", CALL, "Canceled", DRIVERS, None, False),
    ("UNIMPLEMENTED", "m", CALL, "Unimplemented", Reason.UNIMPLEMENTED, None, False),
    ("DEADLINE_EXCEEDED", "m", CALL, "DeadlineExceeded", Reason.DEADLINE, None, False),
    # No connection.
    ("UNAVAILABLE", dial(f"connect failed: {os.strerror(errno.ECONNREFUSED)} (111)"), DIAL, "Unavailable", Reason.REFUSED,
     "nobody listens on /csi/csi.sock: the driver is down or starting", False),
    ("UNAVAILABLE", dial("Failed parsing HTTP/2 (Expected SETTINGS frame as the first frame, got frame type 120)"), DIAL, "Unavailable", WRONG,
     "/csi/csi.sock does not speak gRPC: this is not the driver's CSI socket", False),
    ("INTERNAL", dial("Failed parsing HTTP/2 (Expected SETTINGS frame) (Trying to connect an http1.x server (HTTP status 400))"), DIAL, "Unavailable",
     WRONG, "/csi/csi.sock answers in HTTP/1, not gRPC: this is not the driver's CSI socket", False),
    ("UNAVAILABLE", dial("Socket closed"), DIAL, "Unavailable", WRONG, "/csi/csi.sock closes every connection without a word of gRPC", False),
]  # fmt: skip


@pytest.mark.parametrize(("code", "words", "phase", "gos_code", "reason", "sentence", "again"), VERDICTS)
def test_each_failure_has_a_verdict(
    code: str, words: str, phase: Phase, gos_code: str, reason: Reason, sentence: str | None, again: bool
) -> None:
    assert judge(code, words, phase, ADDRESS) == (gos_code, reason, words if sentence is None else sentence, again)


CODES = st.sampled_from(["OK", "CANCELLED", "UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS"])


@given(CODES, st.text() | st.text().map(removed), st.sampled_from(Phase))
def test_any_words_have_a_verdict_and_only_a_refusal_is_asked_again(code: str, words: str, phase: Phase) -> None:
    verdict = judge(code, words, phase, ADDRESS)
    refusal = "GOAWAY received" in words or "error code 7" in words or phase is GREETED
    assert refusal or not verdict.again
    assert verdict.code.isalpha()
