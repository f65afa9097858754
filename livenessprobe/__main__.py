"""`livenessprobe` and `python -m livenessprobe`: deaf to no signal from the first moment, then the command line."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from livenessprobe.process import environment, memory, signals


def main() -> NoReturn:
    """
    Do what the command line in sys.argv says, and end the process with its exit code.

    At once: the interpreter would take itself apart, which costs CPU, and wait for threads that a hung disk may hold for ever.
    """
    memory.load()
    check = sys.argv[1:2] == ["check"]
    # Before the other imports: they take a second where CPU is scarce, and PID 1 hears no signal without a handler.
    signals.early(signals.cut_short if check else signals.stopped)
    environ = environment.take()
    if check:
        from livenessprobe.commands import check as command  # not by way of cli, which would load more than a check needs

        os._exit(command.run(sys.argv[2:], environ))
    from livenessprobe import cli

    code = cli.main(sys.argv[1:], environ)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # there may be no stdout, or nobody who reads it
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
