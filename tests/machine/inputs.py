"""The inputs of a walk: settings, requests, garbage, bad settings files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Step = tuple[Any, ...]

PATHS = ("/healthz", "/livez", "/readyz", "/startupz")
SLACK = 1.2
"""How many seconds late a response may be on a busy machine."""
PLAIN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
KUBELET = b"GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.33\r\n\r\n"
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Pad: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n"
GARBAGE: tuple[bytes, ...] = (
    b"\x00\xff\xfe\x01\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    bytes.fromhex("16030100c8010000c40303") + bytes(200),
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 40_000,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded: x\r\n\r\n",
    b"\r\n" * 1000,
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 12 + b"0\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
)
CLOSE = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
ODD: tuple[bytes, ...] = (
    b"GET /healthz HTTP/1.0\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\n\r\n\r\n",
    b"GET /healthz" + CLOSE + b"\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    b"head /healthz" + CLOSE + b"\r\n",
    b"get /healthz" + CLOSE + b"\r\n",
    b"GET http://x/healthz" + CLOSE + b"\r\n",
    b"POST /healthz" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    b"POST /healthz" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 12 + b"0\r\n\r\n",
    b"GET /healthz" + CLOSE + b"Content-Length: 3\r\n\r\nabc",
)
"""
Valid requests, each the last of its connection.  Methods are case-sensitive: `head` is unknown to Go, so it gets a
body.
"""
BAD_FILES: tuple[bytes, ...] = (
    b"",
    b'probe_timeout = "9',
    b"\xff\xfe",
    b'probe_timeot = "9s"\n',
    b"probe_timeout = 9\n",
    b"failure_threshold = 0\n",
    b'interval = "50ms"\n',
    b"#" * (1 << 20) + b"##",
)


@dataclass
class Settings:
    """The settings that a walk changes; times in seconds."""

    probe_timeout: float = 0.5
    unreachable_grace: float | None = None
    connection_reuse: float = 1.0
    failure_threshold: int = 1
    success_threshold: int = 1
    interval: float = 0.0

    def file(self, number: int) -> str:
        lines = [f"# {number}", 'config_poll_interval = "100ms"']
        for key, value in vars(self).items():
            if value is not None:
                lines.append(f"{key} = {value}" if isinstance(value, int) else f'{key} = "{round(value * 1000)}ms"')
        return "\n".join(lines) + "\n"

    def slowness(self, wait: str) -> tuple[float, float]:
        """The least and the most seconds until the response, for a kind of wait of `Expect`."""
        grace = self.probe_timeout if self.unreachable_grace is None else min(self.unreachable_grace, self.probe_timeout)
        low, high = {
            "none": (0.0, 0.0),
            "unreached": (grace, grace),
            "timeout": (self.probe_timeout, self.probe_timeout),
            "any": (0.0, self.probe_timeout),
        }[wait]
        return low - 0.02, high + SLACK
