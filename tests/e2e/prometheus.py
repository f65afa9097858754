"""A Prometheus that scrapes the sidecar in its image."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.e2e import containers, debian, drivers
from tests.e2e.host import CACHE, Failed, get, made, run, say, wait_for

SETTINGS = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: sidecar
    static_configs: [{{targets: ["{target}"]}}]
"""


def _programs() -> Path:
    """The folder with prometheus and promtool; the package is only unpacked, since installing would start the server."""
    folder = CACHE / "prometheus"
    if not folder.exists():
        with made(folder) as draft:
            for package in debian.packages("bookworm", "prometheus", "prometheus"):
                run("dpkg-deb", "--extract", package, draft)
    return folder / "usr/bin"


@contextmanager
def _scraping(target: str) -> Iterator[str]:
    """The URL of a Prometheus that scrapes `target`."""
    port = containers.free_port()
    with tempfile.TemporaryDirectory(prefix="e2e-") as name, Path(name, "log").open("w+") as log:
        file = Path(name, "prometheus.yml")
        file.write_text(SETTINGS.format(target=target))
        run(_programs() / "promtool", "check", "config", file)
        command = [
            f"{_programs()}/prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={name}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _value(server: str, query: str) -> float | None:
    """The present result of a query for one number."""
    status, body = get(f"{server}/api/v1/query?query={quote(query)}")
    result = json.loads(body)["data"]["result"] if status == 200 else []
    return float(result[0]["value"][1]) if result else None


def stage_prometheus() -> None:
    """promtool finds no problem in the metrics, and a Prometheus that scrapes them sees the driver stop."""
    with drivers.example() as driver, containers.sidecar(driver, "--unreachable-grace=0s") as (url, _):
        get(f"{url}/healthz")
        text = get(f"{url}/metrics")[1]
        problems = run(_programs() / "promtool", "check", "metrics", input=text)
        say(f"promtool check metrics: {problems or 'no problems'}")
        if problems:
            raise Failed("promtool finds problems")
        with _scraping(url.removeprefix("http://")) as server:
            probes = 'csi_sidecar_operations_seconds_count{method_name="/csi.v1.Identity/Probe",grpc_status_code="OK"}'
            for query in ("up", "livenessprobe_driver_up", f"{probes} > bool 1"):
                wait_for(f"{query} = 1", lambda query=query: _value(server, query) == 1, 20)
                say(f"{query} = 1")
            driver.end()
            get(f"{url}/healthz")
            wait_for("livenessprobe_driver_up = 0", lambda: _value(server, "livenessprobe_driver_up") == 0, 20)
            say("driver stopped: livenessprobe_driver_up = 0")
