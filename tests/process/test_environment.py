"""Which variables a start removes from the environment.  tests/settings/test_dynaconf.py has the whole process."""

from __future__ import annotations

from livenessprobe.process.environment import remove_dynaconf_switches


def test_only_the_switches_of_dynaconf_are_removed() -> None:
    kept = {"LIVENESSPROBE_V": "1", "GOMAXPROCS": "2", "MY_PROJECT_ROOT": "/", "PATH": "/bin", "dynaconf": "x"}
    environ = kept | dict.fromkeys(("DYNACONF_V", "AUTO_CAST_FOR_DYNACONF", "SETTINGS_MODULE", "PROJECT_ROOT"), "x")

    remove_dynaconf_switches(environ)

    assert environ == kept
