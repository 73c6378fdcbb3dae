# `make` alone lists the targets. Every target makes the virtual environment that it needs.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --no-input --disable-pip-version-check --no-color
# The output of pip is kept in a file; its end is shown if pip fails.
LOG := $(VENV)/pip.log
QUIETLY := > $(LOG) 2>&1 || { tail -n 25 $(LOG) >&2; echo "The installation failed: see $(LOG)" >&2; exit 1; }
# Two stamps: the demo needs neither the test runner nor the linters.
BASE := $(VENV)/.installed
TEST := $(VENV)/.installed-test

PYTEST := $(BIN)/python -m pytest --durations=15 --numprocesses=auto --maxprocesses=4 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all lint clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "PYTHON=python3.12 chooses the interpreter (3.11 or newer) of a new environment, VENV=.venv its folder."

demo: $(BASE)  ## train on synthetic faces and write a report: runs/quickstart
	$(BIN)/python launch.py --config configs/quickstart.py --workdir runs/quickstart

# Most of these tests' time is compilation, so XLA does little of it; `make test-slow` compiles as users do.
test: $(TEST)  ## run the tests and the docstring examples, without those marked slow
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) -m "not slow and not parity"

test-slow: $(TEST)  ## run the tests marked slow: kills, several processes, many folds, deep networks, recipes
	$(PYTEST) -m "slow and not parity"

test-all: $(TEST)  ## run all tests, on programs compiled as users compile them
	$(PYTEST) -m "not parity"

lint: $(TEST)  ## check format, style, types and imports
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy agegender_jax
	$(BIN)/lint-imports --no-logo

clean:  ## remove the environment and the caches of tools; runs/ stays
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing agegender_jax into $(VENV) (the first time takes a minute or two) ..."
	@$(PIP) install -c constraints.txt -e . $(QUIETLY)
	@touch $@

$(TEST): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing agegender_jax and its test tools into $(VENV) (the first time takes a minute or two) ..."
	@$(PIP) install -c constraints.txt -e '.[test]' $(QUIETLY)
	@touch $(BASE) $@

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { echo "There is no '$(PYTHON)': \
	name an interpreter of 3.11 or newer, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, and \
	'$(PYTHON)' is $$($(PYTHON) --version 2>&1): name another, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "'$(PYTHON)' cannot make virtual environments with \
	pip (it lacks venv or ensurepip): install them (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }
