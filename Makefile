# Carousel: everything a developer runs. `make` alone lists the targets.
#
#   PYTHON=python3.12   the interpreter that makes .venv (3.11 or newer; found by itself otherwise)
#   ARGS='-k wire -x'   handed on to the command of test, bench, demo and serve

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVING := $(VENV)/.serving
PROTOS_VENV := .venv-protos
PROTOS_STAMP := $(PROTOS_VENV)/.installed
FLOOR_VENV := .venv-floor
IMAGE := build/image.binpb
PYTHON_FILES := client server models protos tests $(wildcard bench docs examples)
ARGS ?=

# A name on PATH can be a shim that fails, so each candidate is run before it is believed.
RUNS := import sys, venv; raise SystemExit(sys.version_info < (3, 11))
FOUND = $(firstword $(foreach name,python3.12 python3.11 python3.13 python3,$(shell \
	$(name) -c '$(RUNS)' >/dev/null 2>&1 && echo $(name))))
PYTHON ?= $(FOUND)

# One thread for each operation: the suite runs several servers beside each other on few cores.
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo serve test typescript originals chaos cluster floor simulate sanitize fuzz mutants check measure bench gpu protos baseline clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

comma := ,

# Of pip's output: what is downloaded, with its size, and when that is over.
PIP_LINES := /^ *Downloading/ && !/metadata/ { split($$2, part, "-"); print "  " part[1], part[2], $$3, $$4 } \
	/^Installing/ { print "  unpacking", NF - 3, "packages …" } { fflush() }

# $(call installed,EXTRAS): installs Carousel with some extras into .venv and shows the progress.
define installed
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: no Python 3.11 or newer was found; install one, or name it: make install PYTHON=…" >&2; \
		exit 1; fi
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "make: $(PYTHON) cannot make virtual environments: ensurepip is missing." >&2; \
		echo "  fix: apt-get install python$$version-venv" >&2; exit 1; }
	@echo "make: installing Carousel and what it needs ($(1)) into $(VENV)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
		-c constraints.txt -e '.[$(1)]' | awk '$(PIP_LINES)'
	@echo "make: $(VENV) is ready, $$(du -sh $(VENV) | cut -f1)"
endef

install: $(STAMP) ## Make .venv and install Carousel with everything that developing it needs

$(STAMP): pyproject.toml constraints.txt
	$(call installed,dev)
	@touch $@ $(SERVING)

# What serving needs, without the developers' tools: half the size and half the time.
$(SERVING): pyproject.toml constraints.txt
	$(call installed,server$(comma)redis)
	@touch $@

demo: $(SERVING) ## Start a server on the shipped models and show many clients at work on it
	$(BIN)/carousel demo $(ARGS)

serve: $(SERVING) ## Serve the shipped models until Ctrl-C
	@$(BIN)/carousel serve --models models/zoo $(ARGS)

# Tests of streams, which also run over WebSocket.
ATTACHED := $(addprefix tests/wire/test_,attach.py hostile.py resets.py slow_readers.py states.py tenants.py)
test: $(STAMP) ## Run the whole test suite
	$(if $(ARGS),,$(BIN)/python -m pytest tests/wire --linked -n 2 --dist loadfile -q)
	$(if $(ARGS),,$(BIN)/python -m pytest tests/wire --transport native -n 2 --dist loadfile -q)
	$(if $(ARGS),,$(BIN)/python -m pytest $(ATTACHED) --transport websocket -n 2 --dist loadfile -q)
	$(if $(ARGS),,$(MAKE) typescript)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

TYPESCRIPT := npm --prefix client/typescript
typescript: ## Check and test the TypeScript client; skipped by name without npm and Node 20.3
	@if ! node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b > 2) ? 0 : 1)' \
		2>/dev/null || ! command -v npm >/dev/null; then \
		echo "make typescript: SKIPPED: npm and Node 20.3 or newer are not here"; exit 0; \
	else \
		set -x; \
		$(TYPESCRIPT) ci --no-audit --no-fund --loglevel error; \
		$(TYPESCRIPT) run check; \
		$(TYPESCRIPT) test; \
	fi

originals: $(STAMP) ## Compare with the original models and libraries, with an hour of sound
	CAROUSEL_SOUND_S=3600 $(BIN)/python -m pytest tests/acceptance $(ARGS)

chaos: $(STAMP) ## Kill, stop, cut off and fill up real processes; ARGS=--report writes bench/results/chaos.*
	timeout 900 $(BIN)/python -m pytest tests/chaos --timeout 150 $(ARGS)

cluster: export PYTHONPATH := .:tests
cluster: $(STAMP) ## Run replicas, store and clients on hosts of their own under faults; ARGS='--seed 7 --write'
	$(BIN)/python -m tests.cluster $(ARGS) || test $$? = 3

