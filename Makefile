# Everything sets itself up: a virtual environment in .venv with the pins of constraints.txt.
#   make demo    the whole way on the simulated beamline: pictures and one JSON object
#   make test    the tests          make lint / types / check    what CI runs before them
#   make test-services   what runs clusters, EPICS, databases, browsers and notebooks (Debian: see .ci/run)
#   make test-hardware   what needs a GPU: kernels against float64, sweeps, every engine
#   make bench   beside the peers, which get an environment of their own: one hour
#   make docs    the documentation as a site, in site/
#   make model   the shipped network, trained anew from simulated frames
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TESTED := $(VENV)/.installed-for-tests

.PHONY: demo test test-services test-hardware lint types docs check bench model clean

demo: $(STAMP)
	$(BIN)/ptycho-bluesky demo --output demo-output --json

# Three at once on two cores: much of the time is spent in waiting for processes.
test: $(TESTED)
	$(BIN)/python -m pytest -n 3 --dist loadgroup -m "not services"

test-services: $(TESTED)
	$(BIN)/python -m pytest -n 3 --dist loadgroup -m services

test-hardware: $(TESTED)
	$(BIN)/python -m pytest -m hardware tests/hardware tests/unit/reconstruction/kernels

lint: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(TESTED)
	$(BIN)/mypy

docs: $(TESTED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

check: lint types test-services test

bench: $(TESTED)
	$(BIN)/ptycho-bluesky bench run_engine
	$(BIN)/ptycho-bluesky bench reconstruction --picture bench-reconstruction.png --json

# The shipped network, bit for bit on the same kind of processor (10 minutes on two cores).
model: $(STAMP)
	$(BIN)/ptycho-bluesky train --steps 2600 --validate-every 200 --seed 0 --threads 1 --bfloat16 --device cpu \
	  --output ptycho_bluesky/inference/weights/default.safetensors

clean:
	rm -rf $(VENV) demo-output site build dist *.egg-info

# torch first: with it in place nothing else can ask for another (CUDA) build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "ptycho-bluesky needs Python 3.11 or later; give one: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $(STAMP)

# What the tests need besides: the runtimes of the edge, EPICS, the queue server.
$(TESTED): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $(TESTED)
