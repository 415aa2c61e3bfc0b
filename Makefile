# Everything runs in .venv, which `make setup` makes; run `make` to see the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo run test test-ha lint format check lock audit sbom bench bench-peers clean

BIN := .venv/bin
PEERS_VENV := .bench/peers-venv
TOOLS_VENV := .tools/venv
LOCK := deploy/requirements.lock
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

check: lint audit test ## Run lint, audit and test: all that a change must pass

lock: $(TOOLS_VENV)/.ready ## Write the lock file of deployments: each package of the extra `all`, with its hashes
	sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml | $(TOOLS_VENV)/bin/uv pip compile --quiet --universal \
	    --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --only-binary :all: \
	    --extra all --constraint constraints.txt --output-file $(LOCK) pyproject.toml -

audit: ## Look for known faults in the lock file; skipped with a reason where no index can be reached
	@$(MAKE) --no-print-directory $(TOOLS_VENV)/.ready || true
	@scripts/audit $(TOOLS_VENV)/bin/pip-audit $(LOCK)

sbom: $(TOOLS_VENV)/.ready ## Write build/sbom.cdx.json: what a deployment consists of (CycloneDX)
	@mkdir -p build
	$(TOOLS_VENV)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	    --output-file build/sbom.cdx.json $(LOCK)

$(TOOLS_VENV)/.ready: scripts/tools.txt scripts/make-venv
	@mkdir -p $(@D)
	@scripts/make-venv $(TOOLS_VENV) $(PYTHON)
	$(TOOLS_VENV)/bin/python -m pip install --quiet -r scripts/tools.txt
	@touch $@

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
	rm -rf .venv $(PEERS_VENV) $(TOOLS_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
