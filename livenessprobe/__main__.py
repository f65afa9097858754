"""`livenessprobe` and `python -m livenessprobe`: installs signal handlers first, then runs the command line."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from livenessprobe.process import memory, signals


def main() -> NoReturn:
    """
    Run the command line in sys.argv, and end the process with its exit code.

    It ends without the interpreter's shutdown, which costs CPU, and waits for threads that a hung disk may block for ever.
    """
    memory.before_imports()
    # Before the other imports, which take a second if CPU is scarce: without a handler a signal has no effect on PID 1.
    if sys.argv[1:2] == ["check"]:
        signals.install_early(signals.exit_interrupted)
        from livenessprobe.commands import check  # not through cli, which loads more than a check needs

        os._exit(check.run(sys.argv[2:]))
    signals.install_early()
    from livenessprobe import cli

    code = cli.main(sys.argv[1:])
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stdout or its reader may be missing
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
