"""`livenessprobe config`: prints the settings in force, and refuses what the sidecar refuses, in the same words."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from livenessprobe import cli
from livenessprobe.klog import log as klog
from livenessprobe.klog.folding import RepeatFilter
from livenessprobe.klog.format import Options
from livenessprobe.klog.writer import Sink
from livenessprobe.settings.command_line import usage
from livenessprobe.settings.describe import document
from livenessprobe.settings.file import read_settings_file
from livenessprobe.settings.layers import KEYS
from livenessprobe.settings.load import load
from tests.settings.test_deployments import CASES, REFUSED, arguments, dial_and_listen, loaded, platform
from tests.support import Done, FakeDriver, Sidecar, command


def records(log: str) -> list[object]:
    """The records of a log, without what differs between two runs: time, process and line."""
    return [
        {key: value for key, value in json.loads(line).items() if key != "ts"}
        if line.startswith("{")
        else re.sub(r"^[IWEF][0-9]{4} [0-9:.]+ +[0-9]+ [a-z]+\.py:[0-9]+\] ", "", line)
        for line in log.splitlines()
    ]


# A sink of its own: the test process's sink keeps the stderr of the time when it was imported.
SINK = Sink(os.fdopen(2, "w", closefd=False))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Runs the command line in this process, up to the point where it would serve."""

    def serve(_: object) -> int:
        raise AssertionError("not refused")

    monkeypatch.setattr(cli, "_serve", serve)
    monkeypatch.setattr(klog, "_sink", SINK)
    monkeypatch.setattr(klog, "capture_library_records", lambda: None)  # it would remove pytest's own handlers

    def run(*line: str, platform: str = "linux", **environ: str) -> Done:
        SINK._repeats = RepeatFilter()
        klog.configure(Options())
        monkeypatch.setattr(cli, "load", functools.partial(load, platform=platform))
        monkeypatch.setattr(cli, "read_settings_file", functools.partial(read_settings_file, default=""))
        with monkeypatch.context() as patch:
            for name, text in environ.items():
                patch.setenv(name, text)
            code = cli.main(line, os.environ)
        out, err = capfd.readouterr()
        return Done(code, out, err, 0.0)

    yield run
    klog.configure(Options())


# --- output


def test_the_settings_in_force_are_printed_and_nothing_is_logged(run: Callable[..., Done], folder: Path) -> None:
    (folder / "settings.toml").write_text("v = 3\nlog_dir = '/l'\n")

    done = run("config", "--probe-timeout=90s", f"--config={folder}/settings.toml", LIVENESSPROBE_V="4")

    printed = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert list(printed) == ["settings", "target", "dial", "listen"]
    assert list(printed["settings"]) == list(KEYS)
    assert printed["settings"]["probe_timeout"] == {"value": "1m30s", "source": "flag --probe-timeout"}
    assert printed["settings"]["v"] == {
        "value": 4,
        "source": "variable LIVENESSPROBE_V",
        "overridden": {"value": 3, "source": f"file {folder}/settings.toml, line 1, key v"},
    }
    assert printed["settings"]["log_dir"] == {"value": "/l", "source": f"file {folder}/settings.toml, line 2, key log_dir"}
    assert printed["settings"]["log_file"] == {"value": "", "source": "default"}
    assert (printed["target"], printed["dial"]) == ("unix:/run/csi/socket", {"network": "unix", "path": "/run/csi/socket"})
    assert printed["listen"] == [{"address": "0.0.0.0:9808", "serves": ["healthz"], "dual_stack": True}]


