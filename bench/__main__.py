"""
The costs of the sidecar, compared with floors, and with any other program.

    python -m bench          (make bench)

A floor is a minimal program on the same libraries that does the same work.  Programs take turns in short bursts, in
another order each round, so that other load on the machine affects all alike.  A figure is the median of its rounds, a
ratio the median of the rounds' ratios.  Progress goes to standard error, the table to standard output, and everything
to a JSON file in bench/results.

QUICK=1 makes a short trial run.  PEER='program --socket={sock} --listen=127.0.0.1:{port}' is measured too, and a table compares
the sidecar with it.  PYTHON and
PYTHON_ARGS choose another interpreter for all measured programs; it must have the same packages.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench.figures import beside_peer, by_package, summary, table, verdicts
from bench.programs import INTERVAL, ROOT, ProgramError, once
from bench.stages import BRIEF, FULL, Bench, say

TOP = 15
RESULTS = ROOT / "bench/results"
PACKAGES = ("grpcio", "hypercorn", "quart", "dynaconf", "protobuf", "prometheus-client")
_DESCRIBE = f"""
import importlib.metadata, json, sys
import grpc, quart, livenessprobe
packages = {{name: importlib.metadata.version(name) for name in {PACKAGES}}}
print(json.dumps({{"version": sys.version.split()[0], "implementation": sys.version, "packages": packages}}))
"""


def interpreter(python: list[str]) -> dict[str, object]:
    """The versions of the measured interpreter and its packages; ProgramError if it cannot run the programs."""
    try:
        answer = once(shlex.join(python), [*python, "-c", _DESCRIBE]).output
    except (OSError, ProgramError) as error:
        raise ProgramError(
            f"{error}\nPYTHON={python[0]} must have the packages of the project, as .venv/bin/python has after `make test`"
        ) from error
    described: dict[str, object] = json.loads(answer)
    return described | {"arguments": python[1:]}


def surroundings() -> dict[str, object]:
    """The time, commit and machine of the run."""
    try:
        commit = once("git", ["git", "describe", "--always", "--dirty"]).output.strip()
    except (OSError, ProgramError):
        commit = "unknown"
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
    }


def run(python: list[str], peer: list[str], quick: str) -> dict[str, object]:
    """Measure and print; returns the report.  ProgramError if a program cannot be measured."""
    if peer and "{port}" not in " ".join(peer):
        raise ProgramError(f"PEER={shlex.join(peer)}: {{port}} must stand where the program is told its port")
    started, measured, around = time.monotonic(), interpreter(python), surroundings()
    if os.getloadavg()[0] > len(os.sched_getaffinity(0)) / 4:
        say(f"the machine is busy, its load is {os.getloadavg()[0]:.1f}: trust no figure, and ratios little")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(BRIEF if quick else FULL, python, peer, folder)
        bench.run()
    version = tuple(map(int, str(measured["version"]).split(".")[:2]))
    seconds = time.monotonic() - started
    print(f"Python {measured['version']}, arguments: {shlex.join(python[1:]) or 'none'}.  The interval is {INTERVAL}.\n")
    print(table(bench.samples, (version[0], version[1])))
    if compared := beside_peer(bench.samples):
        print(f"\nbeside the peer, medians; the ratio is the median of the rounds' ratios\n{compared}")
    packages, modules = by_package(bench.imports), bench.imports
    print(f"\nimports of the sidecar until its first 200: {len(modules)} modules, {sum(modules.values()):.0f} ms")
    for (package, below), (module, alone) in list(zip(packages.items(), modules.items(), strict=False))[:TOP]:
        print(f"  {package:24} {below:8.1f}    {module:48} {alone:8.1f}")
    print(f"\n{seconds:.0f} s; the load generator was busy for at most {bench.busiest:.0%} of a burst")
    return {
        "python": measured,
        **around,
        "quick": bool(quick),
        "seconds": seconds,
        "load_generator_busy": bench.busiest,
        "figures": summary(bench.samples),
        "targets": [
            {"figure": target.figure, "program": target.program, "target": str(target), "value": value}
            | {"met": value is not None and target.met(value)}
            for target, value in verdicts(bench.samples, (version[0], version[1]))
        ],
        "imports_ms": {"packages": packages, "modules": modules},
        "samples": bench.samples,
    }


def save(report: Mapping[str, object]) -> Path:
    """Write the report to a new file; returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def main() -> int:
    """The exit code: 0, or 1 with a sentence if something could not be measured."""
    if sys.platform != "linux":
        print("bench: it reads Linux's /proc; run it on Linux", file=sys.stderr)
        return 1
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # by an exception, so that context managers end all started processes
    environ = os.environ
    python = [environ.get("PYTHON") or sys.executable, *shlex.split(environ.get("PYTHON_ARGS", ""))]
    try:
        report = run(python, shlex.split(environ.get("PEER", "")), environ.get("QUICK", ""))
    except ProgramError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(save(report).relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
