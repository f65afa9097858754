"""Every query of the dashboard, run by a Prometheus that has scraped real sidecars through a scripted outage."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from livenessprobe import __version__
from tests.monitoring.dashboard import Query, legend, queries, substituted, variables
from tests.monitoring.servers import ask, serving
from tests.support import ConfigMap, FakeDriver, Sidecar, eventually, free_port

FIRST, SECOND, OTHER = "first.csi.test", "second.csi.test", "other.csi.test"
CHOSEN = {"job": ".*", "namespace": ".*", "driver": ".*", "node": ".*", "pod": "a", "__rate_interval": "5s"}
"""What Grafana puts in for the variables: all drivers above, one pod below."""

STEP = 0.5
"""Seconds between the moments for which a query is evaluated."""


class Seen(NamedTuple):
    """What Prometheus has of the outage: its URL, and the time from start to end."""

    prometheus: str
    start: float
    end: float


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="lp")))
        ports = {name: free_port() for name in ("a", "b", "gone")}
        prometheus = stack.enter_context(scraping(folder, ports))
        start = time.time()
        with outage(folder, ports, prometheus):
            yield Seen(prometheus, start, time.time() + STEP)  # one step more, so that the end is among them


def scraping(folder: Path, ports: dict[str, int]) -> object:
    """A Prometheus that scrapes each port as a pod of that name, with the labels that the monitors in k8s/ set."""
    nodes = {"a": "node-1", "b": "node-2", "gone": "node-2"}
    targets = [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {"job": "livenessprobe", "namespace": "csi", "pod": pod, "container": "driver", "node": nodes[pod]},
        }
        for pod, port in ports.items()
    ]
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [{"job_name": "livenessprobe", "static_configs": targets}],
    }
    (folder / "server").mkdir()
    file = folder / "server" / "prometheus.yml"
    file.write_text(json.dumps(config))
    return serving("prometheus", folder / "server", f"--config.file={file}")


def outage(folder: Path, ports: dict[str, int], prometheus: str) -> ExitStack:
    """
    Pod `a`: healthy, slow, hung with a kubelet that hangs up, killed, back under another name; a bad settings file, then a
    file that needs a restart.  Pod `b`: healthy; its sidecar restarts.  Each step lasts until Prometheus has seen it.
    """
    stack = ExitStack()

    def start(pod: str, *arguments: str) -> Sidecar:
        given = (f"--csi-address={folder}/{pod}.sock", f"--http-endpoint=127.0.0.1:{ports[pod]}", *arguments)
        sidecar = Sidecar(given, port=ports[pod])
        stack.callback(sidecar.kill)
        return sidecar

    def until(query: str, *, asked: Callable[[], object] = lambda: None) -> None:
        def is_seen() -> bool:
            asked()
            return bool(ask(f"{prometheus}/api/v1/query", query=query)["data"]["result"])

        eventually(is_seen, 30)

    settings = ConfigMap(folder / "config", "v = 0\n")
    first = stack.enter_context(FakeDriver(f"{folder}/a.sock", FIRST))
    stack.enter_context(FakeDriver(f"{folder}/b.sock", OTHER))
    a = start(
        "a", "--probe-timeout=1500ms", "--unreachable-grace=0s", f"--config={settings.path}", "--config-poll-interval=100ms"
    )
    b = start("b", "--interval=200ms")

    until(f'livenessprobe_driver_info{{driver_name="{FIRST}"}} and on (pod) livenessprobe_driver_up == 1', asked=a.get)
    until('livenessprobe_driver_up{pod="b"} == 1')

    first.delay = 0.6
    until('livenessprobe_last_probe_duration_seconds{pod="a"} > 0.5', asked=a.get)

    first.hang = True
    until('livenessprobe_kubelet_patience_seconds{pod="a"} > 0', asked=lambda: hang_up_as_kubelet(ports["a"]))
    until('livenessprobe_unhealthy_reason{pod="a", reason="deadline"} == 1', asked=a.get)

    settings.swap("nonsense = 1\n")
    until('livenessprobe_config_last_reload_successful{pod="a"} == 0')
    settings.swap('csi_address = "/elsewhere"\nhealth_service = "x"\n')
    until('livenessprobe_config_restart_needed{pod="a", key="health_service"} == 1')

    first.stop()
    until('livenessprobe_unhealthy_reason{pod="a", reason="socket_missing"} == 1', asked=a.get)

    b.stop()
    until('up{pod="b"} == 0')
    start("b", "--interval=200ms")
    restarted = 'changes(process_start_time_seconds{pod="b"}[1h]) > 0'
    until(f'{restarted} and on (pod) livenessprobe_driver_info{{driver_name="{OTHER}"}}')

    stack.enter_context(FakeDriver(f"{folder}/a.sock", SECOND))
    until(f'livenessprobe_driver_info{{driver_name="{SECOND}"}} and on (pod) livenessprobe_driver_up == 1', asked=a.get)
    return stack


def hang_up_as_kubelet(port: int) -> None:
    """One request of a kubelet whose timeoutSeconds is 1; it ends with the response, if that comes sooner."""
    with socket.create_connection(("127.0.0.1", port), 1) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.37\r\n\r\n")
        try:
            client.recv(1)
        except TimeoutError:
            return


A, B = f"{FIRST} csi/a", f"{OTHER} csi/b"
PROBE = "/csi.v1.Identity/Probe"
DOWN_ROW = f"driver_name={FIRST} namespace=csi node=node-1 pod=a"
SOME = None
"""Any value."""
EXPECTED: dict[tuple[str, str], dict[str, float | None]] = {
    ("Drivers up", "A"): {"": 2},
    ("Drivers down", "A"): {"": 1},
    ("Sidecars not scraped", "A"): {"": 2},
    ("Settings files ignored", "A"): {"": 1},
    ("Settings that wait for a restart", "A"): {"": 1},
    ("Kubelets that hang up too early", "A"): {"": 1},
    ("Drivers by name and node", "A"): {f"{FIRST} node-1 a": 0, f"{SECOND} node-1 a": 1, f"{OTHER} node-2 b": 1},
    ("Drivers that are down now", "A"): {f"{DOWN_ROW} reason=deadline": 1, f"{DOWN_ROW} reason=socket_missing": 1},
    ("Drivers that are down, by reason", "A"): {"deadline": 1, "socket_missing": 1},
    ("Probes beside their timeout", "A"): {f"{FIRST}: nine of ten": SOME, f"{OTHER}: nine of ten": SOME},
    ("Probes beside their timeout", "B"): {f"{FIRST}: timeout": 1.5, f"{OTHER}: timeout": 3},
    ("Restarts of sidecars within an hour", "A"): {B: 1},
    ("Clients that hung up", "A"): {A: SOME},
    ("Settings files: ignored, or waiting for a restart", "A"): {f"{A}: ignored": 1},
    ("Settings files: ignored, or waiting for a restart", "B"): {f"{A}: health_service": 1},
    ("Health", "A"): {"last probe": 0},
    ("Health", "B"): {"reported": 0},
    ("Reason", "A"): {"deadline": 1, "socket_missing": 1},
    ("Duration of probes", "A"): {"last probe": SOME},
    ("Duration of probes", "B"): {"median of ten minutes": SOME},
    ("Duration of probes", "C"): {"probe timeout": 1.5},
    ("Duration of probes", "D"): {"a kubelet that hung up": SOME},
    ("Failures by reason", "A"): {"deadline": SOME, "socket_missing": SOME},
    ("Calls to the driver per second", "A"): {
        f"{PROBE} OK": SOME,
        f"{PROBE} DeadlineExceeded": SOME,
        f"{PROBE} Unavailable": SOME,
        "/csi.v1.Identity/GetPluginInfo OK": SOME,
    },
    ("Calls to the driver per second", "B"): {"connections": SOME},
    ("HTTP responses per second", "A"): {"200": SOME, "500": SOME},
    ("HTTP responses per second", "B"): {"clients that hung up": SOME},
    ("Time since", "A"): {"the last good probe": SOME},
    ("Time since", "B"): {"the last request for health": SOME},
    ("Time since", "C"): {"the start of the sidecar": SOME},
    ("Versions", "A"): {f"version={__version__}": 1},
}
"""For each query, series that it must return, each with a value that it must have had; in tables, a part of the labels."""


def test_every_query_but_the_optional_row_is_expected_to_return_something() -> None:
    assert EXPECTED.keys() == {(query.title, query.letter) for query in queries() if not query.optional}


@pytest.mark.parametrize(
    "query", [query for query in queries() if not query.optional], ids=lambda query: f"{query[0]} {query[1]}"
)
def test_the_query_returns_the_series_it_is_for(query: Query, seen: Seen) -> None:
    found = ask(
        f"{seen.prometheus}/api/v1/query_range",
        query=substituted(query.expr, CHOSEN),
        start=seen.start,
        end=seen.end,
        step=STEP,
    )
    series = {
        legend(query, each["metric"]): {float(value) for _, value in each["values"]} for each in found["data"]["result"]
    }

    for name, value in EXPECTED[query.title, query.letter].items():
        values = series.get(name) or set().union(*(series[each] for each in series if query.legend == "" and name in each))
        assert values, f"{name!r} is not among {sorted(series)}"
        assert value is SOME or value in values, f"{name}: {sorted(values)}"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("job", {"livenessprobe"}),
        ("namespace", {"csi"}),
        ("driver", {FIRST, SECOND, OTHER, "unknown-driver"}),
        ("node", {"node-1", "node-2"}),
        ("pod", {"a", "b"}),
    ],
)
def test_the_choices_of_each_variable(name: str, values: set[str], seen: Seen) -> None:
    selector, _, label = variables()[name]["query"].removeprefix("label_values(").removesuffix(")").rpartition(", ")

    found = ask(
        f"{seen.prometheus}/api/v1/label/{label}/values",
        **{"match[]": substituted(selector, CHOSEN), "start": seen.start, "end": seen.end},
    )

    assert set(found["data"]) <= values
    assert set(found["data"]) >= values - {"unknown-driver"}