def test_config_opens_no_listener_and_no_file(run: Callable[..., Done], folder: Path) -> None:
    """The sidecar may be running already, and the log files may belong to another process."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"--http-endpoint=127.0.0.1:{taken.getsockname()[1]}"

        done = run("config", endpoint, "--logtostderr=false", f"--log_dir={folder}")

    assert done.code == 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", CASES)
def test_each_deployment_is_described_as_the_table_expects_it(name: str, run: Callable[..., Done]) -> None:
    case = CASES[name]
    line, environ = arguments(case), case.get("env", {})

    done = run("config", *line, platform=platform(case), **environ)

    if name == REFUSED:
        assert (done.code, done.out) == (1, "")
        assert records(done.err) == records(run(*line, platform=platform(case), **environ).err)
        return
    printed = json.loads(done.out)
    assert done.code == 0
    assert all("deprecated and has no effect" in record for record in records(done.err))
    assert printed == document(loaded(name))
    if "${" not in str(case["expected"]):
        assert (printed["dial"], printed["listen"]) == dial_and_listen(case)


# --- refusals

BAD = "probe_timeot = '5s'"
REFUSALS = [
    # flags
    (["--probe-timeout=3"], {}, 2, 'invalid value "3" for flag -probe-timeout: parse error'),
    (["--v"], {}, 2, "flag needs an argument: -v"),
    (["--v=-1"], {}, 2, "strconv.ParseUint"),
    (["--logtostderr=yes"], {}, 2, 'invalid boolean value "yes" for -logtostderr: parse error'),
    (["--nope"], {}, 2, "flag provided but not defined: -nope"),
    (["--answer-before-hangup"], {}, 2, "flag provided but not defined: -answer-before-hangup"),
    (["---v=1"], {}, 2, "bad flag syntax: ---v=1"),
    (["--automaxprocs", "--nope"], {}, 2, "maxprocs: "),
    (["--automaxprocs", "--logging-format=xml"], {}, 1, "maxprocs: "),
    (["--logging-format=xml"], {}, 1, '"LoggingConfiguration is invalid" err="format: Invalid value'),
    (["--logging-format=json", "--vmodule=a=1"], {}, 1, "vmodule: Forbidden"),
    (["--log-flush-frequency=0s"], {}, 1, "flushFrequency: Invalid value"),
    (["--log-text-split-stream"], {}, 1, "options.text.splitStream: Forbidden"),
    (["--connection-reuse=-1s"], {}, 2, "it must be 0s or more"),
    (["--config-poll-interval=1ms"], {}, 2, "it must be 100ms or more"),
    (["--csi-address="], {}, 1, "received empty target in Build()"),
    (["--csi-address=http://x"], {}, 1, r"scheme \"http\" is not supported"),
    (["--health-port=localhost:1"], {}, 1, "too many colons in address"),
    (["--health-port=99999"], {}, 1, "listen tcp: address 99999: invalid port"),
    (["--http-endpoint=127.0.0.1:nosuchport"], {}, 1, "unknown port"),
    (["--metrics-address=:70000"], {}, 1, 'addr=":70000" path="/metrics"'),
    (["--metrics-address=abc"], {}, 1, "missing port in address"),
    (["--http-endpoint=:1", "--metrics-path=x"], {}, 1, "it must begin with a slash"),
    (["--logging-format=json", "--csi-address="], {}, 1, '"msg":"Failed to establish connection to CSI driver"'),
    (["--skip_headers", "--csi-address="], {}, 1, '"Failed to establish connection to CSI driver"'),
    # variables
    ([], {"LIVENESSPROBE_PROBE_TIMEOUT": "3"}, 2, r"variable LIVENESSPROBE_PROBE_TIMEOUT = \"3\": parse error"),
    ([], {"LIVENESS_PROBE_TIMEOUT": "soon"}, 2, "variable LIVENESS_PROBE_TIMEOUT"),
    ([], {"LIVENESSPROBE_CONFIG_STRICT": "maybe"}, 2, "variable LIVENESSPROBE_CONFIG_STRICT"),
    ([], {"CSI_ENDPOINT": "x y"}, 1, "(variable CSI_ENDPOINT)"),
    ([], {"LIVENESSPROBE_HEALTH_PORT": "nosuchport"}, 1, "unknown port (variable LIVENESSPROBE_HEALTH_PORT)"),
    # contradictions
    (["--http-endpoint=:1", "--health-port=2"], {}, 1, "Only one of `--health-port` and `--http-endpoint`"),
    (["--http-endpoint=:1"], {"LIVENESSPROBE_HEALTH_PORT": "2"}, 1, "variable LIVENESSPROBE_HEALTH_PORT"),
    (["--timeout=1s", "--probe-timeout=2s"], {}, 1, '"Contradicting settings"'),
    ([], {"CSI_ENDPOINT": "/a", "LIVENESSPROBE_CSI_ADDRESS": "/b"}, 1, '"Contradicting settings"'),
    # files
    (["--config-strict", "--config=BAD"], {}, 1, "did you mean probe_timeout?"),
    (["--config=BAD"], {"LIVENESSPROBE_CONFIG_STRICT": "1"}, 1, '"Settings file refused" err="BAD: line 1'),
    (["--config-strict", "--config=NONE"], {}, 1, "NONE: No such file or directory"),
    (["--config-strict", "--config=FIFO"], {}, 1, "FIFO: is not a regular file"),
    (["--config-strict", "--config=BAD", "--logging-format=json"], {}, 1, '"msg":"Settings file refused"'),
    (["--config=BAD", "--csi-address="], {}, 1, "received empty target"),
    (["--config-strict", "--config=PORT"], {}, 1, "unknown port (line 1, key health_port)"),
]


@pytest.mark.parametrize(("line", "environ", "code", "said"), REFUSALS)
def test_config_refuses_what_the_sidecar_refuses_with_the_same_words_and_code(
    line: list[str], environ: dict[str, str], code: int, said: str, run: Callable[..., Done], folder: Path
) -> None:
    (folder / "BAD").write_text(BAD)
    (folder / "PORT").write_text("health_port = 'nosuchport'")
    os.mkfifo(folder / "FIFO")
    line = [re.sub("=(BAD|NONE|FIFO|PORT)$", rf"={folder}/\1", word) for word in line]

    config, sidecar = run("config", *line, **environ), run(*line, **environ)

    assert (config.code, config.out) == (sidecar.code, sidecar.out) == (code, "")
    assert records(config.err) == records(sidecar.err) != []
    assert said in config.err.replace(f"{folder}/", "")


@pytest.mark.parametrize("line", [["--help"], ["-h"], ["--v=1", "-help"]])
def test_help_is_its_own(line: list[str], run: Callable[..., Done]) -> None:
    done = run("config", *line)

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage of {sys.argv[0]} config [flags]:\n  Print the settings in force as JSON")


@pytest.mark.parametrize("line", [["--version"], ["--version=1", "--v=2"]])
def test_the_version_is_that_of_the_sidecar(line: list[str], run: Callable[..., Done]) -> None:
    config, sidecar = run("config", *line), run(*line)

    assert config == sidecar
    assert config.code == 0
    assert config.out + config.err != ""


def test_config_is_a_command_only_as_the_first_argument(run: Callable[..., Done]) -> None:
    with pytest.raises(AssertionError, match="not refused"):
        run("--v=1", "config")


MANY = "probe_timeot = 1\nv = 1\nhealth_port = 1.5\n"


@pytest.mark.parametrize("command", [[], ["config"]])
def test_all_mistakes_are_told_at_once(command: list[str], run: Callable[..., Done], folder: Path) -> None:
    """The first record is that of the first mistake alone; the others have their source."""
    (folder / "f").write_text(MANY)

    done = run(
        *command,
        f"--config={folder}/f",
        "--csi-address=",
        "--http-endpoint=:nosuchport",
        LIVENESSPROBE_V="x",
        LIVENESSPROBE_METRICS_PATH="m",
        LIVENESSPROBE_TIMEUOT="1s",
    )

    bad_v = r"variable LIVENESSPROBE_V = \"x\": strconv.ParseUint: parsing \"x\": invalid syntax; write a whole number, such as 5"
    bad_path = r"variable LIVENESSPROBE_METRICS_PATH = \"m\": it must begin with a slash, as /metrics does"
    empty = "failed to exit idle mode: failed to start resolver: passthrough: received empty target in Build()"
    way_out = "write the path of the driver's socket, such as /csi/csi.sock; a variable may be empty"
    no_port = "a port is a number from 0 to 65535, or the name of a service that the system knows"
    assert (done.code, done.out) == (2, "")
    assert records(done.err) == [
        f'"Invalid setting" err="{bad_v}"',
        f'"Failed to establish connection to CSI driver" err="{empty}" detail="{way_out}" source="flag --csi-address"',
        f'"Invalid setting" err="{bad_path}" source="variable LIVENESSPROBE_METRICS_PATH"',
        '"Failed to start http server" err="listen tcp: lookup tcp/nosuchport: unknown port" '
        f'detail="{no_port}" source="flag --http-endpoint"',
        f'"Invalid setting" err="{folder}/f: line 1: probe_timeot is not a setting; did you mean probe_timeout?" '
        f'source="file {folder}/f, line 1, key probe_timeot"',
        f'"Invalid setting" err="{folder}/f: line 3: health_port is the number 1.5; write a text, such as \\"…\\"" '
        f'source="file {folder}/f, line 3, key health_port"',
        '"Unknown setting" detail="variable LIVENESSPROBE_TIMEUOT is not a setting; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"',
    ]


@pytest.mark.parametrize("command", [[], ["config"]])
def test_behind_a_refused_flag_all_other_mistakes_are_told(
    command: list[str], run: Callable[..., Done], folder: Path
) -> None:
    """Of the arguments only those in front of that flag count; and a variable that the flag would override does not."""
    (folder / "f").write_text(MANY)
    line = [f"--config={folder}/f", "--logging-format=json", "--csi-address=", "--probe-timeout=3", "--health-port=80:80"]

    done = run(*command, *line, LIVENESSPROBE_V="x", LIVENESSPROBE_PROBE_TIMEOUT="4")

    first, *others = records(done.err)
    told = [record for record in others if isinstance(record, dict)]
    assert (done.code, first) == (2, 'invalid value "3" for flag -probe-timeout: parse error')
    assert others[0] == f"Usage of {sys.argv[0]}:"
    assert [record["source"] for record in told] == [
        "variable LIVENESSPROBE_V",
        "flag --csi-address",
        f"file {folder}/f, line 1, key probe_timeot",
        f"file {folder}/f, line 3, key health_port",
    ]


@pytest.mark.parametrize("command", [[], ["config"]])
@pytest.mark.parametrize(
    ("argument", "last"),
    [
        ("--prob-timeout=3s", "flag provided but not defined: -prob-timeout; did you mean --probe-timeout?"),
        ("--probe-timeout=3", 'invalid value "3" for flag -probe-timeout: parse error; write a duration, such as "1m30s"'),
        ("--bogus", "flag provided but not defined: -bogus; --help lists all flags"),
    ],
)
def test_the_last_line_repeats_the_error_of_a_flag_with_the_way_out(
    command: list[str], argument: str, last: str, run: Callable[..., Done]
) -> None:
    """With one mistake all other lines are the Go program's error and the usage."""
    alone = run(*command, argument)
    with_another = run(*command, argument, LIVENESSPROBE_V="x")

    assert alone.code == with_another.code == 2
    assert alone.err == f"{last.partition(';')[0]}\n{usage(sys.argv[0])}{last}\n"
    assert with_another.err.splitlines()[-1] == last
    assert "variable LIVENESSPROBE_V" in with_another.err.splitlines()[-2]


