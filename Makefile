# Needs make and Python 3.11 or newer, for the tests also curl; everything else goes into .venv, pinned and hashed.
# Paths are relative throughout, because make cannot carry a path with a space; and modules are run with `python -m`,
# because the scripts that pip writes name their interpreter by its absolute path.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --quiet --disable-pip-version-check --no-input
COMPILE := CUSTOM_COMPILE_COMMAND="make requirements" $(PY) -m piptools compile --quiet
TESTS ?= tests
MINUTES ?= 10
SEED ?=
EVENTS ?= 1000000

.PHONY: help run test check bench bench-overload bench-replay fuzz chaos browser format requirements clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

run: $(VENV)/.run ## Start everything: PostgreSQL, migrations, demo data, HTTP, workers (Ctrl-C stops it)
	@exec $(PY) -m modledger.workers up

# Empty means unset: without compiled modules every process, and every worker's collection, compiles all of them anew.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.dev ## Run the tests (TESTS="tests/test_settings.py -k port" for some of them)
	@$(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(TESTS)

check: $(VENV)/.bench ## Lint, formatting, strict types, and holes known in what we depend on
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m mypy .ci/start_installed.py .ci/audit_dependencies.py
	@$(PY) .ci/audit_dependencies.py

bench: $(VENV)/.bench ## Measure everything beside what one would pick instead (BENCH_SIZE=1m, 100k or 10m)
	@exec $(PY) -m bench

# Of the parts in bench/table.py one: reads, search, append, commands, catch-up, rebuild, visible, import, memory; or the
# data set alone: data.
bench-%: $(VENV)/.bench
	@exec $(PY) -m bench $*

bench-overload: $(VENV)/.dev ## Measure what is left with ten times as many clients as are served best
	@exec $(PY) -m bench.overload

bench-replay: $(VENV)/.dev ## Rebuild everything under load, and find a changed byte (EVENTS=1000000)
	@exec $(PY) -m bench.replay_under_load $(EVENTS)

fuzz: $(VENV)/.dev ## Ask every operation for made-up things, as everybody (MINUTES=60, SEED=7 to ask the same again)
	@exec $(PY) -m tests.fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

chaos: $(VENV)/.dev ## Break everything that it stands on under load, and judge what it answered (MINUTES=20, SEED=1)
	@exec $(PY) -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

browser: $(VENV)/.dev ## Try to forge commands in a real browser in which somebody is logged in (needs a Chromium)
	@exec $(PY) -m tests.real_browser

format: $(VENV)/.dev ## Put every file into the house format
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

requirements: $(VENV)/.dev ## Resolve pyproject.toml anew into the four pinned, hashed files
	@$(COMPILE) --upgrade --output-file requirements.txt pyproject.toml
	@$(COMPILE) --upgrade --extra dev --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml
	@$(COMPILE) --upgrade --extra bench --constraint requirements.txt --output-file requirements-bench.txt pyproject.toml
	@$(COMPILE) --upgrade --only-build-deps --all-build-deps --output-file requirements-build.txt pyproject.toml

clean: ## Remove the environment and all caches; the data in .data/ stays
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# An interpreter that a version manager lists but cannot start, or one without ensurepip, is passed over.
$(PY):
	@for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3 /usr/bin/python3.11); do \
		if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "Making $(VENV) with $$candidate"; exec "$$candidate" -m venv $(VENV); \
		fi; \
	done; \
	echo "No Python 3.11 or newer with venv and ensurepip found (Debian: apt install python3.11-venv);" >&2; \
	echo "name one with: make PYTHON=/path/to/python3.11" >&2; exit 1

# What running needs comes first and alone, so that a first start does not wait for linters and test tools.
$(VENV)/.run: requirements-build.txt requirements.txt pyproject.toml | $(PY)
	@echo "Installing what running needs"
	@$(PIP_INSTALL) --require-hashes -r requirements-build.txt -r requirements.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# What the benchmark compares with.
$(VENV)/.bench: requirements-bench.txt $(VENV)/.dev
	@echo "Installing what the benchmark compares with"
	@$(PIP_INSTALL) --require-hashes -r requirements-bench.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "Installing what developing needs"
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.txt
	@touch $@
