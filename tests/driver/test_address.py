"""Addresses of drivers as people write them: what works, what is refused and in which words, on Linux and on Windows."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.driver.address import SUN_PATH_MAX, AddressError, CSIAddress, parse_csi_address

PLATFORMS = ("linux", "win32")
RESOLVER = "failed to exit idle mode: failed to start resolver: "
NEITHER = (
    " is neither a path nor host:port; "
    "write /path/to/csi.sock, unix:name for a socket in the working directory, or host:port"
)
NO_SOCKET = " names no socket; write the path of the driver's socket file"
FOLDER = " ends in a slash, so it can only be a folder; write the path of the socket file"
NO_PIPES = ": named pipes are not supported; CSI drivers listen on unix sockets"


def refusal(text: str, platform: str = "linux") -> str:
    with pytest.raises(AddressError) as refused:
        parse_csi_address(text, platform)
    return str(refused.value)


# --- what works


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("text", "path", "target"),
    [
        ("/csi/csi.sock", "/csi/csi.sock", "unix:/csi/csi.sock"),
        ("unix:///csi/csi.sock", "/csi/csi.sock", "unix:/csi/csi.sock"),
        ("unix:/csi/csi.sock", "/csi/csi.sock", "unix:/csi/csi.sock"),
        ("UNIX:///csi/csi.sock", "/csi/csi.sock", "unix:/csi/csi.sock"),
        ("Unix:/csi/csi.sock", "/csi/csi.sock", "unix:/csi/csi.sock"),
        # gRPC would read a second slash as the beginning of an authority.
        ("//csi/csi.sock", "//csi/csi.sock", "unix:/csi/csi.sock"),
        ("unix:////csi/csi.sock", "//csi/csi.sock", "unix:/csi/csi.sock"),
        # Relative to the working directory.
        ("unix:rel", "rel", "unix:rel"),
        ("unix:./rel", "./rel", "unix:./rel"),
        ("unix:a/b.sock", "a/b.sock", "unix:a/b.sock"),
        ("./rel.sock", "./rel.sock", "unix:./rel.sock"),
        ("a/b.sock", "a/b.sock", "unix:a/b.sock"),
        # A plain path is literal.
        ("/a/%41.sock", "/a/%41.sock", "unix:/a/%2541.sock"),
        ("/a/q?x", "/a/q?x", "unix:/a/q%3Fx"),
        ("/a/q#x", "/a/q#x", "unix:/a/q%23x"),
        ("/a/b c", "/a/b c", "unix:/a/b%20c"),
        ("/a/é.sock", "/a/é.sock", "unix:/a/%C3%A9.sock"),
        ("/a/x:1@y", "/a/x:1@y", "unix:/a/x:1%40y"),
        ("/@x", "/@x", "unix:/%40x"),
        ("/X", "/X", "unix:/X"),
        ("/a/q?%zz", "/a/q?%zz", "unix:/a/q%3F%25zz"),
        ("unix:///a/%41.sock", "/a/%41.sock", "unix:/a/%2541.sock"),
        ("unix:///a/q?x", "/a/q?x", "unix:/a/q%3Fx"),
        # With one slash, or another spelling of the scheme, it is a URL.
        ("unix:/a/%41.sock", "/a/A.sock", "unix:/a/A.sock"),
        ("UNIX:///a/%41.sock", "/a/A.sock", "unix:/a/A.sock"),
        ("unix:/a/b?x", "/a/b", "unix:/a/b"),
        ("unix:/a/b#x?y", "/a/b", "unix:/a/b"),
        ("UNIX:///a/b?x", "/a/b", "unix:/a/b"),
        ("unix:/a/%C3%A9", "/a/é", "unix:/a/%C3%A9"),
        ("unix:/a/%FF", "/a/\udcff", "unix:/a/%FF"),
        # url.URL.Opaque is not decoded.
        ("unix:a%41", "a%41", "unix:a%2541"),
        # No host for Go, so its dialer gets it whole.
        ("unix://C:\\csi\\csi.sock", "C:\\csi\\csi.sock", "unix:C:%5Ccsi%5Ccsi.sock"),
    ],
)
def test_unix_sockets_that_work_everywhere(text: str, path: str, target: str, platform: str) -> None:
    shown = f"unix://{text}" if text.startswith("/") else text

    assert parse_csi_address(text, platform) == CSIAddress(shown, "unix", path, target)


@pytest.mark.parametrize(
    ("text", "shown", "path", "target"),
    [
        ("C:\\csi\\csi.sock", "C:\\csi\\csi.sock", "C:\\csi\\csi.sock", "unix:C:%5Ccsi%5Ccsi.sock"),
        ("c:/csi/csi.sock", "c:/csi/csi.sock", "c:/csi/csi.sock", "unix:c:/csi/csi.sock"),
        ("/C:/csi/csi.sock", "unix:///C:/csi/csi.sock", "C:/csi/csi.sock", "unix:C:/csi/csi.sock"),
        ("unix:///C:/csi/csi.sock", "unix:///C:/csi/csi.sock", "C:/csi/csi.sock", "unix:C:/csi/csi.sock"),
        ("unix:/C:/csi/csi.sock", "unix:/C:/csi/csi.sock", "C:/csi/csi.sock", "unix:C:/csi/csi.sock"),
        ("unix:C:\\csi\\csi.sock", "unix:C:\\csi\\csi.sock", "C:\\csi\\csi.sock", "unix:C:%5Ccsi%5Ccsi.sock"),
        ("unix:C:/csi/csi.sock", "unix:C:/csi/csi.sock", "C:/csi/csi.sock", "unix:C:/csi/csi.sock"),
        ("unix://C:/csi/csi.sock", "unix://C:/csi/csi.sock", "C:/csi/csi.sock", "unix:C:/csi/csi.sock"),
        (
            "unix://C:\\\\csi\\\\csi.sock",
            "unix://C:\\\\csi\\\\csi.sock",
            "C:\\\\csi\\\\csi.sock",
            "unix:C:%5C%5Ccsi%5C%5Ccsi.sock",
        ),
        ("unix:xC:/csi.sock", "unix:xC:/csi.sock", "xC:/csi.sock", "unix:xC:/csi.sock"),
        (".\\csi.sock", ".\\csi.sock", ".\\csi.sock", "unix:.%5Ccsi.sock"),
    ],
)
def test_unix_sockets_on_windows(text: str, shown: str, path: str, target: str) -> None:
    assert parse_csi_address(text, "win32") == CSIAddress(shown, "unix", path, target)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/C:/csi/csi.sock", "/C:/csi/csi.sock"),
        ("unix:///C:/csi/csi.sock", "/C:/csi/csi.sock"),
        ("unix:/C:/csi/csi.sock", "/C:/csi/csi.sock"),
        ("unix:C:/csi/csi.sock", "C:/csi/csi.sock"),
        ("unix:C:\\", "C:\\"),
    ],
)
def test_a_drive_letter_is_an_ordinary_name_on_linux(text: str, path: str) -> None:
    assert parse_csi_address(text, "linux").name == path


@pytest.mark.parametrize(
    ("text", "name", "target"),
    [
        ("unix-abstract:csi", "csi", "unix-abstract:csi"),
        ("unix:@csi", "csi", "unix-abstract:csi"),
        ("unix-abstract:a/b", "a/b", "unix-abstract:a%2Fb"),
        ("unix-abstract:a b%", "a b%", "unix-abstract:a%20b%25"),
        ("unix-abstract:///csi", "/csi", "unix-abstract:%2Fcsi"),
    ],
)
def test_abstract_sockets_on_linux(text: str, name: str, target: str) -> None:
    assert parse_csi_address(text, "linux") == CSIAddress(text, "abstract", name, target)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("text", "name", "target"),
    [
        ("localhost:10000", "localhost:10000", "dns:///localhost:10000"),
        ("10.0.0.1:1", "10.0.0.1:1", "dns:///10.0.0.1:1"),
        ("driver.ns.svc:65535", "driver.ns.svc:65535", "dns:///driver.ns.svc:65535"),
        (":10000", "localhost:10000", "dns:///localhost:10000"),
        ("h:0080", "h:80", "dns:///h:80"),
        ("h:00000080", "h:80", "dns:///h:80"),
        ("[::1]:10000", "[::1]:10000", "dns:///[::1]:10000"),
        ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1", "dns:///[::ffff:127.0.0.1]:1"),
        ("tcp://h:1", "h:1", "dns:///h:1"),
        ("TCP://h:1", "h:1", "dns:///h:1"),
        ("tcp:h:1", "h:1", "dns:///h:1"),
        ("tcp://h:1/", "h:1", "dns:///h:1"),
        ("tcp://:1", "localhost:1", "dns:///localhost:1"),
        ("tcp://[::1]:1", "[::1]:1", "dns:///[::1]:1"),
        ("dns:///h:1", "h:1", "dns:///h:1"),
        ("dns:h:1", "h:1", "dns:///h:1"),
        ("dns://8.8.8.8/h:1", "h:1", "dns:///h:1"),
        ("passthrough:///h:1", "h:1", "dns:///h:1"),
        ("ipv4:1.2.3.4:5", "1.2.3.4:5", "ipv4:1.2.3.4:5"),
        ("ipv4:///1.2.3.4:5", "1.2.3.4:5", "ipv4:1.2.3.4:5"),
        ("ipv6:[::1]:5", "[::1]:5", "ipv6:[::1]:5"),
        ("IPv6:[fe80::1%eth0]:5", "[fe80::1%eth0]:5", "ipv6:[fe80::1%eth0]:5"),
    ],
)
def test_tcp_addresses_that_work(text: str, name: str, target: str, platform: str) -> None:
    assert parse_csi_address(text, platform) == CSIAddress(text, "tcp", name, target)


@pytest.mark.parametrize(
    ("text", "logs"),
    [
        ("/csi/csi.sock", True),
        ("unix:///csi/csi.sock", True),
        ("unix://C:\\csi\\csi.sock", True),
        ("unix:/csi/csi.sock", False),
        ("UNIX:///csi/csi.sock", False),
        ("unix:rel", False),
        ("unix-abstract:x", False),
        ("localhost:1", False),
    ],
)
def test_lost_connections_are_logged_for_upstreams_own_dialer_only(text: str, logs: bool) -> None:
    assert parse_csi_address(text, "linux").logs_lost_connections is logs


# --- what is refused


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # In upstream's words.
        ("", f"{RESOLVER}passthrough: received empty target in Build()"),
        ("unix://rel", f"{RESOLVER}invalid (non-empty) authority: rel"),
        ("unix://rel/csi.sock", f"{RESOLVER}invalid (non-empty) authority: rel"),
        ("unix://./x", f"{RESOLVER}invalid (non-empty) authority: ."),
        ("unix://tmp/x", f"{RESOLVER}invalid (non-empty) authority: tmp"),
        ("UNIX://tmp/x", f"{RESOLVER}invalid (non-empty) authority: tmp"),
        ("unix-abstract://x", f"{RESOLVER}invalid (non-empty) authority: x"),
        ("/a/%zz.sock", 'parse "passthrough:///unix:///a/%zz.sock": invalid URL escape "%zz"'),
        ("unix:///a/%zz.sock", 'parse "passthrough:///unix:///a/%zz.sock": invalid URL escape "%zz"'),
        ("/a/%4", 'parse "passthrough:///unix:///a/%4": invalid URL escape "%4"'),
        ("/a/%", 'parse "passthrough:///unix:///a/%": invalid URL escape "%"'),
        ("/a\nb.sock", 'parse "passthrough:///unix:///a\\nb.sock": net/url: invalid control character in URL'),
        ("/a\x7f", 'parse "passthrough:///unix:///a\\x7f": net/url: invalid control character in URL'),
        ("unix:///a\t", 'parse "passthrough:///unix:///a\\t": net/url: invalid control character in URL'),
        # Upstream would dial these for ever.
        ("csi.sock", f'"csi.sock"{NEITHER}'),
        ("unix", f'"unix"{NEITHER}'),
        ("localhost", f'"localhost"{NEITHER}'),
        ("::1:80", f'"::1:80"{NEITHER}'),
        ("a b:80", f'"a b:80"{NEITHER}'),
        ("user@h:80", f'"user@h:80"{NEITHER}'),
        ("vsock:2:1024", f'"vsock:2:1024"{NEITHER}'),
        ("tcp:h", f'"tcp:h"{NEITHER}'),
        ("dns:///h", f'"dns:///h"{NEITHER}'),
        ("dns://h:1", f'"dns://h:1"{NEITHER}'),
        ("ipv4:1.2.3.4", f'"ipv4:1.2.3.4"{NEITHER}'),
        ("tcp://h:1/x", '"tcp://h:1/x": write tcp://host:port, with nothing behind the port'),
        ("tcp:///h:1", '"tcp:///h:1": write tcp://host:port, with nothing behind the port'),
        ("h:99999", '"h:99999": port "99999" is not a number from 1 to 65535'),
        ("h:0", '"h:0": port "0" is not a number from 1 to 65535'),
        ("h:000000080", '"h:000000080": port "000000080" is not a number from 1 to 65535'),
        ("h:８０", f'"h:８０"{NEITHER}'),
        ("h:abc", '"h:abc": port "abc" is not a number from 1 to 65535'),
        ("tcp://h:65536", '"tcp://h:65536": port "65536" is not a number from 1 to 65535'),
        ("ipv4:X:1", '"ipv4:X:1": "X" is not an ipv4 address; write host:port for a name'),
        ("ipv4:[::1]:1", '"ipv4:[::1]:1": "::1" is not an ipv4 address; write host:port for a name'),
        ("ipv6:1.2.3.4:1", '"ipv6:1.2.3.4:1": "1.2.3.4" is not an ipv6 address; write host:port for a name'),
        (" /csi/csi.sock", '" /csi/csi.sock" begins or ends with a blank; remove it'),
        ("h:80\n", '"h:80\\n" begins or ends with a blank; remove it'),
        *[
            (
                f"{scheme}://x",
                f'"{scheme}://x": scheme "{scheme}" is not supported; '
                "write /path/to/csi.sock, unix:///path/to/csi.sock or tcp://host:port",
            )
            for scheme in ("http", "https", "fd", "foo", "vsock", "unixgram")
        ],
        ("unix:", f'"unix:"{NO_SOCKET}'),
        ("unix://", f'"unix://"{NO_SOCKET}'),
        ("unix:///", f'"unix:///"{NO_SOCKET}'),
        ("unix:?x", f'"unix:?x"{NO_SOCKET}'),
        ("/", f'"unix:///"{NO_SOCKET}'),
        ("/csi/", f'"unix:///csi/"{FOLDER}'),
        ("unix:///csi/", f'"unix:///csi/"{FOLDER}'),
        ("unix:/csi%2F", f'"unix:/csi%2F"{FOLDER}'),
        ("./", f'"./"{FOLDER}'),
        ("/a\0b", '"/a\\x00b": an address cannot contain a NUL character'),
        ("h\0:80", '"h\\x00:80": an address cannot contain a NUL character'),
    ],
)
def test_addresses_that_can_never_work_are_refused(text: str, sentence: str, platform: str) -> None:
    assert refusal(text, platform) == sentence


@pytest.mark.parametrize("text", ["unix://@x", "unix://@x/y"])
def test_an_abstract_name_behind_two_slashes_is_an_authority(text: str) -> None:
    assert refusal(text).startswith(f"{RESOLVER}invalid (non-empty) authority: ")


@pytest.mark.parametrize(
    ("text", "platform", "sentence"),
    [
        (
            "C:\\csi\\csi.sock",
            "linux",
            '"C:\\\\csi\\\\csi.sock" is a Windows path, and this is linux; write /path/to/csi.sock',
        ),
        ("C:/csi/csi.sock", "linux", '"C:/csi/csi.sock" is a Windows path, and this is linux; write /path/to/csi.sock'),
        (
            "npipe:////./pipe/csi",
            "linux",
            '"npipe:////./pipe/csi": scheme "npipe" is not supported; '
            "write /path/to/csi.sock, unix:///path/to/csi.sock or tcp://host:port",
        ),
        ("npipe:////./pipe/csi", "win32", f'"npipe:////./pipe/csi"{NO_PIPES}'),
        ("npipe:csi", "win32", f'"npipe:csi"{NO_PIPES}'),
        ("\\\\.\\pipe\\csi", "win32", f'"\\\\\\\\.\\\\pipe\\\\csi"{NO_PIPES}'),
        ("//./pipe/csi", "win32", f'"//./pipe/csi"{NO_PIPES}'),
        ("unix://\\\\.\\pipe\\csi", "win32", f'"unix://\\\\\\\\.\\\\pipe\\\\csi"{NO_PIPES}'),
        ("unix:\\\\?\\C:\\csi", "win32", f'"unix:\\\\\\\\?\\\\C:\\\\csi"{NO_PIPES}'),
        ("C:\\", "win32", f'"C:\\\\"{NO_SOCKET}'),
        ("unix:C:\\", "win32", f'"unix:C:\\\\"{NO_SOCKET}'),
        ("unix:///C:/", "win32", f'"unix:///C:/"{NO_SOCKET}'),
        ("/C:/", "win32", f'"unix:///C:/"{NO_SOCKET}'),
        (
            "unix-abstract:x",
            "win32",
            '"unix-abstract:x": abstract sockets exist on Linux only; write the path of the driver\'s socket file',
        ),
        ("unix:@x", "win32", '"unix:@x": abstract sockets exist on Linux only; write the path of the driver\'s socket file'),
        ("unix-abstract:", "linux", '"unix-abstract:": the name of an abstract socket has 1 to 107 bytes'),
        ("unix:@", "linux", '"unix:@": the name of an abstract socket has 1 to 107 bytes'),
    ],
)
def test_refusals_that_depend_on_the_platform(text: str, platform: str, sentence: str) -> None:
    assert refusal(text, platform) == sentence


@pytest.mark.parametrize("text", ["unix:/a%00b", "UNIX:///a%00b"])
def test_a_decoded_nul_is_refused_too(text: str) -> None:
    """No file has such a name, so nothing could ever answer there."""

    assert "NUL" in refusal(text)


# --- the length of a path


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("prefix", ["", "unix://", "unix:"])
def test_a_path_of_107_bytes_works(prefix: str, platform: str) -> None:
    assert parse_csi_address(f"{prefix}/{'x' * 106}", platform).name == "/" + "x" * 106


@pytest.mark.parametrize("prefix", ["", "unix://", "unix:"])
@pytest.mark.parametrize(
    ("path", "size"),
    [("/" + "x" * 107, 108), ("/" + "é" * 53 + "x", 108), ("/" + "é" * 54, 109), ("/" + "\udcff" * 107, 108)],
    ids=["ascii", "two bytes each", "more", "no UTF-8"],
)
def test_the_length_of_a_path_is_counted_in_bytes(prefix: str, path: str, size: int) -> None:
    assert (
        f"the path is {size} bytes long and a unix socket's can have 107; mount the driver's folder under a shorter path"
        in refusal(f"{prefix}{path}")
    )


def test_a_path_of_106_bytes_in_wide_characters_works() -> None:
    assert parse_csi_address("/" + "é" * 53, "linux").name == "/" + "é" * 53


def test_the_length_of_the_decoded_path_counts() -> None:
    assert parse_csi_address("unix:/" + "%41" * 106, "linux").name == "/" + "A" * 106
    assert "108 bytes" in refusal("unix:/" + "%41" * 107)


@pytest.mark.parametrize(("name", "works"), [("x" * 107, True), ("x" * 108, False), ("é" * 53, True), ("é" * 54, False)])
def test_an_abstract_name_has_at_most_107_bytes(name: str, works: bool) -> None:
    if works:
        assert parse_csi_address(f"unix-abstract:{name}", "linux").name == name
    else:
        assert refusal(f"unix-abstract:{name}").endswith(": the name of an abstract socket has 1 to 107 bytes")


# --- properties

ANY = st.text(max_size=30) | st.binary(max_size=30).map(lambda data: data.decode(errors="surrogateescape"))
ADDRESSES = st.builds(
    str.__add__,
    st.sampled_from(
        ["", "/", "//", "unix:", "unix:/", "unix://", "unix:///", "UNIX:///", "unix:@", "unix-abstract:", "tcp:", "tcp://"]
        + ["dns:", "dns:///", "dns://s/", "ipv4:", "ipv6:[", "passthrough:///", "C:\\", "c:/", "h:", "[", "npipe:", "foo://"]
    ),
    ANY | st.text(alphabet="/:%@?#[].\\aF01 \n", max_size=12),
)


@settings(max_examples=500)
@given(ADDRESSES, st.sampled_from(PLATFORMS))
def test_any_text_is_an_address_or_an_address_error(text: str, platform: str) -> None:
    try:
        address = parse_csi_address(text, platform)
    except AddressError as error:
        assert str(error)
        return

    assert address.text in (text, f"unix://{text}")
    assert address.target.isascii()
    assert address.target.isprintable()


def test_text_that_has_no_bytes_is_refused() -> None:
    """Windows hands over unpaired surrogates as they are."""
    assert refusal("unix:/\ud800", "win32") == '"unix:/\\ud800" is not text: it holds half a character'


@settings(max_examples=500)
@given(ADDRESSES, st.sampled_from(PLATFORMS))
def test_the_target_of_a_unix_socket_unquotes_to_the_bytes_of_its_path(text: str, platform: str) -> None:
    """gRPC decodes the target, so any name reaches the kernel unchanged; several leading slashes count as one."""
    try:
        address = parse_csi_address(text, platform)
    except AddressError:
        return
    if address.network == "tcp":
        return

    scheme, _, name = address.target.partition(":")
    path = address.name if address.network == "abstract" else re.sub("^/+", "/", address.name)

    assert scheme == ("unix" if address.network == "unix" else "unix-abstract")
    assert unquote_to_bytes(name) == path.encode(errors="surrogateescape")
    assert 0 < len(address.name.encode(errors="surrogateescape")) <= SUN_PATH_MAX
    assert not name.startswith("//")


@given(
    st.text(alphabet=st.characters(codec="utf-8", min_codepoint=0x20, exclude_characters="%\x7f"), min_size=1, max_size=20)
)
def test_a_plain_path_is_taken_literally(name: str) -> None:
    if name.endswith("/"):
        return

    assert parse_csi_address(f"/csi/{name}", "linux").name == f"/csi/{name}"
