"""Documents and code agree: settings, flags, metrics, reasons, numbers, links."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from livenessprobe import __version__, check, flags, settings, sources
from livenessprobe.daemon import CROWD
from livenessprobe.door import YOUNG_SECONDS
from livenessprobe.health import CALL_TIMED_OUT, MESSAGE_MAX, Reason
from livenessprobe.identity import REDIAL_SECONDS
from livenessprobe.klog import QUEUE_LIMIT
from livenessprobe.metrics import NAME_MAX, Metrics
from livenessprobe.watchdog import PATIENCE

ROOT = Path(__file__).parent.parent
DEFAULTS = settings.load({}, {}, "linux", "").settings
DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/configuration.md",
    "docs/drivers.md",
    "docs/metrics.md",
    "docs/probing.md",
    "docs/reliability.md",
    "docs/windows.md",
    "SECURITY.md",
    "docs/reasons.md",
    "k8s/README.md",
    "settings.toml",
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """The text below `heading`, up to the next heading of the same or a higher rank."""
    rank = len(heading) - len(heading.lstrip("#"))
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"no heading {heading!r}"
    return re.split(rf"^#{{1,{rank}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all Markdown tables in `text`, without header rows and rules."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    rules = {number for number, line in enumerate(table) if re.fullmatch(r"[|\-: ]+", line)}
    kept = [line for number, line in enumerate(table) if number not in rules and number + 1 not in rules]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


# --- settings.toml


def test_settings_file_has_every_key_once_and_no_other() -> None:
    assert sorted(tomllib.loads(read("settings.toml"))) == sorted(sources.FILE_KEYS)


def test_settings_file_changes_no_setting() -> None:
    without = settings.load({}, {}, "linux", "")

    loaded = settings.load({"config": str(ROOT / "settings.toml")}, {}, "linux", "")

    assert (loaded.file_error, loaded.warnings) == ("", ())
    assert loaded.settings == without.settings


@pytest.mark.parametrize("key", sources.FILE_KEYS)
def test_settings_file_writes_the_default_as_the_flag_table_does(key: str) -> None:
    """The spelling counts, not only the value: `0s` for an empty `unreachable_grace` would be another setting."""
    loaded = settings.load({"config": str(ROOT / "settings.toml")}, {}, "linux", "")

    assert loaded.raw[key].source.startswith("file "), "the file was not read"
    assert loaded.raw[key].text == sources.KEYS[key].default


@pytest.mark.parametrize("key", sources.FILE_KEYS)
def test_settings_file_names_flag_and_variable_above_each_key(key: str) -> None:
    above = re.search(rf"((?:^#.*\n)+)^{key} = ", read("settings.toml"), re.MULTILINE)

    assert above is not None, "no comment directly above it"
    assert f"[--{sources.KEYS[key].name} | {sources.PREFIX}{key.upper()}]" in above[1]


# --- flags


@pytest.mark.parametrize(
    ("group", "heading"),
    [("upstream", "### Flags of the Go program"), ("old", "### Flags of older releases"), ("own", "### Our own flags")],
)
def test_readme_lists_each_flag_with_its_default(group: str, heading: str) -> None:
    listed = [(name, default) for name, default, _ in rows(section(read("README.md"), heading))]

    expected = [(f"`--{f.name}`", f"`{f.default}`" if f.default else "empty") for f in flags.FLAGS if f.group == group]
    assert listed == expected


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_flags_that_exist(document: str) -> None:
    # The driver in the manifest has a flag of its own.
    text = re.sub(r'args: \["--endpoint=.*?"\]', "", read(document))
    text = re.sub(r"^ *docker buildx (?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)  # nor are docker's flags ours

    named = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9_-]*)", text))

    assert named <= {*flags.BY_NAME, *flags.LONGHORN, *(flag.name for flag in check.FLAGS), "help"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_variables_that_exist(document: str) -> None:
    named = set(re.findall(rf"{sources.PREFIX}([A-Z_]+)\b", read(document)))

    # The others are examples of variables that Kubernetes sets.
    assert named <= {key.upper() for key in sources.KEYS} | {"SERVICE_HOST", "SERVICE_", "PORT"}


# --- metrics


def exposed() -> tuple[dict[str, tuple[str, frozenset[str]]], set[str]]:
    """Everything that /metrics can show: families with type and labels, and the names of all samples."""
    metrics = Metrics()
    metrics.operation("/csi.v1.Identity/Probe", "OK", 0.1)
    metrics.responded(200)
    metrics.configured("", {"csi_address": False})
    text = metrics.expose().body.decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    samples = set()
    for sample, inside in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        family = sample if sample in types else re.sub(r"_(bucket|sum|count)$", "", sample)
        labels[family] |= set(re.findall(r'(\w+)="', inside)) - {"le"}
        samples.add(sample)
    return {name: (kind, frozenset(labels[name])) for name, kind in types.items()}, samples | set(types)


def test_metrics_page_lists_exactly_what_is_exposed() -> None:
    listed = {
        name.strip("`"): (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _unit, _meaning in rows(section(read("docs/metrics.md"), "## Families"))
    }

    families, _ = exposed()

    assert listed == families


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_metrics_that_exist(document: str) -> None:
    """Queries count too: they name samples rather than families."""
    named = set(re.findall(r"\b(?:livenessprobe|csi_sidecar|process)_[a-z_]+", read(document)))

    assert named <= exposed()[1]


# --- reasons


def test_reasons_page_has_a_section_for_each_reason_and_no_other() -> None:
    headings = re.findall(r"^## (.*)$", read("docs/reasons.md"), re.MULTILINE)

    assert headings == [f"`{reason.value}`" for reason in Reason]


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_the_text_the_fix_and_the_go_programs_text(reason: Reason) -> None:
    text = section(read("docs/reasons.md"), f"## `{reason.value}`")

    assert re.search(r"^    \S", text, re.MULTILINE), "no text as it is shown"
    assert "\nWhat to do: " in text
    assert "\nThe Go program said: " in text


def strings_of_the_code() -> list[str]:
    """All string literals of the package; an f-string gives the parts between its fields."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "livenessprobe").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_texts_on_the_reasons_page_are_those_of_the_code() -> None:
    code = [*strings_of_the_code(), CALL_TIMED_OUT.body]
    shown = re.findall(r"^    (\S.*)$", read("docs/reasons.md"), re.MULTILINE)
    placeholders = re.compile(r"\b(?:PATH|KIND|ADDRESS|ERROR|CODE|MESSAGE)\b")

    invented = [line for line in shown for part in placeholders.split(line) if not any(part in text for text in code)]

    assert len(shown) > len(Reason)
    assert invented == []


