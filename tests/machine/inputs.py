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

MILD: list[tuple[dict[str, Any], list[str]]] = [
    ({"close": True}, ["connection_lost"]),
    ({"close_after_data": True}, ["connection_lost"]),
    ({"cut": 4}, ["connection_lost"]),
    ({"cut": 30}, ["connection_lost"]),
    ({"raw_data_hex": "00000000ff01"}, ["protocol_error"]),
    ({"raw_data_hex": ""}, ["protocol_error"]),
    (
        {"trailers_only": [[":status", "200"], ["content-type", "application/grpc"], ["grpc-status", "0"]]},
        ["protocol_error"],
    ),
    ({"body_hex": "0aff"}, ["protocol_error"]),
    ({"body_hex": "ffffffffff"}, ["protocol_error"]),
    ({"body_hex": "00", "flag": 1}, ["protocol_error"]),
    ({"end_without_trailers": True}, ["protocol_error"]),
    ({"trailers_only": [[":status", "503"]]}, ["protocol_error"]),
    ({"trailers_only": [[":status", "200"], ["content-type", "text/html"]]}, ["protocol_error", "driver_error"]),
    ({"rst": 2}, ["protocol_error"]),
    ({"rst": 7}, ["connection_lost"]),
    ({"rst": 8}, ["protocol_error"]),
    ({"grpc_status": "99"}, ["driver_error"]),
]
EXTRAS: list[dict[str, Any]] = [
    {},
    {"headers": [("x-pad", "p" * 10_000)]},
    {"trailers": [("x-pad", "p" * 10_000)]},
    {"headers": [(f"x-{number}", "v") for number in range(300)]},
    {"goaway_then_answer": 0},
    {"goaway_then_answer": 11},
]
NAMELESS: list[dict[str, Any]] = [
    {"name": ""},
    {"status": 12, "message": "unknown method"},
    {"status": 13, "message": "no name yet"},
    {"raw_data_hex": "00000000ff01"},
    {"rst": 2},
    {"close": True},
]
"""Behaviours of GetPluginInfo that tell no name."""
WIRES: list[tuple[str, list[str], str]] = [
    ("silent", ["deadline"], "timeout"),
    ("http1", ["protocol_error"], "unreached"),
    ("garbage", ["protocol_error"], "unreached"),
    ("tls", ["protocol_error"], "unreached"),
    ("flood", ["protocol_error"], "unreached"),
    ("accept_close", ["protocol_error"], "unreached"),
    ("half_settings", ["protocol_error"], "unreached"),
    ("http1_closes", ["protocol_error"], "unreached"),
    ("tls_closes", ["protocol_error"], "unreached"),
    ("garbage_closes", ["protocol_error"], "unreached"),
    ("goaway", ["protocol_error", "connection_lost"], "any"),
    ("goaway_closes", ["protocol_error", "connection_lost"], "any"),
]


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
