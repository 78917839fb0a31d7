# `make demo` and `make test` on a bare machine with Python 3.11 or 3.12, g++ and make. Each does only what is left.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
# One thread per rank: the two ranks of the demo share a laptop's cores. They leave GPUs alone: two would be needed.
export OMP_NUM_THREADS ?= 1
ON_CPU := CUDA_VISIBLE_DEVICES= DS_ACCELERATOR=cpu

.PHONY: setup demo test test-slow lint clean

setup: .venv/installed .venv/ops

.venv/installed: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Python 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}; use make PYTHON=/path/to/python3.11") if v not in ((3, 11), (3, 12)) else None'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@# torch first, as constraints.txt pins it: pip then takes a CPU wheel where it finds one
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

.venv/ops: .venv/installed ups_scale/engine/ops.py
	$(BIN)/python -m ups_scale.engine.ops
	@touch $@

demo: setup
	@# families are drawn with p ∝ n^0.7: those that are harder to learn have more
	$(BIN)/python tools/generate.py --recipe recipes/data/demo.json --shard
	$(ON_CPU) $(BIN)/deepspeed --log_level warning --num_accelerators 2 launch/pretrain.py --recipe recipes/demo.json
	$(BIN)/python tools/evaluate.py --checkpoint $$($(BIN)/python launch/pretrain.py --recipe recipes/demo.json --where) --suite small

test: setup
	@# a file at a time on each of two cores; those that start ranks or measure time have the machine to themselves
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/unit tests/recipes
	$(BIN)/python -m pytest -q tests/distributed tests/faults tests/golden tests/published

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv data/demo runs champions .pytest_cache .mypy_cache .ruff_cache .hypothesis