def test_readme_says_how_many_reasons_there_are() -> None:
    assert re.findall(r"one of (\d+) \[reasons\]", read("README.md")) == [str(len(Reason))]


# --- the rest


def test_readme_has_all_differences() -> None:
    differences = rows(section(read("README.md"), "## Differences from the Go program"))

    assert [int(number) for number, _, _ in differences] == list(range(1, 22))
    assert all(theirs and ours for _, theirs, ours in differences)


@pytest.mark.parametrize("target", ["run", "test"])
def test_readme_commands_are_targets_of_the_makefile(target: str) -> None:
    assert f"\n    make {target}\n" in section(read("README.md"), "## Quick start")
    assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE)


def test_contributing_names_the_targets_of_the_makefile() -> None:
    named = set(re.findall(r"make ([a-z0-9-]+)", read("CONTRIBUTING.md")))

    assert named <= set(re.findall(r"^([a-z0-9-]+):", read("Makefile"), re.MULTILINE))


def test_demo_keys_in_the_readme_are_those_of_the_demo() -> None:
    from livenessprobe import demo

    listed = [key.strip("`") for key, _ in rows(section(read("README.md"), "## Quick start"))]

    assert sorted(listed) == sorted(re.findall(r"(?:^|  )(\w)  ", demo.HELP, re.MULTILINE))


def test_version_is_that_of_the_documents() -> None:
    newest = re.search(r"^## \[(\S+)\]", read("CHANGELOG.md"), re.MULTILINE)

    assert newest is not None
    assert newest[1] == __version__
    assert f"livenessprobe:{__version__}" in read("README.md")
    assert f"livenessprobe:{__version__}" in read("k8s/README.md")
    assert set(re.findall(r"(?:[tT]ag: |livenessprobe:)(\d[\d.]*)", read("docs/drivers.md"))) == {__version__}


@pytest.mark.parametrize("document", [*DOCUMENTS, "docs/image.md", "docs/releasing.md"])
def test_links_inside_the_project_have_a_target(document: str) -> None:
    text = read(document)
    headings = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }

    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in headings
        elif not link.startswith("https://"):
            assert (ROOT / document).parent.joinpath(link).is_file(), link


def test_reliability_names_only_tests_that_exist() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))

    named = re.findall(r"`(test_\w+)`", read("docs/reliability.md"))

    assert len(named) > 30
    assert [name for name in named if f"def {name}(" not in tests] == []


@pytest.mark.parametrize(
    "words",
    [
        f"dialled again every {REDIAL_SECONDS} s",
        f"cut to {NAME_MAX} printable characters",
        f"cut at {MESSAGE_MAX >> 10} KiB",
        f"closed after {DEFAULTS.http_idle_timeout:.0f} s without a complete request",
        f"more than {DEFAULTS.http_max_connections} such, oldest first, after {YOUNG_SECONDS:.0f} s",
        f"at once beyond {CROWD * DEFAULTS.http_max_connections}",
        f"records beyond {QUEUE_LIMIT}, ",
        f"event loop stuck for {PATIENCE:.0f} s",
    ],
)
def test_reliability_gives_the_numbers_of_the_code(words: str) -> None:
    assert words in read("docs/reliability.md")
