# make install | faces | test | test-extras | lint | demo | learn | gallery | docs | browser | bench | clean. Everything
# goes into .venv, .venv-faces, .venv-extras and out/.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || echo 2)
# Processes that share the tests, file by file. Each computes with one thread: the tensors of most tests are small, and
# tests of several threads set the number of threads themselves.
WORKERS ?= $(shell [ $(CORES) -lt 4 ] && echo $(CORES) || echo 4)
# The stamp contains a hash of the requirements, so that only changed requirements are installed again.
HASH := $(shell cat requirements.txt requirements-dev.txt | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.installed-$(HASH)

DEMO := out/demo
DEMO_KIMG ?= 1.5

.PHONY: help install faces lint format test test-extras demo demo-clip learn gallery docs browser bench clean
.DEFAULT_GOAL := help

help:
	@echo "make install   create $(VENV) and install the requirements"
	@echo "make faces     create $(FACES_VENV) with a face detector for dataset_tool --faces"
	@echo "make test      spelling, style, types and all tests"
	@echo "make test-extras  create $(EXTRAS_VENV) with trackers, Gradio, ONNX and MkDocs and run the tests that need them"
	@echo "make lint      spelling, style and types alone; make format fixes style where it can"
	@echo "make demo      render assets/heads, then train a small model from scratch for some minutes and render it"
	@echo "make demo-clip train on a downloaded clip of real footage instead, and render"
	@echo "make learn     train the small model and its ablations on synthetic heads and measure them (docs/learning.md)"
	@echo "make gallery   render the images and videos of docs/gallery.md, with assets/heads or PKL=network-snapshot.pt"
	@echo "make docs      write the documentation as a site to out/site"
	@echo "make browser   install Chromium for the tests of the viewer (Debian)"
	@echo "make bench     benchmark rendering, training, data loading and metrics (docs/performance.md)"
	@echo "make clean     remove caches, what pip install built, and out/, the results of demo, learn and bench"

install: $(STAMP)

$(STAMP):
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	rm -f $(VENV)/.installed-*
	touch $@

# MediaPipe 0.10.21 contains its models, but needs NumPy 1 and Python 3.10 to 3.12, hence an environment of its own. The
# program starts it as a process.
FACES_VENV := .venv-faces
FACES_PACKAGE := mediapipe==0.10.21
FACES_STAMP := $(FACES_VENV)/.installed-$(subst =,-,$(FACES_PACKAGE))
FACES_PYTHON ?= $(firstword $(foreach v,3.12 3.11 3.10,$(shell \
	python$(v) -c 'print("python$(v)")' 2>/dev/null)) $(PYTHON))

faces: $(FACES_STAMP)

$(FACES_STAMP):
	@$(FACES_PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
	    echo "$(FACES_PACKAGE) needs Python 3.10 to 3.12: make faces FACES_PYTHON=python3.12" >&2; exit 1; }
	$(FACES_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(FACES_PYTHON) -m venv $(FACES_VENV)
	$(FACES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(FACES_PACKAGE)
	touch $@

lint: $(STAMP)
	$(BIN)/codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

# Optional extras that are too large for .venv, in an environment of their own. As a second copy of PyTorch would take
# gigabytes, a .pth file lets the environment see the packages of .venv after its own. pip counts those as installed; if
# an extra needs another version of one, that version goes into .venv-extras and .venv stays unchanged. So extras are
# tested with the PyTorch of the other tests, not with one that pip would choose for them.
EXTRAS_VENV := .venv-extras
EXTRAS_BIN := $(EXTRAS_VENV)/bin
EXTRAS_HASH := $(HASH)-$(shell cat requirements-extras.txt docs/requirements.txt | cksum | cut -d' ' -f1)
EXTRAS_STAMP := $(EXTRAS_VENV)/.installed-$(EXTRAS_HASH)
DOCS_STAMP := $(EXTRAS_VENV)/.docs-installed-$(EXTRAS_HASH)
# The tests that are skipped in .venv.
EXTRAS_TESTS := tests/training/monitoring/test_trackers.py tests/training/export tests/renderer/app \
    tests/training/checkpoints/test_sources.py::test_gdown_takes_what_it_is_given \
    tests/training/launch/test_slurm.py::test_the_plugin_takes_every_setting tests/test_docs_site.py
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))

$(EXTRAS_VENV)/.made: | $(STAMP)
	$(BIN)/python -m venv $(EXTRAS_VENV)
	$(BIN)/python -c '$(PURELIB)' > "$$($(EXTRAS_BIN)/python -c '$(PURELIB)')/venv.pth"
	touch $@

$(EXTRAS_STAMP): | $(EXTRAS_VENV)/.made
	$(EXTRAS_BIN)/python -m pip install --quiet --disable-pip-version-check \
	    -r requirements.txt -r requirements-dev.txt -r requirements-extras.txt
	rm -f $(EXTRAS_VENV)/.installed-*
	touch $@

test-extras: $(EXTRAS_STAMP)
	OMP_NUM_THREADS=1 $(EXTRAS_BIN)/python -m pytest $(EXTRAS_TESTS)

# Only the packages of docs/requirements.txt. The build is as strict as its test: a dead link is an error.
$(DOCS_STAMP): | $(EXTRAS_VENV)/.made
	$(EXTRAS_BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	rm -f $(EXTRAS_VENV)/.docs-installed-*
	touch $@

docs: $(DOCS_STAMP)
	$(EXTRAS_BIN)/python -m mkdocs build --strict
	@echo "Open out/site/index.html; its search needs a server: $(BIN)/python -m http.server --directory out/site"

# A training this short has its own settings (docs/trials.md#the-settings-of-make-demo): it begins at 16×16 pixels and
# grows to 32×32; a larger distortion loss, and no path length regularisation, carve heads out of the prior's ball in
# half the time; the density ramp ends in time; the learning rate is constant; half the channels train faster.
DEMO_RAMP := model.generator.foreground.density_ramp
DEMO_SPEC := spec.distortion_weight=0.5 spec.g_reg_interval=null spec.fmaps=0.03125 spec.lrate_decay=null \
    $(DEMO_RAMP).start=1 $(DEMO_RAMP).end=5
DEMO_16 := kimg=5 resolution=16 model.generator.rendering.resolution=8 model.generator.upsampler.channel_base=0.015625
DEMO_32 := kimg=$(DEMO_KIMG) spec.lrate=0.005 spec.ema=0.3

# First renders the model of the README's picture, then trains one from scratch. Can be resumed: data and downloads are
# kept, trainings continue from their last snapshot (or end at once; DEMO_KIMG=24 makes the second one longer), and the
# videos are rendered again.
demo: $(STAMP)
	$(call render,assets/heads,$(DEMO)/pretrained)
	$(BIN)/python -m training.synthetic $(DEMO)/heads/data --videos 192 --resolution 32
	$(call train,$(DEMO)/heads)
	$(call render,$(call newest_run,$(DEMO)/heads/32),$(DEMO)/heads)

# One camera films a man who turns his head by less than the range of the small model's cameras: half of it. His head is
# as large in the frame as a synthetic one, so the density prior stays.
CLIP_CAMERA := model.generator.camera.yaw=[-0.3,0.3]

demo-clip: $(STAMP)
	@mkdir -p $(DEMO)/clip
	$(BIN)/python -m training.dataset_tool.demo_clip $(DEMO)/clip/data --resolution 32 --nframes 16 --clip-step 1
	$(call train,$(DEMO)/clip,'$(CLIP_CAMERA)')
	$(call render,$(call newest_run,$(DEMO)/clip/32),$(DEMO)/clip)

# $(1): folder of runs. Its newest run, or nothing, found by the shell.
newest_run = "$$(ls -t $(1)/*/latest-network-snapshot.* 2>/dev/null | head -n 1 | xargs -r dirname)"

# $(1): folder with data, $(2): further options of the trainings.
define train
@run=$(call newest_run,$(1)/16); set -x; \
	$(BIN)/python run_train.py outdir=$(1)/16 data=$(1)/data model=stylenerf_small spec=small \
	    $(DEMO_SPEC) $(DEMO_16) $(2) $${run:+resume_run=$$run}
@from=resume=$(call newest_run,$(1)/16); run=$(call newest_run,$(1)/32); set -x; \
	$(BIN)/python run_train.py outdir=$(1)/32 data=$(1)/data model=stylenerf_small spec=small \
	    $(DEMO_SPEC) $(DEMO_32) $(2) $${run:+resume_run=}$${run:-$$from}
endef

# $(1): model, $(2): folder.
define render
@set -x; \
	$(BIN)/python generate.py --outdir $(2)/videos --network_pkl $(1) --seeds 0-3 \
	    --render_program rotation_camera_yaw,front && \
	$(BIN)/python generate.py --outdir $(2)/views --network_pkl $(1) --seeds 0-3 --time_steps 1 --n_steps 8 \
	    --outputs rgb,depth,normal --geometry_resolution 64 --save_frames
@$(BIN)/python -m renderer.contact_sheet $(2)/views.png $$(ls -d $(2)/views/*/) --columns 8 --scale 2
@echo "One time step of four contents from eight cameras, with depth and normals: $(2)/views.png"
@echo "The videos are in $(2)/videos."
endef

# Synthetic heads, the small model with three seeds, its ablations, and their evaluation. Finished parts are kept.
LEARN := out/learn
LEARN_KIMG ?= 24

learn: $(STAMP)
	$(BIN)/python -m benchmarks.learning $(LEARN) --kimg $(LEARN_KIMG)

# Runs the commands of docs/gallery.md.
gallery: $(STAMP)
	rm -rf out/gallery
	sed -n '/^```bash$$/,/^```$$/{/^```/!p}' docs/gallery.md | PATH="$(CURDIR)/$(BIN):$$PATH" PKL="$(or $(PKL),assets/heads)" bash -eux

# Without Chromium the tests of the viewer are skipped.
BROWSER_PACKAGES := chromium chromium-driver

browser:
	@if command -v chromium >/dev/null; then echo "Chromium is installed: $$(command -v chromium)"; exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	    echo "There is no apt-get here: install Chromium so that 'chromium' can be called." >&2; exit 1; fi; \
	if [ $$(id -u) -eq 0 ]; then as_root=; elif command -v sudo >/dev/null; then as_root=sudo; else \
	    echo "This needs root: apt-get install $(BROWSER_PACKAGES)" >&2; exit 1; fi; \
	apt="$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300"; \
	$$apt update || echo "Some package lists could not be fetched; the existing ones are used." >&2; \
	$$apt install -y --no-install-recommends $(BROWSER_PACKAGES) && command -v chromium >/dev/null || { \
	    echo "Chromium could not be installed (apt-get says above why); the tests of the viewer need it." >&2; exit 1; }

# Needs an otherwise idle machine for meaningful figures. BENCH="--only rendering --quick" selects parts.
BENCH ?=

bench: $(STAMP)
	mkdir -p out
	$(BIN)/python -m benchmarks --json out/bench.json $(BENCH)

clean:
	rm -rf out build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)*' -prune -exec rm -rf {} +
