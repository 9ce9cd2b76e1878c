# A newcomer's day: make serve, make test, edit, make check.
#
# Needs make and a Python >= 3.11; everything else is installed into .venv from PyPI.
# Another Python: make PYTHON=/path/to/python. Settings: DESK_… variables, see .env.example.

.DEFAULT_GOAL := help
.NOTPARALLEL:  # one pip at a time in one .venv; -j is accepted and changes nothing
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?=
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(BIN)/python -m

# ---- The environment ----
# A stamp says what is installed, for which pyproject.toml, and where: an environment does not
# survive that its directory is moved, nor that the Python it was made with goes away.

RUNTIME := $(VENV)/.installed-runtime
DEV     := $(VENV)/.installed-dev
TOOLS   := $(VENV)/.installed-tools
BENCH   := $(VENV)/.installed-bench
USABLE   = $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
           && { [ ! -e $(RUNTIME) ] || [ "$$(cat $(RUNTIME))" = "$(CURDIR)" ]; }

ifneq ($(shell [ -e $(RUNTIME) ] && { $(USABLE) || echo broken; }),)
.PHONY: $(RUNTIME) $(DEV) $(TOOLS) $(BENCH)
endif

# The first of these that runs (a pyenv shim may be there and fail), is new enough, and can make
# an environment (Debian ships venv in a package of its own).
define make-venv
@set -e; if $(USABLE); then exit 0; fi; \
for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
	if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Creating $(VENV) with $$python"; exec "$$python" -m venv --clear $(VENV); \
	fi; \
done; \
echo "make: no usable Python >= 3.11 with venv among: $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python);" \
	"install one, or say make PYTHON=/path/to/python" >&2; exit 1
endef

PIP_INSTALL = $(RUN) pip install -qq --disable-pip-version-check

$(RUNTIME): pyproject.toml client/pyproject.toml
	$(make-venv)
	@echo "Installing what the service needs into $(VENV)"
	@$(PIP_INSTALL) --editable client --editable .
	@echo "$(CURDIR)" > $@

$(DEV): pyproject.toml client/pyproject.toml
	$(make-venv)
	@echo "Installing what the service and its tests need into $(VENV)"
	@$(PIP_INSTALL) --editable client --editable '.[dev]'
	@echo "$(CURDIR)" | tee $(RUNTIME) > $@

$(TOOLS): pyproject.toml client/pyproject.toml
	$(make-venv)
	@echo "Installing what the service, its tests and those of its deployment need into $(VENV)"
	@$(PIP_INSTALL) --editable client --editable '.[dev,deploy]'
	@echo "$(CURDIR)" | tee $(RUNTIME) $(DEV) > $@

# Apart: what generates the stubs wants an older protobuf than the service has.
STUBS := $(VENV)/stubs/.installed

$(STUBS): tools/stubs-requirements.txt | $(DEV)
	@echo "Installing what generates the stubs into $(VENV)/stubs"
	@$(RUN) venv --clear $(VENV)/stubs
	@$(VENV)/stubs/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@

# Apart as well: constraints and bill of materials.
RELEASE := $(VENV)/release/.installed

$(RELEASE): tools/release-requirements.txt | $(DEV)
	@echo "Installing what makes constraints.txt and the bill of materials into $(VENV)/release"
	@$(RUN) venv --clear $(VENV)/release
	@$(VENV)/release/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@

$(BENCH): pyproject.toml client/pyproject.toml
	$(make-venv)
	@echo "Installing what the service, its tests and its benchmarks need into $(VENV)"
	@$(PIP_INSTALL) --editable client --editable '.[dev,bench]'
	@echo "$(CURDIR)" | tee $(RUNTIME) $(DEV) > $@

# ---- Run ----

.PHONY: help
help:  ## show this
	@echo "Usage: make <target>. A newcomer's day: make serve, make test, edit, make check."
	@awk -F ':.*  ## ' '/^# ---- / { room = substr($$0, 8, length($$0) - 12) } \
		/^[a-z-]+:.*  ## / { if (room) print "\n" room ":"; room = ""; printf "  %-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: serve
serve: $(RUNTIME)  ## run everything on this machine (Ctrl-C stops it)
	@exec $(BIN)/desk serve

.PHONY: cluster
cluster: nginx promtool  ## try docker-compose.cluster.yml without Docker: kill any process (Ctrl-C stops it)
	@exec $(RUN) tests.support.cluster

# ---- Check ----

.PHONY: check
check: check-code test test-tools  ## everything that CI checks

.PHONY: check-code
check-code: lint types imports proto stubs-check diagram-check constraints-check compose-check

# Four at a time also on two cores: they wait more than they compute.
.PHONY: test
test: $(DEV) $(STUBS)  ## run the tests; make test ARGS='-k name -x' passes options to pytest
	$(RUN) pytest -n 4 -m 'not tools' $(ARGS)

# Programs that are not Python packages. What cannot be had fails the tests that need it, unless they
# are left out by name: make test-tools WITHOUT='chromium nginx promtool'.
WITHOUT ?=

.PHONY: test-tools
test-tools: $(TOOLS) $(STUBS) $(filter-out $(WITHOUT),nginx promtool chromium)  ## run the tests of the Makefile, the benchmarks, the packages and the deployment files
	DESK_TEST_WITHOUT='$(WITHOUT)' $(RUN) pytest -n 4 -m tools $(ARGS)

