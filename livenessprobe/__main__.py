"""`livenessprobe` and `python -m livenessprobe`: installs signal handlers first, then runs the command line."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import NoReturn

from livenessprobe.process import cgroup, environment, memory, signals, termination, threads

COMMANDS = ("check", "config", "demo", "doctor", "lint", "status", "watch")
"""The keys of `command_line.COMMANDS`, which is imported later: a command leaves no termination message."""
BESIDE = {"check": 5 << 20, "doctor": 7 << 20, "status": 9 << 20}
"""
Commands that run in the container of a sidecar, and the bytes of its memory limit that they take from here on without gRPC.

Measured in the image: 4.9 MiB for asking the sidecar, 6.4 for the doctor, and 4 more in the sidecar for its first page.
"""
NO_MEMORY = 5
"""Their exit code without that memory."""


def main() -> NoReturn:
    """
    Run the command line in sys.argv, and end the process with its exit code.

    It ends without the interpreter's shutdown, which costs CPU, and waits for threads that a hung disk may block for ever.
    """
    memory.before_imports()
    command = "".join(sys.argv[1:2])
    if command not in COMMANDS:
        termination.expect()
    # First of all: the modules that the next lines load take memory.
    if command in BESIDE and (short := cgroup.shortage(BESIDE[command])):
        with contextlib.suppress(OSError):  # stderr may be closed
            os.write(2, f"livenessprobe {command}: {short}\n".encode())
        os._exit(NO_MEMORY)
    # Before the other imports, which take a second if CPU is scarce: without a handler a signal has no effect on PID 1.
    signals.install_early(signals.exit_interrupted if command in BESIDE else signals.exit_successfully)
    environ = environment.take()
    # Not through cli, which loads more than a command of a moment needs.
    if command == "check":
        from livenessprobe.commands import check

        # In a thread, so that a signal ends it even while it looks at a file on a hung file system.
        os._exit(threads.run_apart(partial(check.run, sys.argv[2:], environ)))
    if command == "doctor":
        from livenessprobe.commands.doctor import command as doctor

        os._exit(threads.run_apart(partial(doctor.run, sys.argv[2:], environ)))
    if command == "watch":
        from livenessprobe.commands import watch

        os._exit(watch.main(sys.argv[2:]))
    if command == "status":
        from livenessprobe.commands import status

        os._exit(status.run(sys.argv[2:], environ))
    from livenessprobe import cli

    code = cli.main(sys.argv[1:], environ)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stdout or its reader may be missing
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
