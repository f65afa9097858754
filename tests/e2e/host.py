"""This machine: installed packages, commands, and the folder that caches slow results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CACHE = Path(os.environ.get("E2E_CACHE") or ROOT / ".e2e").resolve()
"""Outlives a run; deleting it costs only time."""


class Skip(Exception):
    """A stage cannot run here; the text says why."""


class Failed(Exception):
    """A test has failed; the text says how."""


def say(text: str) -> None:
    print(f"   {text}", flush=True)


def run(*command: str | Path, **options: object) -> str:
    """Standard output of a command that must succeed; if it fails, both outputs are in the error."""
    options = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "check": False, **options}
    done = subprocess.run([str(part) for part in command], **options)  # type: ignore[call-overload]
    if done.returncode:
        shown = " ".join(str(part) for part in command)
        raise Failed(f"exit code {done.returncode} from: {shown}\n{(done.stdout or '')[-4000:]}")
    return (done.stdout or "").strip()


def install(*packages: str) -> None:
    """Install Debian packages of this machine's own suite, unless they are installed."""
    if not shutil.which("dpkg-query"):
        raise Skip(f"needs Debian's {' '.join(packages)}, and this is not Debian")
    present = run("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n").splitlines()
    missing = [package for package in packages if f"{package} installed" not in present]
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise Skip(f"needs {' '.join(missing)}, and only root on Debian can install that here")
    say(f"installing {' '.join(missing)}")
    silent = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-qq", env=silent)
    run("apt-get", "install", "-qq", "--no-install-recommends", *missing, env=silent)


def tools(name: str, *packages: str, python: str = sys.executable) -> Path:
    """The bin folder of a virtual environment with these packages from PyPI."""
    folder = CACHE / name
    wanted = "\n".join(packages)
    stamp = folder / "wanted"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"installing {' '.join(packages)}")
        shutil.rmtree(folder, ignore_errors=True)
        run(python, "-m", "venv", folder)
        run(folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        stamp.write_text(wanted)
    return folder / "bin"


@contextmanager
def made(path: Path) -> Iterator[Path]:
    """A draft path at which to make the file or folder `path`; it is moved there when complete, or not at all."""
    draft = path.with_name(path.name + ".draft")
    if draft.is_dir():
        shutil.rmtree(draft)
    draft.unlink(missing_ok=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    yield draft
    draft.rename(path)


def wait_for(what: str, look: Callable[[], T], seconds: float, pause: float = 0.1) -> T:
    """The first true result of `look`; Failed if there is none in `seconds`."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise Failed(f"waited {seconds:g} s for {what}")
        time.sleep(pause)
    return found


def get(url: str, timeout: float = 5) -> tuple[int, str]:
    """Status and body; (0, cause) if there is no response."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
