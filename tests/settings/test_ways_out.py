"""What is said of a wrong value in upstream's words has a way out behind it, and the way out works."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.driver.address import AddressError, parse_csi_address, unexpanded
from livenessprobe.settings.layers import overlay
from livenessprobe.settings.listen_address import parse_listen_address
from livenessprobe.settings.load import load
from livenessprobe.settings.mistakes import Mistake
from livenessprobe.settings.ways_out import of_csi_address, of_health_port, of_listen_address, of_taken

PORT = "a port is a number from 0 to 65535, or the name of a service that the system knows"
SUGGESTED = re.compile(r"(?:^write|slashes:|brackets:|a port:|such as) ([^\s,;]*[:/][^\s,;]*)")
"""An address in a way out."""
NO_POD_IP = "$(POD_IP) was not expanded: the container has no variable POD_IP; set it under env"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("unix://csi/csi.sock", "three slashes: unix:///csi/csi.sock"),
        ("UNIX://csi/csi.sock", "three slashes: unix:///csi/csi.sock"),
        ("unix://csi", "three slashes: unix:///csi"),
        ("", "write the path of the driver's socket, such as /csi/csi.sock; a variable may be empty"),
        ("$(ADDRESS)", "$(ADDRESS) was not expanded: the container has no variable ADDRESS; set it under env"),
        ("unix://$(ADDRESS)", "$(ADDRESS) was not expanded: the container has no variable ADDRESS; set it under env"),
        ("${ADDRESS}", "${ADDRESS} is not expanded: Kubernetes expands only $(ADDRESS)"),
        ("$ADDRESS", "$ADDRESS is not expanded: Kubernetes expands only $(ADDRESS)"),
        ("::1:50051", "write an IPv6 address in brackets: [::1]:50051"),
        ("tcp://fd00::7:50051", "write an IPv6 address in brackets: tcp://[fd00::7]:50051"),
        ("tcp://[::1]", "write an IPv6 address in brackets, with a port: tcp://[::1]:50051"),
        ("/a%zz", "write %25 for a percent sign"),
        ("/csi/csi.sock\n", "remove the line break or control character"),
        ("unix-abstract:", "write unix-abstract:NAME"),
        ("unix:@", "write unix-abstract:NAME"),
        ("http://x", ""),
        ("csi.sock", ""),
    ],
)
def test_an_address_of_a_driver(text: str, hint: str) -> None:
    with pytest.raises(AddressError):
        parse_csi_address(text, "linux")

    assert of_csi_address(text) == hint
    for suggested in [] if "unix-abstract" in hint else SUGGESTED.findall(hint):
        parse_csi_address(suggested, "linux")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("9811", "write :9811"),
        ("localhost", "write an address and a port, such as localhost:9808"),
        ("::1", "write an IPv6 address in brackets, with a port: [::1]:9808"),
        ("::1:9808", "write an IPv6 address in brackets: [::1]:9808"),
        ("[fd00::7]", "write an IPv6 address in brackets, with a port: [fd00::7]:9808"),
        ("[::1", "write an IPv6 address in brackets, with a port: [::1]:9808"),
        ("[x", "write HOST:PORT, or [HOST]:PORT for an IPv6 address"),
        ("a:b:c", "write HOST:PORT, or [HOST]:PORT for an IPv6 address"),
        ("0.0.0.0 9808", "write HOST:PORT, or [HOST]:PORT for an IPv6 address"),
        ("$(POD_IP):9808", NO_POD_IP),
        ("http://0.0.0.0:9808", "write 0.0.0.0:9808, without a scheme"),
        ("https://:9808/healthz", "write :9808, without a scheme"),
        (":9808/healthz", "write :9808, without a path"),
        ("/run/h.sock", "write unix:///run/h.sock"),
        ("unix:h.sock", "three slashes: unix:///h.sock"),
        ("unix://run/h.sock", "three slashes: unix:///run/h.sock"),
        ("unix:", "three slashes: unix:///path/to/socket"),
        ("':9808'", "write :9808, without quotes and blanks"),
        (" :9808", "write :9808, without quotes and blanks"),
        ("off", "leave the setting out to serve nothing there"),
        ("-1", "leave the setting out to serve nothing there"),
        ("*:9808", "write :9808 for all addresses"),
        (":99999", PORT),
        (":nosuchport", PORT),
        ("nosuch.invalid:1", "write an address of this pod, or :1 for all"),
    ],
)
def test_an_address_to_listen_on(text: str, hint: str) -> None:
    assert of_listen_address(text) == hint
    for suggested in [] if "HOST" in hint else SUGGESTED.findall(hint):
        parse_listen_address(suggested)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (":9808", "write the port alone: 9808"),
        ("0.0.0.0:9808", "write the port alone: 9808"),
        ("localhost:29613", "write the port alone: 29613; --http-endpoint takes an address"),
        ("$(HEALTH_PORT)", "$(HEALTH_PORT) was not expanded: the container has no variable HEALTH_PORT; set it under env"),
        ('"9808"', "write 9808, without quotes and blanks"),
        ("99999", PORT),
        ("http:", PORT),
        ("nosuch", PORT),
    ],
)
def test_a_port_of_health(text: str, hint: str) -> None:
    assert of_health_port(text) == hint


def test_an_address_that_cannot_be_had() -> None:
    assert of_taken("", "health-port") == "choose another with --health-port"
    assert of_taken("held by a (PID 1)", "x") == "held by a (PID 1); choose another with --x"


PARTS = st.sampled_from(
    ["", "http://", "unix:", "unix://", "tcp://", "/", "a", "::", "::1", "[::1]", "127.0.0.1", ":", "80", "99999", " ", "'", "$(X)", "*", "@", "%"]
)  # fmt: skip
TEXTS = st.lists(PARTS, max_size=5).map("".join) | st.text(max_size=8)


@given(TEXTS)
def test_each_listen_address_has_a_way_out(text: str) -> None:
    assert of_listen_address(text) != "" != of_health_port(text)


@given(st.text(max_size=12))
def test_only_a_dollar_sign_can_be_a_variable(text: str) -> None:
    assert (unexpanded(text) == "") or "$" in text


def of(given_flags: dict[str, str], environ: dict[str, str]) -> Mistake:
    (mistake,) = load(given_flags, environ, platform="linux", merger=overlay).mistakes
    return mistake


def test_upstreams_words_are_unchanged_in_front() -> None:
    """So the record is upstream's, with the way out as `detail` behind."""
    mistake = of({"http-endpoint": "9811"}, {})

    assert mistake.record() == {"err": "listen tcp: address 9811: missing port in address", "detail": "write :9811"}
    assert mistake.sentence == "Failed to start http server: listen tcp: address 9811: missing port in address; write :9811"
    assert of({"logging-format": "JSON"}, {}).hint == "write text or json"
    assert of({"log-text-split-stream": "true"}, {}).hint == "leave out --log-text-split-stream"


def test_a_variable_that_was_not_expanded_is_named_in_any_value() -> None:
    mistake = of({}, {"LIVENESSPROBE_PROBE_TIMEOUT": "$(TIMEOUT)"})

    assert str(mistake.err).endswith(
        "parse error; $(TIMEOUT) was not expanded: the container has no variable TIMEOUT; set it under env"
    )
