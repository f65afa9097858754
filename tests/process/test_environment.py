"""Which variables of a pod the libraries may see."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from livenessprobe.process import environment
from tests.support import ROOT, not_on_windows

LINUX = (
    "PATH HOME USER USERNAME LOGNAME LANG LANGUAGE LC_ALL LC_CTYPE TZ TZDIR TMPDIR TEMP TMP TERM COLORTERM NO_COLOR COLUMNS"
    " LINES PYTHONPATH PYTHON_LAZY_IMPORTS COVERAGE_PROCESS_START COV_CORE_SOURCE LD_LIBRARY_PATH LD_PRELOAD MALLOC_ARENA_MAX"
    " GLIBC_TUNABLES RES_OPTIONS LOCALDOMAIN"
).split()
WINDOWS = (
    "SystemRoot SYSTEMROOT systemroot SystemDrive windir WINDIR ComSpec PATHEXT USERPROFILE ProgramData ALLUSERSPROFILE"
    " LOCALAPPDATA APPDATA NUMBER_OF_PROCESSORS PROCESSOR_ARCHITECTURE Path Temp Lc_All PythonPath"
).split()
FOREIGN = (
    "GRPC_POLL_STRATEGY GRPC_VERBOSITY PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION PROMETHEUS_MULTIPROC_DIR http_proxy HTTPS_PROXY"
    " no_proxy QUART_DEBUG FLASK_DEBUG WERKZEUG_RUN_MAIN HYPERCORN_X AUTO_CAST_FOR_DYNACONF DYNACONF_V SETTINGS_MODULE"
    " PROJECT_ROOT FORCE_COLOR TTY_COMPATIBLE JUPYTER_COLUMNS SSL_CERT_FILE SSLKEYLOGFILE OPENSSL_CONF HOSTALIASES CARES_HOSTS"
    " LIVENESSPROBE_V CSI_ENDPOINT GOMAXPROCS KUBERNETES_SERVICE_HOST HOSTNAME PATHS HOMES XPATH LC TZ_ LANG_X ld_preload"
).split()


@pytest.mark.parametrize(
    ("platform", "names", "expected"),
    [
        ("linux", LINUX, []),
        ("linux", FOREIGN, FOREIGN),
        ("linux", WINDOWS, [name for name in WINDOWS if name != "PATH"]),
        ("linux", ["path", "Home", ""], ["path", "Home", ""]),
        ("win32", [*LINUX, *WINDOWS], []),
        ("win32", FOREIGN, [name for name in FOREIGN if name != "ld_preload"]),
    ],
)
def test_names_of_the_list_stay(platform: str, names: list[str], expected: list[str]) -> None:
    """Windows has more of them, and compares names without case."""
    assert environment.foreign(names, platform) == expected


def test_the_program_has_all_variables_and_the_process_only_the_allowed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("GRPC_TRACE", "LIVENESSPROBE_V", "TZ"):
        monkeypatch.setitem(os.environ, name, "1")
    before = dict(os.environ)

    taken = environment.take()

    assert taken == before
    assert os.environ == {name: text for name, text in before.items() if not environment.foreign([name], sys.platform)}


@not_on_windows("an environment is no list of bytes there")
def test_names_that_cannot_be_removed_and_names_given_twice_do_no_harm() -> None:
    """execve passes any list of strings: an empty name, none, one twice, bytes outside UTF-8."""
    code = (
        "import json, os; from livenessprobe.process import environment; taken = environment.take();"
        "print(json.dumps(sorted(taken)), flush=True); os.execv('/usr/bin/env', ['env'])"
    )
    run = (
        "import ctypes, sys; words = lambda *given: (ctypes.c_char_p * (len(given) + 1))(*given, None);"
        "given = [each.encode() for each in sys.argv[1:]];"
        "ctypes.CDLL(None).execve(given[0], words(*given),"
        "words(b'=empty', b'none', b'GRPC_TRACE=1', b'GRPC_TRACE=2', b'X\\xff=3', b'TZ=UTC', b'LC_ALL=C.UTF-8'))"
    )

    done = subprocess.run(
        [sys.executable, "-c", run, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    taken, *left = done.stdout.splitlines()
    assert json.loads(taken) == ["", "GRPC_TRACE", "LC_ALL", "TZ", "X\udcff"]
    assert set(left) <= {"=empty", "none", "TZ=UTC", "LC_ALL=C.UTF-8"}
    assert done.stderr == ""
