# What a person types here. Each target sets up all it needs; only Python 3.11 and make must be there.
PYTHON ?= python3.11
# The MXNet wheel: cpu, cu112, cu117, or none where the machine brings an MXNet of its own.
GPU ?= cpu
ifeq ($(filter $(GPU),cpu cu112 cu117 none),)
$(error GPU=$(GPU): write cpu, cu112, cu117 or none)
endif
WHEEL = $(subst mxnet-cpu,mxnet,mxnet-$(GPU))
EXTRAS = $(if $(filter none,$(GPU)),dev,$(GPU)$(COMMA)dev)
COMMA = ,
CAMVID ?= ../shared/data/camvid
BIN = .venv/bin

.PHONY: install demo test lint bench bench-peers

install: .venv/installed-$(GPU)

# One stamp for each wheel: another GPU= takes the first wheel out before it installs the second.
.venv/installed-$(GPU): pyproject.toml
	$(PYTHON) -m venv $(if $(filter none,$(GPU)),--system-site-packages) .venv
	$(BIN)/pip uninstall --quiet --yes $(filter-out $(WHEEL),mxnet mxnet-cu112 mxnet-cu117)
	rm -f .venv/installed*
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
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

# PyTorch and Albumentations, for `make bench` to compare with, in an environment of their own.
bench-peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet 'torch>=2,<3' 'albumentations>=2,<3' 'numpy<2' 'opencv-python-headless<4.13'

# Each writes bench/NAME.json; the ratios of all of them come at the end.
bench: install
	$(BIN)/python scripts/bench_step.py --profile --json bench/step.json
	$(BIN)/python scripts/bench_memory.py --json bench/memory.json
	$(BIN)/python scripts/bench_export.py --json bench/export.json
	$(BIN)/python scripts/bench_data.py $(CAMVID) --json bench/data.json
	$(BIN)/python scripts/bench_loop.py $(CAMVID) --json bench/loop.json
	$(BIN)/python scripts/bench_eval.py $(CAMVID) --json bench/eval.json
	$(BIN)/python scripts/bench_pixels.py --json bench/pixels.json
	$(BIN)/python scripts/bench_losses.py --json bench/losses.json
	$(BIN)/python scripts/bench_startup.py $(CAMVID) --json bench/startup.json
	$(BIN)/python scripts/bench_scale.py --json bench/scale.json --plot bench/scale.svg
	$(BIN)/python scripts/bench_ranks.py --json bench/ranks.json
	$(BIN)/python scripts/ratios.py bench/*.json