# Of Debian: unpacked with the libraries that are missing here, and not installed. That needs no root
# and starts no server. The lists of packages are our own, so those of the machine may be old.
DEBIAN := $(CURDIR)/$(VENV)/debian
APT    := apt-get -qq -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
          -o Dir::State::Lists=$(DEBIAN)/lists -o Dir::Cache=$(DEBIAN)/cache

nginx:    PACKAGES := nginx
promtool: PACKAGES := prometheus
chromium: PACKAGES := chromium chromium-driver fonts-dejavu-core

.PHONY: nginx promtool chromium
nginx promtool chromium: $(DEV)
	@$(RUN) tests.support.debian $@ || { \
		echo "Fetching $@" && mkdir -p $(DEBIAN)/lists/partial $(DEBIAN)/cache/archives/partial && \
		fetch() { $(APT) install --download-only --no-install-recommends $(PACKAGES); } && \
		{ fetch 2> /dev/null || { $(APT) update && fetch; }; } && \
		for each in $(DEBIAN)/cache/archives/*.deb; do dpkg -x "$$each" $(DEBIAN) && rm "$$each" || exit; done && \
		$(RUN) tests.support.debian $@; \
	} || { echo "make: $@ cannot be had from here; make test-tools WITHOUT=$@ leaves out what needs it" >&2; exit 1; }

.PHONY: test-long
test-long: $(DEV)  ## run the properties with ten times as many examples, and 200,000 mutated requests
	DESK_TEST_PROFILE=long $(RUN) pytest -n auto tests/property tests/unit $(ARGS)
	$(RUN) tests.support.mutated_requests 200000

.PHONY: upgrade-trial
upgrade-trial: $(DEV)  ## upgrade and roll back with 200,000 callbacks under load; show what clients noticed
	DESK_TEST_CALLBACKS=200000 $(RUN) pytest -n 0 -m tools tests/e2e/test_upgrade.py

# Of the first schedule; the others count on.
CHAOS_SCHEDULES ?= 10
CHAOS_SEED      ?= $(shell date +%s)

.PHONY: chaos
chaos: $(DEV)  ## kill, freeze and cut parts of a cluster; CHAOS_SCHEDULES=200, CHAOS_SEED=7 replays
	GRPC_VERBOSITY=ERROR $(RUN) tests.chaos --schedules $(CHAOS_SCHEDULES) --seed $(CHAOS_SEED)

.PHONY: lint
lint: $(DEV)  ## check style and layout of the code
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: types
types: $(DEV)  ## check types, strictly
	$(BIN)/mypy

.PHONY: imports
imports: $(DEV)  ## check the import contracts
	$(BIN)/lint-imports --no-cache

.PHONY: proto
proto: $(DEV)  ## check the style of the wire contract
	$(BIN)/buf lint

.PHONY: proto-breaking
proto-breaking: $(DEV)  ## compare the wire contract with that of AGAINST (default: main)
	$(BIN)/buf breaking --against '.git#ref=$(or $(AGAINST),main)'

.PHONY: stubs-check
stubs-check: $(STUBS)
	$(VENV)/stubs/bin/python -m tools.stubs --check

.PHONY: diagram-check
diagram-check: $(DEV)
	$(RUN) tools.states --check

.PHONY: constraints-check
constraints-check: $(DEV)
	$(RUN) tools.constraints --check

.PHONY: compose-check
compose-check: $(DEV)
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.cluster.yml

# ---- Measure ----

.PHONY: bench
bench: $(BENCH) wrk  ## compare with peers and with the limits, in 30 minutes; ARGS=--quick in three
	$(RUN) benchmarks $(ARGS)

.PHONY: figures
figures: $(DEV)  ## write the figures of the last report into docs/
	$(RUN) benchmarks.pages

# The load generator is no Python package. Without it the benchmarks say what they could not measure.
.PHONY: wrk
wrk:
	@command -v wrk > /dev/null || { echo "Installing wrk" && $$([ -w /usr/bin ] || echo sudo -n) apt-get install -qq -y wrk; } \
	|| echo "make: wrk cannot be installed from here; what needs it will not be measured" >&2

.PHONY: soak
soak: $(BENCH)  ## run everything for 10 minutes at half of its capacity; SOAK_SECONDS=60 for less
	$(RUN) benchmarks.soak --seconds $(or $(SOAK_SECONDS),600)

# ---- Edit ----

.PHONY: format
format: $(DEV)  ## format the code and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: stubs
stubs: $(STUBS)  ## generate client/desk/v1 from proto/
	$(VENV)/stubs/bin/python -m tools.stubs

.PHONY: diagram
diagram: $(DEV)  ## generate docs/states.md from the catalogue of event types
	$(RUN) tools.states

.PHONY: constraints
constraints: $(RELEASE)  ## generate constraints.txt: the newest packages that fit, with hashes
	$(RUN) tools.constraints $(VENV)/release/bin/uv

.PHONY: clean
clean:  ## remove what was installed, built and cached; ./data stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- Release ----

.PHONY: wheels
wheels: $(DEV)  ## build both distributions, client and service, into dist/
	rm -rf dist
	$(RUN) pip wheel -qq --no-deps --no-build-isolation --wheel-dir dist ./client .

# Of an environment as an image has it, so that it lists what is really there.
.PHONY: sbom
sbom: wheels $(RELEASE)  ## write the bill of materials of the service, CycloneDX, to dist/sbom.json
	$(RUN) venv --clear build/sbom
	build/sbom/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement constraints.txt
	build/sbom/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-index --find-links dist \
		desk-sessions-client desk-sessions
	build/sbom/bin/python -m pip uninstall -qq --yes pip setuptools
	$(VENV)/release/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.json build/sbom/bin/python
