# `make demo` and `make test` are all that a fresh machine needs.

# The first interpreter that is new enough; `make PYTHON=/path/to/python` decides otherwise.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help env demo test test-busy test-long lint types imports unit clusters train-embedded \
  bench clean

help:
	@echo "make demo            environment, server, first picture; serves until Ctrl-C"
	@echo "make test            environment, linters, types, import contracts, all tests"
	@echo "make test-long       tests of minutes each, and random search: make test leaves both out"
	@echo "make test-busy       the tests of clusters RUNS=5 times, beside processes that compute"
	@echo "make bench           the benchmarks, quickly"
	@echo "make train-embedded  train the carried model anew (hours on a CPU)"
	@echo "make clean           remove the environment and caches"

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "error: no Python 3.11 or newer with venv was found;" \
	  "install one, or say: make PYTHON=/path/to/python3.11"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: env
	@$(BIN)/python -m serve.demo

# Threads that wait for each other leave the cores to others meanwhile, instead of spinning: tests
# that compute with two threads beside others took ten times as long.
test test-busy test-long unit clusters: export OMP_WAIT_POLICY := PASSIVE

# Side by side, as tests of a cluster often wait, and take the longest: the others get what they
# leave of the cores, and print after them.
BESIDE_LOG := $(VENV)/.beside.log
test: lint imports
	@nice -n 15 $(MAKE) --no-print-directory -k types unit > $(BESIDE_LOG) 2>&1 & beside=$$!; \
	trap 'kill $$beside 2> /dev/null' INT TERM; \
	$(MAKE) --no-print-directory clusters; status=$$?; \
	wait $$beside || status=1; cat $(BESIDE_LOG); exit $$status

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/pyright

imports: env
	$(BIN)/lint-imports

unit: env
	$(BIN)/pytest -n 2 --dist loadfile -m "not cluster and not long"

# One after the other, because each starts many processes. On a busy machine, what computes with
# more threads than it has cores mostly waits for them.
CLUSTERS := -m "cluster and not long" \
  $(sort $(shell grep -rl --include='test_*.py' 'mark\.cluster' tests))
clusters: env
	OMP_NUM_THREADS=1 $(BIN)/pytest $(CLUSTERS)

RUNS ?= 5
test-busy: env
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.busy --runs $(RUNS) -- $(CLUSTERS)

# The properties are searched at random there, ten times as far; see tests/conftest.py.
test-long: env
	$(BIN)/pytest -m long
	$(BIN)/pytest -m hypothesis --hypothesis-profile=random --timeout=1800

bench: env
	$(BIN)/python -m benchmarks.exactness --quick
	$(BIN)/python -m benchmarks.adherence --n 100
	$(BIN)/python -m benchmarks.overhead --runs 10
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.throughput --quick
	$(BIN)/python -m benchmarks.autoscale --quick

train-embedded: env
	$(BIN)/python -m pipelines.embedded.training.train

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
