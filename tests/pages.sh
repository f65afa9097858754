#!/bin/sh
# The pages in Chromium, with axe-core; skipped with a message where a tool is missing.  `tests/pages.sh TOOLS` with PYTHON set.
set -eu
cd "$(dirname "$0")/.."
tools=$1
mkdir -p "$tools"
if ! chromium=$(command -v chromium || command -v chromium-browser); then
    if [ "$(id -u)" != 0 ] || ! apt-get -qq update >/dev/null 2>&1 ||
        ! apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >/dev/null 2>&1; then
        echo "== SKIPPED: no Chromium here, and it cannot be installed; the pages were not looked at in a browser"
        exit 0
    fi
    chromium=$(command -v chromium)
fi
if [ ! -d "$tools/python/playwright" ] &&
    ! "$PYTHON" -m pip install --quiet --disable-pip-version-check --target "$tools/python" 'playwright>=1.50,<2'; then
    echo "== SKIPPED: playwright cannot be installed; the pages were not looked at in a browser"
    exit 0
fi
if [ ! -f "$tools/package/axe.min.js" ] && ! (cd "$tools" && npm pack --silent axe-core@4 >/dev/null && tar xzf axe-core-*.tgz); then
    echo "== SKIPPED: axe-core cannot be installed by npm; the pages were not looked at in a browser"
    exit 0
fi
PYTHONPATH="$PWD:$tools/python" "$PYTHON" -m tests.browser "$chromium" "$tools/package/axe.min.js" "$tools/screenshots"
