"""Documents and code agree: settings, flags, metrics, reasons, numbers, links."""

from __future__ import annotations

import ast
import re
import tomllib
from html import unescape
from pathlib import Path

import pytest

from livenessprobe import __version__
from livenessprobe.commands import check, lint, watch
from livenessprobe.driver.identity import REDIAL_SECONDS
from livenessprobe.driver.result import CALL_TIMED_OUT, MESSAGE_MAX, Reason
from livenessprobe.klog.writer import QUEUE_LIMIT
from livenessprobe.lint.findings import RULES
from livenessprobe.metrics import Metrics
from livenessprobe.probing.driver_name import NAME_MAX
from livenessprobe.process.watchdog import STUCK_SECONDS
from livenessprobe.settings import flags, layers
from livenessprobe.settings.layers import KEYS, PREFIX
from livenessprobe.settings.model import RESTART_KEYS, Settings
from tests.values import Refused, load_all

ROOT = Path(__file__).parent.parent
DEFAULTS = load_all().settings
PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("", "docs", "docs/performance", "k8s")
    for path in ROOT.joinpath(folder).glob("*.md")
)
FOREIGN = ("docs/image.md", "docs/performance.md", "docs/performance/README.md", "docs/releasing.md")
"""Pages that have flags of other programs in their commands."""
DOCUMENTS = [*(page for page in PAGES if page not in FOREIGN), "settings.toml"]
REMOVED_FLAGS = {"answer-before-hangup"}
"""Flags that only the changelog names."""


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
    assert sorted(tomllib.loads(read("settings.toml"))) == sorted(layers.FILE_KEYS)


def test_settings_file_changes_no_setting() -> None:
    without = load_all()

    loaded = load_all(file=(ROOT / "settings.toml").read_bytes())

    assert (loaded.file_error, loaded.warnings) == ("", ())
    assert loaded.settings == without.settings


def test_settings_file_writes_the_defaults_as_the_flag_table_does() -> None:
    """The spelling counts, not only the value: `0s` for an empty `unreachable_grace` would be another setting."""
    found = load_all(file=(ROOT / "settings.toml").read_bytes()).raw

    assert {key: found[key].text for key in layers.FILE_KEYS} == {key: KEYS[key].default for key in layers.FILE_KEYS}
    assert all(found[key].source.startswith("file ") for key in layers.FILE_KEYS)


def test_settings_file_names_flag_and_variable_above_each_key_and_whether_it_needs_a_restart() -> None:
    above = r"^# \[(--\S+) \| (\S+)\]( restart\b)?.*$(?:\n#.*)*\n([a-z_]+) = "
    found = {key: rest for *rest, key in re.findall(above, read("settings.toml"), re.MULTILINE)}

    assert found == {
        key: [f"--{KEYS[key].name}", f"{PREFIX}{key.upper()}", " restart" if key in RESTART_KEYS else ""]
        for key in layers.FILE_KEYS
    }


# --- flags

GROUPS = {
    "upstream": "### Flags of the Go program",
    "old": "### Flags of older releases",
    "own": "### Flags that only this program has",
}


@pytest.mark.parametrize("group", GROUPS)
def test_configuration_has_a_row_for_each_flag_with_its_key_variable_and_default(group: str) -> None:
    table = rows(section(read("docs/configuration.md"), GROUPS[group]))

    assert [(flag, key, variable, default) for flag, key, variable, _value, default, _change, _meaning in table] == [
        (
            f"`--{flag.name}`",
            f"`{flag.key}`" if flag.key in layers.FILE_KEYS else "–",
            f"`{PREFIX}{flag.key.upper()}`" if flag.key in KEYS else "–",
            f"`{flag.default}`" if flag.default else "empty",
        )
        for flag in flags.FLAGS
        if flag.group == group
    ]


def test_configuration_says_which_keys_are_live() -> None:
    page = read("docs/configuration.md")
    table = [row for heading in GROUPS.values() for row in rows(section(page, heading))]
    listed = {key.strip("`"): change for _flag, key, _variable, _value, _default, change, _meaning in table}
    live = {key for key in layers.FILE_KEYS if key not in RESTART_KEYS}

    assert {key for key, change in listed.items() if change == "live"} == live
    assert {key for key, change in listed.items() if change == "restart"} >= {*RESTART_KEYS}
    paragraph = section(page, "### Changes while the sidecar runs").partition("These settings are live")
    assert set(re.findall(r"`([a-z_]+)`", paragraph[2].partition("\n\n")[0])) == live


NO_SETTING = {"version", "config", "config-strict", "connection-timeout", "log_backtrace_at"}
"""Flags that act before there are settings, and flags that only have a warning."""
TRIED = ("true", "false", "1", "2", "0s", "7s", "x", "a=1", "json", "16Ki", "/a", "off")
"""Of each kind of flag two of these are values."""


