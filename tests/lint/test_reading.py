"""Documents from YAML and JSON: places, values as Kubernetes reads them, and input that cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.lint.judge import Options, judge
from livenessprobe.lint.nodes import Node, resolve
from livenessprobe.lint.reading import MAX_DEPTH, Read, parse, read
from tests.lint.manifests import GO, POD, sound
from tests.support import ROOT, not_on_windows


def parsed(content: str | bytes) -> Read:
    found = Read([], [], [], {})
    parse(content.encode() if isinstance(content, str) else content, "f.yaml", found)
    return found


def plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: plain(each) for key, each in node.value.items()}
    if isinstance(node.value, list):
        return [plain(each) for each in node.value]
    return node.value


def values(content: str) -> list[Any]:
    found = parsed(content)
    assert found.unusable == []
    return [plain(each.node) for each in found.documents]


def unusable(content: str | bytes) -> list[tuple[int, int, str]]:
    return [(each.place.line, each.place.column, each.sentence) for each in parsed(content).unusable]


GOOD = "kind: ConfigMap\nmetadata: {name: good}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("y", "Y", "yes", "On", "TRUE", "true")),
        *((text, False) for text in ("n", "no", "OFF", "False")),
        *((text, None) for text in ("", "~", "null", "NULL")),
        *(("nuLL", "nuLL"), ("tRUE", "tRUE"), ("1:30", "1:30"), ("2001-01-01", "2001-01-01"), ("0.0.0.0", "0.0.0.0")),
        *(
            ("0", 0),
            ("-7", -7),
            ("+7", 7),
            ("1_000", 1000),
            ("010", 8),
            ("0o10", 8),
            ("0x1F", 31),
            ("0b101", 5),
            ("08", 8.0),
        ),
        *(
            ("1.5", 1.5),
            (".5", 0.5),
            ("1.", 1.0),
            ("1e3", 1000.0),
            ("-.inf", float("-inf")),
            ("1e", "1e"),
            (".", "."),
            ("-", "-"),
        ),
        ("9" * 100, "9" * 100),
    ],
)
def test_plain_scalars_are_what_they_are_to_kubernetes(text: str, value: object) -> None:
    found = resolve(text)

    assert (found, type(found)) == (value, type(value))


def test_quotes_blocks_and_tags_make_strings() -> None:
    assert values("a: 'yes'\nb: \"5\"\nc: |\n  5\nd: !!str 5\ne: !!int '7'\n") == [
        {"a": "yes", "b": "5", "c": "5\n", "d": "5", "e": 7}
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(),
        lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    )
)
def test_what_yaml_and_json_write_is_read_back(value: object) -> None:
    assert values(yaml.safe_dump({"value": value})) == [{"value": value}]
    assert values(json.dumps({"value": value}, indent=2)) == [{"value": value}]


def test_every_value_has_its_line_and_column() -> None:
    (document,) = parsed(
        "---\n# comment\nkind: Pod\nspec:\n  containers:\n    - name: a\n      args: [--x, --y]\n"
    ).documents

    container = document.node.at("spec", "containers", 0)
    assert container.place == ("f.yaml", 6, 7)
    assert container.at("args", 1).place == ("f.yaml", 7, 19)
    missing = container.at("image", "nothing")
    assert (missing.missing, missing.value, missing.place) == (True, None, container.place)


def test_documents_are_split_as_kubectl_does() -> None:
    text = "# only a comment\n---\na: 1\n--- # two\nb: |\n  x\n  --- no\n---\n\n---\n%\n".replace("%\n", "")

    assert values(text) == [{"a": 1}, {"b": "x\n--- no\n"}]
    assert values("%YAML 1.1\n---\na: 1\n...\n") == [{"a": 1}]
    assert values("a: 1\r\n---\r\nb: 2\r\n") == [{"a": 1}, {"b": 2}]
    assert values("\ufeffa: 1\n") == [{"a": 1}]


def test_the_items_of_a_list_are_documents() -> None:
    inner = {"kind": "List", "items": [{"kind": "Pod"}]}

    assert values(json.dumps({"kind": "List", "items": [inner, {"kind": "Service"}]})) == [
        {"kind": "Pod"},
        {"kind": "Service"},
    ]


def test_aliases_and_merge_keys_are_followed() -> None:
    assert values("a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [*a, {z: 4}]}\n") == [
        {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}, "d": {"x": 1, "y": 2, "z": 4}}
    ]


def test_json_that_is_no_yaml_is_read_too() -> None:
    assert values('{"a": "\\ud83d\\ude00",\n\t"b": 1}') == [{"a": "😀", "b": 1}]


def test_the_last_of_equal_keys_counts_and_is_told() -> None:
    found = parsed("a: 1\nb: 2\na: 3\n")

    assert plain(found.documents[0].node) == {"a": 3, "b": 2}
    assert found.duplicates == [(("f.yaml", 3, 1), "a")]
    (finding,) = judge(found, Options()).findings
    assert (finding.id, finding.severity) == ("LP002", "warning")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("bad", "line", "says"),
    [
        (BOMB, 1, "aliases that stand for 1234567909 values"),
        ("a: &a\n  b: [*a]\n", 1, "alias that contains itself"),
        ("a: 1\nb: !!python/object/apply:os.system ['touch /tmp/x']\n", 2, "python/object/apply:os.system"),
        ("a: !Secret x\n", 1, "!Secret"),
        ("a: 1\n\tb: 2\n", 2, "a tab"),
        ("a: [1\nb: 2\n", 2, "not YAML"),
        ("a: *nothing\n", 1, "undefined alias"),
        ("a: {{ .Values.x }}\n", 1, "not rendered"),
        ("{{- if .Values.x }}\na: 1\n{{- end }}\n", 1, "not rendered"),
        ("kind: Pod\nspec:\n  containers:\n    - image: '{{ .Values.image }}'\n", 4, "not rendered"),
        ("? [a, b]\n: 1\n", 1, "as a key"),
        (f"a: {'[' * (MAX_DEPTH + 9)}{']' * (MAX_DEPTH + 9)}\n", 1, "nested deeper"),
        (f"a: {'[' * 100_000}\n", 1, "nest"),
    ],
)
def test_a_bad_document_is_named_and_the_others_are_read(bad: str, line: int, says: str) -> None:
    found = parsed(f"{GOOD}---\n{bad}---\n{GOOD}")

    assert [each.name for each in found.documents] == ["good", "good"]
    (named,) = found.unusable
    assert named.place.line in (3 + line, 2 + line)
    assert says in named.sentence


def test_invalid_utf_8_is_named_by_its_line() -> None:
    assert unusable(GOOD.encode() + b"---\na: 1\nb: \xff\n---\nc: 1\n") == [(5, 4, "is not UTF-8: invalid start byte")]


def test_braces_in_other_objects_are_no_template() -> None:
    """Alerts have templates of their own, and so have the annotations of a pod."""
    rule = "kind: PrometheusRule\nspec: {groups: [{rules: [{annotations: {summary: '{{ $labels.pod }} is down'}}]}]}\n"

    assert unusable(rule) == []


@pytest.mark.parametrize("comments", ["#" * 5000, "# a #" * 2000, " " * 5000 + "x"])
def test_a_line_of_comment_signs_takes_no_time(comments: str) -> None:
    begun = time.monotonic()
    parsed(f"{comments}\n---\n{comments}\na: 1\n")

    assert time.monotonic() - begun < 2


# --- files


def test_files_and_folders_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.yml").write_text("name: b\n")
    (tmp_path / "a.yaml").write_text("name: a\n")
    (tmp_path / "c.json").write_text('{"name": "c"}')
    (tmp_path / "README.md").write_text("not YAML: [")

    found = read([str(tmp_path)])

    assert [each.node.at("name").text for each in found.documents] == ["a", "b", "c"]
    assert found.unusable == []


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    found = read([str(tmp_path / "nothing.yaml"), str(tmp_path)])

    assert ["No such file" in each.sentence for each in found.unusable] == [True, False]
    assert "no file that ends in .yaml" in found.unusable[1].sentence


def test_input_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    """100 MB as a sparse file; and a second file in the same call."""
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    begun = time.monotonic()

    found = read([str(large)], max_bytes=32 << 20)

    assert time.monotonic() - begun < 1
    assert [each.sentence for each in found.unusable] == [
        "the input is larger than 33554432 bytes; lint it in parts, or raise --max-bytes"
    ]


def test_the_bound_is_that_of_all_files_together(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.yaml").write_text("name: x\n" * 10)

    found = read([str(tmp_path)], max_bytes=200)

    assert (len(found.documents), len(found.unusable)) == (2, 1)


@not_on_windows("no FIFOs")
def test_a_pipe_is_read_up_to_the_bound(tmp_path: Path) -> None:
    """As `lint <(helm template …)` gives one."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    written = []

    def write() -> None:
        with fifo.open("wb", buffering=0) as file:
            try:
                for _ in range(1000):
                    written.append(file.write(b"a: 1\n---\n" * 1000))
            except BrokenPipeError:
                pass

    writer = threading.Thread(target=write)
    writer.start()
    found = read([str(fifo)], max_bytes=50_000)
    writer.join()

    assert len(found.unusable) == 1
    assert sum(written) < 1_000_000


