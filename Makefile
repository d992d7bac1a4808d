# `make quickstart` and `make test` are all that a fresh Debian machine needs; both begin with `make setup`.

SHELL := /bin/bash
VENV := .venv
# Rendering tests take about 1 GiB per worker, so the number is fixed rather than taken from the machine.
TEST_WORKERS ?= 2
PYTEST_ARGS ?=

.PHONY: help setup quickstart test lint format clean

help:
	@echo "make setup       create $(VENV) and install fibo_robot with its tests (quick when nothing changed)"
	@echo "make quickstart  setup, then record demonstrations, train, roll out, classify and write a report"
	@echo "make test        setup, then all tests          (PYTEST_ARGS=... is passed on)"
	@echo "make lint        setup, then ruff's checks      make format: apply them"
	@echo "make clean       remove $(VENV) and build leftovers"

setup: $(VENV)/.setup-done

# Rerun when what it reads has changed; setup.sh itself does only what is missing.
$(VENV)/.setup-done: pyproject.toml constraints.txt scripts/setup.sh
	@bash scripts/setup.sh $(VENV)
	@touch $@

quickstart: setup
	$(VENV)/bin/fibo quickstart

# One thread per test process: two processes with a thread pool each on two cores only wait for each other.
test: setup
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 \
	$(VENV)/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile --durations=20 $(PYTEST_ARGS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
