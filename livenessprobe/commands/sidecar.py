"""
Asks a running sidecar over HTTP, and reads the settings as the sidecar does.

For commands that run for a moment: no web framework, no Dynaconf, and the HTTP client only when it is used.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from livenessprobe.gotext import printable
from livenessprobe.klog.writer import write_all
from livenessprobe.process import cgroup
from livenessprobe.process.imports import hide_modules
from livenessprobe.settings import command_line
from livenessprobe.settings.file import read_settings_file
from livenessprobe.settings.layers import Layer, overlay
from livenessprobe.settings.listen_address import ListenAddress
from livenessprobe.settings.load import NO_FILE, load, with_file
from livenessprobe.settings.model import Loaded

BODY_MAX = 1 << 20
"""Bytes of a response that are read: a driver's message of 64 KiB may come twice, each byte escaped."""

LINE_MAX = 2000
"""Characters of a line about the settings file."""

NO_WORD = (
    "the response has status {status} and no header X-Livenessprobe-Reason: this is another web server, "
    "or the Go livenessprobe; check the driver itself with --csi-address"
)


class Place(NamedTuple):
    """Where a sidecar listens: a host and a port, or the path of a unix socket."""

    host: str
    port: str = ""
    socket_path: str = ""

    def __str__(self) -> str:
        return f"unix://{self.socket_path}" if self.socket_path else f"http://{_bracketed(self.host)}:{self.port}"


class Answer(NamedTuple):
    """A response."""

    status: int
    reason: str
    """The word in X-Livenessprobe-Reason, empty if there is none."""
    body: str


class NotConnected(Exception):
    """Nothing accepts a connection; the text has the cause."""


class NoAnswer(Exception):
    """The connection brought no valid response; the text has the cause."""


def load_settings(values: Mapping[str, str], environ: Mapping[str, str], unreadable: Collection[str] = ()) -> Loaded:
    """The settings from flag `values`, variables and the settings file, with all mistakes; `unreadable` as for `load`."""

    def load_layer(layer: Layer) -> Loaded:
        return load(values, environ, layer, unreadable=unreadable, merger=overlay)

    without_file = load_layer(NO_FILE)
    return with_file(without_file, read_settings_file(without_file.raw["config"].text), load_layer)


def beside(environ: Mapping[str, str]) -> Loaded | None:
    """
    The settings of the sidecar in whose container this process was executed, if it is process 1 there; else None.

    Variables and the settings file are the same for both.
    """
    words = cgroup.read("/proc/1/cmdline").split("\0")[:-1]
    names = [os.path.basename(word) for word in words]
    if sys.platform != "linux" or os.getpid() == 1 or "livenessprobe" not in names:
        return None
    arguments = words[names.index("livenessprobe") + 1 :]
    try:
        loaded = load_settings(command_line.parse(arguments).values(), environ)
    except (command_line.FlagError, command_line.HelpRequested):
        return None
    return None if loaded.is_refused or set(arguments[:1]) & command_line.COMMANDS.keys() else loaded


def places(address: ListenAddress) -> Iterator[Place]:
    """Where a sidecar that listens on `address` is reached from its own container."""
    if address.path:
        yield Place("localhost", socket_path=address.path)
    elif address.dual_stack:
        yield Place("127.0.0.1", address.port)
        yield Place("::1", address.port)
    else:
        yield Place(address.host, address.port)


def tell_of_ignored_file(command: str, loaded: Loaded) -> None:
    """Write a line to standard error for each mistake for which the settings file is ignored; names file, line and way out."""
    for mistake in loaded.file_mistakes:
        try:
            write_all(2, f"livenessprobe {command}: the settings file is ignored: {printable(str(mistake.err), LINE_MAX)}")
        except OSError:
            return  # stderr may be closed; the exit code has the result


def parse_url(url: str, given: str = "--url=") -> tuple[Place, str]:
    """The place that `url` names, and the path and query behind it; raises FlagError if it is invalid, which says how it was given."""
    from urllib.parse import urlsplit

    wrong = command_line.FlagError(f"{given}{url}: write http://host:port or unix:///path/to/socket")
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        raise wrong from None
    if sys.platform != "win32" and parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return Place("localhost", socket_path=parts.path), ""
    if parts.scheme != "http" or not parts.hostname:
        raise wrong
    return Place(parts.hostname, str(port)), parts.path + (f"?{parts.query}" if parts.query else "")


def get(place: Place, path: str, accept: str, timeout: float) -> Answer:
    """
    The response to GET `path`.

    Raises NotConnected, NoAnswer, or TimeoutError if the response does not come within `timeout` seconds.
    """
    with hide_modules("ssl"):  # OpenSSL takes 1.3 MiB, for HTTPS
        from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(place.host, 80, timeout=timeout)
    try:
        if sys.platform != "win32" and place.socket_path:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(timeout)
            connection.sock.connect(place.socket_path)
        else:
            connection.sock = socket.create_connection((place.host, place.port), timeout)
    except OSError as error:
        connection.close()
        raise NotConnected(error.strerror or str(error)) from None
    try:
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", _bracketed(place.host) + (f":{place.port}" if place.port else ""))
        connection.putheader("Accept", accept)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read(BODY_MAX).decode(errors="replace")
        return Answer(response.status, response.getheader("X-Livenessprobe-Reason", ""), body)
    except TimeoutError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise NoAnswer(repr(error)) from None
    finally:
        connection.close()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
