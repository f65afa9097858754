"""What the doctor has to know before it judges; values only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from livenessprobe.commands.seen import Seen
from livenessprobe.driver.diagnosis import NotConnected
from livenessprobe.driver.result import ProbeResult
from livenessprobe.process.cgroup import Memory
from livenessprobe.process.memory import READ_AHEAD
from livenessprobe.settings.listen_address import ListenAddress
from livenessprobe.settings.mistakes import Mistake
from livenessprobe.settings.model import Loaded


class Given(NamedTuple):
    """What the doctor was called with, and the settings that come of it."""

    loaded: Loaded
    environ: Mapping[str, str]
    unread: tuple[str, ...] = ()
    """Arguments behind the first argument without a dash."""
    flag_error: str = ""
    """Why the flags behind a wrong one were not read; empty if all were."""


class SocketFile(NamedTuple):
    """The driver's socket file."""

    fault: NotConnected | None
    """Why no dial can succeed, as far as the file tells."""
    owner: int = 0
    mode: int = 0
    is_mount: bool = False
    listening_elsewhere: tuple[str, ...] = ()
    """Paths of sockets in this network namespace that resemble the address, nearest first; looked for if there is no file."""


class Probes(NamedTuple):
    """Probes of the driver, one after the other, each on a connection of its own."""

    results: tuple[ProbeResult, ...] = ()
    seconds: tuple[float, ...] = ()
    """How long each took."""
    name: str = ""
    name_err: str = ""
    """Why the driver did not tell its name; empty if it did, or was not asked."""
    left_out: str = ""
    """Why there was no probe."""


class Port(NamedTuple):
    """One address to listen on."""

    address: ListenAddress
    fault: Mistake | None = None
    """Why it cannot be had, in the words of the log; None if it is free."""
    sidecar: Seen | None = None
    """What a sidecar that has the address tells."""
    other: str = ""
    """What is known of another program that has the address."""


class Folder(NamedTuple):
    """A file that the sidecar is to write, and why it cannot; empty if it can."""

    key: str
    path: str
    fault: str


class Machine(NamedTuple):
    """What the operating system gives."""

    platform: str
    uid: int | None = None
    host_network: bool | None = None
    memory: Memory | None = None
    read_ahead: int = READ_AHEAD
    """Of the disk with the interpreter, in bytes."""
    cpus: float | None = None
    """The CPU quota."""
    descriptors: int = 1 << 20
    """The hard limit of open files."""
    threads: str = ""
    """Why no thread can be started; empty if threads can be started."""


class Facts(NamedTuple):
    """All of it."""

    given: Given
    machine: Machine
    socket: SocketFile | None
    """None if the address is no path."""
    probes: Probes
    ports: tuple[Port, ...]
    folders: tuple[Folder, ...]
    beside_default_file: tuple[str, ...] = ()
    """Files in the folder of the default settings file, if that file is missing."""
