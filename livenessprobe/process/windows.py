"""What only Windows needs: listeners that survive clients' resets, the stop when the console closes, the process's start time."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import sys
import threading
from collections.abc import Callable
from ctypes import wintypes
from typing import Any

assert sys.platform == "win32"  # tells mypy too

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel32.GetCurrentProcess.restype = wintypes.HANDLE
_kernel32.GetProcessTimes.argtypes = (wintypes.HANDLE, *[ctypes.POINTER(wintypes.FILETIME)] * 4)
_HandlerRoutine = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)
_kernel32.SetConsoleCtrlHandler.argtypes = (_HandlerRoutine, wintypes.BOOL)


# --- the event loop


class _Proactor(asyncio.IocpProactor):
    """
    Continues to accept after a connection that was reset before it was accepted.

    asyncio's own proactor reports such a reset as a failed accept, and its loop then closes the listener (CPython issue 93821):
    one client could end all responses to probes.
    """

    def accept(self, listener: socket.socket) -> asyncio.Future[Any]:
        """The next connection that was not reset, with its address; raises OSError only if the listener itself fails."""
        accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        attempts: list[asyncio.Future[Any]] = []

        def attempt() -> None:
            attempts[:] = [super(_Proactor, self).accept(listener)]
            attempts[0].add_done_callback(settle)

        def settle(ended: asyncio.Future[Any]) -> None:
            if accepted.done():
                return
            if ended.cancelled():
                accepted.cancel()
            elif (error := ended.exception()) is None:
                accepted.set_result(ended.result())
            else:
                try:
                    attempt()
                except OSError:
                    accepted.set_exception(error)

        def stop(_: object) -> None:
            if accepted.cancelled():
                attempts[0].cancel()

        attempt()
        accepted.add_done_callback(stop)
        return accepted


def event_loop() -> asyncio.AbstractEventLoop:
    """
    A new event loop.

    asyncio's other loop for Windows uses select(), which is limited to 512 sockets.
    """
    loop = asyncio.ProactorEventLoop(_Proactor())
    loop.set_exception_handler(_handle_exception)
    return loop


def _handle_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle an exception as asyncio does, except for two cases of accepting."""
    task, error = context.get("future"), context.get("exception")
    coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
    if isinstance(error, OSError) and getattr(coroutine, "__name__", "") == "accept_coro":
        return  # one failed attempt; `_Proactor.accept` has begun another
    loop.default_exception_handler(context)
    if context["message"] == "Accept failed on a socket":
        # The listener is closed now, and the kubelet would blame the driver.  A new process has a new listener.
        raise SystemExit(1)


# --- the console

_SIGNALS = (0, 1)
"""CTRL_C_EVENT and CTRL_BREAK_EVENT, which the C runtime turns into signals."""
_handlers: list[Any] = []
"""Windows may call them as long as the process lives, so they must not be collected as garbage."""


def on_console_end(stop: Callable[[], object]) -> None:
    """
    Call `stop` when the console is closed, the user logs off or the container is stopped, in a thread that Windows starts.

    Windows ends the process as soon as its handler returns.  So this handler never returns, and the process ends by itself in
    the time that Windows allows.  The handler is never removed, since removing waits for a handler that is running.
    """

    def handle(event: int) -> bool:
        if event in _SIGNALS:
            return False
        stop()
        threading.Event().wait()
        return True

    _handlers.append(_HandlerRoutine(handle))
    if not _kernel32.SetConsoleCtrlHandler(_handlers[-1], True):
        raise ctypes.WinError(ctypes.get_last_error())


# --- the process


def process_start_time() -> float:
    """When this process started, in whole seconds since the epoch, as the Go program reports it on Windows."""
    times = [wintypes.FILETIME() for _ in range(4)]
    if not _kernel32.GetProcessTimes(_kernel32.GetCurrentProcess(), *times):
        raise ctypes.WinError(ctypes.get_last_error())
    created = times[0].dwHighDateTime << 32 | times[0].dwLowDateTime
    # FILETIME counts units of 100 ns since 1601.
    return float(created // 10_000_000 - 11_644_473_600)
