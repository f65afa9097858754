"""Which address is listened on, as net.Listen of Go 1.27 does it on Linux, and its words for what it refuses."""

from __future__ import annotations

import socket
import sys

import pytest

from livenessprobe.settings.listen_address import parse_listen_address
from livenessprobe.web.listener import ListenError, listen, look_up

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="recorded on Linux")


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        # IPv4 in the form of IPv6.
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[::FFFF:127.0.0.1]", "127.0.0.1"),
        ("[::ffff:7f00:1]", "127.0.0.1"),
        ("[::ffff:127.0.0.1%lo]", "127.0.0.1"),
        ("[127.0.0.1]", "127.0.0.1"),
        # A zone by name or number; an unknown one counts as none.
        ("[::1%lo]", "::1"),
        ("[::1%1]", "::1"),
        ("[::1%nosuch]", "::1"),
        # The wildcards.
        ("", "::"),
        ("[]", "::"),
        ("0.0.0.0", "::"),
        ("[::]", "::"),
        ("[0::0]", "::"),
        ("[::%lo]", "::"),
        ("[::ffff:0.0.0.0]", "::"),
        ("[::ffff:0:0]", "::"),
    ],
)
def test_a_host_is_listened_on(host: str, bound: str) -> None:
    with listen(parse_listen_address(f"{host}:0")) as listener:
        assert listener.getsockname()[0] == bound
        if bound == "::":
            assert not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@pytest.mark.parametrize(
    "host",
    ["127.1", "127.0.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.01", "0", "0.0", "1.2.3", "*"]
    + [" 127.0.0.1", "127.0.0.1 ", "256.0.0.1", "127.0.0.1%lo", "::1%", "a b", "a..b", "\u00e9", "x.invalid"],
)
def test_a_form_that_go_takes_for_a_name_is_unknown(host: str) -> None:
    with pytest.raises(ListenError) as refused:
        look_up(parse_listen_address(f"[{host}]:80" if ":" in host else f"{host}:80"))

    assert str(refused.value) == f"listen tcp: lookup {host}: no such host"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("[fe80::1%lo]:21111", "bind: cannot assign requested address"),
        ("[2001:db8::1]:21111", "bind: cannot assign requested address"),
        ("192.0.2.1:21111", "bind: cannot assign requested address"),
        ("[ff02::1%lo]:21111", "bind: invalid argument"),
    ],
)
def test_an_address_of_another_machine_is_refused(address: str, problem: str) -> None:
    with pytest.raises(ListenError) as refused:
        listen(parse_listen_address(address))

    assert str(refused.value) == f"listen tcp {address}: {problem}"


@pytest.mark.parametrize(
    ("port", "number"), [("", 0), ("0", 0), ("-0", 0), ("+0", 0), ("+8081", 8081), ("0" * 9000 + "80", 80), ("HTTP", 80)]
)
def test_a_port_is_a_number_or_a_service(port: str, number: int) -> None:
    found = look_up(parse_listen_address(f"127.0.0.1:{port}"))

    assert found is not None
    assert found.sockaddr[1] == number


@pytest.mark.parametrize(
    ("port", "problem"),
    [
        ("-1", "address -1: invalid port"),
        ("65536", "address 65536: invalid port"),
        ("9" * 9000, f"address {'9' * 9000}: invalid port"),
        ("0x50", "lookup tcp/0x50: unknown port"),
        (" 80", "lookup tcp/ 80: unknown port"),
        ("2_1", "lookup tcp/2_1: unknown port"),
        ("+", "lookup tcp/+: unknown port"),
        ("\u0665", "lookup tcp/\u0665: unknown port"),
    ],
)
def test_a_port_is_refused(port: str, problem: str) -> None:
    with pytest.raises(ListenError) as refused:
        look_up(parse_listen_address(f"127.0.0.1:{port}"))

    assert str(refused.value) == f"listen tcp: {problem}"
