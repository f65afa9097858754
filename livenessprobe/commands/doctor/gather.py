"""
Collects what the doctor judges: looks at files, addresses and the machine, asks a running sidecar, and probes the driver.

Nothing is changed: no file is made or removed, and no address is listened on.
"""

from __future__ import annotations

import difflib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from functools import partial

from livenessprobe.commands.doctor.facts import Facts, Folder, Given, Machine, Port, Probes, SocketFile
from livenessprobe.commands.seen import Unseen, look
from livenessprobe.commands.sidecar import Place
from livenessprobe.driver import socket_file
from livenessprobe.driver.address import AddressError, CSIAddress, parse_csi_address
from livenessprobe.driver.diagnosis import NotConnected, hung_mount
from livenessprobe.driver.result import ProbeResult, Reason
from livenessprobe.process import cgroup, cpus, memory, network, threads
from livenessprobe.process.imports import hide_modules
from livenessprobe.process.termination import DEFAULT_PATH
from livenessprobe.settings.layers import DEFAULT_FILE, Layer
from livenessprobe.settings.listen_address import ListenAddress
from livenessprobe.settings.mistakes import Mistake
from livenessprobe.settings.model import Settings
from livenessprobe.settings.validate import http_listener_mistake, metrics_listener_mistake
from livenessprobe.web.listener import ListenError, look_up, refuse_taken

PROBES = 5
PROBES_SECONDS = 10.0
"""Seconds after which no further probe begins."""
PAGE_BYTES = 10 << 20
"""Memory to ask a sidecar for its page, whose first view takes 8 MiB there."""
ASK_SECONDS = 5.0
"""How long a running sidecar may take for one response, beside its probe timeout."""
LOOK_SECONDS = 5.0
"""How long a file system may take to show the socket file; a hung file system never does."""
NEAR_MAX = 3


def gather(given: Given) -> Facts:
    """The facts about this pod, for these settings; takes at most about PROBES_SECONDS and the probe timeout twice."""
    settings = given.loaded.settings
    machine = _machine()
    address = _csi_address(given)
    socket = None if address is None or address.network != "unix" else _socket_in_time(address)
    raw, left = given.loaded.raw, machine.memory.left if machine.memory is not None else PAGE_BYTES
    ports = tuple(_asked(_port(raw, *found), settings.probe_timeout, left) for found in _addresses(given))
    # Read again: the sidecar may have loaded the modules that draw its page.
    left_out = _why_no_probe(address, socket, machine._replace(memory=cgroup.memory()), settings)
    probes = Probes(left_out=left_out) if left_out or address is None else _probe(settings, raw)
    beside = _beside_default_file() if not given.loaded.file else ()
    return Facts(given, machine, socket, probes, ports, tuple(_folders(settings)), beside)


def _csi_address(given: Given) -> CSIAddress | None:
    """The address that was given; None if it was refused, since the settings then have the default."""
    try:
        return parse_csi_address(given.loaded.raw["csi_address"].text, sys.platform)
    except AddressError:
        return None


# --- the machine


def _machine() -> Machine:
    return Machine(
        platform=sys.platform,
        uid=_uid(),
        host_network=network.is_of_host(),
        memory=cgroup.memory(),
        read_ahead=memory.read_ahead(),
        cpus=cpus.quota(),
        descriptors=_descriptors(),
        threads=threads.fault(),
    )


def _uid() -> int | None:
    if sys.platform == "win32":
        return None
    return os.geteuid()


def _descriptors() -> int:
    if sys.platform == "win32":
        return 1 << 20
    import resource

    try:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    except OSError:
        return 1 << 20
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


# --- files


def _socket_in_time(address: CSIAddress) -> SocketFile:
    try:
        return threads.run_apart(partial(_socket_file, address), LOOK_SECONDS)
    except TimeoutError:
        return SocketFile(hung_mount(address.name))


def _socket_file(address: CSIAddress) -> SocketFile:
    try:
        socket_file.look(address)
        found = os.stat(address.name)
    except NotConnected as error:
        missing = error.reason is Reason.SOCKET_MISSING
        return SocketFile(error, listening_elsewhere=_like(address.name) if missing else ())
    except OSError as error:  # removed since the first look
        return SocketFile(NotConnected(Reason.SOCKET_MISSING, f"{address.name}: {error.strerror}"))
    mode = stat.S_IMODE(found.st_mode)
    return SocketFile(None, found.st_uid, mode, socket_file.is_mount_point(address.name))


def _like(path: str) -> tuple[str, ...]:
    """Sockets on which a process of this network namespace listens, with a path like `path`, nearest first."""
    listening = network.listening_sockets()
    same_name = [each for each in listening if os.path.basename(each) == os.path.basename(path)]
    return tuple(dict.fromkeys([*difflib.get_close_matches(path, same_name or listening, NEAR_MAX, cutoff=0.5)]))