def test_a_word_that_is_no_command_is_named_first(run: Callable[..., Done]) -> None:
    done = run("config", "chek", "--v=5", LIVENESSPROBE_X="1", LIVENESSPROBE_V="3")

    first, *_ = records(done.err)
    assert done.code == 0
    assert json.loads(done.out)["settings"]["v"]["value"] == 3
    assert first == (
        '"The first argument is no flag, so no argument is read" argument="chek" detail="did you mean check?" '
        'unread="chek --v=5"'
    )


def test_a_bad_file_and_unknown_variables_alone_are_warnings(run: Callable[..., Done], folder: Path) -> None:
    (folder / "f").write_text(MANY)

    done = run("config", f"--config={folder}/f", LIVENESSPROBE_TIMEUOT="1s")

    assert done.code == 0
    assert [str(record)[:24] for record in records(done.err)] == [
        '"Unknown setting" detail',
        *2 * ['"Settings file ignored; r'[:24]],
    ]


# --- warnings, which do not stop it


def test_warnings_do_not_stop_config_from_printing(run: Callable[..., Done], folder: Path) -> None:
    (folder / "bad").write_text(BAD)

    done = run("config", f"--config={folder}/bad", "--connection-timeout=3s", "--v=2", "more", LIVENESSPROBE_TIMEUOT="1s")

    assert done.code == 0
    assert json.loads(done.out)["settings"]["v"] == {"value": 2, "source": "flag --v"}
    assert records(done.err) == [
        r'"Warning: option connection-timeout=\"3s\" is deprecated and has no effect"',
        '"Arguments after the first one that is no flag are not read" unread="more"',
        '"Unknown setting" detail="variable LIVENESSPROBE_TIMEUOT is not a setting; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"',
        '"Settings file ignored; running on flags, environment and defaults" '
        f'err="{folder}/bad: line 1: probe_timeot is not a setting; did you mean probe_timeout?"',
    ]


