"""
Packages of any Debian suite, whatever suite this machine has.

apt keeps the lists of such a suite in a folder of its own; nothing is installed on this machine.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.e2e.host import CACHE, Skip, made, run

KEY = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def mirror() -> str:
    """The mirror from which this machine gets its own packages."""
    for file in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if file.exists() and (found := re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+)", file.read_text(), re.MULTILINE)):
            return found[1]
    raise Skip("needs Debian's packages, and this machine has no mirror configured")


def sources(suite: str) -> str:
    return f"deb [signed-by={KEY}] {mirror()} {suite} main"


def _environment(suite: str) -> dict[str, str]:
    folder = CACHE / "apt" / suite
    for name in ("state/lists/partial", "cache/archives/partial", "none"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"{sources(suite)}\n{sources(suite).replace('deb', 'deb-src', 1)}\n")
    (folder / "conf").write_text(
        f'Dir::State "{folder}/state"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}/cache";\n'
        f'Dir::Etc::sourcelist "{folder}/sources.list"; Dir::Etc::sourceparts "{folder}/none";\n'
        f'Dir::Etc::preferencesparts "{folder}/none"; APT::Sandbox::User "root"; Acquire::Languages "none";\n'
    )
    return {**os.environ, "APT_CONFIG": str(folder / "conf")}


def _fetch(suite: str, folder: Path, *command: str) -> Path:
    """The folder with the files that apt-get fetched, now or in an earlier run."""
    if not folder.exists():
        environment = _environment(suite)
        run("apt-get", "update", "-qq", env=environment)
        with made(folder) as draft:
            draft.mkdir()
            run("apt-get", *command, cwd=draft, env=environment)
    return folder


def packages(suite: str, name: str, *names: str) -> list[Path]:
    """The .deb files of these packages, without their dependencies."""
    return sorted(_fetch(suite, CACHE / "debs" / f"{suite}-{name}", "download", "-qq", *names).glob("*.deb"))


def source(suite: str, name: str) -> Path:
    """The unpacked source of a package."""
    folder = CACHE / "source" / name
    if not folder.exists():
        fetched = _fetch(suite, CACHE / "source" / f"{name}-fetched", "source", "-qq", "--download-only", name)
        with made(folder) as draft:
            run("dpkg-source", "--extract", next(fetched.glob("*.dsc")), draft)
    return folder
