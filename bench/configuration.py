"""
What the configuration costs at the start, and at each reload.

Each figure is the CPU time of a process of its own, user and system together, in rounds that take turns, so that whatever
else the machine does falls on all alike.  The floor reads the same file with tomllib alone.

    python bench/configuration.py [ROUNDS]
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = ROOT / "settings.toml"

_LOAD = "from livenessprobe import settings; load = lambda path='': settings.load({}, {}, 'linux', path)"
_WEB = "import quart, hypercorn, prometheus_client, grpc.aio"
CASES = {
    "interpreter": "pass",
    "floor: tomllib reads the file": f"import tomllib; tomllib.load(open({str(FILE)!r}, 'rb'))",
    "import of settings": _LOAD,
    "settings without a file": f"{_LOAD}; load()",
    "settings with a file": f"{_LOAD}; load({str(FILE)!r})",
    "the rest of the stack": _WEB,
    "the rest, and settings with a file": f"{_WEB}; {_LOAD}; load({str(FILE)!r})",
}
_AGAIN = (
    f"{_LOAD}; load({str(FILE)!r}); import time; started = time.process_time()\n"
    f"for _ in range(20): load({str(FILE)!r})\n"
    "print((time.process_time() - started) / 20)"
)


def cpu_seconds(code: str) -> float:
    """The CPU time of an interpreter that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def reload_seconds() -> float:
    """The CPU time of reading settings again, of which a poll that finds nothing new needs none."""
    answer = subprocess.run([sys.executable, "-c", _AGAIN], check=True, cwd=ROOT, capture_output=True, text=True)
    return float(answer.stdout)


def main(rounds: int) -> None:
    """Print medians as a table, and as one line of JSON."""
    for code in CASES.values():
        cpu_seconds(code)  # so that no round pays for compiling
    seen: dict[str, list[float]] = {name: [] for name in [*CASES, "settings read again"]}
    for _ in range(rounds):
        for name, code in CASES.items():
            seen[name].append(cpu_seconds(code))
        seen["settings read again"].append(reload_seconds())
    medians = {name: statistics.median(values) for name, values in seen.items()}
    floor = medians["floor: tomllib reads the file"]
    print(f"CPU seconds, medians of {rounds} rounds, Python {sys.version.split()[0]}")
    for name, median in medians.items():
        print(f"{name:36} {median:7.3f}  {median / floor:5.1f} x floor")
    alone = medians["the rest, and settings with a file"] - medians["the rest of the stack"]
    print(
        f"{'configuration beside the stack':36} {alone:7.3f}  {alone / medians['the rest of the stack']:5.0%} of the stack"
    )
    print(json.dumps({"python": sys.version.split()[0], "rounds": rounds, "cpu_seconds": medians}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
