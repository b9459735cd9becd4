# make run    install, then simulator, twin and trainer with a live view, until Ctrl-C
# make test   install with the development extras, then format, lint, types, tests
# make setup  the installing alone, and the compiling of what a run needs for this CPU (twin prepare)
# make quick  the tests that take seconds
# make exhaustive  all tests, with every case of the sweeps of which `make test` runs the most telling (docs/testing.md)
# make gpu    on a machine with a CUDA device: parity, steps, fleets, a refit; ARGS=--rehearse without one
# make bench  all benchmarks in full, their figures into benchmarks/results; make bench ARGS="step --quick" one
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
NPM := $(shell command -v npm 2>/dev/null)
# with bytecode kept, even where the environment says otherwise: else each process compiles the tests' sources anew
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: run test quick exhaustive bench gpu setup setup-dev setup-bench clean

run: .venv/installed
	@$(BIN)/twin run $(ARGS)

test: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

quick: setup-dev
	$(PYTEST) -m "not slow and not exhaustive"

exhaustive: setup-dev
	$(PYTEST) -m "exhaustive or not exhaustive" --hypothesis-profile exhaustive

bench: setup-bench
	@$(BIN)/python -m benchmarks $(or $(ARGS),all --json benchmarks/results)

gpu:
	@$(PYTHON) -m benchmarks.gpu $(ARGS)

setup: .venv/installed
	@echo "2/2  compiling for this CPU, once"
	@$(BIN)/twin prepare

setup-dev: .venv/installed-dev
setup-bench: .venv/installed-bench

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "livetwin needs Python 3.11 or newer: make $(or $(MAKECMDGOALS),run) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv || { echo "no venv module: on Debian and Ubuntu, apt install python3-venv"; rm -rf .venv; exit 1; }

.venv/installed: pyproject.toml | .venv/bin/pip
	@echo "1/2  installing into .venv: pip says what it downloads, and how much; torch is the largest"
	@$(PIP) --editable .
	@touch $@

.venv/installed-bench: pyproject.toml | .venv/bin/pip
	@echo "installing into .venv, with what the benchmarks compare with"
	@$(PIP) --editable '.[bench]'
	@touch $@ .venv/installed

.venv/installed-dev: pyproject.toml tests/node/package.json | .venv/bin/pip
	@echo "installing into .venv, with what the tests need"
	@$(PIP) --editable '.[dev]'
	$(if $(NPM),cd tests/node && npm install --silent --no-audit --no-fund,@echo "no npm: the Node.js subscriber's test will be skipped")
	@touch $@ .venv/installed .venv/installed-bench

clean:
	rm -rf .venv tests/node/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
