# `make quickstart` and `make test` are all that a fresh Debian machine needs; both begin with `make setup`.

SHELL := /bin/bash
VENV := .venv
# Rendering tests take about 1 GiB per worker, so the number is fixed rather than taken from the machine.
TEST_WORKERS ?= 2
PYTEST_ARGS ?=

.PHONY: help setup quickstart test test-oldest docs dist lint types format clean

help:
	@echo "make setup       create $(VENV) and install fibo_robot with its tests (quick when nothing changed)"
	@echo "make quickstart  setup, then record demonstrations, train, roll out, classify and write a report"
	@echo "make test        setup, then all tests          (PYTEST_ARGS=... is passed on)"
	@echo "make test-oldest the same in .venv-oldest, with the oldest supported versions"
	@echo "make docs        setup, then the documentation as a site in site/; a broken link is an error"
	@echo "make dist        setup, then wheels for other environments in dist/"
	@echo "make lint        setup, then ruff's checks and types (make types)     make format: apply ruff's"
	@echo "make clean       remove the environments and build leftovers"

setup: $(VENV)/.setup-done

# Rerun when what it reads has changed; setup.sh itself does only what is missing.
$(VENV)/.setup-done: pyproject.toml constraints.txt constraints-oldest.txt scripts/setup.sh scripts/stand_ins.py
	@bash scripts/setup.sh $(VENV) $(OVERRIDES)
	@touch $@

quickstart: setup
	$(VENV)/bin/fibo quickstart

# One thread per test process: two processes with a thread pool each on two cores only wait for each other.
# Files, or groups of them, the longest first (tests/conftest.py): pytest-xdist would begin with those of most tests.
test: setup
	@bash scripts/test_needs.sh
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 \
	$(VENV)/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder \
	  --durations=20 $(PYTEST_ARGS)

# The other end of the supported versions: Python 3.12 where there is one, and constraints-oldest.txt.
test-oldest:
	$(MAKE) test VENV=.venv-oldest OVERRIDES=constraints-oldest.txt \
	  PYTHON="$${PYTHON:-python3.12 python3.11 python3}"

# The variable silences Material's notice about MkDocs 2. The search wants a server, the pages do not.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build
	@echo "site/index.html, or with its search: $(VENV)/bin/python -m http.server -d site"

# Wheels for other environments: ours, and beside it what stands in for packages that pip would have to compile.
dist: setup
	rm -rf dist
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir dist .
	@$(VENV)/bin/python scripts/stand_ins.py dist egl_probe
	@$(VENV)/bin/python scripts/stand_ins.py dist/sim evdev mink

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(MAKE) --no-print-directory types

# About a minute. node allows itself a quarter of the memory; near that limit basedpyright throws away what it
# knows, begins again and may never end. It needs 1.6 GB.
types: setup
	NODE_OPTIONS=--max-old-space-size=4096 $(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .venv-oldest build dist site *.egg-info