@pytest.mark.parametrize("name", [flag.name for flag in flags.FLAGS if flag.name not in NO_SETTING])
def test_each_flag_changes_a_setting_or_is_refused(name: str) -> None:
    """Otherwise no code reads it."""
    assert any(changes_settings(name, text) for text in TRIED)


def changes_settings(name: str, text: str) -> bool:
    try:
        flags.BY_NAME[name].kind.check(text)
    except ValueError:
        return False
    try:
        return load_all({name: text}, {}).settings != DEFAULTS
    except Refused:
        return True


def test_flags_without_a_setting_are_read_by_name() -> None:
    texts = strings_of_the_code(without="/flags.py")

    assert {name for name in NO_SETTING if not {name, name.replace("-", "_")} & {*texts}} == set()


def test_each_setting_is_read_outside_the_modules_that_make_settings() -> None:
    attributes = [node for node in nodes_of_the_code(without="settings/") if isinstance(node, ast.Attribute)]
    read_there = {node.attr for node in attributes if isinstance(node.ctx, ast.Load)}

    fields = {*Settings._fields, *type(DEFAULTS.thresholds)._fields, *type(DEFAULTS.log)._fields}
    assert fields - read_there == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_flags_that_exist(document: str) -> None:
    # The driver in the manifest has a flag of its own.
    text = re.sub(r'args: \["--endpoint=.*?"\]', "", read(document))
    text = re.sub(r"^ *docker buildx (?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)  # nor are docker's flags ours

    named = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9_-]*)", text))

    known = {*flags.BY_NAME, *flags.LONGHORN, *(flag.name for flag in (*check.FLAGS, *lint.FLAGS, *watch.FLAGS)), "help"}
    assert named <= known | (REMOVED_FLAGS if document == "CHANGELOG.md" else set())


def test_removed_flags_are_removed() -> None:
    assert REMOVED_FLAGS.isdisjoint(flags.BY_NAME)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_variables_that_exist(document: str) -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)\b", read(document)))

    # The others are examples of variables that Kubernetes sets.
    assert named <= {key.upper() for key in KEYS} | {"SERVICE_HOST", "SERVICE_", "PORT"}


# --- findings


def test_lint_page_has_a_section_for_each_finding_with_its_title_and_severity() -> None:
    page = read("docs/lint.md")
    headings = re.findall(r"^### (LP\d+)$", page, re.MULTILINE)

    assert headings == list(RULES)
    for rule in RULES.values():
        assert section(page, f"### {rule.id}").startswith(f"\n**{rule.title}** ({rule.severity}).")


def test_lint_page_lists_the_flags_with_their_defaults() -> None:
    listed = [(flag, default) for flag, default, _ in rows(section(read("docs/lint.md"), "## Input"))]

    assert listed == [(f"`--{flag.name}`", f"`{flag.default}`" if flag.default else "empty") for flag in lint.FLAGS]


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


def nodes_of_the_code(without: str) -> list[ast.AST]:
    """The syntax of the package, except that of files whose path contains `without`."""
    paths = [
        path
        for path in (ROOT / "livenessprobe").rglob("*.py")
        if not without or without not in path.relative_to(ROOT).as_posix()
    ]
    return [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def strings_of_the_code(without: str = "") -> list[str]:
    """All string literals of the package; an f-string gives the parts between its fields."""
    nodes = nodes_of_the_code(without)
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_texts_on_the_reasons_page_are_those_of_the_code() -> None:
    code = [*strings_of_the_code(), CALL_TIMED_OUT.body]
    shown = re.findall(r"^    (\S.*)$", read("docs/reasons.md"), re.MULTILINE)
    placeholders = re.compile(r"\b(?:PATH|FOLDER|KIND|ADDRESS|ADVICE|ERROR|CODE|MESSAGE|N|NAME|STATUS|TIME|VARIABLE)\b")

    invented = [line for line in shown for part in placeholders.split(line) if not any(part in text for text in code)]

    assert len(shown) > len(Reason)
    assert invented == []


def test_readme_says_how_many_reasons_there_are() -> None:
    assert re.findall(r"one of (\d+) \[reasons\]", read("README.md")) == [str(len(Reason))]


# --- the rest


def test_the_page_of_differences_has_all_of_them() -> None:
    differences = rows(read("docs/differences.md"))

    assert [int(number) for number, _, _ in differences] == list(range(1, 27))
    assert all(theirs and ours for _, theirs, ours in differences)


@pytest.mark.parametrize("target", ["run", "test"])
def test_readme_commands_are_targets_of_the_makefile(target: str) -> None:
    assert f"\n    make {target}\n" in section(read("README.md"), "## Quick start")
    assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE)


