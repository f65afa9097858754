# Everything runs in a virtual environment in this folder, made with the interpreter PYTHON.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
CSI_ADDRESS ?=
ARGS ?=

STEPS ?= 10000

.PHONY: help run test check unit conformance machine newest test-windows windows-tree bench attack fuzz soak mutate manifests dashboard pages workflows lock audit proto image e2e demo-picture outage-picture clean

help:
	@echo "make run          the sidecar with an example driver, or with yours: CSI_ADDRESS=/path/to/csi.sock; ARGS='--flags'"
	@echo "make test         set up and run all checks and tests"
	@echo "make check        format, lint, types for Linux and Windows, import contracts, generated code"
	@echo "make unit         unit tests and tests of the whole process"
	@echo "make conformance  tests against the recorded behaviour of the Go program"
	@echo "make machine      random walks of STEPS=10000 steps, compared with a model; MACHINE_SEED=1 repeats a walk"
	@echo "make newest       the tests on the newest Python found; SHORT=1 for a part"
	@echo "make test-windows tests on Windows CPython under wine; PYTHON_MINOR=3.14 for one version; SHORT=1 for a part"
	@echo "make windows-tree the files of the Windows image, built here, and its livenessprobe.exe under wine"
	@echo "make bench        costs of the sidecar; QUICK=1 for a trial run, PEER='cmd with {sock} and {port}' for another program"
	@echo "make attack       latencies and memory while other clients hold connections open and send garbage"
	@echo "make fuzz         property tests of parsers and decisions with random examples, EXAMPLES=5000 each"
	@echo "make soak         200 000 probes with faults mixed in; PROBES='20000 4' for a short run"
	@echo "make mutate       small faults planted in pure modules, which tests must notice; MODULE=probing.standing for one module"
	@echo "make pages        looks at /statusz and /flagz in Chromium: layout, accessibility, requests; leaves screenshots"
	@echo "make manifests    builds k8s/ and checks it with Kubernetes' schemas, Prometheus, Alertmanager and yamllint"
	@echo "make dashboard    makes the Grafana dashboard in k8s/ from k8s/dashboard.py"
	@echo "make workflows    checks .github/workflows, offline"
	@echo "make image        builds the image twice, and checks it with hadolint, container-structure-test, dive and syft"
	@echo "make e2e          the image under podman, with foreign drivers, under a kubelet; STAGES='image smoke' for some stages"
	@echo "make demo-picture draws docs/demo.svg from a run of the demo in a pseudo-terminal"
	@echo "make outage-picture draws docs/outage_*.svg from an outage of half a minute"
	@echo "make lock         makes requirements.lock again, with hashes"
	@echo "make audit        known vulnerabilities of the locked packages"
	@echo "make proto        generates livenessprobe/csi from proto/"

# The stamp is older than a changed pyproject.toml, which is then installed again.
$(VENV)/.run: pyproject.toml image/mend_grpc.py
	@# Debian's Python lacks ensurepip; root can install it here.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; installing python3-venv"; \
	  apt-get -qq update && apt-get -qq install -y python3-venv >/dev/null; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python image/mend_grpc.py
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	touch $@

run: $(VENV)/.run
ifeq ($(CSI_ADDRESS),)
	$(BIN)/livenessprobe demo $(ARGS)
else
	$(BIN)/livenessprobe --csi-address=$(CSI_ADDRESS) $(ARGS)
endif

test: check unit conformance

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ruff check --isolated --select F,I --line-length 125 tests
	$(BIN)/mypy
	$(BIN)/mypy --platform win32
	$(BIN)/lint-imports --no-cache
	$(MAKE) --no-print-directory proto-check

TESTS ?= tests

unit: $(VENV)/.test
	$(BIN)/python -m pytest $(TESTS) --ignore tests/conformance -n 4

conformance: $(VENV)/.test
	$(BIN)/python -m pytest tests/conformance -n 4 --dist loadgroup

# All faults of drivers, clients and settings, in random order; prints the seed of each run.
machine: $(VENV)/.test
	MACHINE_STEPS=$(STEPS) $(BIN)/python -m pytest -o faulthandler_timeout=0 -s tests/test_machine.py -k random

# The tests on the newest Python of this machine, if it is newer than PYTHON; SHORT=1 leaves out what needs neither sockets nor
# libraries.
newest:
	@PYTHON=$(PYTHON) SHORT=$(SHORT) sh tests/newest.sh

# Compared with minimal programs (floors); reads PYTHON, PYTHON_ARGS, PEER and QUICK from the environment.
bench: $(VENV)/.test
	@$(BIN)/python -m bench

# A good client among hostile ones.
attack: $(VENV)/.test
	$(BIN)/python -m bench.attack

