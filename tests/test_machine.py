"""
A machine that attacks the whole process over real sockets, and a model that knows what must come of it.

    MACHINE_STEPS=10000    walk so many steps; without it for some seconds only
    MACHINE_SEED=1234      these steps, not others
    MACHINE_SHORTEN=60     seconds to spend on shortening a walk that fails

Each walk has a seed of its own, and a failure prints it together with the steps, shortened if there was time for it.
"""

from __future__ import annotations

import os
import pprint
import random
import sys
import time
from collections import Counter

import pytest

from tests.machine.walk import Disagreement, Step, Walk, plan, shorten

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks at /proc, and at unix sockets")

WALK = 150
"""Steps with the same sidecar."""
SHORT_SECONDS = 15.0


def walk(seed: int, count: int, until: float = float("inf")) -> Walk:
    """One walk; fails with what repeats it."""
    steps = plan(seed, count)
    found = Walk()
    disagreement = ""
    try:
        found.run(steps, until)
    except Disagreement as error:
        disagreement = str(error)
    if disagreement:
        shorter = shorten(found.done, float(os.environ.get("MACHINE_SHORTEN", "0")))
        pytest.fail(
            f"{disagreement}\n\nrepeat: MACHINE_SEED={seed} MACHINE_STEPS={len(found.done)} "
            f"python -m pytest -s tests/test_machine.py -k random\n"
            f"{len(shorter)} of {len(found.done)} steps:\n{pprint.pformat(shorter, width=120)}",
            pytrace=False,
        )
    return found


def test_a_random_walk_agrees_with_the_model() -> None:
    long = int(os.environ.get("MACHINE_STEPS", "0"))
    seed = int(os.environ.get("MACHINE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 40)
    print(f"\nMACHINE_SEED={seed}")
    started, done, notes, costs = time.monotonic(), 0, Counter[str](), Counter[str]()
    until = float("inf") if long else started + SHORT_SECONDS
    while time.monotonic() < until and (not long or done < long):
        found = walk(seed, min(WALK, long - done) if long else WALK, until)
        done += len(found.done)
        notes += found.notes
        costs += found.seconds
        seed += 1
        seconds = time.monotonic() - started
        print(f"{done} steps in {seconds:.0f}s, {done / seconds:.1f}/s; stalls: {notes['stalled']}", flush=True)
    print({kind: f"{count} in {costs[kind]:.0f}s" if kind in costs else count for kind, count in notes.items()})


def start(**settings: float) -> Step:
    """How a kept walk begins."""
    everything = {"probe_timeout": 0.5, "unreachable_grace": 0.0, "connection_reuse": 1.0, "interval": 0.0}
    return "start", everything | {"failure_threshold": 1, "success_threshold": 1} | settings, 0, "text"


NO_MESSAGE = {"trailers_only": [[":status", "200"], ["content-type", "application/grpc"], ["grpc-status", "0"]]}
GOES_AWAY = ("wire", True, "goaway_closes", ["protocol_error", "connection_lost"], "unreached")

REGRESSIONS: dict[str, list[Step]] = {
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
    "a connection that the driver sends away was an error of the driver's own": [
        start(),
        ("wire", False, "goaway", ["protocol_error", "connection_lost"], "any"),
    ],
    "an answer that ends in the middle was an internal error": [
        start(),
        ("raw_breaks", False, {"raw_data_hex": "00000000ff01"}, ["protocol_error"]),
        ("raw_breaks", False, NO_MESSAGE, ["protocol_error"]),
        ("raw_answers", False, True, {}),
    ],
    "a connection that was closed as soon as it was there was waited for until the time was up": [
        start(),
        *[GOES_AWAY] * 10,
    ],
    "who came late to a probe that did not connect was told of a deadline": [
        start(probe_timeout=0.3, unreachable_grace=None),
        ("wire", True, "closes", ["protocol_error"], "unreached"),
        *[("parallel", 5, "/startupz"), ("parallel", 20, "/healthz")] * 5,
    ],
    "what was found late of a driver that was gone counted against its successor": [
        start(),
        *[("overtake", "raw_answers", (True, {})), ("overtake", "process", ())] * 3,
    ],
    "control characters of a message of several lines reached the log": [
        start(),
        ("library_error", True, 5, "control"),
        ("raw_error", False, 3, "control"),
    ],
}
"""Walks that have failed once; a random one goes here as it was printed."""


@pytest.mark.parametrize("steps", REGRESSIONS.values(), ids=REGRESSIONS)
def test_walks_that_have_failed_agree_now(steps: list[Step]) -> None:
    Walk().run(steps)
