# Every target prepares what it needs: a virtual environment is built on first use and again when
# pyproject.toml, constraints.txt or the interpreter changes.
#   make test                       with python3
#   make PYTHON=python3.12 test     with another interpreter

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
INSTALL := -m pip install --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: demo
demo: $(VENV)/.runtime  ## Train the built-in network, explain its decisions, write torchwhy-demo/report.html
	$(BIN)/torchwhy demo

.PHONY: test
test: lint types docs  ## Everything that must hold: lint, import rules, types, documentation, tests, doctests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

.PHONY: lint
lint: $(VENV)/.dev  ## Formatting, lint and import rules
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-logo

.PHONY: types
types: $(VENV)/.dev  ## Static types
	$(BIN)/mypy

.PHONY: docs
docs: $(VENV)/.dev  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: bench
bench: $(PEERS)/.peers  ## Measure against the peer libraries: runs the scripts in benchmarks/
	@set -e; for script in $(sort $(wildcard benchmarks/*.py)); do \
	    echo "== $$script"; $(PEERS)/bin/python "$$script"; \
	done

.PHONY: peers
peers: $(PEERS)/.peers  ## Compare with the numbers of peers that `make test` goes without
	$(PEERS)/bin/python -m pytest tests/peers

.PHONY: clean
clean:  ## Remove whatever these targets made, the environments included
	rm -rf $(VENV) $(PEERS) torchwhy-demo site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Named after the interpreter, so that asking for another one rebuilds the environment.
%/.$(notdir $(PYTHON)):
	$(PYTHON) -m venv --clear $*
	@touch $@

$(VENV)/.runtime: EXTRAS :=
$(VENV)/.dev: EXTRAS := [dev,docs,vision]
$(PEERS)/.peers: EXTRAS := [peers]

$(VENV)/.runtime $(VENV)/.dev: $(VENV)/.$(notdir $(PYTHON)) pyproject.toml constraints.txt
$(PEERS)/.peers: $(PEERS)/.$(notdir $(PYTHON)) pyproject.toml constraints.txt

$(VENV)/.runtime $(VENV)/.dev $(PEERS)/.peers:
	$(@D)/bin/python $(INSTALL) --editable ".$(EXTRAS)"
	@touch $@
