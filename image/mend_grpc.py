"""
Mends gRPC's core in the wheels for CPython 3.15, where one GOAWAY frame of a driver would end the process.

`python3 mend_grpc.py [FOLDER]`: FOLDER has the installed packages; without it, those of this interpreter.  Does nothing
for other versions of Python.

From 1.84 on gRPC's core names a GOAWAY's error code in the label of a metric (`Http2Status::DebugGetCode`, http2_status.h),
and calls abort() for a code without a name: the last eight bits from 13 to 254.  Older wheels do not, but CPython 3.15 has
none.  In each wheel below one conditional jump leads to that abort().  Here it becomes an instruction without effect, so the
label of such codes is HTTP_1_1_REQUIRED; nothing reads that metric.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

GRPCIO = "1.85.3"


class Mend(NamedTuple):
    """What to change in one file; the hashes are SHA-256 of the whole file."""

    before: str
    offset: int
    jump: bytes
    nothing: bytes
    """An instruction without effect, as long as `jump`."""
    after: str


MENDS = {
    "cygrpc.cpython-315-x86_64-linux-gnu.so": Mend(
        "1e18d3e635485d8c1c62b1fc56e1a723bc997bf6ab10d70ee80a2998fe45e973",
        0x26DCF4,  # behind `cmp $0xff,%dil`
        bytes.fromhex("0f85e3000000"),  # jne
        bytes.fromhex("660f1f440000"),  # nopw
        "bd4921dd06417e069dd1b5a8b5db06e7a0fd94ca6aa94cf0d09b987c26548dad",
    ),
    "cygrpc.cpython-315-aarch64-linux-gnu.so": Mend(
        "e7ed2ca7ec8ea0da346e43241ba472a5949fb6e3145a5115c4ddf9afdf8b2251",
        0x214014,  # behind `cmp w0, #0xff`
        bytes.fromhex("41080054"),  # b.ne
        bytes.fromhex("1f2003d5"),  # nop
        "8dd1ca412daf84d5c6c9b536ccc2baf3266030e022fe9377f167daa1b51cbe4c",
    ),
}
NOTICE = f"grpcio {GRPCIO}, modified by livenessprobe: one instruction of grpc/_cython/%s; see image/mend_grpc.py.\n"


def mend(packages: Path) -> str:
    """Mend the wheel that is installed in `packages`; returns what was done.  Ends the process if it is another wheel."""
    for file in packages.glob("grpc/_cython/cygrpc.cpython-315-*-linux-gnu.so"):
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        change = MENDS.get(file.name)
        if change is not None and found == change.after:
            return f"{file} is mended already"
        if change is None or found != change.before:
            sys.exit(f"{file} is not of grpcio {GRPCIO}'s wheel, so it cannot be mended; see image/mend_grpc.py")
        _write(file, change)
        _record(packages, file.name, change.after)
        return f"{file} is mended"
    return "nothing to mend: gRPC's core is not that of CPython 3.15 on Linux"


def _write(file: Path, change: Mend) -> None:
    data, end = file.read_bytes(), change.offset + len(change.jump)
    mended = data[: change.offset] + change.nothing + data[end:]
    if data[change.offset : end] != change.jump or hashlib.sha256(mended).hexdigest() != change.after:
        sys.exit(f"{file} would not be what it should be; see image/mend_grpc.py")
    draft = file.with_suffix(".draft")  # the file may be a link into an installer's cache
    draft.write_bytes(mended)
    draft.chmod(file.stat().st_mode)
    draft.replace(file)


def _record(packages: Path, name: str, after: str) -> None:
    """Keep the wheel's list of files true, and say in it that a file was modified (Apache-2.0, 4b)."""
    folder = packages / f"grpcio-{GRPCIO}.dist-info"
    (folder / "MODIFIED").write_text(NOTICE % name)
    digest = base64.urlsafe_b64encode(bytes.fromhex(after)).decode().rstrip("=")
    lines = (folder / "RECORD").read_text().splitlines()
    for number, line in enumerate(lines):
        path, _, size = line.split(",")
        if path == f"grpc/_cython/{name}":
            lines[number] = f"{path},sha256={digest},{size}"
    lines.append(f"{folder.name}/MODIFIED,,")
    (folder / "RECORD").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    print(mend(Path(sys.argv[1] if sys.argv[1:] else sysconfig.get_path("platlib"))))