def _folders(settings: Settings) -> Iterator[Folder]:
    log = settings.log
    wanted = {
        "health_file": settings.health_file,
        "termination_log": "" if settings.termination_log == DEFAULT_PATH else settings.termination_log,
        "log_file": "" if log.logtostderr else log.log_file,
    }
    for key, path in wanted.items():
        if path:
            yield Folder(key, path, _fault_of_file(path))
    if log.log_dir and not log.logtostderr:
        yield Folder("log_dir", log.log_dir, _fault_of_folder(log.log_dir))


def _fault_of_file(path: str) -> str:
    """Why the sidecar cannot write a file; empty if it can."""
    try:
        found = os.lstat(path)
    except OSError:
        return _fault_of_folder(os.path.dirname(path) or ".")
    if not stat.S_ISREG(found.st_mode):
        return "it is there, and no plain file"
    return "" if os.access(path, os.W_OK) else "it is there, and this process may not write it"


def _fault_of_folder(path: str) -> str:
    if not os.path.isdir(path):
        return f"the folder {path} does not exist"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"the folder {path} is read-only, or this process may not write there"
    return ""


def _beside_default_file() -> tuple[str, ...]:
    try:
        return tuple(sorted(name for name in os.listdir(os.path.dirname(DEFAULT_FILE)) if not name.startswith("..")))
    except OSError:
        return ()


# --- addresses to listen on

Named = Callable[[Layer, str, str | None], Mistake]
"""Makes the mistake of a listener that cannot be opened."""


def _addresses(given: Given) -> Iterator[tuple[ListenAddress, Named]]:
    """Each address to listen on that can be read."""
    settings = given.loaded.settings
    if settings.http.text:
        yield settings.http, http_listener_mistake
    if settings.metrics is not None:
        yield settings.metrics, metrics_listener_mistake


def _port(raw: Layer, address: ListenAddress, mistake: Named) -> Port:
    try:
        refuse_taken(address)
    except ListenError as error:
        return Port(address, mistake(raw, str(error), error.taken))
    return Port(address)


def _asked(port: Port, probe_timeout: float, left: int) -> Port:
    """With what the program that has the address tells; `left` bytes of memory decide whether it is asked for its page."""
    place = None if port.fault is None else _place(port.address)
    if place is None:
        return port
    try:
        wait = max(probe_timeout, 0) + ASK_SECONDS
        return port._replace(sidecar=look(place, wait, page=left >= PAGE_BYTES, flags=True))
    except Unseen as error:
        return port._replace(other=str(error))


def _place(address: ListenAddress) -> Place | None:
    """Where to ask a program that listens on `address`; None if the address itself is wrong."""
    try:
        found = look_up(address)
    except ListenError:
        return None
    if found is None:
        return Place("localhost", socket_path=address.path)
    host, port = found.sockaddr[:2]
    return Place({"::": "localhost", "0.0.0.0": "127.0.0.1"}.get(host, host), str(port))  # noqa: S104  the wildcard is compared


# --- probes


def _why_no_probe(address: CSIAddress | None, socket: SocketFile | None, machine: Machine, settings: Settings) -> str:
    """Why the driver is not probed; empty if it is."""
    if address is None:
        return "--csi-address is refused"
    if socket is not None and socket.fault is not None:
        return f"there is no socket to call, {socket.fault.reason.value}"
    if settings.probe_timeout <= 0:
        return "the probe timeout leaves no time"
    if machine.threads:
        return "gRPC needs threads"
    if machine.memory is not None and machine.memory.left < memory.GRPC:
        return (
            f"a probe from here takes {memory.GRPC >> 20} MiB, {machine.memory.left >> 20} MiB are left of the memory limit, "
            "and beyond it the kernel kills the sidecar; what a running sidecar says stands below"
        )
    return ""


def _probe(settings: Settings, raw: Layer) -> Probes:
    with hide_modules("ssl"):
        import asyncio

    from livenessprobe.driver.connection import Dialer
    from livenessprobe.driver.identity import Identity, Question

    timeout = settings.probe_timeout
    grace = settings.unreachable_grace if raw["unreachable_grace"].text else 0.0  # no caller waits for a driver here

    async def probe() -> Probes:
        dialer = Dialer(settings.csi_address, lambda: None)  # keeps no connection, so each probe dials
        identity, loop = Identity(dialer), asyncio.get_running_loop()
        results: list[ProbeResult] = []
        seconds: list[float] = []
        end = loop.time() + PROBES_SECONDS
        try:
            while not results or (len(results) < PROBES and loop.time() < end and results[-1].reason is not Reason.DEADLINE):
                now = loop.time()
                question = Question(now + timeout, now + grace, settings.probe_path, settings.health_service)
                results.append((await identity.probe(question)).result)
                seconds.append(loop.time() - now)
            is_csi = settings.probe_path.startswith("/csi.")
            name, err = await _name(identity, timeout) if is_csi and not results[-1].reason else ("", "")
        finally:
            await dialer.close()
        return Probes(tuple(results), tuple(seconds), name, err)

    async def _name(identity: Identity, timeout: float) -> tuple[str, str]:
        try:
            async with identity.connected(timeout) as connection:
                info = await identity.get_plugin_info(connection, timeout)
        except NotConnected as error:
            return "", error.sentence
        return info.name, info.err or ""

    return asyncio.run(probe())
