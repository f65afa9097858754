"""
The base images, or stand-ins for them where no registry can be reached.

A stand-in has the same Debian packages in the same places; its maker below names the differences.  Its name is
localhost/…, so that it cannot be mistaken for the real image.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from functools import cache
from pathlib import Path

from tests.e2e import debian, podman
from tests.e2e.host import CACHE, HERE, ROOT, Failed, install, made, run, say

SUITE = "trixie"

DISTROLESS = (
    *("base-files", "media-types", "netbase", "tzdata", "tzdata-legacy", "ca-certificates"),
    *("libc6", "libssl3t64", "libzstd1", "zlib1g"),
    *("libgomp1", "libstdc++6", "libgcc-s1", "gcc-14-base"),
)
"""The packages of cc-debian13: of its `static`, of its `base`, and its own."""

PYTHON = (
    *("python3.15", "python3.15-minimal", "libpython3.15", "libpython3.15-minimal", "libpython3.15-stdlib"),
    "libexpat1",  # newer than trixie's; python.org's build has its own copy inside
)
PYTHON_NEEDS = (
    "ca-certificates,netbase,tzdata,libffi8,libbz2-1.0,liblzma5,libsqlite3-0,libncursesw6,libreadline8t64,libuuid1"
)

USERS = "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
GROUPS = "root:x:0:\nnobody:x:65534:\ntty:x:5:\nstaff:x:50:\n"


def names() -> dict[str, str]:
    """The build arguments of the Dockerfile that name a base image, with their defaults."""
    found = dict(re.findall(r"^ARG (\w+)=(\S+[:/]\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    if sorted(found) != sorted(MAKERS):
        raise Failed(f"Dockerfile names the bases {sorted(found)}, stand-ins exist for {sorted(MAKERS)}")
    return found


@cache
def resolve() -> dict[str, str]:
    """The image to use for each of `names`: all real, or all stand-ins; prints which."""
    wanted = names()
    if all(podman.pull(image) for image in wanted.values()):
        say(f"bases: the real {', '.join(wanted.values())}")
        return wanted
    stand_ins = {name: f"localhost/stand-in/{image.split('/', 1)[1]}" for name, image in wanted.items()}
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    for name, image in stand_ins.items():
        if not podman.exists(image) or podman.inspect(image, ".Config.Labels.recipe") != recipe:
            say(f"making {image}")
            archive = CACHE / "bases" / f"{name}-{recipe}.tar"
            with made(archive) as unfinished:
                MAKERS[name](unfinished)
            podman.load_root(archive, image, (*SETTINGS[name], f"LABEL recipe={recipe}"))
    say("bases: STAND-INS out of Debian's packages, since no registry answered for the real ones")
    return stand_ins


def _unpack(packages: list[Path], root: Path) -> None:
    for package in packages:
        run("sh", "-c", 'dpkg-deb --fsys-tarfile "$0" | tar -x -C "$1" --keep-directory-symlink', package, root)


def _archive(root: Path, archive: Path) -> None:
    run("tar", "--sort=name", "--numeric-owner", "--mtime=@0", "-C", root, "-cf", archive, ".")


def _make_base(archive: Path) -> None:
    """Packages are unpacked without running their scripts, as in the real image; no shell, no package manager."""
    root = archive.with_suffix(".root")
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    packages = debian.packages(SUITE, "cc", *DISTROLESS)
    _unpack(packages, root)
    # One file for each package, for scanners.
    status = root / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for package in packages:
        (status / run("dpkg-deb", "--field", package, "Package")).write_text(run("dpkg-deb", "--field", package) + "\n")
    for name in ("tmp", "root", "proc", "sys", "dev"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(USERS)
    (root / "etc/group").write_text(GROUPS)
    (root / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    certificates = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(b"".join(each.read_bytes() for each in certificates))
    _archive(root, archive)
    shutil.rmtree(root)


def _make_python(archive: Path) -> None:
    """
    CPython 3.15 of Debian sid, in the place of the official image's CPython.

    Debian builds more extension modules into libpython, so fewer are separate files.
    """
    install("mmdebstrap", "gcc", "libc6-dev", "patchelf")
    root = archive.with_suffix(".root")
    shutil.rmtree(root, ignore_errors=True)
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PYTHON_NEEDS}", SUITE, root, debian.sources(SUITE))
    unpacked = archive.with_suffix(".sid")
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    _unpack(debian.packages("sid", "python3.15", *PYTHON), unpacked)

    local = root / "usr/local"
    shutil.copytree(unpacked / "usr/lib/python3.15", local / "lib/python3.15", symlinks=True)
    (local / "lib/python3.15/sitecustomize.py").unlink(missing_ok=True)  # a link to /etc
    for library in ("libpython3.15.so.1.0", "libexpat.so.1"):
        shutil.copy(next((unpacked / "usr/lib").rglob(library)), local / "lib" / library)
    run("patchelf", "--set-rpath", "$ORIGIN", local / "lib/libpython3.15.so.1.0")
    # Debian's program contains libpython; the official one is a few lines around the shared library, as this one.
    program = ["gcc", "-O2", "-s", "-o", local / "bin/python3.15", HERE / "python.c", "-Wl,--allow-shlib-undefined"]
    run(*program, "-L", local / "lib", "-l:libpython3.15.so.1.0", "-Wl,-rpath,$ORIGIN/../lib")
    (local / "bin/python3").symlink_to("python3.15")

    # Debian searches packages in a folder with another name.
    packages = local / "lib/python3.15/site-packages"
    packages.mkdir()
    (local / "local").symlink_to(".")
    (local / "lib/python3.15/dist-packages").symlink_to("site-packages")
    (local / "lib/python3.15/EXTERNALLY-MANAGED").unlink()
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", packages, "pip")
    _archive(root, archive)
    shutil.rmtree(root)
    shutil.rmtree(unpacked)


MAKERS = {"BASE": _make_base, "PYTHON": _make_python}
PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETTINGS = {"BASE": (PATH, "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"), "PYTHON": (PATH,)}
