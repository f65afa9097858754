"""Calls of Windows itself for tests; imports little, since a test measures the memory of a process that imports it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

CLOSED, LOGGED_OFF, SHUT_DOWN = 2, 5, 6
"""CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT and CTRL_SHUTDOWN_EVENT."""


def console_event(event: int) -> Callable[[], bool]:
    """
    Do what the system does at a console event: start a thread that runs the process's handlers for `event`.

    The returned function tells whether the handlers have returned; then Windows ends the process, and wine does not.
    """
    routine = ctypes.WinDLL("kernelbase").CtrlRoutine
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.CreateThread.restype = ctypes.c_void_p
    thread = ctypes.c_void_p(kernel32.CreateThread(None, 0, routine, ctypes.c_void_p(event), 0, None))
    assert thread.value
    return lambda: kernel32.WaitForSingleObject(thread, 0) == 0


def commit_size() -> int:
    """Bytes of memory that Windows has committed for this process; the memory limit of a container counts these."""

    class Counters(ctypes.Structure):
        _fields_ = (
            ("size", ctypes.c_ulong),
            ("faults", ctypes.c_ulong),
            ("others", ctypes.c_size_t * 6),
            ("commit", ctypes.c_size_t),
            ("most", ctypes.c_size_t),
        )

    counters = Counters(ctypes.sizeof(Counters))
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    asked = (ctypes.c_void_p(kernel32.GetCurrentProcess()), ctypes.byref(counters), counters.size)
    assert ctypes.WinDLL("psapi").GetProcessMemoryInfo(*asked)
    return int(counters.commit)
