"""
Random walks: steps against the whole process over real sockets, compared with a model.

    MACHINE_STEPS=10000    walk this many steps, and shorten a walk that fails; default: a few dozen steps, not
    shortened
    MACHINE_SEED=1234      repeat the steps of that seed

Each run prints its seed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import sys
import warnings

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.inputs import Step
from tests.machine.rules import Machine
from tests.machine.walk import Walk
from tests.support import fuse

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc, and uses unix sockets")

STEPS = int(os.environ.get("MACHINE_STEPS", "0"))
WALKS, WALK = (3, 40) if STEPS == 0 else (2, 150)
"""How many walks at least, and of how many steps at most.  The first is Hypothesis' simplest, which repeats one step."""


def test_a_random_walk_agrees_with_the_model() -> None:
    chosen = int(os.environ.get("MACHINE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 40)
    print(f"\nMACHINE_SEED={chosen}")
    if fault := fuse.fault():
        warnings.warn(f"{fault}: the walks have no hung file system", stacklevel=1)

    steps = 0
    for turn in itertools.count():  # Hypothesis ends some walks early, so more may be needed
        run_state_machine_as_test(
            seed(chosen + turn)(Machine),
            settings=settings(
                max_examples=WALKS + (STEPS - steps) // WALK,
                stateful_step_count=WALK,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink) if STEPS else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
        steps = sum(Machine.notes[kind] for kind in Machine.seconds)
        if steps >= STEPS:
            break

    print(f"{steps} steps; stalls: {Machine.notes['stalled']}")
    print({kind: f"{Machine.notes[kind]} in {seconds:.0f}s" for kind, seconds in Machine.seconds.items()})
    print(f"at most: {dict(Machine.most)}")
    assert steps > 0


def start(**settings: float) -> Step:
    """The first step of a walk in REGRESSIONS."""
    everything = {"probe_timeout": 0.5, "unreachable_grace": 0.0, "connection_reuse": 1.0, "interval": 0.0}
    return "start", everything | {"failure_threshold": 1, "success_threshold": 1} | settings, 0, "text"


NO_MESSAGE = {"trailers_only": [[":status", "200"], ["content-type", "application/grpc"], ["grpc-status", "0"]]}
GOES_AWAY = ("wire", True, "goaway_closes", ["protocol_error", "connection_lost"], "unreached")

HANGING = {"probe_timeout": 0.3, "unreachable_grace": None, "connection_reuse": 0.0, "interval": 0.2}

REGRESSIONS: dict[str, list[Step]] = {
    "dials that hang took more descriptors than the model had": [
        start(),
        ("reload", HANGING | {"failure_threshold": 3, "success_threshold": 1}, True),
        *[("never_accepts", True)] * 4,
        ("library", True, None, 0.0, 0, False),
    ],
    "a driver that closes the connection of each probe was never asked its name": [
        start(connection_reuse=0.0, unreachable_grace=0.1, failure_threshold=3, success_threshold=2),
        ("library", False, None, 1.2, 0, False),
        ("garbage", 5),
        ("raw_breaks", False, {"close": True}, ["connection_lost"]),
        ("name",),
    ],
    "an answer larger than gRPC takes was an error of the driver's own": [
        start(),
        ("library", False, True, 0.0, 5 << 20, False),
    ],
    "a connection that the driver ends with GOAWAY was an error of the driver's own": [
        start(),
        ("wire", False, "goaway", ["protocol_error", "connection_lost"], "any"),
    ],
    "an answer that ends in the middle was an internal error": [
        start(),
        ("raw_breaks", False, {"raw_data_hex": "00000000ff01"}, ["protocol_error"]),
        ("raw_breaks", False, NO_MESSAGE, ["protocol_error"]),
        ("raw_answers", False, True, {}),
    ],
    "a connection that was closed at once cost the whole timeout": [start(), *[GOES_AWAY] * 10],
    "a caller that joined a probe late, which did not connect, got a deadline as reason": [
        start(probe_timeout=0.3, unreachable_grace=None),
        ("wire", True, "accept_close", ["protocol_error"], "unreached"),
        *[("parallel", 5, "/startupz"), ("parallel", 20, "/healthz")] * 5,
    ],
    "a late result of a driver that was gone counted for its successor": [
        start(),
        *[("overtake", "raw_answers", (True, {})), ("overtake", "process", ())] * 3,
    ],
    "a body of many small pieces left tasks behind for ever": [start(), ("garbage", 14), ("odd_request", 7)],
    "a method in lower case had an empty response": [start(), ("odd_request", 3)],
    "a request was refused because of the bytes after it": [start(), ("odd_request", 1), ("odd_request", 2)],
    "a request that arrived together with SIGTERM was cut off just before its timeout": [
        start(),
        ("raw_answers", False, None, {"delay_s": 1.4}),
        *[("end", "SIGTERM", 3, 0.0)] * 3,
    ],
    "control characters of a message of several lines reached the log": [
        start(),
        ("library_error", True, 5, "control"),
        ("raw_error", False, 3, "control"),
    ],
    "impatient callers hid a hung driver": [
        start(),
        ("library", False, None, 0.0, 0, False),
        ("library_hangs", False),
        *[("impatient", 10, 0.5, half) for half in (False, True)],
        ("half_close",),
        ("library", False, True, 0.0, 0, False),
        ("half_close",),
    ],
}
"""Walks that failed once.  To add one, copy it as a failed run prints it."""


@pytest.mark.parametrize("steps", REGRESSIONS.values(), ids=REGRESSIONS)
def test_walks_that_failed_once_agree_now(steps: list[Step]) -> None:
    with contextlib.closing(Walk()) as walk:
        for step in steps:
            walk.do(step)
