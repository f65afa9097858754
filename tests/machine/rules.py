"""
The rules by which Hypothesis chooses the steps of walks, and by which it shortens a walk that fails.

The choice never depends on what the sidecar does, so the same seed gives the same steps.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.machine.frames import ALWAYS, BESIDE, DRAINS, SOMETIMES, UNSEEN
from tests.machine.inputs import BAD_FILES, EXTRAS, GARBAGE, MILD, NAMELESS, ODD, PATHS, WIRES
from tests.machine.walk import ARRIVED, Walk
from tests.machine.world import LATER, LATEST, MESSAGES, NAMES, PERMISSIONS, SOONER
from tests.support import fuse

ANEW = st.sampled_from([False] * 4 + [True])
"""Whether to make a new socket for the driver even if the present one could stay."""
FEW = st.integers(1, 5)
READY = st.sampled_from([None, True, False])
SETTINGS = st.fixed_dictionaries(
    {
        "probe_timeout": st.sampled_from([0.5, 0.4, 0.3]),
        "unreachable_grace": st.sampled_from([0.0] * 4 + [0.1, None]),
        "connection_reuse": st.sampled_from([1.0, 0.0]),
        "failure_threshold": st.sampled_from([1, 1, 2, 3]),
        "success_threshold": st.sampled_from([1, 1, 2]),
        "interval": st.sampled_from([0.0] * 5 + [0.1, 0.2]),
    }
)
NOT_THERE = (
    "missing", "folder_missing", "folder_is_a_file", "dangling", "loop", "a_file", "a_folder", "a_pipe", "datagrams", "stale",
    "never_accepts", "backlog_full", *PERMISSIONS,
)  # fmt: skip

SLOW = {"not": st.just(0.0), "sooner": st.floats(0.001, SOONER), "later": st.floats(LATER, LATEST)}
"""Seconds until a driver responds."""

# Arguments of the states of drivers, without the choice of the socket.
LIBRARY = st.tuples(
    st.sampled_from([None, None, True, False]),
    st.sampled_from(["not"] * 18 + ["sooner", "later"]).flatmap(SLOW.__getitem__),
    st.sampled_from([0] * 8 + [3 << 20, 5 << 20]),
    st.booleans(),
)
RAW = st.tuples(
    READY,
    st.one_of(*map(st.just, EXTRAS), *(SLOW[each].map(lambda delay: {"delay_s": delay}) for each in ("sooner", "later"))),
)
ANY_CODE = st.one_of(st.integers(0, 14), st.integers(0, 255), st.sampled_from([70007, 2**31, 2**32 - 1]))
"""Of GOAWAY; HTTP/2 knows 0 to 13."""
OTHERS = ("named.csi.test", "other.csi.test")
OF_A_PROCESS = st.sampled_from(["process"] * 3 + ["frozen", "killed", "library_hangs"])
OVERTAKES = st.tuples(
    st.just("overtake"),
    st.one_of(
        st.tuples(st.just("raw_answers"), RAW),
        st.tuples(st.just("process"), st.just(())),
        st.tuples(st.just("library"), LIBRARY),
    ),
).map(lambda step: (step[0], *step[1]))
SELDOM = st.one_of(
    OVERTAKES,
    st.tuples(st.just("library_restarts"), ANEW, st.sampled_from(range(len(NAMES)))),
    st.tuples(st.just("reload"), SETTINGS, st.booleans()),
    st.tuples(st.just("bad_file"), st.sampled_from(range(len(BAD_FILES))), st.booleans()),
    st.tuples(st.just("stopped"), st.sampled_from([0.05, 0.2, 0.8])),
    st.just(("hangup_signal",)),
    st.tuples(
        st.just("end"),
        st.sampled_from(["SIGTERM", "SIGINT", "SIGQUIT"]),
        st.sampled_from([0, 0, 1, 3]),
        st.sampled_from([ARRIVED, 0.0]),
    ),
    st.just(("name",)),
    st.tuples(st.just("name_fails"), st.sampled_from(NAMELESS), st.sampled_from([0.2, 1.0]), st.sampled_from(OTHERS)),
)
"""Steps that take long, or change the meaning of the others."""


class Machine(RuleBasedStateMachine):
    """One sidecar and its world; every rule is a step, after which sidecar and model must agree."""

    notes: Counter[str] = Counter()
    """The number of steps of each kind, in all walks."""
    seconds: Counter[str] = Counter()
    most: Counter[str] = Counter()
    """The largest counts after any step: descriptors, tasks, threads."""

    def __init__(self) -> None:
        super().__init__()
        self._walk = Walk()

    def teardown(self) -> None:
        self._walk.close()
        Machine.notes += self._walk.notes
        Machine.seconds += self._walk.seconds
        Machine.most |= self._walk.most

    def _do(self, kind: str, *arguments: Any) -> None:
        self._walk.do((kind, *arguments))

    @initialize(
        settings=SETTINGS, verbosity=st.sampled_from([0, 0, 5]), logging_format=st.sampled_from(["text", "text", "json"])
    )
    def start(self, settings: dict[str, Any], verbosity: int, logging_format: str) -> None:
        self._do("start", settings | {"interval": 0.0}, verbosity, logging_format)

    # --- the driver

    @rule(anew=ANEW, how=LIBRARY)
    def library(self, anew: bool, how: tuple[Any, ...]) -> None:
        self._do("library", anew, *how)

    @rule(anew=ANEW, code=st.integers(1, 16), message=st.sampled_from([each for each in MESSAGES if each != "invalid"]))
    def library_error(self, anew: bool, code: int, message: str) -> None:
        self._do("library_error", anew, code, message)

    @rule(anew=ANEW, how=RAW)
    def raw_answers(self, anew: bool, how: tuple[Any, ...]) -> None:
        self._do("raw_answers", anew, *how)

    @rule(anew=ANEW, code=st.sampled_from([*range(1, 18), 99]), message=st.sampled_from(list(MESSAGES)))
    def raw_error(self, anew: bool, code: int, message: str) -> None:
        self._do("raw_error", anew, code, message)

    @rule(anew=ANEW, how=st.sampled_from(MILD))
    def raw_breaks(self, anew: bool, how: tuple[Any, ...]) -> None:
        self._do("raw_breaks", anew, *how)

    @rule(anew=ANEW, how=st.sampled_from(WIRES))
    def wire(self, anew: bool, how: tuple[Any, ...]) -> None:
        self._do("wire", anew, *how)

    @rule(anew=ANEW, place=st.sampled_from(list(BESIDE)), code=ANY_CODE)
    def goes_away(self, anew: bool, place: str, code: int) -> None:
        self._do("goes_away", anew, place, code)

    @rule(refusal=st.sampled_from(list(UNSEEN)), code=ANY_CODE, every=st.sampled_from([ALWAYS, SOMETIMES, SOMETIMES]))
    def turns_away(self, refusal: str, code: int, every: int) -> None:
        self._do("turns_away", True, refusal, code, every)

    @rule(how=st.sampled_from(list(DRAINS)), code=ANY_CODE)
    def drains(self, how: str, code: int) -> None:
        self._do("drains", True, how, code)

    @rule(anew=ANEW, state=OF_A_PROCESS)
    def of_a_process(self, anew: bool, state: str) -> None:
        self._do(state, anew)

    @rule(anew=ANEW, state=st.sampled_from(NOT_THERE))
    def not_there(self, anew: bool, state: str) -> None:
        self._do(state, anew)

    @precondition(lambda _: fuse.fault() is None)
    @rule(anew=ANEW)
    def hung_mount(self, anew: bool) -> None:
        self._do("hung_mount", anew)

    # --- its clients

    @rule(paths=st.permutations(PATHS))
    def ask(self, paths: list[str]) -> None:
        self._do("ask", paths)

    @rule(count=st.sampled_from([2, 5, 20, 60]), path=st.sampled_from(PATHS))
    def parallel(self, count: int, path: str) -> None:
        self._do("parallel", count, path)

    @rule(count=FEW, reset=st.booleans(), delay=st.sampled_from([0.0, 0.002, 0.02, 0.1]))
    def hang_up(self, count: int, reset: bool, delay: float) -> None:
        self._do("hang_up", count, reset, delay)

    @rule(count=st.integers(2, 10), patience=st.sampled_from([0.0, 0.2, 0.5, 0.9]), half=st.booleans())
    def impatient(self, count: int, patience: float, half: bool) -> None:
        self._do("impatient", count, patience, half)

    @rule()
    def half_close(self) -> None:
        self._do("half_close")

    @rule(count=FEW, sent=st.sampled_from([1, 4, 30, 60]))
    def hold(self, count: int, sent: int) -> None:
        self._do("hold", count, sent)

    @rule(count=st.integers(1, 3), how=st.sampled_from(["finish", "close_held"]))
    def end_held(self, count: int, how: str) -> None:
        self._do(how, count)

    @rule(number=st.sampled_from(range(len(GARBAGE))))
    def garbage(self, number: int) -> None:
        self._do("garbage", number)

    @rule(number=st.sampled_from(range(len(ODD))))
    def odd_request(self, number: int) -> None:
        self._do("odd_request", number)

    # --- other steps

    @rule(step=SELDOM)
    def seldom(self, step: tuple[Any, ...]) -> None:
        self._do(*step)
