# `make demo` and `make test` need nothing but Python 3.11+ and make; both build their own environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# On Linux without a GPU, TORCH_INDEX="--index-url https://download.pytorch.org/whl/cpu" spares gigabytes.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
DEMO ?= demo
DEMO_FLAGS ?=

CHAOS_SECONDS ?= 600
CHAOS_SEED ?= 0

.PHONY: demo test slow chaos lint format docs bench clean

demo: $(VENV)/.runtime
	rm -rf $(DEMO)
	$(BIN)/gtcrec demo --out $(DEMO) $(DEMO_FLAGS)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

slow: $(VENV)/.dev
	$(BIN)/pytest -m slow

# Kills, pairs of processes, full disks, damaged files, hostile inputs; ends with 1 if anything was lost.
chaos: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m chaos.attack $(CHAOS_SECONDS) $(CHAOS_SEED) --counts tests/chaos/counts.json
	PYTHONPATH=tests $(BIN)/python -m chaos.report

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tables of settings and models, and those of measured runs.
docs: $(VENV)/.dev
	$(BIN)/python docs/reference.py
	$(BIN)/python -m benchmarks pages

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks speed
	$(BIN)/python -m benchmarks pages performance.md

clean:
	rm -rf $(VENV) $(DEMO)

# torch first and pinned, so that nothing else pulls a larger build in.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $(TORCH_INDEX) $(TORCH)
	touch $@

$(VENV)/.runtime: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[plot,serve]"
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.runtime