def test_contributing_names_the_targets_of_the_makefile() -> None:
    named = set(re.findall(r"make ([a-z0-9-]+)", read("CONTRIBUTING.md")))

    assert named <= set(re.findall(r"^([a-z0-9-]+):", read("Makefile"), re.MULTILINE))


def test_demo_keys_in_the_readme_are_those_of_the_demo() -> None:
    from livenessprobe.commands import demo

    listed = [key.strip("`") for key, _ in rows(section(read("README.md"), "## Quick start"))]

    assert sorted(listed) == sorted(re.findall(r"(?:^|  )(\w)  ", demo.HELP, re.MULTILINE))


def test_version_is_that_of_the_documents() -> None:
    newest = re.search(r"^## \[(\S+)\]", read("CHANGELOG.md"), re.MULTILINE)

    assert newest is not None
    assert newest[1] == __version__
    assert f"livenessprobe:{__version__}" in read("README.md")
    assert f"livenessprobe:{__version__}" in read("docs/image.md")
    assert f"livenessprobe:{__version__}" in read("k8s/README.md")
    assert set(re.findall(r"(?:[tT]ag: |livenessprobe:)(\d[\d.]*)", read("docs/drivers.md"))) == {__version__}


def anchors(document: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", read(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", PAGES)
def test_links_inside_the_project_have_a_target(document: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read(document)):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / document).parent.joinpath(target) if target else ROOT / document
        assert path.is_file(), link
        assert not anchor or anchor in anchors(str(path.resolve().relative_to(ROOT))), link


def test_readme_is_short_and_has_a_table_of_contents() -> None:
    text = read("README.md")

    assert len(text.splitlines()) <= 200
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert re.findall(r"^- \[(.*)\]\(#", section(text, "## Contents"), re.MULTILINE) == headings[1:]


def test_the_index_lists_every_page_once() -> None:
    linked = re.findall(r"\]\(([^)#\s]+)", read("docs/README.md"))

    pages = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/") and page != "docs/README.md"]
    others = [f"../{page}" for page in (*PAGES, "settings.toml") if not page.startswith("docs/")]
    assert sorted(set(linked)) == sorted([*pages, *others])


def test_each_figure_is_shown_once_and_six_of_them_at_once() -> None:
    first = re.findall(r"^!\[.*\]\(performance/(.*)\)$", read("docs/performance.md"), re.MULTILINE)
    others = re.findall(r"^!\[.*\]\((.*)\)$", read("docs/performance/README.md"), re.MULTILINE)

    assert len(first) <= 6
    assert sorted([*first, *others]) == sorted(path.name for path in (ROOT / "docs" / "performance").glob("*.svg"))


@pytest.mark.parametrize(
    ("name", "told"),
    {
        "demo": (">200<", ">500<", "[not_ready]", "[deadline]", "[refused]"),
        "outage_statusz": (">Health:", "Reason:\xa0refused", "........ssxx<", "kube-probe"),
        "outage_watch": (">x\xa0unhealthy", "deadline:", ">+\xa0healthy", "back.csi.example"),
    }.items(),
)
def test_a_picture_names_no_machine_and_fetches_nothing(name: str, told: tuple[str, ...]) -> None:
    picture = unescape(read(f"docs/{name}.svg"))

    assert set(re.findall(r"https?://[^\s/<\"]+", picture)) <= {
        "http://127.0.0.1:9808",
        "http://www.w3.org",
        "https://www.textualize.io",  # in a comment of rich's
    }
    assert "url(http" not in picture
    assert not re.search(r"/tmp|/home|/root|livenessprobe-demo", picture)
    assert [shown for shown in told if shown not in picture] == []
    assert len(picture) < 100_000


def test_reliability_names_only_tests_that_exist() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))

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
        f"more than {DEFAULTS.http_max_connections} connections are open",
        f"more than {DEFAULTS.http_max_connections} complete requests at once",
        f"records beyond {QUEUE_LIMIT}, ",
        f"event loop stuck for {STUCK_SECONDS:.0f} s",
    ],
)
def test_reliability_gives_the_numbers_of_the_code(words: str) -> None:
    assert words in read("docs/reliability.md")


def test_security_gives_the_bounds_of_the_code() -> None:
    text = read("SECURITY.md")

    assert f"{DEFAULTS.http_max_connections} open connections per listener" in text
    assert f"{DEFAULTS.http_max_header_bytes >> 10} KiB of headers" in text
    assert f"{DEFAULTS.http_idle_timeout:.0f} s for a request to be complete" in text
