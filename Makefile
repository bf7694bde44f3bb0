# What a person types here. Each target sets up all it needs; only Python 3.11 and make must be there.
PYTHON ?= python3.11
MXNET ?= cpu
CAMVID ?= ../shared/data/camvid
BIN = .venv/bin

.PHONY: install demo test lint bench

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[$(MXNET),dev]'
	touch $@

demo: install
	$(BIN)/segtrain demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

bench: install
	$(BIN)/python scripts/bench_step.py
	$(BIN)/python scripts/bench_export.py
	$(BIN)/python scripts/bench_data.py $(CAMVID) --workers 2
	$(BIN)/python scripts/bench_eval.py $(CAMVID)
