"""Podman, configured to run without systemd and without the capability to raise limits; and one container."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.host import CACHE, Failed, install, run

SETTINGS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]  # higher ones need a capability that may be missing
netns = "host"
[engine]
runtime = "runc"  # crun refuses a machine with both versions of cgroups
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "cni"
"""


def environment() -> dict[str, str]:
    file = CACHE / "containers.conf"
    if not file.exists() or file.read_text() != SETTINGS:
        CACHE.mkdir(parents=True, exist_ok=True)
        file.write_text(SETTINGS)
    return {**os.environ, "CONTAINERS_CONF": str(file)}


def podman(*arguments: str | Path, **options: object) -> str:
    return run("podman", *arguments, env=environment(), **options)


def set_up() -> None:
    install("podman", "runc", "conmon", "containernetworking-plugins")


def exists(image: str) -> bool:
    return subprocess.run(["podman", "image", "exists", image], env=environment(), check=False).returncode == 0


def unnamed() -> set[str]:
    """Images without a name of which no other image is made: left behind by builds."""
    return set(podman("images", "--filter", "dangling=true", "--quiet", "--no-trunc").split())


def pull(image: str) -> bool:
    """Pull the image unless it is here; whether it is here now."""
    try:
        return exists(image) or bool(podman("pull", "--quiet", image, timeout=600))
    except (Failed, subprocess.TimeoutExpired):
        return False


def load_root(archive: Path, image: str, settings: tuple[str, ...]) -> None:
    """Import a file system as an image of one layer."""
    changes = [part for setting in settings for part in ("--change", setting)]
    podman("import", "--quiet", *changes, archive, image)


def inspect(image: str, field: str) -> str:
    return podman("image", "inspect", "--format", f"{{{{{field}}}}}", image)


def folders_of(image: str) -> list[Path]:
    """The folders of the image's layers."""
    fields = "{{.GraphDriver.Data.UpperDir}}:{{.GraphDriver.Data.LowerDir}}"
    return [Path(folder) for folder in podman("image", "inspect", "--format", fields, image).split(":")]


@contextmanager
def files_of(image: str) -> Iterator[Path]:
    """The root of the image, mounted."""
    root = podman("image", "mount", image)
    try:
        yield Path(root)
    finally:
        podman("image", "unmount", image)


class Container:
    """A running container; used as a context manager that removes it."""

    def __init__(self, image: str, *arguments: str, options: tuple[str, ...] = ()) -> None:
        self.started = time.monotonic()
        self.id = podman("run", "--detach", *options, image, *arguments, stderr=subprocess.PIPE)
        self.pid = int(self._state("Pid"))

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        podman("rm", "--force", "--time", "3", self.id)

    def _state(self, field: str) -> str:
        return podman("inspect", "--format", f"{{{{.State.{field}}}}}", self.id)

    @property
    def running(self) -> bool:
        return self._state("Running") == "true"

    def log(self) -> str:
        return podman("logs", self.id)

    def execute(self, *command: str) -> tuple[int, str]:
        """Exit code and output of a command inside the container."""
        done = subprocess.run(
            ["podman", "exec", self.id, *command],
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, done.stdout

    @property
    def exit_code(self) -> int:
        return int(self._state("ExitCode"))

    def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        podman("stop", "--time", "20", self.id)
        return self.exit_code

    def group(self) -> dict[str, Path]:
        """The folder of the container's control group, for each controller."""
        folders = {}
        for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            # Version 2 names no controllers and has one folder for all.
            for controller in controllers.split(",") if controllers else ("memory", "cpu"):
                base = Path("/sys/fs/cgroup", controller if controllers else "")
                folders.setdefault(controller, base / path.lstrip("/"))
        return folders


def layers(image: str) -> list[tuple[int, str]]:
    """Size in bytes and origin of each layer that is not empty, the base's first."""
    history = json.loads(podman("history", "--format", "json", "--no-trunc", image))
    return [(each["size"], each.get("CreatedBy", "")) for each in reversed(history) if each["size"]]
