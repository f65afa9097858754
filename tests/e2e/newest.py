"""Other things that run on the image's interpreter: the tests and the bench."""

from __future__ import annotations

import os
import sys

from tests.e2e import bases, podman
from tests.e2e.host import ROOT, say
from tests.e2e.image import CERTIFICATES

LAZY = (
    *(f"tests/commands/test_{command}.py" for command in ("check", "config", "status")),
    *(f"tests/whole/test_{theme}.py" for theme in ("callers", "drivers", "goaway", "log", "stop")),
    "tests/whole/test_resources.py::test_answering_healthz_loads_no_needless_module",
)
SOURCE = "/src"


def stage_lazy() -> None:
    """The tests of the whole process, with lazy imports on the image's interpreter."""
    _run("LAZY=1 python3 -m pytest -n 4 -p no:cacheprovider " + " ".join(LAZY))


def stage_lazy_all() -> None:
    """All tests with lazy imports on the image's interpreter."""
    _run("LAZY=1 python3 -m pytest -n 4 -p no:cacheprovider tests")


def stage_bench() -> None:
    """The bench with lazy imports on the image's interpreter; QUICK=1 for a trial run."""
    _run(
        "PYTHON=$(command -v python3) PYTHON_ARGS='-X lazy_imports=all' python3 -m bench", QUICK=os.environ.get("QUICK", "")
    )


def _run(command: str, **variables: str) -> None:
    podman.set_up()
    python = bases.resolve()["PYTHON"]
    install = f"python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check '{SOURCE}[test]'"
    install += f" && python3 {SOURCE}/image/mend_grpc.py"
    trust = ("--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro") if CERTIFICATES.exists() else ()
    given = [f"--env={name}={value}" for name, value in variables.items()]
    options = ["--rm", "--privileged", "--network=host", "--workdir", SOURCE, "--volume", f"{ROOT}:{SOURCE}", *trust, *given]
    shell = ["sh", "-c", f"{install} && {command}"]
    say(command)
    sys.stdout.flush()
    podman.podman("run", *options, "--entrypoint", "", python, *shell, stdout=None, stderr=None)
