# What a person or CI runs. Everything is installed into .venv from locks with hashes; nothing needs root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CLUSTER ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check unit bench soak lab lock generate clean

help: ## show what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/runtime: requirements/runtime.txt pyproject.toml
	@echo "Installing what the daemon needs into $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/dev: requirements/dev.txt $(VENV)/runtime
	@echo "Installing what its tests need into $(VENV) …"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

demo: $(VENV)/$(if $(CLUSTER),dev,runtime) ## an exchange from end to end; CLUSTER=1 for one that kubectl obeys
	@$(BIN)/python -m tests.demo $(if $(CLUSTER),--cluster)

test: check unit ## everything CI runs

check: $(VENV)/dev ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/dev lab ## all tests, with those on the lab cluster
	$(BIN)/pytest --cov --cov-report=term:skip-covered -m "not soak"
	$(BIN)/coverage report --include='exchanged/policy/*,exchanged/authenticate/*,exchanged/exchange.py,exchanged/errors.py' --fail-under=100

lab: $(VENV)/dev ## build the lab cluster (once; it is cached)
	@$(BIN)/python -m tests.lab build

bench: $(VENV)/dev lab ## figures as ratios within one run, into build/bench.json
	$(BIN)/python -m tests.bench

soak: $(VENV)/dev lab ## what takes longer
	$(BIN)/pytest -m soak --timeout=7200

generate: $(VENV)/dev ## what is generated from proto/
	$(BIN)/python -m tests.generate

lock: ## write requirements/ anew
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip --disable-pip-version-check --quiet install uv
	$(VENV)/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes -q --no-header pyproject.toml --group build -o requirements/runtime.txt
	$(VENV)/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes -q --no-header pyproject.toml --group dev -c requirements/runtime.txt -o requirements/dev.txt

clean: ## remove what was made here; the lab's cache stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
