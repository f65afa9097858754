"""No flag, variable or file makes Dynaconf cast, expand, read files, import or run code."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings

import pytest
from dynaconf.utils.parse_conf import converters, parse_conf_data

from tests.support import ROOT
from tests.values import PATH, Refused, as_file, as_flags, as_variables, load_all

PLACES = ("flag", "variable", "file")


TEXT_KEYS = ("log_dir", "log_file", "connection_timeout")
PAYLOADS = ("/etc/hostname", "{env[PATH]} {{ 7 * 7 }}")


@pytest.mark.parametrize("cast", sorted(converters))
@pytest.mark.parametrize("place", PLACES)
def test_no_cast_of_dynaconf_acts(cast: str, place: str) -> None:
    for payload in PAYLOADS:
        texts = {"log_dir": f"{cast} {payload}", "log_file": f"@int {cast} {payload}", "connection_timeout": f"{cast}"}
        given_flags = as_flags(texts) if place == "flag" else {}
        environ = as_variables(texts) if place == "variable" else {}

        loaded = load_all(given_flags, environ, as_file(texts) if place == "file" else None)

        assert {key: loaded.raw[key].text for key in TEXT_KEYS} == texts
        assert (loaded.settings.log.log_dir, loaded.settings.log.log_file) == (texts["log_dir"], texts["log_file"])


@pytest.mark.parametrize("cast", sorted(converters))
def test_each_cast_would_act_if_dynaconf_saw_it(cast: str) -> None:
    """Otherwise the test above would show nothing."""
    text = f"{cast} 7"
    with warnings.catch_warnings(action="ignore"):
        assert parse_conf_data(text, tomlfy=False, box_settings={}) is not text


@pytest.mark.parametrize("cast", sorted(converters))
def test_no_cast_gives_a_setting_its_type(cast: str) -> None:
    """`@int 3` is no number, and an item of a list stays text."""
    with pytest.raises(Refused) as refused:
        load_all({}, as_variables({"v": f"{cast} 3"}))

    assert f'v = "{cast} 3": strconv.ParseUint' in load_all(file=as_file({"v": f"{cast} 3"})).file_error
    assert f'variable LIVENESSPROBE_V = "{cast} 3": strconv.ParseUint' in str(refused.value)
    assert load_all(file=as_file({"vmodule": [f"{cast} x=3"]})).settings.log.vmodule == ((f"{cast} x", 3),)


@pytest.mark.parametrize(
    "content",
    [
        "probe_timeout__x = '1s'",
        "V__0 = 1",
        "dynaconf_include = ['other.toml']",
        "DYNACONF_INCLUDE = 'other.toml'",
        "dynaconf_merge = true",
        "dynaconf_merge_unique = true",
        "includes_for_dynaconf = ['other.toml']",
        "PRELOAD_FOR_DYNACONF = ['other.py']",
        "AUTO_CAST_FOR_DYNACONF = true",
        "loaders_for_dynaconf = ['evil']",
        "'probe_timeout.x' = '1s'",
        "'vmodule[0]' = 'a=1'",
        "yaml = 'other.yaml'",
        "SETTINGS_MODULE = 'evil'",
        "__class__ = 1",
        "store = 1",
        "[default]\nv = 9",
        "[development]\nv = 9",
        "[production]\nv = 9",
        "[global]\nv = 9",
        "[dynaconf]\nv = 9",
    ],
)
def test_dynaconfs_own_keys_are_no_settings(content: str) -> None:
    loaded = load_all(file=content.encode())

    assert loaded.file_error.startswith(f"{PATH}: line 1: ")
    assert " is not a setting" in loaded.file_error
    assert loaded.raw == load_all().raw


@pytest.mark.parametrize(
    ("content", "key", "text"),
    [
        ("vmodule = ['dynaconf_merge']", None, '"dynaconf_merge" does not have the pattern=N format'),
        ("log_dir = {dynaconf_merge = true}", None, "log_dir is a table"),
        ("log_dir = 'dynaconf_merge'", "log_dir", "dynaconf_merge"),
        ("log_dir = '@del'", "log_dir", "@del"),
        ("log_dir = '%(PATH)s $PATH ${PATH} `id` $(id) ~'", "log_dir", "%(PATH)s $PATH ${PATH} `id` $(id) ~"),
        ("log_dir = 'null'", "log_dir", "null"),
        ("log_dir = '1e3'", "log_dir", "1e3"),
        ("log_dir = '[1]'", "log_dir", "[1]"),
    ],
)
def test_values_are_not_merged_expanded_or_parsed_again(content: str, key: str | None, text: str) -> None:
    loaded = load_all(file=content.encode())

    if key is None:
        assert text in loaded.file_error
    else:
        assert loaded.raw[key].text == text


# A process whose environment, working directory, flags, variables and file all try it.  An audit hook records what the process
# opens, imports, runs and connects to.
AUDIT = """
import json, os, sys

