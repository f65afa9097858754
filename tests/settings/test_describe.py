"""The settings in force as a JSON object that works as a settings file again; and the differences between two of them."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.settings.describe import Change, changes, document, newly_overridden, values
from livenessprobe.settings.layers import FILE_KEYS, KEYS
from livenessprobe.settings.model import RESTART_KEYS, Loaded
from tests.values import GROUPS, VALID, as_file, as_flags, as_variables, load_all, native, two, typed


def read(platform: str = "linux", **texts: str) -> Loaded:
    return load_all(as_flags(texts), {}, platform=platform)


def read_file(content: bytes, platform: str = "linux") -> Loaded:
    return load_all(file=content, path="x", platform=platform)


def shown(**texts: str) -> dict[str, object]:
    """The members of the document for these settings."""
    settings_of = document(read(**texts))["settings"]
    assert isinstance(settings_of, dict)
    return settings_of


# --- values


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("probe_timeout", "90s", "1m30s"),
        ("probe_timeout", "1.5h", "1h30m0s"),
        ("probe_timeout", "0", "0s"),
        ("probe_timeout", "-1s", "-1s"),
        ("connection_reuse", "0.25s", "250ms"),
        ("unreachable_grace", "", "3s"),
        ("unreachable_grace", "2000ms", "2s"),
        ("unreachable_grace", "0", "0s"),
        ("unreachable_grace", "1m", "3s"),
        ("v", "007", 7),
        ("log_file_max_size", "0", 0),
        ("stderrthreshold", "error", 2),
        ("logtostderr", "F", False),
        ("automaxprocs", "", True),
        ("vmodule", "", []),
        ("vmodule", "a=1,,b*=02", ["a=1", "b*=2"]),
        ("health_port", "80", "80"),
        ("log_json_info_buffer_size", "0Ki", "0Ki"),
        ("csi_address", "unix:///c.sock", "unix:///c.sock"),
        ("log_backtrace_at", "main.go:7", "main.go:7"),
    ],
)
def test_a_value_is_shown_as_its_type_whatever_its_spelling(key: str, text: str, value: object) -> None:
    assert shown(**{key: text})[key] == {"value": value, "source": f"flag --{KEYS[key].name}"}


def test_the_grace_in_force_follows_the_timeout_and_keeps_its_own_source() -> None:
    assert shown(probe_timeout="27s")["unreachable_grace"] == {"value": "27s", "source": "default"}
    assert shown(probe_timeout="-1s")["unreachable_grace"] == {"value": "0s", "source": "default"}
    assert shown(probe_timeout="27s", unreachable_grace="20s")["unreachable_grace"]["value"] == "20s"


def test_sources_are_those_of_the_values() -> None:
    loaded = load_all({"v": "1"}, as_variables({"log_dir": "/l", "config": "/f"}), b"\nlog_file='/l'", path="/f")
    found = document(loaded)["settings"]

    assert list(found) == list(KEYS)
    assert {key: entry["source"] for key, entry in found.items() if entry["source"] != "default"} == {
        "v": "flag --v",
        "log_dir": "variable LIVENESSPROBE_LOG_DIR",
        "log_file": "file /f, line 2, key log_file",
        "config": "variable LIVENESSPROBE_CONFIG",
    }


# --- what a flag or a variable overrides in the file


def test_a_value_of_the_file_that_is_overridden_is_shown_beside_the_one_in_force() -> None:
    content = b'v = 3\nprobe_timeout = "5"\nlog_dir = "/l"'  # an overridden value is not checked
    found = document(load_all({"v": "1"}, as_variables({"probe_timeout": "2s"}), content, path="/f"))["settings"]

    assert found["v"] == {
        "value": 1,
        "source": "flag --v",
        "overridden": {"value": 3, "source": "file /f, line 1, key v"},
    }
    assert found["probe_timeout"]["overridden"] == {"value": "5", "source": "file /f, line 2, key probe_timeout"}
    assert [key for key, entry in found.items() if "overridden" in entry] == ["probe_timeout", "v"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"v = 3", b"v = 4", [("v", 4)]),
        (b"#", b"v = 4", [("v", 4)]),
        (b"v = 4", b"v = '4'", []),
        (b"v = 4", b"#", []),
        (b"v = 4", b"v = 4\nlog_dir = '/l'", []),
        (b"v = 4", b"probe_timeout = '1m'\nv = 4", [("probe_timeout", "1m0s")]),
        (b"probe_timeout = '60s'", b"probe_timeout = '1m'", []),
        (b"probe_timeout = '60s'", b"probe_timeout = 'x'", [("probe_timeout", "x")]),
    ],
)
def test_a_changed_value_of_the_file_that_is_overridden_is_named(
    old: bytes, new: bytes, told: list[tuple[str, object]]
) -> None:
    given_flags, environ = {"probe-timeout": "2s"}, as_variables({"v": "1"})
    running, wanted = (load_all(given_flags, environ, content, path="/f") for content in (old, new))

    found = newly_overridden(running, wanted)

    assert [(each.key, each.wanted) for each in found] == told
    assert all(each.source.startswith("file /f, line ") for each in found)
    by = {"v": (1, "variable LIVENESSPROBE_V"), "probe_timeout": ("2s", "flag --probe-timeout")}
    assert [(each.running, each.by) for each in found] == [by[key] for key, _ in told]
    assert changes(running, wanted) == () or b"log_dir" in new


@settings(max_examples=20)
@given(st.dictionaries(st.sampled_from(["v", "interval", "log_dir"]), st.sampled_from(["flag", "variable", "file"])))
def test_only_keys_of_which_another_source_is_in_force_are_overridden(places: dict[str, str]) -> None:
    texts = {"v": "5", "interval": "9s", "log_dir": "/x"}
    given_flags = as_flags({key: texts[key] for key, place in places.items() if place == "flag"})
    environ = as_variables({key: texts[key] for key, place in places.items() if place == "variable"})

    loaded = load_all(given_flags, environ, as_file(texts), path="/f")

    assert set(loaded.overridden) == {key for key, place in places.items() if place != "file"}
    assert newly_overridden(loaded, loaded) == ()


# --- the document


@pytest.mark.parametrize("keys", GROUPS, ids=["without-http-endpoint", "with-http-endpoint"])
@settings(max_examples=12)
@given(data=st.data())
def test_the_printed_settings_work_as_a_settings_file(keys: tuple[str, ...], data: st.DataObject) -> None:
    texts = data.draw(st.fixed_dictionaries({key: VALID[key] for key in keys}))
    loaded = load_all(as_flags(texts), {}, b"#", path="x")

    printed = json.loads(json.dumps(document(loaded)))
    again = read_file(as_file({key: printed["settings"][key]["value"] for key in FILE_KEYS}))

    assert again.file_error == ""
    assert again.settings == loaded.settings
    assert {key: values(again)[key] for key in FILE_KEYS} == {key: values(loaded)[key] for key in FILE_KEYS}
    assert {name: document(again)[name] for name in ("target", "dial", "listen")} == {
        name: printed[name] for name in ("target", "dial", "listen")
    }


@pytest.mark.parametrize(
    ("platform", "address", "target", "dial"),
    [
        ("linux", "/csi/csi.sock", "unix:/csi/csi.sock", {"network": "unix", "path": "/csi/csi.sock"}),
        ("linux", "unix:///a b.sock", "unix:/a%20b.sock", {"network": "unix", "path": "/a b.sock"}),
        ("linux", "unix:@name", "unix-abstract:name", {"network": "unix", "path": "@name"}),
        ("linux", "tcp://host:0080", "dns:///host:80", {"network": "tcp", "address": "host:80"}),
        ("linux", "ipv6:[::1]:80", "ipv6:[::1]:80", {"network": "tcp", "address": "[::1]:80"}),
        (
            "win32",
            "unix://C:\\\\csi\\\\csi.sock",
            r"unix:C:\\csi\\csi.sock",
            {"network": "unix", "path": r"C:\\csi\\csi.sock"},
        ),
        ("win32", "unix://C:\\csi\\csi.sock", r"unix:C:\csi\csi.sock", {"network": "unix", "path": r"C:\csi\csi.sock"}),
        ("win32", "C:\\csi\\csi.sock", r"unix:C:\csi\csi.sock", {"network": "unix", "path": r"C:\csi\csi.sock"}),
        ("win32", "C:/csi/csi.sock", "unix:C:/csi/csi.sock", {"network": "unix", "path": "C:/csi/csi.sock"}),
        ("win32", "unix:///C:/csi/csi.sock", "unix:C:/csi/csi.sock", {"network": "unix", "path": "C:/csi/csi.sock"}),
        ("win32", "/csi/csi.sock", "unix:/csi/csi.sock", {"network": "unix", "path": "/csi/csi.sock"}),
        ("win32", "tcp://127.0.0.1:90", "dns:///127.0.0.1:90", {"network": "tcp", "address": "127.0.0.1:90"}),
    ],
)
def test_target_and_dial_address_of_the_driver(platform: str, address: str, target: str, dial: dict[str, str]) -> None:
    found = document(read(platform, csi_address=address))

    assert found["dial"] == dial
    assert (unquote(str(found["target"])) if platform == "win32" else found["target"]) == target


BOTH, HEALTH, METRICS = ["healthz", "metrics"], ["healthz"], ["metrics"]


@pytest.mark.parametrize(
    ("texts", "listen"),
    [
        ({}, [("0.0.0.0:9808", HEALTH, True)]),
        ({"health_port": "http"}, [("0.0.0.0:http", HEALTH, True)]),
        ({"http_endpoint": ":80"}, [(":80", BOTH, True)]),
        ({"http_endpoint": "[::]:80"}, [("[::]:80", BOTH, True)]),
        ({"http_endpoint": "127.0.0.1:80"}, [("127.0.0.1:80", BOTH, False)]),
        ({"http_endpoint": "unix:///run/h.sock"}, [("/run/h.sock", BOTH, False)]),
        ({"metrics_address": ":81"}, [("0.0.0.0:9808", HEALTH, True), (":81", METRICS, True)]),
        ({"metrics_address": "[::1]:81"}, [("0.0.0.0:9808", HEALTH, True), ("[::1]:81", METRICS, False)]),
        ({"metrics_address": "unix:/m.sock"}, [("0.0.0.0:9808", HEALTH, True), ("/m.sock", METRICS, False)]),
        ({"http_endpoint": "[::1]:80", "metrics_address": ":81"}, [("[::1]:80", HEALTH, False), (":81", METRICS, True)]),
        ({"http_endpoint": ":80", "metrics_address": "0.0.0.0:80"}, [(":80", BOTH, True)]),
    ],
)
def test_addresses_of_the_listeners(texts: dict[str, str], listen: list[tuple[str, list[str], bool]]) -> None:
    assert document(read(**texts))["listen"] == [
        {"address": address, "serves": serves, "dual_stack": dual_stack} for address, serves, dual_stack in listen
    ]


# --- changes


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("probe_timeout = '60s'", "probe_timeout = '1m'", []),
        ("logtostderr = true", "logtostderr = 'T'", []),
        ("v = 0", "#", []),
        ("vmodule = ['a=1', 'b=2']", "vmodule = 'a=1,b=02'", []),
        ("stderrthreshold = 'ERROR'", "stderrthreshold = 2", []),
        ("unreachable_grace = ''", "unreachable_grace = '1m'", []),
        ("v = 1", "v = 5", [("v", 1, 5, "file x, line 1, key v", True)]),
        ("v = 1", "#", [("v", 1, 0, "default", True)]),
        ("logging_format = 'text'", "logging_format = 'json'", [("logging_format", "text", "json", None, True)]),
        ("vmodule = []", "vmodule = ['a=1']", [("vmodule", [], ["a=1"], None, True)]),
        ("#", "health_port = 80", [("health_port", "9808", "80", None, False)]),
        ("#", "automaxprocs = true", [("automaxprocs", False, True, None, False)]),
        ("unreachable_grace = '2s'", "unreachable_grace = '0s'", [("unreachable_grace", "2s", "0s", None, True)]),
        (
            "probe_timeout = '1s'",
            "probe_timeout = '2s'",
            [("probe_timeout", "1s", "2s", None, True), ("unreachable_grace", "1s", "2s", "default", True)],
        ),
        (
            "probe_timeout = '2s'\nunreachable_grace = '1s'",
            "unreachable_grace = '1s'\nprobe_timeout = '5s'",
            [("probe_timeout", "2s", "5s", "file x, line 2, key probe_timeout", True)],
        ),
        (
            "v = 1\nhttp_endpoint = ':1'",
            "http_endpoint = ':2'\nv = 2",
            [("http_endpoint", ":1", ":2", None, False), ("v", 1, 2, "file x, line 2, key v", True)],
        ),
    ],
)
def test_a_change_is_a_different_value_and_not_a_different_spelling(
    before: str, after: str, expected: list[tuple[str, object, object, str | None, bool]]
) -> None:
    found = changes(read_file(before.encode()), read_file(after.encode()))

    assert found == tuple(
        Change(key, old, new, source or f"file x, line 1, key {key}", live) for key, old, new, source, live in expected
    )


@pytest.mark.parametrize("keys", GROUPS, ids=["without-http-endpoint", "with-http-endpoint"])
@settings(max_examples=12)
@given(data=st.data())
def test_changes_are_exactly_the_settings_that_differ(keys: tuple[str, ...], data: st.DataObject) -> None:
    # Left out: a setting that others affect, and settings whose spelling is their value; these have rows above.
    keys = tuple(key for key in keys if key in FILE_KEYS and not key.endswith(("_buffer_size", "_grace")))
    pairs = data.draw(st.fixed_dictionaries({key: two(key) for key in keys}))
    swapped = data.draw(st.sets(st.sampled_from(keys)))
    texts = {key: pair[0] for key, pair in pairs.items()} | {"unreachable_grace": "0s"}
    other_texts = texts | {key: pairs[key][1] for key in swapped}
    running, wanted = read_file(as_file(texts)), read_file(as_file(other_texts))
    retyped = read_file(as_file({key: native(key, text) for key, text in other_texts.items()}))
    differing = [key for key in KEYS if key in swapped and typed(key, texts[key]) != typed(key, other_texts[key])]

    found = changes(running, wanted)

    assert [change.key for change in found if change.key != "unreachable_grace"] == differing
    assert {change.key for change in found if not change.live} == {*differing} & {*RESTART_KEYS}
    assert all(change.source == wanted.raw[change.key].source for change in found)
    assert all((change.old, change.new) == (values(running)[change.key], values(wanted)[change.key]) for change in found)
    assert [(back.key, back.old, back.new) for back in changes(wanted, running)] == [
        (change.key, change.new, change.old) for change in found
    ]
    assert changes(running, running) == changes(wanted, retyped) == ()