# The SDK alone, in environments of its own: with the oldest versions that it promises, then with the newest
# protobuf before 6, as TensorFlow up to 2.19 wants it.
floor: ## Test the SDK with the oldest libraries that it works with
	[ -n "$(PYTHON)" ] || { echo "make: no Python 3.11 or newer was found" >&2; exit 1; }
	rm -rf $(FLOOR_VENV)
	$(PYTHON) -m venv $(FLOOR_VENV)
	$(FLOOR_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c client/python/floor.txt -e .
	$(FLOOR_VENV)/bin/python client/python/check_floor.py
	$(FLOOR_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
		grpcio grpcio-status grpcio-health-checking 'protobuf<6'
	$(FLOOR_VENV)/bin/python client/python/check_floor.py

simulate: $(STAMP) ## Run the protocol through random faults by the thousand; ARGS='--seed 7' shows one
	@$(BIN)/python -m tests.simulation.runner $(ARGS)

SANITIZED := $(addprefix tests/wire/test_,attach.py listening.py floods.py resets.py slow_readers.py hostile.py unary.py)
sanitize fuzz: export PYTHONPATH := .:tests
sanitize: $(STAMP) ## Run the native transport's tests under the sanitizers of addresses and of threads
	for kind in address thread; do \
		run="$(BIN)/python -m tests.support.sanitizers $$kind -m pytest -q -s -p no:cacheprovider --timeout 300"; \
		$$run $(addprefix tests/wire/test_native_,transport.py attacks.py closes.py) $(ARGS); \
		$$run --transport native $(SANITIZED) $(ARGS); \
	done

fuzz: $(STAMP) ## Send broken conversations and requests to the native transport; ARGS='--seconds 3600 --seed 7'
	for part in transport readers; do \
		$(BIN)/python -m tests.support.sanitizers address -m tests.fuzz.$$part --seconds 600 $(ARGS); \
	done

mutants: $(STAMP) ## Take out one rule after the other, and see that the simulation notices
	@$(BIN)/python -m tests.simulation.mutants $(ARGS)

check: $(STAMP) $(PROTOS_STAMP) ## Format, lint, types, import arrows, sizes, prose, stubs, protocol, generated files
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/mypy
	$(BIN)/mypy -p bench -p models.recipes
	$(BIN)/mypy examples
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy -p tests.checks
	$(BIN)/python -m tests.checks
	@mkdir -p $(dir $(IMAGE))
	$(PROTOS_VENV)/bin/python protos/generate.py --check --image $(IMAGE)
	$(BIN)/buf lint $(IMAGE) --config protos/buf.yaml --path carousel_protos
	$(BIN)/buf breaking $(IMAGE) --against protos/baseline.binpb --config protos/buf.yaml \
		--path carousel_protos
	@for script in docs/generate.py client/python/generate_errors.py client/python/generate_sync.py \
		client/python/generate_vectors.py client/typescript/generate_errors.py; do \
		if [ -f $$script ]; then echo "$$script --check"; $(BIN)/python $$script --check; fi; done

measure: $(STAMP) ## Print how simple the code and the prose are; ARGS='--before TREE' compares
	@$(BIN)/python -m tests.checks.measures $(ARGS)

bench: $(STAMP) ## Measure every published figure and write bench/results
	$(BIN)/python -m bench $(ARGS)

# Runs from the tree with an interpreter whose torch knows the GPU, so nothing is installed:
# `make gpu PYTHON=python3`. Without PYTHON it is the environment's own, if there is one.
GPU_PYTHON = $(if $(filter command line environment,$(origin PYTHON)),$(PYTHON),$(or \
	$(wildcard $(BIN)/python),$(PYTHON)))
gpu: export PYTHONPATH := client/python:server:models:protos
gpu: ## Run the GPU tests and the bench on a CUDA device; skipped by name without one
	@if ! $(GPU_PYTHON) -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; then \
		echo "make gpu: SKIPPED: $(GPU_PYTHON) sees no CUDA device"; exit 0; \
	else \
		set -x; \
		$(GPU_PYTHON) -m pytest -m gpu tests/gpu; \
		$(GPU_PYTHON) -m bench step --device cuda --seconds 0.1 --rounds 3 $(ARGS); \
		for kernel in reference cuda; do \
			for figure in foundation blocks generation; do \
				$(GPU_PYTHON) -m bench $$figure --device cuda --kernel $$kernel $(ARGS); \
			done; \
		done; \
	fi

protos: $(PROTOS_STAMP) ## Make the committed protocol stubs again
	$(PROTOS_VENV)/bin/python protos/generate.py

$(PROTOS_STAMP): protos/requirements.txt
	@[ -n "$(PYTHON)" ] || { echo "make: no Python 3.11 or newer was found" >&2; exit 1; }
	[ -x $(PROTOS_VENV)/bin/python ] || $(PYTHON) -m venv $(PROTOS_VENV)
	$(PROTOS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r protos/requirements.txt
	@touch $@

baseline: $(STAMP) $(PROTOS_STAMP) ## At a release: make today's protocol the one not to break
	@mkdir -p $(dir $(IMAGE))
	$(PROTOS_VENV)/bin/python protos/generate.py --check --image $(IMAGE)
	$(BIN)/buf build $(IMAGE) --exclude-source-info -o protos/baseline.binpb

clean: ## Remove what was built and cached (not the environments)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
