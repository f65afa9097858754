"""Prometheus and Alertmanager as processes, and questions to them.  `make manifests` has the programs on PATH."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support import eventually, free_port


def program(name: str) -> str:
    """The path of a program; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing; `make manifests` fetches it")
    return found


@contextmanager
def serving(name: str, folder: Path, *arguments: str) -> Iterator[str]:
    """The URL of the program `name` once it is ready; its log and data are in `folder`."""
    port = free_port()
    command = [
        *_in_debian(program(name)),
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.{KINDS[name]}={folder}/data",
        *arguments,
    ]
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        eventually(lambda: _is_ready(process, folder, url), 30)
        yield url
    finally:
        process.kill()
        process.wait()


def _in_debian(path: str) -> list[str]:
    """A command that runs a program of an unpacked package of Debian with the package's /usr/share, where it has templates."""
    share = Path(path).parents[1] / "share"
    if share == Path("/usr/share") or not (share / "prometheus").exists():
        return [path]
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount --bind "$0" /usr/share && exec "$@"', str(share)]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("unshare --mount is not permitted here")
    return [*inside, path]


KINDS = {"prometheus": "tsdb.path", "prometheus-alertmanager": "path"}


def _is_ready(process: subprocess.Popen[bytes], folder: Path, url: str) -> bool:
    assert process.poll() is None, (folder / "log").read_text()
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
            return True
    except OSError:
        return False


def ask(url: str, data: object = None, **parameters: object) -> object:
    """The JSON that a GET returns, or a POST of `data`; the body of a failure is in the error."""
    body = None if data is None else json.dumps(data).encode()
    query = f"{url}?{urlencode(parameters, doseq=True)}" if parameters else url
    asked = urllib.request.Request(query, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=30) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{query}: {error.read().decode()}") from None
    return json.loads(text or b"null")
