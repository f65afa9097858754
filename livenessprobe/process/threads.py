"""Whether this process can start threads, which gRPC and the log need; and a thread for a job that may hang."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

CAUSES = {
    # The C library starts threads by clone3, and by clone only where clone3 is answered with ENOSYS.
    errno.EPERM: "the container runtime is too old: its seccomp profile refuses the system call clone3; "
    "update the runtime (Docker to 20.10.10 or newer), or set the container's seccomp profile to Unconfined",
    errno.EAGAIN: "the limit of processes and threads is reached, of the pod, its user or the node; raise it",
}


def fault() -> str:
    """Why no thread can be started, for people; empty if threads can be started."""
    try:
        threading.Thread(target=int, name="first", daemon=True).start()
    except RuntimeError as error:
        number = _error_number()
        return f"{error}: {CAUSES.get(number, os.strerror(number))}"
    return ""


def _error_number() -> int:
    """Why the C library cannot start a thread, which Python does not say: it starts a program by the same system call."""
    if sys.platform != "win32":
        try:
            os.posix_spawn("", ["no program"], {})
        except OSError as error:
            if error.errno not in (None, errno.ENOENT):  # ENOENT: there was no program to start
                return error.errno
    return errno.ENOMEM


def run_apart(job: Callable[[], Result], seconds: float | None = None) -> Result:
    """
    The result of `job`, which runs in a thread of its own; raises TimeoutError after `seconds`, and what `job` raises.

    For system calls that never return on a hung file system: handlers of signals run in the main thread only, and only
    between its own calls.  If no thread can be started, `job` runs in this one.
    """
    results, failures = list[Result](), list[BaseException]()

    def work() -> None:
        try:
            results.append(job())
        except BaseException as error:  # noqa: BLE001  raised again below
            failures.append(error)

    thread = threading.Thread(target=work, name="apart", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return job()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError
    return results[0]