# Takes minutes; .ci/run has a short run.
soak: $(VENV)/.test
	$(BIN)/python -m tests.soak $(PROBES)

# The property tests, with EXAMPLES examples each.  Hypothesis' plugin for pytest sets the marker.
EXAMPLES ?= 5000

fuzz: $(VENV)/.test
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -o faulthandler_timeout=0 tests --ignore tests/conformance -n 4 -m hypothesis

$(VENV)/.mutate: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[mutate]'
	touch $@

# Takes long.  Fails if there is a fault that no test notices and tests/survivors.txt does not explain.
MODULE ?=

mutate: $(VENV)/.mutate
	nice -n 5 $(BIN)/python -m tests.mutate $(MODULE)

demo-picture: $(VENV)/.run
	$(BIN)/python -m docs.demo_picture

outage-picture: $(VENV)/.test
	$(BIN)/python -m docs.outage_picture

# In an environment of their own, since these tools need other versions of the same libraries.
TOOLS = $(VENV)/tools

$(TOOLS)/.installed: $(VENV)/.run
	$(BIN)/python -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9' 'pip-audit>=2.9' \
	  'kubernetes-validate>=1.37' 'yamllint>=1.38' 'check-jsonschema>=0.39' 'zizmor>=1.32'
	touch $@

$(VENV)/.dashboards: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dashboards]'
	touch $@

DASHBOARD = k8s/components/dashboard/livenessprobe.json

dashboard: $(VENV)/.dashboards
	$(BIN)/python k8s/dashboard.py $(DASHBOARD)

.PHONY: dashboard-check
dashboard-check: $(VENV)/.dashboards
	@$(BIN)/python k8s/dashboard.py $(VENV)/dashboard.json
	@cmp $(VENV)/dashboard.json $(DASHBOARD) || { echo "$(DASHBOARD) differs from k8s/dashboard.py: make dashboard"; exit 1; }

# `make unit` checks that k8s/ fits this program; this checks it with foreign tools.
manifests: $(VENV)/.test $(TOOLS)/.installed dashboard-check
	@PATH=$(TOOLS)/bin:$(BIN):$$PATH sh tests/manifests.sh $(VENV)/manifests

# Skipped with a message if Chromium, playwright or axe-core is missing.
pages: $(VENV)/.test
	@PYTHON=$(CURDIR)/$(BIN)/python sh tests/pages.sh $(CURDIR)/$(VENV)/pages

workflows: $(TOOLS)/.installed
	@PATH=$(TOOLS)/bin:$$PATH sh tests/workflows.sh $(TOOLS)

# Skipped with a message if wine cannot be installed.
test-windows: $(VENV)/.run $(TOOLS)/.installed
	UV=$(CURDIR)/$(TOOLS)/bin/uv PIP=$(CURDIR)/$(BIN)/pip SHORT=$(SHORT) tests/windows/run $(PYTHON_MINOR)

windows-tree: $(VENV)/.test $(TOOLS)/.installed
	UV=$(CURDIR)/$(TOOLS)/bin/uv PIP=$(CURDIR)/$(BIN)/pip tests/windows/image

LOCK = --universal --generate-hashes --quiet --no-header

# The packages of an image, each file with its hash.  Run it after a change of pyproject.toml.
lock: $(TOOLS)/.installed
	$(TOOLS)/bin/uv pip compile pyproject.toml $(LOCK) -o requirements.lock
	@# The packages that build this package in the images.
	printf 'hatchling\nuv\n' | $(TOOLS)/bin/uv pip compile - $(LOCK) -o requirements-build.lock

# Skipped with a message if no database of vulnerabilities can be reached.
audit: $(TOOLS)/.installed
	@PATH=$(TOOLS)/bin:$$PATH sh tests/audit.sh

# Needs Debian and root; a stage that cannot run says why.
STAGES ?=

e2e: $(VENV)/.test
	$(BIN)/python -m tests.e2e $(STAGES)

image: $(VENV)/.test
	$(BIN)/python -m tests.e2e image tools

PROTOC = $(BIN)/python -m grpc_tools.protoc -Iproto livenessprobe/csi/csi.proto livenessprobe/csi/grpc_health.proto

proto: $(VENV)/.test
	$(PROTOC) --python_out=. --pyi_out=.

.PHONY: proto-check
proto-check: $(VENV)/.test
	rm -rf $(VENV)/proto && mkdir $(VENV)/proto
	$(PROTOC) --python_out=$(VENV)/proto --pyi_out=$(VENV)/proto
	diff -r -x __init__.py -x __pycache__ $(VENV)/proto/livenessprobe/csi livenessprobe/csi

clean:
	rm -rf $(VENV) .venv-* .wine build dist mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis .e2e
