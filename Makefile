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

.PHONY: help env demo test test-long lint types imports unit train-embedded bench clean

help:
	@echo "make demo            environment, server, first picture; serves until Ctrl-C"
	@echo "make test            environment, linters, types, import contracts, all tests"
	@echo "make test-long       tests of minutes each, and random search: make test leaves both out"
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

test: lint types imports unit

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/pyright

imports: env
	$(BIN)/lint-imports

# Side by side, as tests of a cluster often wait; these go one after the other, because each starts
# many processes. The others are as nice as Ray's workers, and print after them.
ALONE_LOG := $(VENV)/.unit-alone.log
unit: env
	@nice -n 15 $(BIN)/pytest -n 2 --dist loadfile -m "not cluster and not long" \
	  > $(ALONE_LOG) 2>&1 & alone=$$!; trap 'kill $$alone 2> /dev/null' INT TERM; \
	$(BIN)/pytest -m "cluster and not long"; status=$$?; \
	wait $$alone || status=1; cat $(ALONE_LOG); exit $$status

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
