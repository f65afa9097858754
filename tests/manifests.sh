#!/bin/sh
# Builds every manifest in k8s/, and checks it with Kubernetes' schemas and yamllint, alerts, dashboard and inhibition with
# Prometheus and Alertmanager.
# Usage: manifests.sh FOLDER, for the results; the tools are on PATH.
set -eu
cd "$(dirname "$0")/.."
out=$1
rm -rf "$out" && mkdir -p "$out"

# `on` is a key of workflows, not a boolean; documents here do not begin with `---`.
yamllint --strict -d '{extends: default, rules: {
  line-length: {max: 125}, document-start: disable, truthy: {check-keys: false}}}' k8s tests/data/alerts.yaml .github
echo "yamllint: clean"

for folder in k8s/base k8s/overlays/*/; do
    kubectl kustomize "$folder" >"$out/$(basename "$folder").yaml"
done
# The oldest and the newest release that has schemas, and one between.
for release in 1.25 1.31 1.37; do
    # Resources of the Prometheus Operator have no schema; promtool and test_manifests.py check them.
    kubernetes-validate --strict --no-warn --quiet --kubernetes-version "$release" "$out"/*.yaml
    echo "kubernetes-validate: all manifests are strictly valid for Kubernetes $release"
done

# Debian's packages would also start servers, so the programs are only extracted from them.
take_programs() {
    cd "$1"
    packages="prometheus prometheus-alertmanager"
    apt-get -qq download $packages || { apt-get -qq update && apt-get -qq download $packages; } || return
    for package in prometheus*.deb; do
        dpkg --fsys-tarfile "$package" | tar -x ./usr/bin ./usr/share/prometheus
    done
    rm prometheus*.deb
}
have_programs() {
    for program in promtool prometheus amtool prometheus-alertmanager; do
        command -v "$program" >/dev/null || return 1
    done
}
programs="$(cd "$(dirname "$out")" && pwd)/prometheus"
PATH=$PATH:$programs/usr/bin
if ! have_programs && command -v apt-get >/dev/null; then
    mkdir -p "$programs"
    (take_programs "$programs") 2>&1 | tail -n 3
fi
if ! have_programs; then
    echo "== SKIPPED: alerts, dashboard and inhibition are not tested: $program is missing, and Debian's packages of Prometheus" \
        "and Alertmanager could not be fetched"
    exit 0
fi
mkdir "$out/alerts" && cp tests/data/alerts.yaml "$out/alerts/"
python - "$out" <<'END'
import sys
import yaml

with open(f"{sys.argv[1]}/complete.yaml", encoding="utf-8") as file:
    (spec,) = [document["spec"] for document in yaml.safe_load_all(file) if document["kind"] == "PrometheusRule"]
with open(f"{sys.argv[1]}/alerts/rules.yaml", "w", encoding="utf-8") as file:
    yaml.safe_dump(spec, file)
END
promtool check rules "$out/alerts/rules.yaml"
promtool test rules "$out/alerts/alerts.yaml"
amtool check-config k8s/alertmanager.yaml
pytest tests/monitoring -rs