def test_the_sidecar_says_the_same_of_a_bad_file_and_runs(
    driver: FakeDriver, sidecar: Callable[..., Sidecar], folder: Path
) -> None:
    (folder / "bad").write_text(BAD)

    running = sidecar(f"--config={folder}/bad")
    running.await_log("Settings file ignored")

    done = command("config", *running.arguments)
    assert done.code == 0
    (record,) = records(done.err)
    assert record in records(running.log())
    assert running.get().status == 200


# --- as processes


@pytest.mark.parametrize(
    ("line", "environ", "code"),
    [
        (["--nope"], {}, 2),
        (["--probe-timeout=1s", "--timeout=2s"], {}, 1),
        ([], {"LIVENESSPROBE_V": "x"}, 2),
        (["--config=/nowhere/settings.toml", "--config-strict", "--logging-format=json"], {}, 1),
    ],
)
def test_as_a_process_it_exits_as_the_sidecar_does(line: list[str], environ: dict[str, str], code: int) -> None:
    config, sidecar = command("config", *line, **environ), command(*line, **environ)

    assert (config.code, config.out) == (sidecar.code, sidecar.out) == (code, "")
    assert records(config.err) == records(sidecar.err) != []


def test_as_a_process_it_prints_json_alone_on_stdout() -> None:
    done = command("config", "--csi-address=/a b\N{SNOWMAN}.sock")

    assert json.loads(done.out)["dial"] == {"network": "unix", "path": "/a b\N{SNOWMAN}.sock"}
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("word", ["config", "--version"])
def test_a_failed_write_to_stdout_exits_with_1_and_without_a_traceback(word: str) -> None:
    with open("/dev/full", "w") as full:
        done = command(word, stdout=full)

    assert (done.code, done.err) == (1, "")
