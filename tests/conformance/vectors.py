"""The vectors: how to run each, what the Go program did, and where the sidecar differs on purpose."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

HTTP_KEYS = frozenset(
    {
        "refused",
        "no_response",
        "raw_regex",
        "http_status",
        "http_reason",
        "proto",
        "body",
        "body_hex",
        "body_regex",
        "headers",
        "headers_absent",
        "min_s",
        "max_s",
    }
)
"""The keys of an expectation that concern one response; all others concern the process."""

Fragment = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Expectation:
    """The requirements on the process as a whole, and on each step."""

    process: Fragment
    steps: Mapping[int, Fragment]

    @classmethod
    def of(cls, fragment: Fragment, steps: Mapping[int, Fragment]) -> Expectation:
        """
        From JSON, in which a vector with a single request has the keys of its response and of its process on one level.
        """
        process = {key: value for key, value in fragment.items() if key not in HTTP_KEYS}
        answer = {key: value for key, value in fragment.items() if key in HTTP_KEYS}
        if answer:
            steps = {**steps, 0: {**steps.get(0, {}), **answer}}
        return cls(process, {index: step for index, step in steps.items() if step})

    @property
    def timed(self) -> bool:
        """Whether it depends on the speed of the machine."""
        text = json.dumps([self.process, *self.steps.values()])
        return any(word in text for word in ('"min_s"', '"max_s"', '"grpc_timeout_range_s"', "_seconds_bucket"))

    def __bool__(self) -> bool:
        return bool(self.process or self.steps)


@dataclass(frozen=True, slots=True)
class Vector:
    """One recorded run of the Go program."""

    id: str
    level: str
    title: str
    argv: tuple[str, ...]
    setup: Fragment
    steps: tuple[Fragment, ...]
    wait_exit_s: float | None
    observe_s: float | None
    ready_s: float
    final_wait_s: float
    expectation: Expectation

    @classmethod
    def from_json(cls, raw: Fragment) -> Vector:
        steps = tuple(raw.get("steps") or ([{"request": raw["request"]}] if "request" in raw else ()))
        return cls(
            id=raw["id"],
            level=raw["level"],
            title=raw["title"],
            argv=tuple(raw["argv"]),
            setup=raw.get("setup", {}),
            steps=steps,
            wait_exit_s=raw.get("wait_exit_s"),
            observe_s=raw.get("observe_s"),
            ready_s=raw.get("ready_s", 5.0),
            final_wait_s=raw.get("final_wait_s", 0.0),
            expectation=Expectation.of(raw["expect"], {i: step.get("expect", {}) for i, step in enumerate(steps)}),
        )

    @property
    def waits_for_http(self) -> bool:
        """Whether the run begins when HTTP is served; otherwise it waits for the process's end or for a time."""
        return self.wait_exit_s is None and self.observe_s is None


@dataclass(frozen=True, slots=True)
class Exemption:
    """A vector that the sidecar contradicts: on purpose (`rows` of the table of differences), or for a `reason`."""

    still: Expectation
    """The sidecar's behaviour."""
    rows: tuple[int, ...] = ()
    reason: str = ""
    until_stderr: re.Pattern[str] | None = None
    """A match ends the wait for an exit that does not come."""
    timed: bool = False
    """Whether the sidecar's behaviour depends on the speed of the machine, without a time in the expectation."""
    flaky_original: bool = False
    """Whether the recorded expectation can hold by chance of timing."""

    @classmethod
    def from_json(cls, raw: Fragment) -> Exemption:
        if unknown := set(raw) - {"rows", "reason", "still", "until_stderr", "timed", "flaky_original"}:
            raise ValueError(f"exemption with unknown keys {sorted(unknown)}")
        still = dict(raw["still"])
        steps = {int(index): step for index, step in still.pop("steps", {}).items()}
        return cls(
            still=Expectation.of(still, steps),
            rows=tuple(raw.get("rows", ())),
            reason=raw.get("reason", ""),
            until_stderr=re.compile(raw["until_stderr"], re.DOTALL) if "until_stderr" in raw else None,
            timed=raw.get("timed", False),
            flaky_original=raw.get("flaky_original", False),
        )


def load_vectors() -> tuple[Vector, ...]:
    raw = json.loads((HERE / "vectors.json").read_text())
    return tuple(Vector.from_json(vector) for vector in raw["vectors"])


def load_exemptions() -> tuple[dict[str, Exemption], dict[str, Exemption]]:
    """Two tables by vector: overruled by rows of the table of differences, and unattainable."""
    raw = json.loads((HERE / "overruled.json").read_text())
    overruled, unattainable = (
        {name: Exemption.from_json(entry) for name, entry in raw[part].items()} for part in ("overruled", "unattainable")
    )
    return overruled, unattainable


def fill(value: Any, places: Mapping[str, str]) -> Any:
    """`value` with each {PLACE} replaced by its value in this run."""
    if isinstance(value, str):
        for name, text in places.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, Mapping):
        return {key: fill(item, places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill(item, places) for item in value]
    return value
