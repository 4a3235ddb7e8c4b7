# make demo : set everything up and simulate a chat service on four H100s
# make test : set everything up and check the whole tree
# Both need python3 (3.11 to 3.13) and nothing else: no compiler, no GPU.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input
# pip's own words, without those that say that something is here already
SHOW := grep --line-buffered -E '^ *(Collecting|Downloading|Installing|Successfully|ERROR|error)' \
	|| true

.PHONY: help demo test bench docs clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

demo: $(VENV)/.base ## set up, simulate the bundled chat workload on 4 H100s, write build/demo.html
	@mkdir -p build
	$(BIN)/forerun simulate llama-3.1-8b --fleet h100-sxm:4 --trace chat \
		--ttft '500 ms' --tpot '50 ms' --html build/demo.html
	@# measured against predicted on this machine; exit 5 says what to install, and is no failure
	@FORERUN_DATA_DIR=build/data $(BIN)/forerun measure --quick --check --fresh --threads 1 \
		--minutes 1 -o build/measured.csv --into build/demo.html || [ $$? -eq 5 ]
	@echo "report: $(CURDIR)/build/demo.html"

test: $(VENV)/.dev ## set up, then style, types, layers and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist worksteal

bench: $(VENV)/.dev ## measure speed, compare with peers, write build/bench.json
	@mkdir -p build
	$(BIN)/python -m benchmarks

docs: $(VENV)/.docs ## build the documentation, offline, into build/docs
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "docs: $(CURDIR)/build/docs/index.html"

clean: ## remove what these targets made
	rm -rf $(VENV) build

# The first of these interpreters whose version fits.
$(VENV)/bin/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
			2>/dev/null; then \
			echo "making $(VENV) with $$($$python --version)"; \
			exec $$python -m venv --clear $(VENV); \
		fi; \
	done; \
	echo "Forerun needs Python 3.11, 3.12 or 3.13; found $$(python3 --version 2>&1)." >&2; \
	echo "  try: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1

# Stamps: what pyproject.toml asks for is installed.
$(VENV)/.base: pyproject.toml | $(VENV)/bin/python
	@echo "installing forerun and what it needs into $(VENV) (once, about a minute)"
	@$(PIP) --editable '.[plots]' | { $(SHOW); }
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing forerun and its development tools into $(VENV) (once, a minute or two)"
	@$(PIP) --editable '.[dev]' | { $(SHOW); }
	@touch $@ $(VENV)/.base

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	@$(PIP) --editable '.[docs]' | { $(SHOW); }
	@touch $@
