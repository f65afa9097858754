"""Addresses to listen on: what Go's net.Listen reads, and what it refuses, in its words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.driver.address import AddressError
from livenessprobe.settings.listen_address import ListenAddress, join_host_port, parse_listen_address


@pytest.mark.parametrize(
    ("text", "host", "port", "dual_stack"),
    [
        (":9808", "", "9808", True),
        ("0.0.0.0:9808", "0.0.0.0", "9808", True),
        ("[::]:9808", "::", "9808", True),
        ("127.0.0.1:9808", "127.0.0.1", "9808", False),
        ("localhost:9808", "localhost", "9808", False),
        ("X:9808", "X", "9808", False),
        ("[::1]:9808", "::1", "9808", False),
        ("[fe80::1%eth0]:9808", "fe80::1%eth0", "9808", False),
        # Ports are looked up only when listening.
        (":http", "", "http", True),
        (":", "", "", True),
        ("127.0.0.1:", "127.0.0.1", "", False),
        ("0.0.0.0:+8081", "0.0.0.0", "+8081", True),
        ("127.0.0.1:65536", "127.0.0.1", "65536", False),
        ("[]:1", "", "1", True),
    ],
)
def test_a_listen_address_is_a_host_and_a_port(text: str, host: str, port: str, dual_stack: bool) -> None:
    """Go opens one socket for both IPs when the host is a wildcard of either, or is missing."""
    address = parse_listen_address(text)

    assert address == ListenAddress(text, host, port)
    assert address.dual_stack is dual_stack


@pytest.mark.parametrize("text", ["unix:///run/health.sock", "unix:/run/health.sock"])
def test_a_unix_socket_can_be_listened_on(text: str) -> None:
    address = parse_listen_address(text)

    assert address == ListenAddress(text, path="/run/health.sock")
    assert not address.dual_stack


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("localhost:http", "localhost:http", True),
        ("[::1]:1", "[0:0::1]:1", True),
        ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", True),
        # One socket for both IPs: all wildcards are one address.
        (":1", "0.0.0.0:1", True),
        ("[::]:1", ":1", True),
        ("[::]:1", "0.0.0.0:1", True),
        ("unix:///run/h.sock", "unix:/run/h.sock", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        (":1", ":2", False),
        ("127.0.0.1:1", ":1", False),
        ("127.0.0.1:1", "[::1]:1", False),
        ("a:1", "b:1", False),
        ("127.0.0.1:1", "localhost:1", False),
        (":1", "unix:///run/h.sock", False),
        ("unix:///run/h.sock", "unix:///run/m.sock", False),
    ],
)
def test_one_address_may_be_written_in_several_ways(one: str, other: str, same: bool) -> None:
    """Names of hosts and ports are not looked up."""
    first, second = parse_listen_address(one), parse_listen_address(other)

    assert first.is_same_as(second) is same
    assert second.is_same_as(first) is same


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("abc", "missing port in address"),
        ("9808", "missing port in address"),
        ("", "missing port in address"),
        ("[::1]", "missing port in address"),
        ("[::1]80", "missing port in address"),
        ("::1:80", "too many colons in address"),
        ("0.0.0.0:localhost:29613", "too many colons in address"),
        ("0.0.0.0:80:80", "too many colons in address"),
        ("http://x:80", "too many colons in address"),
        ("[::1]:80:80", "too many colons in address"),
        ("[::1]::80", "too many colons in address"),
        ("[::1", "missing ']' in address"),
        ("[::1:80", "missing ']' in address"),
        ("a[b:80", "unexpected '[' in address"),
        ("[a[b]:80", "unexpected '[' in address"),
        ("a:[80", "unexpected '[' in address"),
        ("a]b:80", "unexpected ']' in address"),
        ("a:8]0", "unexpected ']' in address"),
        ("[a]:8]0", "unexpected ']' in address"),
        ("]:[", "unexpected '[' in address"),
        ("[abc", "missing port in address"),
        ("[::1]x:80", "missing port in address"),
    ],
)
def test_a_bad_listen_address_is_refused_in_gos_words(text: str, problem: str) -> None:
    with pytest.raises(AddressError) as refused:
        parse_listen_address(text)

    assert str(refused.value) == f"listen tcp: address {text}: {problem}"


@pytest.mark.parametrize("path", ["rel.sock", "", "/run/", "/" + "é" * 54])
def test_a_bad_unix_listen_address_is_refused(path: str) -> None:
    with pytest.raises(AddressError) as refused:
        parse_listen_address(f"unix:{path}")

    assert str(refused.value) == f"listen unix {path}: a socket wants an absolute path of at most 107 bytes"


def test_text_that_has_no_bytes_is_refused() -> None:
    """Windows hands over unpaired surrogates as they are."""
    with pytest.raises(AddressError) as refused:
        parse_listen_address("unix:/\ud800")

    assert str(refused.value) == 'listen "unix:/\\ud800" is not text: it holds half a character'


def test_a_unix_listen_address_of_107_bytes_works() -> None:
    assert parse_listen_address("unix:///" + "x" * 106).path == "/" + "x" * 106


@pytest.mark.parametrize(
    ("host", "port", "joined"),
    [("0.0.0.0", "9808", "0.0.0.0:9808"), ("", "1", ":1"), ("::1", "1", "[::1]:1"), ("fe80::1%eth0", "", "[fe80::1%eth0]:")],
)
def test_hosts_and_ports_are_joined_as_by_go(host: str, port: str, joined: str) -> None:
    assert join_host_port(host, port) == joined


@settings(max_examples=500)
@given(st.text(max_size=20) | st.text(alphabet="[]:.%/01az", max_size=12))
def test_any_text_is_a_listen_address_or_an_address_error(text: str) -> None:
    try:
        address = parse_listen_address(text)
    except AddressError as error:
        assert str(error).startswith("listen ")
        return

    assert address.text == text
    if not address.path:
        assert text in (f"{address.host}:{address.port}", f"[{address.host}]:{address.port}")
        assert not set("[]:") & set(address.port)
