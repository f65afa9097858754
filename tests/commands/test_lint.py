"""`livenessprobe lint` as a process: input, output in four forms, exit codes, differences."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from livenessprobe.commands.lint import FLAGS
from livenessprobe.lint import output
from livenessprobe.lint.findings import RULES, Finding
from livenessprobe.lint.judge import Judgement
from livenessprobe.lint.nodes import Place
from tests.lint.manifests import DRIVER, GO, OURS, REMOVED, SIDECAR, linted, sound
from tests.support import ROOT

EARLY = ((*DRIVER, "livenessProbe", "timeoutSeconds"), 3)
WRONG_PORT = ((*DRIVER, "livenessProbe", "httpGet", "port"), 9999)
TEMPLATE = "kind: Pod\nspec: {{ .Values.spec }}\n"


def lint(folder: Path, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(
        [sys.executable, "-m", "livenessprobe", "lint", *arguments],
        cwd=folder,
        input=stdin,
        env=environ,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def write(folder: Path, name: str, *documents: dict[str, Any]) -> str:
    (folder / name).write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    return name


def test_a_sound_manifest_is_clean_and_its_times_are_told(tmp_path: Path) -> None:
    done = lint(tmp_path, write(tmp_path, "ds.yaml", sound(GO)))

    assert (done.returncode, done.stderr) == (0, "")
    assert "DaemonSet kube-system/example-csi, sidecar liveness-probe: the Go program, v2.17.0" in done.stdout
    assert "hangs: 40 s with a probe in flight, else 43 to 53 s; gone by 83 s" in done.stdout
    assert "(5 - 1) x max(10, 3) + 3 = 43, at most 10 more, then 30 of grace" in done.stdout
    assert "answers after more than 3 s: as if it hangs" in done.stdout
    assert "exits by itself: restarted at once, without any probe" in done.stdout
    assert done.stdout.endswith("1 sidecar: no findings\n")


def test_a_finding_has_its_line_and_a_page(tmp_path: Path) -> None:
    done = lint(tmp_path, write(tmp_path, "ds.yaml", sound(GO, WRONG_PORT)))

    assert done.returncode == 1
    where = re.search(r"^ds\.yaml:(\d+):19: error LP102: the livenessProbe asks port 9999", done.stdout, re.MULTILINE)
    assert where is not None
    assert re.search(rf"^    {where[1]} \| +port: 9999$", done.stdout, re.MULTILINE)
    assert "DaemonSet kube-system/example-csi, driver  (docs/lint.md#lp102)" in done.stdout


@pytest.mark.parametrize(("level", "code"), [("error", 0), ("warning", 1), ("info", 1)])
def test_fail_on_decides_about_the_exit_code(tmp_path: Path, level: str, code: int) -> None:
    name = write(tmp_path, "ds.yaml", sound(GO, EARLY))

    assert lint(tmp_path, name, f"--fail-on={level}").returncode == code
    assert lint(tmp_path, f"--fail-on={level}", "--ignore", "LP101", name).returncode == 0


def test_standard_input_has_a_name(tmp_path: Path) -> None:
    text = yaml.safe_dump(sound(GO, EARLY), sort_keys=False)

    assert "<stdin>:" in lint(tmp_path, "-", stdin=text).stdout
    assert "chart.yaml:" in lint(tmp_path, "--stdin-name=chart.yaml", stdin=text).stdout


def test_a_bad_document_is_named_once_and_the_others_are_judged(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{yaml.safe_dump(sound(GO))}---\n{TEMPLATE}")

    done = lint(tmp_path, "a.yaml")
    skipped = lint(tmp_path, "a.yaml", "--skip-unreadable")

    assert done.returncode == 2
    assert len(re.findall(r"^a\.yaml:\d+:\d+: unusable: is a template that is not rendered", done.stdout, re.MULTILINE)) == 1
    assert "1 sidecar: no findings" in done.stdout
    assert (skipped.returncode, "unusable" in skipped.stdout) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nonsense"], "flag provided but not defined: -nonsense"),
        (["--probe-timeout=3s"], "flag provided but not defined: -probe-timeout"),
        (["--output=xml"], "--output=xml: write text or json or sarif or github"),
        (["--as=theirs"], "--as=theirs: write ours"),
        (["--fail-on=fatal"], "--fail-on=fatal: write error or warning or info"),
        (["--ignore=LP999"], "--ignore=LP999: no finding has this id"),
        (["--driver-start=5"], "invalid value"),
        (["--diff=a", "--output=json"], "--diff prints text only"),
    ],
)
def test_a_bad_command_line_is_refused_with_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = lint(tmp_path, *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_missing_file_is_unusable_input(tmp_path: Path) -> None:
    done = lint(tmp_path, "nothing.yaml")

    assert (done.returncode, "nothing.yaml:1:1: unusable: cannot be read: " in done.stdout) == (2, True)


def test_help_lists_the_flags(tmp_path: Path) -> None:
    done = lint(tmp_path, "--help")

    assert done.returncode == 0
    assert re.findall(r"^  -([a-z-]+)", done.stdout, re.MULTILINE) == [flag.name for flag in FLAGS]


def test_without_pyyaml_the_command_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ImportError('no yaml here')")

    done = lint(tmp_path, "-", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "livenessprobe lint: PyYAML is missing; pip install 'livenessprobe[lint]'\n"


def test_the_sidecar_never_loads_pyyaml_nor_the_linter() -> None:
    code = (
        "import sys; from livenessprobe import cli, daemon; print([n for n in sys.modules if n == 'yaml' or '.lint' in n])"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_input_that_cannot_be_told_from_a_terminal_has_no_colours(tmp_path: Path) -> None:
    assert "\x1b" not in lint(tmp_path, write(tmp_path, "ds.yaml", sound(GO, EARLY))).stdout
    painted = output.text(linted(sound(GO, EARLY)), [], {}, output.Paint(colour=True))
    assert "\x1b[33mwarning LP101\x1b[0m" in painted


def test_names_cannot_change_the_terminal() -> None:
    odd = sound(GO, ((*DRIVER, "name"), "a\x1b[2Jb\nc"), EARLY)

    shown = output.text(linted(odd), [], {}, output.Paint(colour=False))

    assert "a\ufffd[2Jb\ufffdc" in shown
    assert "\x1b" not in shown


# --- in CI


def test_the_pre_commit_hook_runs_the_command_on_manifests_alone() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))

    assert (hook["entry"], hook["language"]) == ("livenessprobe lint", "python")
    assert hook["additional_dependencies"] == ["pyyaml>=6,<7"]
    left_out = ("charts/x/templates/ds.yaml", "values.yaml", "x/values-prod.yml", "kustomization.yaml", "c/Chart.yaml")
    assert [bool(re.search(hook["exclude"], name)) for name in left_out] == [True] * 5
    assert not re.search(hook["exclude"], "deploy/node.yaml")
    assert f"id: {hook['id']}" in (ROOT / "docs/lint.md").read_text(encoding="utf-8")


def test_the_workflow_on_the_page_is_a_workflow() -> None:
    page = (ROOT / "docs/lint.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    (job,) = (block["jobs"]["lint"] for block in blocks if "jobs" in block)

    (command,) = (step["run"] for step in job["steps"] if "livenessprobe lint" in step.get("run", ""))
    assert {name for name in re.findall(r" --([a-z-]+)", command)} <= {flag.name for flag in FLAGS}
    assert any(step.get("uses", "").startswith("github/codeql-action/upload-sarif@") for step in job["steps"])


# --- other forms


def test_json_has_sidecars_times_and_findings(tmp_path: Path) -> None:
    done = lint(tmp_path, "--output=json", write(tmp_path, "ds.yaml", sound(GO, EARLY)))
    found = json.loads(done.stdout)

    (sidecar,) = found["sidecars"]
    assert (sidecar["kind"], sidecar["namespace"], sidecar["name"]) == ("DaemonSet", "kube-system", "example-csi")
    assert (sidecar["program"], sidecar["go_version"], sidecar["probe_timeout"]) == ("go", "2.17", 3.0)
    (probe,) = sidecar["probes"]
    assert probe["time_to_kill"]["hung"] == {"in_flight": 40, "least": 43, "most": 53, "gone": 83}
    assert probe["killed_if_slower_than"] == 3.0
    assert [(each["id"], each["file"], each["severity"]) for each in found["findings"]] == [("LP101", "ds.yaml", "warning")]
    assert found["unusable"] == []


def test_github_annotations_are_escaped(tmp_path: Path) -> None:
    odd = sound(GO, ((*DRIVER, "name"), "100%\ndriver"), EARLY)
    done = lint(tmp_path, "--output=github", write(tmp_path, "a,b:c.yaml", odd))

    (line,) = done.stdout.splitlines()
    assert re.fullmatch(r"::warning file=a%2Cb%3Ac\.yaml,line=\d+,col=\d+,title=LP101 [^:,]*::timeoutSeconds is 3.*", line)


def sarif(judgement: Judgement, folder: str = "/srv/repo") -> Any:
    return json.loads(output.sarif(judgement, [], folder))


def validate(document: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is missing: pip install '.[check]'")
    schema = json.loads((ROOT / "tests/data/sarif/sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
    jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker()).validate(document)


def many(count: int) -> Judgement:
    found = [Finding("LP101", Place("a b.yaml", line, 1), "s", "warning", "o", "c") for line in range(1, count + 1)]
    return Judgement([], found)


def test_sarif_is_valid(tmp_path: Path) -> None:
    manifest = write(tmp_path, "ds.yaml", sound(GO, EARLY, WRONG_PORT), sound(OURS, name="other"))
    (tmp_path / "bad.yaml").write_text(TEMPLATE)
    done = lint(tmp_path, "--output=sarif", manifest, str(tmp_path / "bad.yaml"))
    document = json.loads(done.stdout)

    validate(document)
    validate(sarif(many(3)))
    (run,) = document["runs"]
    assert run["invocations"][0]["executionSuccessful"] is False
    uris = {
        each["physicalLocation"]["artifactLocation"]["uri"]
        for result in [*run["results"], *run["invocations"][0]["toolExecutionNotifications"]]
        for each in result["locations"]
    }
    assert uris == {"ds.yaml", "bad.yaml"}, "relative, though one file was given by its whole path"
    rules = {rule["id"]: rule["helpUri"] for rule in run["tool"]["driver"]["rules"]}
    assert all(result["ruleId"] in rules for result in run["results"])
    assert all(uri.endswith(f"docs/lint.md#{name.lower()}") for name, uri in rules.items())


def test_sarif_keeps_githubs_limit_of_results() -> None:
    (run,) = sarif(many(output.SARIF_RESULTS + 7))["runs"]

    assert len(run["results"]) == 25_000
    (told,) = run["invocations"][0]["toolExecutionNotifications"]
    assert told["message"]["text"] == "7 more results are left out"


def prints(judgement: Judgement) -> list[str]:
    return [each["partialFingerprints"]["primaryLocationLineHash"] for each in sarif(judgement)["runs"][0]["results"]]


def test_fingerprints_survive_moved_lines() -> None:
    before = linted(sound(GO, EARLY), file="ds.yaml")
    moved = linted({"kind": "ConfigMap", "data": {"a": "1"}}, sound(GO, EARLY), file="ds.yaml")

    assert before.findings[0].place.line != moved.findings[0].place.line
    assert prints(before) == prints(moved)
    assert len(set(prints(many(5)))) == 5


# --- differences


def test_a_swap_is_compared_with_what_was_before(tmp_path: Path) -> None:
    """Flags and memory change with the image; the times do not, but for a shorter grace."""
    old = write(tmp_path, "old.yaml", sound(GO, ((*SIDECAR, "args", 3), "--logtostderr")))
    swapped = ((*SIDECAR, "image"), OURS), ((*SIDECAR, "args", 3), "--unreachable-grace=0s")
    new = write(tmp_path, "new.yaml", sound(GO, *swapped))

    done = lint(tmp_path, "--diff", old, new)

    assert done.returncode == 0
    title = "DaemonSet kube-system/example-csi, sidecar liveness-probe: the Go program, v2.17.0 -> this program, 0.1.0"
    assert done.stdout.splitlines()[0] == title
    assert (
        "killed if the driver has no socket, or refuses: 40 to 53 s, gone by 83 s -> 40 to 50 s, gone by 80 s" in done.stdout
    )
    assert "killed if the driver hangs: unchanged, 40 to 53 s, gone by 83 s" in done.stdout
    assert "gone: error LP301" in done.stdout
    assert "new: info LP108" in done.stdout


def test_as_ours_with_diff_shows_the_swap_of_one_file(tmp_path: Path) -> None:
    name = write(tmp_path, "ds.yaml", sound(GO, ((*SIDECAR, "resources", "limits", "memory"), "29Mi")))

    done = lint(tmp_path, "--as=ours", f"--diff={name}", name, "--fail-on=warning")

    assert "the Go program, v2.17.0 -> this program, after the swap" in done.stdout
    assert "new: error LP401" in done.stdout
    assert done.returncode == 1


def test_only_new_findings_count_in_a_difference(tmp_path: Path) -> None:
    old = write(tmp_path, "old.yaml", sound(GO, WRONG_PORT))

    assert lint(tmp_path, f"--diff={old}", old).returncode == 0
    assert lint(tmp_path, f"--diff={write(tmp_path, 'sound.yaml', sound(GO))}", old).returncode == 1


def test_sidecars_that_come_and_go_are_told(tmp_path: Path) -> None:
    one, two = write(tmp_path, "1.yaml", sound(GO)), write(tmp_path, "2.yaml", sound(GO, name="second"))

    done = lint(tmp_path, f"--diff={one}", two)

    assert "DaemonSet kube-system/second, sidecar liveness-probe: new" in done.stdout
    assert "DaemonSet kube-system/example-csi, sidecar liveness-probe: gone" in done.stdout


def test_a_probe_that_is_gone_is_told_in_a_difference(tmp_path: Path) -> None:
    old = write(tmp_path, "old.yaml", sound(GO))
    new = write(tmp_path, "new.yaml", sound(GO, ((*DRIVER, "livenessProbe"), REMOVED)))

    assert "hangs: 40 to 53 s, gone by 83 s -> not asked" in lint(tmp_path, f"--diff={old}", new).stdout


def test_every_rule_has_a_title_and_a_severity() -> None:
    assert all(rule.title and rule.severity in ("error", "warning", "info") for rule in RULES.values())
