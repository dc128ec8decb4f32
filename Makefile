# `make stability` answers the question on the README's first line; `make test` is what CI runs.
# Both make .venv on their first run, and need no network after it.

PYTHON ?= python3
JOBS ?= 2
WORKERS ?= 3
DEVICE ?= cuda

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOP := $(VENV)/.installed-dev

# Installed uncompiled (below), and imported by many processes of the tests: where the environment
# forbids to write bytecode, each of them would compile all of torch again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install stability test pytest processors test-long test-processors test-versions \
	lint docs bench gpu clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Make .venv with gradlab

stability: $(INSTALLED)  ## The nano LR stability test: three architectures, three seeds, minutes
	$(BIN)/gradlab run-stability --size nano --lr-step 2e-4 --seeds 3 --jobs $(JOBS) \
		--out studies/nano --resume

test: $(DEVELOP)  ## Everything CI checks: lint, and beside it the tests that need no GPU
	$(MAKE) --no-print-directory --jobs=2 lint pytest processors docs

# One thread a process, so that sums have one order; and a process more than there are cores, as
# tests wait for other processes, signals and a browser. Each begins with a share of the files and
# takes of the others' when it is done: few are divided, of which each would have to make what the
# tests of a file share. The bytecode that none has yet is compiled once before they all import it.
pytest: export OMP_NUM_THREADS = 1
pytest: $(DEVELOP)
	@$(BIN)/python -m pytest -m 'not gpu and not long' --collect-only -qq >/dev/null || true
	$(BIN)/python -m pytest -m 'not gpu and not long' --numprocesses $(WORKERS) --dist worksteal

# What numbers depend on, as processors without AVX-512, or without any wide vectors, compute it:
# products, sums and extremes, and the losses of a run. (Which site is named for what is not finite
# does not depend on the order of sums.)
NUMBERS := $(addprefix tests/,precision training/test_loop.py training/test_step.py \
	$(addprefix probes/headroom/test_,each_look.py extremes.py probe.py) \
	$(addprefix probes/test_,gradient_statistics.py right_values.py) \
	project/test_versions.py)
DEFAULT := ATEN_CPU_CAPABILITY=default
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

processors test-processors: export OMP_NUM_THREADS = 1
processors: $(DEVELOP)
	$(DEFAULT) $(BIN)/python -m pytest --quiet $(NUMBERS)
	$(AVX2) $(BIN)/python -m pytest --quiet $(NUMBERS)

test-processors: $(DEVELOP)  ## All tests, with torch told to do without AVX-512, and without AVX2
	$(DEFAULT) $(BIN)/python -m pytest -m 'not gpu and not long' --numprocesses $(WORKERS)
	$(AVX2) $(BIN)/python -m pytest -m 'not gpu and not long' --numprocesses $(WORKERS)

test-versions: $(DEVELOP)  ## All tests with the lowest and the newest dependencies, on each Python
	$(BIN)/python tests/versions/run.py

test-long: export OMP_NUM_THREADS = 1
test-long: $(DEVELOP)  ## The tests that CI has no time for
	$(BIN)/python -m pytest -m long --numprocesses $(WORKERS)

lint: $(DEVELOP)  ## Formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(DEVELOP)  ## A page a module from its docstrings, in docs/api
	$(BIN)/python -W error docs/api.py

bench: export OMP_NUM_THREADS = 1
bench: $(INSTALLED)  ## What FP16 emulation and gradlab's own step cost, as ratios
	$(BIN)/python -m benchmarks.emulation
	$(BIN)/python benchmarks/training_step.py

gpu: $(DEVELOP)  ## What needs a CUDA card, in 8 minutes at most; DEVICE=cpu tries it at a tiny size
	$(BIN)/python -m benchmarks.gpu --device $(DEVICE)

clean:  ## Remove .venv, caches and build outputs; studies and runs stay
	rm -rf $(VENV) build dist docs/api *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The pip that Python 3.11 brings takes three times as long as today's to choose the versions.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "gradlab needs Python 3.11 or newer, which $(PYTHON) is not." \
			"Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	-$@ -m pip install --quiet --no-compile --upgrade pip

# Stamps are written last, so that an installation that was cut short is begun again.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --editable . --constraint constraints.txt
	touch $@

# What the tests need beside: the test tools, and the libraries that gradlab works with. Most of
# those libraries' modules are never imported: compiling them all would take longer than the rest.
$(DEVELOP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --no-compile --editable '.[dev]' --constraint constraints.txt
	touch $(INSTALLED) $@
