"""`livenessprobe` and `python -m livenessprobe`: deaf to no signal from the first moment, then the command line."""

from __future__ import annotations

import gc
import os
import sys

from livenessprobe import signals


def main() -> int:
    """The exit code of the command line in sys.argv."""
    gc.disable()  # what is loaded stays; `daemon` turns it on again
    # Before the other imports: they take a second where CPU is scarce, and PID 1 hears no signal without a handler.
    if sys.argv[1:2] == ["check"]:
        signals.early(signals.cut_short)
        from livenessprobe import check  # not by way of cli, which would load more than a check needs

        # The end of the interpreter takes CPU too, and there is nothing left to put in order.
        os._exit(check.run(sys.argv[2:]))
    signals.early()
    from livenessprobe import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
