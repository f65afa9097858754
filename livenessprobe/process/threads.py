"""Whether this process can start threads, which gRPC and the log need."""

from __future__ import annotations

import errno
import os
import sys
import threading

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
