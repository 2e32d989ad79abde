# Everything a user runs. `make quickstart` and `make test` need only Python 3.11+ on Linux.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-papers lint test-gpu bench bench-gpu clean

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: $(VENV)/installed
	$(BIN)/torchrun --standalone --nproc-per-node 2 -m elth_dist.train --config configs/quickstart.yaml

# tests mostly wait for processes that they start: more workers than cores
WORKERS ?= 4

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS)

# every sweep of the papers at the smallest size, with its report; PAPERS=FOLDER keeps them
PAPERS ?=

test-papers: $(VENV)/installed
	$(BIN)/python launch/papers.py $(if $(PAPERS),--dir $(PAPERS))

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# with whatever python has torch and a GPU: make test-gpu PYTHON=python3
test-gpu:
	$(PYTHON) -m pytest tests/gpu -m gpu

# figures of this machine beside the peers', each a ratio in one run; with a GPU: make bench-gpu PYTHON=python3
bench: $(VENV)/installed
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/masked_step.py
	$(BIN)/python benchmarks/training.py

bench-gpu:
	PYTHONPATH=. $(PYTHON) benchmarks/selection.py
	PYTHONPATH=. $(PYTHON) benchmarks/masked_step.py
	for arch in resnet18 resnet26 resnet34; do PYTHONPATH=. $(PYTHON) benchmarks/training.py --arch $$arch || exit; done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