seen, hearing, given = [], False, {}

def hear(event, arguments):
    global hearing
    if not hearing or event == "os.unsetenv":
        return
    hearing = False
    match event:
        case "open":
            what = str(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else "a descriptor"
        case "exec":
            what = getattr(arguments[0], "co_filename", "text")
        case "compile":
            what = f"{arguments[1]}"
        case "import":
            what = arguments[0]
        case "marshal.loads" | "object.__getattr__" | "object.__setattr__" | "sys._getframe":
            what = ""
        case _:
            what = repr(arguments)[:300]
    seen.append(f"{event} {what}")
    hearing = True

def load(path):
    global hearing
    from livenessprobe.process import environment
    given.update(environment.take())  # as __main__ does
    from livenessprobe import cli
    started = []
    cli._print_settings = lambda start: started.append(start.loaded) or 0
    arguments = ["config", *flags, *([f"--config={path}"] if path else [])]
    hearing = True
    code = cli.main(arguments, given)
    hearing = False
    return [[str(raw) for raw in loaded.raw.values()] + [loaded.file_error] for loaded in started], code

def events():
    found = sorted(set(seen))
    seen.clear()
    return found

sys.addaudithook(hear)
path, switches, values, flags = json.loads(sys.argv[1])
report = {"first": [load(path), events()]}
report["left"] = sorted({name for name in os.environ if "DYNACONF" in name} | (set(switches) & set(os.environ)))
report["again"] = [load(path), events()]
report["bare"] = [load(""), events()]
report["each"] = []
for name in switches:
    for value in values:
        os.environ[name] = value
        report["each"].append([name, value, [load(""), events()]])
        os.environ.pop(name, None)
report["changed"] = sorted(name for name in os.environ if "EVIL" in name)

# Dynaconf as people use it does all this, so the traps work.
import dynaconf
os.environ["SETTINGS_FILE_FOR_DYNACONF"] = "evil.py"
hearing = True
dynaconf.Dynaconf(load_dotenv=True).get("V")
hearing = False
report["trap"] = events()
print(json.dumps(report))
"""


def switches() -> list[str]:
    """Every variable that Dynaconf is known to read, by new names and old."""
    from dynaconf import default_settings
    from dynaconf.base import UPPER_DEFAULT_SETTINGS
    from dynaconf.utils import RENAMED_VARS

    documented = {
        f"{name}_FOR_DYNACONF"
        for name in """
        APPLY_DEFAULT_ON_NONE AUTO_CAST COMMENTJSON_ENABLED CORE_LOADERS DEFAULT_ENV DOTENV_OVERRIDE DOTENV_PATH
        DOTENV_VERBOSE DOTTED_LOOKUP ENCODING ENV ENVIRONMENTS ENVVAR ENVVAR_PREFIX ENV_SWITCHER FORCE_ENV FRESH_VARS
        IGNORE_UNKNOWN_ENVVARS INCLUDES INDEX_SEPARATOR INSTANCE LOADERS LOAD_DOTENV LOWERCASE_READ MAIN_ENV
        MERGE_ENABLED NESTED_SEPARATOR PRELOAD REDIS REDIS_ENABLED REDIS_HOST REDIS_PORT REDIS_URL ROOT_PATH SECRETS
        SETTINGS_FILE SETTINGS_FILES SILENT_ERRORS SKIP_FILES SYSENV_FALLBACK VALIDATE_ON_UPDATE VAULT VAULT_ENABLED
        VAULT_URL VAULT_TOKEN VAULT_ROOT_TOKEN YAML_LOADER
        """.split()
    }
    prefixed = {"DYNACONF_V", "DYNACONF_LOG_DIR", "DYNACONF_LOG_DIR__x", "DYNACONF_INCLUDE", "DYNACONF_DYNABOXIFY"}
    found = {name for name in [*UPPER_DEFAULT_SETTINGS, *dir(default_settings)] if name.endswith("_FOR_DYNACONF")}
    return sorted(documented | prefixed | found | set(RENAMED_VARS))


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("hostile")
    cwd = folder / "cwd"
    cwd.mkdir()
    for name in ("evil.py", "settings.py", "dynaconf_hooks.py", ".secrets.py"):
        (cwd / name).write_text("V = 9\nLOG_DIR = '/evil'\n")
    for name in ("settings.toml", ".secrets.toml", "settings.local.toml", "config.toml", "evil.toml"):
        (cwd / name).write_text("v = 9\nV = 9\nlog_dir = '/evil'\n[default]\nv = 9\nlog_dir = '/evil'\n")
    (cwd / ".env").write_text("LIVENESSPROBE_V=9\nDYNACONF_V=9\nEVIL_BY_DOTENV=1\n")
    (cwd / "settings.yaml").write_text("v: 9\n")
    (cwd / "settings.json").write_text('{"v": 9}')
    file = folder / "settings.toml"
    texts = {"log_dir": "@read_file /etc/hostname", "metrics_path": "/@jinja{{7*7}}", "log_file": "@format {env[PATH]}"}
    file.write_bytes(as_file({"connection_timeout": "@read_file /etc/hostname", **texts}) + b"vmodule = ['@get V=3']\n")

    values = [f"{cwd}/evil.py", "@int nonsense", "true"]
    tried = switches()
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
    environ |= dict(zip(tried, itertools.cycle(values), strict=False))
    environ |= {"LIVENESSPROBE_LOG_DIR": "@format {env[HOME]}", "PYTHONPATH": str(ROOT), "YAML": "settings.yaml"}
    # A unix socket needs no look-up of names.
    arguments = ["--connection-timeout=@jinja {{ 7 * 7 }}", "--http-endpoint=unix:///x"]
    argument = json.dumps([str(file), tried, values, arguments])
    # -P: Python itself must not import from the working directory.
    done = subprocess.run(
        [sys.executable, "-P", "-c", AUDIT, argument], cwd=cwd, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {**json.loads(done.stdout), "file": [str(file)], "cwd": [str(cwd)]}


def test_texts_of_all_sources_are_unchanged(audit: dict[str, list]) -> None:
    ([[*raws, file_error]], code), _ = audit["first"]

    assert (file_error, code) == ("", 0)
    assert 'variable LIVENESSPROBE_LOG_DIR = "@format {env[HOME]}"' in raws
    assert 'flag --connection-timeout = "@jinja {{ 7 * 7 }}"' in raws
    assert f'file {audit["file"][0]}, line 4, key log_file = "@format {{env[PATH]}}"' in raws
    assert 'default = "0"' in raws  # v


def test_only_the_settings_file_is_read(audit: dict[str, list]) -> None:
    """Except Dynaconf's own default_settings.py, which each instance imports again."""
    _, events = audit["again"]
    own = os.path.join("dynaconf", "")

    foreign = {event for event in events if own not in event}
    assert foreign == {"marshal.loads ", "open a descriptor", f"open {audit['file'][0]}"}
    assert {event.split()[0] for event in events if own in event} <= {"open", "exec"}
    assert all("default_settings." in event for event in events if own in event)


def test_no_variable_of_dynaconf_changes_anything(audit: dict[str, list]) -> None:
    different = [(name, value) for name, value, outcome in audit["each"] if outcome != audit["bare"]]

    assert different == []
    assert len(audit["each"]) > 200


def test_all_variables_of_dynaconf_together_open_only_imported_files(audit: dict[str, list]) -> None:
    outcome, events = audit["first"]
    libraries = tuple({os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, str(ROOT / "livenessprobe"))})
    libraries += (sys.prefix, sys.base_prefix)

    opened = [event.removeprefix("open ") for event in events if event.startswith("open ")]
    foreign = [path for path in opened if not path.startswith(libraries)]
    run = {event.removeprefix("exec ") for event in events if event.startswith("exec ")}

    assert outcome == audit["again"][0]
    assert sorted(foreign) == sorted(["a descriptor", audit["file"][0]])
    assert [path for path in run if not path.startswith((*libraries, "<"))] == []
    assert [event for event in events if event.startswith("import ") and "evil" in event] == []
    kinds = {event.split()[0] for event in events}
    assert kinds <= {"open", "exec", "import", "compile", "marshal.loads", "os.listdir", "os.scandir"} | {
        kind for kind in kinds if kind.startswith(("object.", "sys._", "code.", "function.", "builtins.id", "cpython."))
    }, sorted(kinds)


def test_dynaconfs_variables_are_removed_and_none_is_added(audit: dict[str, list]) -> None:
    assert (audit["left"], audit["changed"]) == ([], [])


def test_dynaconf_in_its_usual_form_acts_on_these_inputs(audit: dict[str, list]) -> None:
    """Otherwise the tests above would show nothing."""
    assert {f"exec {audit['cwd'][0]}/evil.py", f"open {audit['cwd'][0]}/.env"} <= set(audit["trap"])


def test_the_tried_variables_are_those_of_dynaconf() -> None:
    tried = switches()

    assert len(tried) > 70
    assert {"SETTINGS_MODULE", "PROJECT_ROOT", "AUTO_CAST_FOR_DYNACONF", "VAULT_URL_FOR_DYNACONF"} <= set(tried)
