# `make` lists what there is. Everything runs in .venv, which `make setup` makes and every other target makes if needed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench chaos fuzz lint audit format lock clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.requirements-installed
FUZZ_STAMP := $(VENV)/.fuzz-installed
# Another interpreter: make setup PYTHON=/opt/python/bin/python3.12
PYTHON ?=
# Handed on: make demo ARGS=--once, make test ARGS="-k options"
ARGS ?=

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(STAMP) ## make .venv with the pinned and hashed dependencies

# Done again when the requirements change. The stamp is written last, so that an interrupted setup starts over.
# Without --no-deps pip looks for a newer release of a pinned package that another one wants with an extra, and refuses it
# for want of a hash. The lock is complete, which pip check confirms.
# One shell command with continued lines and not .ONESHELL, which the make of macOS does not know.
$(STAMP): requirements/dev.txt
	@set -euo pipefail; found=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3 python3.12 python3.13 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$candidate; break; fi; \
	done; \
	if [[ -z $$found ]]; then \
	  echo "ami-beam needs Python 3.11 or newer, and none was found. Install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$found cannot make virtual environments: its module venv or ensurepip is missing." >&2; \
	  echo "On Debian and Ubuntu: apt install python3-venv. Or name another: make setup PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$found" --version); this takes a few minutes the first time" >&2; \
	"$$found" -m venv $(VENV); \
	$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes --no-deps -r requirements/dev.txt; \
	$(BIN)/python -m pip check --disable-pip-version-check >/dev/null; \
	touch $@

demo: $(STAMP) ## a broker, a simulated head-end and the pipeline on Flink; Ctrl-C ends it (ARGS=--once: ends by itself)
	@exec $(BIN)/python -m ami_beam.demo $(ARGS)

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tests that start clusters, or processes that have to answer in time, get cores enough: two files of them at a time.
# A test that was asked for may be in either part: 5 says that there is none.
test: lint ## style, types and all tests (ARGS go to pytest)
	@part=0; whole=0; \
	$(BIN)/python -m pytest -m "not processes" --numprocesses=auto --maxprocesses=8 --dist=loadscope $(ARGS) || part=$$?; \
	$(BIN)/python -m pytest -m processes --numprocesses=3 --dist=loadfile $(ARGS) || whole=$$?; \
	case "$$part $$whole" in \
	  "0 0" | "0 5" | "5 0") ;; \
	  *) exit 1 ;; \
	esac

bench: $(STAMP) ## against Flink SQL and a hand-written loop on the same topic (ARGS=--quick: under 15 minutes; --help)
	@$(BIN)/python -m benchmarks.bench $(ARGS)

chaos: $(STAMP) ## kill every process of a Flink cluster and prove that nothing is lost (ARGS="--seed 7"; half an hour)
	@$(BIN)/python -m tests.chaos $(ARGS)

audit: $(STAMP) ## bill of materials in build/sbom.json, known weaknesses of packages (ARGS=--strict)
	@$(BIN)/python -m tools.audit $(ARGS)

fuzz: $(FUZZ_STAMP) ## coverage-guided inputs for decoding and packing; Linux only (ARGS="--runs 1000000"; --help)
	@$(BIN)/python -m tests.fuzz $(ARGS)

# Apart from the other packages, because there are no wheels of it for other systems.
$(FUZZ_STAMP): $(STAMP) requirements/fuzz.txt
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet --require-hashes --no-deps -r requirements/fuzz.txt
	@touch $@

format: $(STAMP) ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## pin requirements/*.in anew, with hashes, for every platform (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes requirements/runtime.in -o requirements/runtime.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes requirements/dev.in -o requirements/dev.txt

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist *.egg-info fuzz-findings .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