@not_on_windows("no CPU times of children")
def test_a_thousand_documents_take_less_than_five_seconds(tmp_path: Path) -> None:
    """CPU time of the whole command."""
    import resource

    manifest = yaml.safe_dump(sound(GO), sort_keys=False)
    names = (manifest.replace("name: example-csi", f"name: csi-{number}") for number in range(1000))
    (tmp_path / "all.yaml").write_text("---\n".join(names))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)

    command = [sys.executable, "-m", "livenessprobe", "lint", str(tmp_path / "all.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(f"1000 documents of {len(manifest.splitlines())} lines: {seconds:.2f} s")
    assert done.stdout.endswith("1000 sidecars: no findings\n")
    assert seconds < 5


# --- types that Kubernetes refuses


@pytest.mark.parametrize(
    "content",
    [
        "kind: Pod\nspec: {containers: null}\n",
        "kind: Pod\nspec: {containers: [null, 5, {name: liveness-probe, args: null, image: null}]}\n",
        "kind: Pod\nspec: 5\n",
        "kind: [Pod]\nmetadata: 7\nspec: {containers: [{name: [x], image: {a: b}, args: {a: b}}]}\n",
        "- 1\n- 2\n",
        "5\n",
        "null\n",
        "kind: List\nitems: null\n",
        "kind: CustomResourceDefinition\nspec: {properties: {containers: {type: array, items: {type: object}}}}\n",
    ],
)
def test_odd_objects_are_judged_as_far_as_possible(content: str) -> None:
    assert {each.severity for each in judge(parsed(content), Options()).findings} <= {"info", "warning"}


def test_lists_that_are_empty_are_nothing_to_name() -> None:
    for empty in ([], None):
        document = sound(GO, ((*POD, "initContainers"), empty))
        assert judge(parsed(json.dumps(document)), Options()).findings == []


def test_null_containers_are_named_once() -> None:
    (finding,) = judge(parsed("kind: Pod\nspec:\n  containers: null\n"), Options()).findings

    assert (finding.id, finding.place.line, finding.sentence) == ("LP001", 3, "not judged: containers is null")


@pytest.mark.parametrize(
    "path", [POD, (*POD, "containers"), (*POD, "containers", 0), (*POD, "containers", 1), ("metadata",)]
)
@given(
    junk=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda each: (
            st.lists(each, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "name",
                        "image",
                        "args",
                        "ports",
                        "livenessProbe",
                        "httpGet",
                        "env",
                        "volumeMounts",
                        "resources",
                        "limits",
                    ]
                ),
                each,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_value_breaks_the_judge(path: tuple[str | int, ...], junk: object) -> None:
    from tests.lint.manifests import changed

    found = parsed(json.dumps(changed(sound(GO), (path, junk))))

    judge(found, Options(driver_start=5.0))
