#!/bin/sh
# Runs the tests on the newest Python of this machine, if it is newer than $PYTHON; skipped with a message if there is none.
set -eu
cd "$(dirname "$0")/.."
tests=tests
if [ -n "${SHORT:-}" ]; then
    tests="tests/web tests/driver tests/process tests/commands/test_check.py"
    for theme in callers drivers environment goaway http2 log pages requests resources settings_file stop; do
        tests="$tests tests/whole/test_$theme.py"
    done
fi
current=$("${PYTHON:-python3}" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for minor in 15 14 13 12; do
    [ "3.$minor" != "$current" ] || break
    for candidate in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.$minor.*/bin/python; do
        if "$candidate" -c 'import ssl' 2>/dev/null; then
            echo "== $tests on $("$candidate" --version), newer than $current"
            exec make --no-print-directory unit PYTHON="$candidate" VENV=".venv-3.$minor" TESTS="$tests"
        fi
    done
done
echo "== SKIPPED: no Python newer than $current found; the tests ran on $current only"
