"""
`python -m tests.e2e [STAGE …]`: run these stages, or all of them, and print a summary.

`short` selects the stages that need only podman; CI runs them.  `kubelet` selects those with a kubelet.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback

from tests.e2e import containers, drivers, image, kubelet, limits, newest, prometheus, starved
from tests.e2e.host import Failed, Skip

SHORT = {
    "image": image.stage_image,
    "tools": image.stage_tools,
    "hardened": limits.stage_hardened,
    "uid": containers.stage_uid,
    "smoke": containers.stage_smoke,
    "longhorn": containers.stage_longhorn,
    "command": containers.stage_command,
    "stop": containers.stage_stop,
    "old-runtime": containers.stage_old_runtime,
    "goaway": containers.stage_goaway,
    "lazy": newest.stage_lazy,
}
KUBELET = {
    "restarts": kubelet.stage_restarts,
    "times": kubelet.stage_times,
}
STAGES = {
    **SHORT,
    "limits": limits.stage_limits,
    "hour": limits.stage_hour,
    "starved": starved.stage_starved,
    "ember": drivers.stage_ember,
    "go": drivers.stage_go,
    "prometheus": prometheus.stage_prometheus,
    **KUBELET,
    "lazy-all": newest.stage_lazy_all,
    "bench": newest.stage_bench,
}
GROUPS = {"short": SHORT, "kubelet": KUBELET}


def main(chosen: list[str]) -> int:
    names = [name for each in chosen or STAGES for name in GROUPS.get(each, [each])]
    if unknown := [name for name in names if name not in STAGES]:
        print(f"no stage has the name {', '.join(unknown)}; there are: {', '.join([*GROUPS, *STAGES])}")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that mounts and containers are removed
    outcomes = {}
    for name in names:
        print(f"== {name}: {STAGES[name].__doc__}", flush=True)
        started = time.monotonic()
        outcomes[name] = _outcome(name)
        print(f"== {name}: {outcomes[name]} ({time.monotonic() - started:.0f} s)", flush=True)
    print("\n== summary")
    for name, outcome in outcomes.items():
        print(f"{name:12} {outcome.splitlines()[0]}")
    words = [outcome.split(":")[0] for outcome in outcomes.values()]
    print(f"{words.count('passed')} passed, {words.count('FAILED')} failed, {words.count('SKIPPED')} skipped")
    return int("FAILED" in words)


def _outcome(name: str) -> str:
    try:
        STAGES[name]()
    except Skip as skip:
        return f"SKIPPED: {skip}"
    except Failed as failed:
        return f"FAILED: {failed}"
    except Exception:
        return f"FAILED: {traceback.format_exc()}"
    return "passed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
