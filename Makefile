# Everything runs in .venv, which `make setup` makes; run `make` to see the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo run test test-ha lint format check bench bench-peers clean

BIN := .venv/bin
PEERS_VENV := .bench/peers-venv
WORKERS ?= 3

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready ## Make .venv with every extra (PYTHON=... chooses the interpreter)

.venv/.ready: pyproject.toml constraints.txt scripts/make-venv
	@scripts/make-venv .venv $(PYTHON)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,test,dev]'
	@touch $@

demo: setup ## Show a small fleet at work against simulated vendors
	$(BIN)/python main.py demo

run: setup ## Start one self-contained node
	$(BIN)/python main.py distribute standalone --device-id master-stand-01

test: setup ## Run all tests, with their own MariaDB and PostgreSQL (ARGS=... adds pytest options)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-ha: setup ## Kill the primary of a highly available PostgreSQL of its own under load (needs Patroni and etcd)
	$(BIN)/python -m pytest -s $(ARGS) deploy/ha

lint: setup ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Put the code into the common format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test ## Run lint, then test: all that a change must pass

bench: setup ## Measure; each benchmark states its caveats (ARGS="--size full --database all")
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: setup $(PEERS_VENV)/.ready ## Measure beside other task queues, in an environment of their own (ARGS="--size full")
	$(BIN)/python -m benchmarks.peers $(ARGS)

$(PEERS_VENV)/.ready: benchmarks/peers/requirements.txt scripts/make-venv
	@mkdir -p $(@D)
	@scripts/make-venv $(PEERS_VENV) $(PYTHON)
	$(PEERS_VENV)/bin/python -m pip install --quiet -r benchmarks/peers/requirements.txt
	@touch $@

clean: ## Remove .venv, caches and build results
	rm -rf .venv $(PEERS_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
