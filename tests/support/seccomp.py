"""
A command under a seccomp filter that answers some system calls with an error, as old container runtimes do.

`python -m tests.support.seccomp ERRNO NUMBER… -- COMMAND …` installs the filter and executes the command.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import subprocess
import sys

import pytest

NUMBERS = {
    "x86_64": {"clone": 56, "sched_getaffinity": 204, "prlimit64": 302, "clone3": 435},
    "aarch64": {"clone": 220, "sched_getaffinity": 123, "prlimit64": 261, "clone3": 435},
}
"""The numbers of system calls by machine."""


def refusing(*calls: str, error: int = errno.EPERM) -> tuple[str, ...]:
    """The command prefix under which the system `calls` fail with `error`; skips the test where that is not possible."""
    known = NUMBERS.get(platform.machine(), {}) if sys.platform == "linux" else {}
    if not known:
        pytest.skip("no numbers of system calls are known for this machine")
    numbers = [str(known[call]) for call in calls]
    prefix = (sys.executable, "-m", "tests.support.seccomp", str(error), *numbers, "--")
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no seccomp filter can be installed here: {tried.stderr.strip()[-200:]}")
    return prefix


def _install(error: int, numbers: list[int]) -> None:
    def instruction(code: int, jump: int, value: int) -> bytes:
        return struct.pack("HBBI", code, jump, 0, value)

    program = [instruction(0x20, 0, 0)]  # load the number of the call
    program += [instruction(0x15, len(numbers) - at, number) for at, number in enumerate(numbers)]  # equal: to the last line
    program += [instruction(0x06, 0, 0x7FFF_0000), instruction(0x06, 0, 0x0005_0000 | error)]  # allow; fail with the error
    code = ctypes.create_string_buffer(b"".join(program))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter = (38, 1, 0, 0, 0), (22, 2, struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    for arguments in (no_new_privileges, set_filter):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    end = sys.argv.index("--")
    _install(int(sys.argv[1]), [int(each) for each in sys.argv[2:end]])
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
