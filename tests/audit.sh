#!/bin/sh
# Looks up known vulnerabilities of the packages in requirements.lock.  Fails if there is one; skipped with a message if no
# database can be reached.
set -eu
cd "$(dirname "$0")/.."
report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
pip-audit --requirement requirements.lock --disable-pip --require-hashes --format json >"$report" 2>/dev/null || status=$?
python - "$report" "$status" <<'END'
import json, sys

try:
    with open(sys.argv[1], encoding="utf-8") as file:
        found = json.load(file)["dependencies"]
except ValueError:
    print("== SKIPPED: pip-audit reached no database of vulnerabilities")
    sys.exit(0)
asked = [each for each in found if "skip_reason" not in each]
bad = [f"{each['name']} {each['version']}: {', '.join(one['id'] for one in each['vulns'])}" for each in asked if each["vulns"]]
if not asked:
    print(f"== SKIPPED: the available database of vulnerabilities has none of the {len(found)} packages")
print("\n".join(bad) or f"{len(asked)} of {len(found)} packages looked up, none with a known vulnerability")
sys.exit(bool(bad))
END
