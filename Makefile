# Everything runs in a virtual environment of the project's own; PYTHON chooses the interpreter to make it with.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
CSI_ADDRESS ?=
ARGS ?=

STEPS ?= 10000

.PHONY: help run test check unit conformance machine newest test-windows windows-tree bench attack fuzz soak mutate manifests workflows lock audit proto image e2e demo-picture clean

help:
	@echo "make run          the sidecar with an example driver; CSI_ADDRESS=/path/to/csi.sock for yours; ARGS='--flags'"
	@echo "make test         set up and run all checks and tests"
	@echo "make check        format, lint, types for Linux and Windows, import contracts, generated code"
	@echo "make unit         unit tests and tests of the whole process"
	@echo "make conformance  the recorded behaviour of the Go program"
	@echo "make machine      a random walk of STEPS=10000 steps against a model; MACHINE_SEED=1 repeats one"
	@echo "make newest       the tests on the newest Python found"
	@echo "make test-windows tests on Windows CPython under wine; PYTHON_MINOR=3.14 for one; SHORT=1 for what touches the system"
	@echo "make windows-tree what the Windows image holds, built here, and its livenessprobe.exe run under wine"
	@echo "make bench        what all of it costs, beside floors; QUICK=1 tries it out, PEER='cmd with {sock} and {port}' too"
	@echo "make attack       that a caller fares well, at what cost, while others hold connections and throw garbage"
	@echo "make fuzz         properties of all that parses foreign input, EXAMPLES=5000 each"
	@echo "make soak         200 000 probes with faults mixed in; PROBES='20000 4' for a short form"
	@echo "make mutate       small faults in the rooms that decide, and whether a test notices; MODULE=health for one room"
	@echo "make manifests    k8s/ built and judged by Kubernetes' schemas, promtool and yamllint"
	@echo "make workflows    .github/workflows checked offline"
	@echo "make image        the image, built twice, and what the usual tools say about it"
	@echo "make e2e          the image under podman, beside drivers of others, under a kubelet; STAGES='image smoke' for some"
	@echo "make demo-picture docs/demo.svg: the demo runs in a pseudo-terminal, and its output is drawn"
	@echo "make lock         requirements.lock anew, with hashes"
	@echo "make audit        known vulnerabilities of what is locked"
	@echo "make proto        regenerate livenessprobe/csi from proto/"

# The stamp knows what was installed: a changed pyproject.toml installs again.
$(VENV)/.run: pyproject.toml
	@# Debian's Python comes without ensurepip; as root that can be mended here.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; installing python3-venv"; \
	  apt-get -qq update && apt-get -qq install -y python3-venv >/dev/null; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
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

unit: $(VENV)/.test
	$(BIN)/python -m pytest tests --ignore tests/conformance -n 4

conformance: $(VENV)/.test
	$(BIN)/python -m pytest tests/conformance -n 4 --dist loadgroup

# Every fault of driver, client and settings, in random order; prints the seed of each run.
machine: $(VENV)/.test
	MACHINE_STEPS=$(STEPS) $(BIN)/python -m pytest -o faulthandler_timeout=0 -s tests/test_machine.py -k random

# The tests again, on the newest interpreter at hand if that is another one.
newest:
	@PYTHON=$(PYTHON) sh tests/newest.sh

# Beside floors that do the same work; PYTHON, PYTHON_ARGS, PEER and QUICK are read from the environment.
bench: $(VENV)/.test
	@$(BIN)/python -m bench

# A caller that behaves, while others do not.
attack: $(VENV)/.test
	$(BIN)/python -m bench.attack

# Minutes; the short form is part of .ci/run.
soak: $(VENV)/.test
	$(BIN)/python -m tests.soak $(PROBES)

# The properties of all that parses foreign input, with so many examples each.
EXAMPLES ?= 5000

fuzz: $(VENV)/.test
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -o faulthandler_timeout=0 tests --ignore tests/conformance -n 4 \
	  -k "fuzz or any or no_file or no_environment or reads_the_same or endpoint or gotext or flags"

$(VENV)/.mutate: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[mutate]'
	touch $@

# Long; every fault that no test notices is explained in tests/survivors.txt, or it fails.
MODULE ?=

mutate: $(VENV)/.mutate
	nice -n 5 $(BIN)/python -m tests.mutate $(MODULE)

demo-picture: $(VENV)/.run
	$(BIN)/python docs/demo_picture.py

# Apart from what is tested: these would bring other versions of the same libraries.
TOOLS = $(VENV)/tools

$(TOOLS)/.installed: $(VENV)/.run
	$(BIN)/python -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9' 'pip-audit>=2.9' \
	  'kubernetes-validate>=1.37' 'yamllint>=1.38' 'check-jsonschema>=0.39' 'zizmor>=1.32'
	touch $@

# What make unit finds in k8s/ is about this program; this is what others say about it.
manifests: $(VENV)/.test $(TOOLS)/.installed
	@PATH=$(TOOLS)/bin:$(BIN):$$PATH sh tests/manifests.sh $(VENV)/manifests

workflows: $(TOOLS)/.installed
	@PATH=$(TOOLS)/bin:$$PATH sh tests/workflows.sh $(TOOLS)

# Says so where wine cannot be installed.
test-windows: $(VENV)/.run $(TOOLS)/.installed
	UV=$(CURDIR)/$(TOOLS)/bin/uv PIP=$(CURDIR)/$(BIN)/pip SHORT=$(SHORT) tests/windows/run $(PYTHON_MINOR)

windows-tree: $(VENV)/.test $(TOOLS)/.installed
	UV=$(CURDIR)/$(TOOLS)/bin/uv PIP=$(CURDIR)/$(BIN)/pip tests/windows/image

LOCK = --universal --generate-hashes --quiet --no-header

# What is installed in an image: every file by its hash.  Made anew after a change of pyproject.toml.
lock: $(TOOLS)/.installed
	$(TOOLS)/bin/uv pip compile pyproject.toml $(LOCK) -o requirements.lock
	@# What builds the package in the images.
	printf 'hatchling\nuv\n' | $(TOOLS)/bin/uv pip compile - $(LOCK) -o requirements-build.lock

# Known vulnerabilities of what is locked; says so where no database can be reached.
audit: $(TOOLS)/.installed
	@PATH=$(TOOLS)/bin:$$PATH sh tests/audit.sh

# Needs Debian and root; each stage that cannot run says why.
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
