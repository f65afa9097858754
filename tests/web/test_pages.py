"""The pages as text, HTML and JSON, from one status; who gets which format; and that no text from outside breaks a format."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from livenessprobe.driver.result import NOT_READY, READY, ProbeResult, Reason, rpc_error
from livenessprobe.metrics import Metrics
from livenessprobe.probing.advice import HeldBack
from livenessprobe.probing.callers import Callers
from livenessprobe.probing.history import History
from livenessprobe.probing.standing import Standing
from livenessprobe.probing.status import Now, Process, Status, gather
from livenessprobe.process.starvation import Cause
from livenessprobe.settings.flags import FLAGS
from livenessprobe.settings.model import InForce
from livenessprobe.web import pages
from livenessprobe.web.pages import WARNING, choose, respond
from tests.values import PATH, load_all

NOW = Now(monotonic=5000.0, utc=1_729_112_639.0)
STARTED = NOW.monotonic - 309.0
"""0 hr 05 min 09 sec before."""
PATHS = ("/flagz", "/healthz", "/statusz")
KUBELET = ("10.0.0.1", "kube-probe/1.35", "/healthz")
REFUSED = ProbeResult(Reason.REFUSED, "nobody listens at /csi/csi.sock", "Failed to establish connection to CSI driver")


def status_of(
    *results: ProbeResult,
    name: str = "fake.csi.test",
    agent: str = KUBELET[1],
    fault: str = "",
    file: bytes | None = None,
    held_back: tuple[int, HeldBack] | None = None,
    **values: str,
) -> Status:
    """The status after a kubelet has asked every 10 s and the driver has responded with these results, the last one now."""
    loaded = load_all({"probe-timeout": "2s", **values}, file=file)
    history, standing, now = History(), Standing(), NOW.monotonic - 10.0 * (len(results) - 1)
    prober: Any = SimpleNamespace(settings=loaded.settings, history=history)
    prober.driver_name = SimpleNamespace(text=name, since=STARTED + 9)
    callers = Callers(prober, Metrics(0.0), lambda: NOW.monotonic)
    for result in results:
        asker = callers.askers.came((KUBELET[0], agent, KUBELET[2]), now - 0.25)
        standing = standing.after(result, loaded.settings.thresholds, now, seconds=0.25)
        history.probed(now - 0.25, 0.25, result.reason, 1)
        assert standing.ready.report is not None
        history.reported(now, standing.ready.report, name)
        asker.answered(0.25, good=standing.ready.report.ready)
        now += 10.0
    prober.standing = standing
    for _ in range(held_back[0] if held_back else 0):
        history.repeated(NOW.monotonic - 5, held_back[1])
    return gather(prober, callers, InForce(loaded, fault, ("log_dir",) if fault else ()), Process(STARTED), PATHS, NOW)


def test_statusz_tells_of_probes_made_again() -> None:
    status = status_of(READY, held_back=(2, HeldBack(Cause.DISK, "it waited", "raise the limit")))

    found = "2 probes were made again as the sidecar was held back, the last one 5s ago (it waited): raise the limit"
    assert status.findings == (found,)
    assert f"Finding: {found}" in page("/statusz", status).splitlines()


def page(path: str, status: Status, accept: str = "", query: str = "") -> str:
    return respond(path, status, accept, query).body.decode()


# --- text


def test_statusz_begins_as_that_of_kubernetes_components() -> None:
    lines = page("/statusz", status_of(READY)).splitlines()

    assert lines[:2] == ["livenessprobe statusz", WARNING]
    assert lines[2] == ""
    assert [line.partition(": ")[0] for line in lines[3:8]] == ["Started", "Up", "Python version", "Binary version", "Paths"]
    assert lines[3:5] == ["Started: Wed Oct 16 20:58:50 UTC 2024", "Up: 0 hr 05 min 09 sec"]
    assert lines[7] == "Paths: /flagz /healthz /statusz"


def test_flagz_has_every_flag_sorted() -> None:
    text = page("/flagz", status_of(READY, interval="90s", vmodule="prober=5,conn*=3"))

    title, warning, blank, *lines = text.splitlines()
    assert (title, warning, blank) == ("livenessprobe flagz", WARNING, "")
    assert [line.partition("=")[0] for line in lines] == sorted(flag.name for flag in FLAGS)
    assert {"interval=1m30s", "vmodule=prober=5,conn*=3", "http-endpoint=", "automaxprocs=false", "pages=local"} <= {*lines}


def test_the_index_lists_the_paths() -> None:
    assert page("/", status_of(READY)).splitlines()[3:] == list(PATHS)


def test_the_cause_of_a_failure_is_near_the_top() -> None:
    lines = page("/statusz", status_of(READY, READY, REFUSED, REFUSED)).splitlines()[:15]

    assert lines[9:13] == [
        "Health: unhealthy since 2024-10-16 21:03:49 UTC (10s ago)",
        "Reason: refused: nobody listens at /csi/csi.sock",
        "What to do: see why the driver has stopped: kubectl logs POD -c DRIVER, with --previous once it was restarted (docs/reasons.md#refused)",
        "Failures in a row: 2 (unhealthy after 1, healthy again after 1)",
    ]
    assert lines[13] == (
        "Kubelet: 2 failed answers in a row, one every 10s; restarts the driver in about 9.75s, if its failureThreshold is 3"
    )


def test_a_page_before_the_first_probe_says_so() -> None:
    text = page("/statusz", status_of())

    assert "Health: unknown, no probe has ended yet\n" in text
    assert "Kubelet: has not asked\n" in text
    assert "Probe time: unknown; the probe timeout is 2s\n" in text
    assert "Finding: nobody has asked for health, which is served on" in text


def test_probes_are_a_line_of_marks_and_changes_are_listed_newest_first() -> None:
    text = page("/statusz", status_of(READY, NOT_READY, REFUSED, READY))

    assert "Last probes: 4 of 4 probes, 2 failed, 0 slow, the newest last" in text
    assert "\n  .xx.\n" in text
    table = text.partition("\nLast changes:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split(" | ")[1:] for line in table] == [
        ["0s", "fake.csi.test", "healthy"],
        ["10s", "fake.csi.test", "refused: nobody listens at /csi/csi.sock"],
        ["10s", "fake.csi.test", "not_ready: driver responded but is not ready"],
        ["10s", "fake.csi.test", "healthy"],
    ]


def test_what_is_wrong_with_the_settings_file_is_a_finding() -> None:
    text = page("/statusz", status_of(READY, fault="/etc/x.toml: line 1: no TOML"))

    assert "\nFinding: The settings file is ignored: /etc/x.toml: line 1: no TOML\n" in text
    assert "\nFinding: Settings of the file wait for a restart of this container: log_dir\n" in text


def test_settings_that_are_not_defaults_are_listed_with_their_source() -> None:
    text = page("/statusz", status_of(READY, v="0"))

    assert text.partition("Settings that are not defaults:\n")[2] == "  probe-timeout | 2s | flag --probe-timeout\n"


def test_values_of_the_file_without_effect_are_listed_with_what_wins() -> None:
    status = status_of(READY, file=b'probe_timeout = "7s"\nv = 2\n')

    rows = page("/statusz", status).partition("Values without effect:\n")[2]
    assert rows == f"  probe-timeout | 7s | file {PATH}, line 1, key probe_timeout; flag --probe-timeout wins\n"
    assert json.loads(page("/statusz", status, "application/json"))["overridden"][0]["by"] == "flag --probe-timeout"


# --- formats

TEXT, HTML, OURS = ("text/plain", ""), ("text/html", ""), ("application/json", "livenessprobe/v1alpha1")
V1ALPHA1, V1BETA1 = ("application/json", "config.k8s.io/v1alpha1"), ("application/json", "config.k8s.io/v1beta1")
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/*", TEXT),
        ("text/plain;charset=utf-8", TEXT),
        (BROWSER, HTML),
        ("TEXT/HTML", HTML),
        ("application/json", OURS),
        ("application/json;charset=utf-8", OURS),
        ("application/*", OURS),
        ("text/html, application/json", HTML),
        ("application/json, text/html", OURS),
        # Quality, and what is named most specifically.
        ("text/html;q=0.5, application/json;q=0.9", OURS),
        ("text/html;q=0, */*", TEXT),
        ("text/plain;q=0, */*", OURS),
        ("text/plain;q=0.1, */*;q=0.5, text/html;q=0.4", OURS),
        ("*/*;q=0.1, text/html;q=0.2", HTML),
        ("application/json;q=0, text/html;q=0.1", HTML),
        ("text/html;q=high", TEXT),
        # Nothing of these can be served.
        ("image/png", TEXT),
        ("application/yaml;g=config.k8s.io;v=v1alpha1;as=Statusz", TEXT),
        ("text/plain;q=0", TEXT),
        (",;=,", TEXT),
        # As Kubernetes' components are asked.
        ("application/json;v=v1alpha1;g=config.k8s.io;as=Statusz", V1ALPHA1),
        ("application/json; g=config.k8s.io; v=v1beta1; as=Statusz", V1BETA1),
        ("application/json;g=config.k8s.io;as=Statusz", V1ALPHA1),
        ("application/json;g=config.k8s.io;v=v1beta1;as=Statusz, application/json;q=0.9", V1BETA1),
        ("application/json;g=config.k8s.io;v=v9;as=Statusz", TEXT),
        ("application/json;g=config.k8s.io;v=v9;as=Statusz, application/json;q=0.5", OURS),
        ("application/json;g=config.k8s.io;v=v1alpha1;as=Flagz", TEXT),
        ("application/json;g=meta.k8s.io;v=v1;as=Table", TEXT),
        ("application/json;as=Statusz", TEXT),
    ],
)
def test_the_format_that_a_client_prefers(accept: str, form: tuple[str, str]) -> None:
    assert choose(accept, "Statusz") == form


def test_flagz_has_a_kind_of_its_own_and_the_index_is_unknown_to_kubernetes() -> None:
    assert choose("application/json;g=config.k8s.io;as=Flagz", "Flagz") == V1ALPHA1
    assert choose("application/json;g=config.k8s.io;as=Index", "Index") == TEXT


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from("text/html application/json */* ;q=0.5 ;q=nan , ; = q g as".split())).map("".join)
)
def test_no_accept_header_fails(accept: str) -> None:
    assert choose(accept, "Statusz").media in ("text/plain", "text/html", "application/json")


@pytest.mark.parametrize("accept", ["", "text/html", "application/json"])
@pytest.mark.parametrize("path", ["/statusz", "/flagz", "/"])
def test_every_page_forbids_caching_framing_sniffing_and_scripts(path: str, accept: str) -> None:
    response = respond(path, status_of(READY), accept, "")

    headers = dict(response.headers)
    assert response.status == 200
    assert headers[b"content-type"].startswith((accept or "text/plain").encode())
    assert int(headers[b"content-length"]) == len(response.body)
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"x-frame-options"] == b"DENY"
    assert headers[b"content-security-policy"] == b"default-src 'none'; style-src 'unsafe-inline'"


# --- JSON


def test_json_has_the_fields_of_kubernetes_first() -> None:
    body = json.loads(page("/statusz", status_of(READY, REFUSED), V1BETA1[0] + ";g=config.k8s.io;v=v1beta1;as=Statusz"))

    first = "kind apiVersion metadata startTime uptimeSeconds goVersion binaryVersion paths".split()
    assert list(body)[: len(first)] == first
    assert (body["kind"], body["apiVersion"], body["metadata"]) == (
        "Statusz",
        "config.k8s.io/v1beta1",
        {"name": "livenessprobe"},
    )
    assert (body["startTime"], body["uptimeSeconds"]) == ("2024-10-16T20:58:50Z", 309)
    assert body["report"]["reason"] == "refused"


def test_json_of_this_program() -> None:
    body = json.loads(page("/statusz", status_of(READY, REFUSED), "application/json"))

    assert (body["kind"], body["apiVersion"], "goVersion" in body) == ("Statusz", "livenessprobe/v1alpha1", False)
    assert body["report"] == {
        "healthy": False,
        "reason": "refused",
        "sentence": "nobody listens at /csi/csi.sock",
        "since": "2024-10-16T21:03:59.000Z",
        "failures": 1,
        "failureThreshold": 1,
        "successThreshold": 1,
    }
    assert [change["reason"] for change in body["changes"]] == ["refused", ""]
    assert [probe["reason"] for probe in body["probes"]] == ["", "refused"]
    assert body["callers"][0]["agent"] == "kube-probe/1.35"
    assert body["restart"] == {"failed": 1, "threshold": 3, "period": 10.0, "seconds": 19.75}


def test_json_of_flagz_and_of_the_index() -> None:
    flagz = json.loads(page("/flagz", status_of(READY), "application/json"))

    assert list(flagz) == ["kind", "apiVersion", "metadata", "flags", "sources"]
    assert flagz["flags"].keys() == {flag.name for flag in FLAGS}
    assert (flagz["flags"]["probe-timeout"], flagz["sources"]["probe-timeout"]) == ("2s", "flag --probe-timeout")
    assert json.loads(page("/", status_of(READY), "application/json")) == {"paths": list(PATHS)}


# --- HTML


class Page(HTMLParser):
    """The elements and the text of a page."""

    VOID = ("meta", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


@pytest.mark.parametrize("path", ["/statusz", "/flagz", "/"])
def test_html_is_one_page_without_script_and_outside_resources(path: str) -> None:
    found = Page(page(path, status_of(READY, NOT_READY), "text/html"))

    assert found.tags.isdisjoint({"script", "link", "img", "iframe", "form", "object", "base"})
    links = {attributes["href"] for tag, attributes in found.elements if tag == "a"}
    assert links <= {*PATHS, "?refresh=5", "?"}
    assert not any(name.startswith("on") or name == "src" for _, attributes in found.elements for name in attributes)
    assert "url(" not in page(path, status_of(READY), "text/html")


def test_html_tells_what_text_tells() -> None:
    status = status_of(READY, NOT_READY, REFUSED)
    shown = "".join(Page(page("/statusz", status, "text/html")).texts)

    for label, text in (line.split(": ", 1) for line in page("/statusz", status).splitlines()[3:16] if ": " in line):
        assert f"{label}{text}" in shown
    assert "✗ unhealthy" in shown


def test_the_picture_of_the_probes_has_an_alternative_and_shapes() -> None:
    found = Page(page("/statusz", status_of(READY, NOT_READY, READY), "text/html"))

    (svg,) = (attributes for tag, attributes in found.elements if tag == "svg")
    assert (svg["role"], svg["aria-label"]) == ("img", "Last probes, the oldest first: .x.")
    assert [tag for tag, _ in found.elements if tag in ("rect", "path")] == ["rect", "path", "rect"]


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("refresh=5", "5"),
        ("x=1&refresh=10&y", "10"),
        ("refresh=99999", "3600"),
        ("refresh=0", None),
        ("refresh=-1", None),
        ("refresh=1e9", None),
        ("refresh=99999999999999999999", None),
        ("refresh=%22%3E", None),
        ("refresh=٣", None),
        ("", None),
        ("&" * 10_000, None),
    ],
)
def test_a_page_refreshes_itself_if_it_is_asked_to(query: str, seconds: str | None) -> None:
    found = Page(page("/statusz", status_of(READY), "text/html", query))

    contents = [attributes["content"] for tag, attributes in found.elements if attributes.get("http-equiv") == "refresh"]
    assert contents == ([] if seconds is None else [seconds])


# --- text from outside

HOSTILE = st.text(max_size=80) | st.sampled_from(
    [
        "<script>alert(1)</script>\"'&",
        "\x00\x1b[31m\r\n\x7f\x85",
        "\u202egnp.exe\u2066\u200f\u2028",
        "\udcff\udc80",
        "</title></style></svg>-->]]>",
        "x" * 65_536,
        "\u202e" * 65_536,
        "<b>" * 22_000,
    ]
)
BAD = re.compile(r"[^\S \n]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@given(HOSTILE, HOSTILE, HOSTILE)
@settings(deadline=None)
@example("x" * 65_536, "x" * 65_536, "x" * 65_536)
def test_hostile_names_agents_and_messages_are_escaped_and_cut(name: str, agent: str, message: str) -> None:
    agent = agent.encode(errors="surrogateescape").decode("latin-1")  # as a header is read
    status = status_of(
        READY, rpc_error(Reason.DRIVER_ERROR, "Internal", message), name=name, agent=agent, fault=f"f{message}"
    )
    plain = page("/statusz", status_of(READY, rpc_error(Reason.DRIVER_ERROR, "Internal", "m"), fault="m"))

    text, html, body = (page("/statusz", status, accept) for accept in ("", "text/html", "application/json"))

    assert not BAD.search(text)
    assert len(text.splitlines()) == len(plain.splitlines())
    assert not BAD.search(html)
    assert Page(html).tags <= Page(page("/statusz", status_of(READY, NOT_READY), "text/html")).tags
    assert body.isascii()
    assert not BAD.search("".join(_strings(json.loads(body))))
    assert max(map(len, (text, html, body))) < 64_000


def _strings(value: object) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for each in (*value, *value.values()) for text in _strings(each)]
        case list():
            return [text for each in value for text in _strings(each)]
    return []


def test_every_mark_is_a_kind_of_probe() -> None:
    slow = status_of(READY, **{"probe-timeout": "400ms"})

    assert [pages.mark(probe) for probe in (*slow.probes, *status_of(READY, REFUSED).probes)] == ["s", ".", "x"]
