# make install | test | lint | demo | clean. Everything goes into .venv and out/.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || echo 2)
# Small tensors gain nothing from many threads; more than four only fight each other.
THREADS ?= $(shell [ $(CORES) -lt 4 ] && echo $(CORES) || echo 4)
# The stamp carries a hash of what is to be installed, so that a changed list, and only that, installs again.
HASH := $(shell cat requirements.txt requirements-dev.txt | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.installed-$(HASH)

DEMO := out/demo
DEMO_KIMG ?= 4

.PHONY: help install lint format test demo clean
.DEFAULT_GOAL := help

help:
	@echo "make install   create $(VENV) and install what the project needs"
	@echo "make test      style checks and all tests"
	@echo "make lint      style checks alone; make format repairs what can be repaired"
	@echo "make demo      train a small model for a few minutes and render a video"
	@echo "make clean     remove caches and what the demo wrote"

install: $(STAMP)

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	rm -f $(VENV)/.installed-*
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest

# Run it again to go on where it was: data and download are kept, training continues from its last snapshot (at once, if
# it was complete; DEMO_KIMG=10 makes it longer), the videos are rendered anew.
demo: $(STAMP)
	@mkdir -p $(DEMO)
	$(BIN)/python -m training.demo_clip $(DEMO)/data --resolution 32 --nframes 16 --clip-step 1
	@run=$$(ls -t $(DEMO)/runs/*/latest-network-snapshot.pkl 2>/dev/null | head -n 1); run=$${run%/*}; set -x; \
	$(BIN)/python run_train.py outdir=$(DEMO)/runs data=$(DEMO)/data model=stylenerf_small spec=small \
	    diffaugment=translation kimg=$(DEMO_KIMG) $${run:+resume_run=$$run}
	@run=$$(ls -t $(DEMO)/runs/*/latest-network-snapshot.pkl | head -n 1); run=$${run%/*}; set -x; \
	$(BIN)/python generate.py --outdir $(DEMO)/videos --network_pkl $$run --seeds 0-3 \
	    --render_program rotation_camera_yaw,front
	@echo "The videos are in $(DEMO)/videos, the training run is in $(DEMO)/runs."

clean:
	rm -rf out .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
