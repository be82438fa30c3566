# What a newcomer types: make demo, make test. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   ?= .venv
BUDGET ?= 540
RESULTS ?= benchmarks/results
OPS     ?=
SYSTEM  ?=
MIN_PYTHON := import sys; sys.exit(sys.version_info < (3, 11))

py  := $(VENV)/bin/python
gpu  = $(PYTHON) .ci/gpu.py --budget $(BUDGET) --results $(RESULTS) --ops '$(OPS)' --systems '$(SYSTEM)'
say  = printf '\033[1m%s\033[0m\n'
# Bytecode is written by the first import of a module, not of every module of every package at their installation, which is most
# of that, and kept: to write every assert anew is a third of what it takes to collect the tests.
unexport PYTHONDONTWRITEBYTECODE
install := $(py) -m pip --disable-pip-version-check -q install --no-compile
# Tests side by side: as many workers as cores, at most 4 (a worker takes up to 2 GiB). They share the cores, so threads that wait
# must not spin.
workers := -n auto --maxprocesses 4 --dist worksteal
pytest := env OMP_WAIT_POLICY=PASSIVE $(py) -m pytest
deps := $(VENV)/.deps
package := $(VENV)/.package
native_sources := $(shell find csrc -type f) CMakeLists.txt setup.py
native_code := $(shell find csrc tests/emulator -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu')

.PHONY: help setup build test check lint docs demo gpu gpu-again gpu-carry gpu-tests gpu-bench gpu-e2e gpu-sanitize gpu-ncu compile-only fuzz sanitize soak matrix wheel figures clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

$(deps): requirements/build.txt requirements/torch.txt requirements/dev.txt requirements/sample.txt
	@$(PYTHON) -c '$(MIN_PYTHON)' || { echo "longreel needs Python 3.11 or newer; PYTHON=... names one"; exit 1; }
	@$(say) "set-up: a virtual environment in $(VENV) and its pinned packages (a minute or two)"
	@test -x $(py) || $(PYTHON) -m venv $(VENV) || { echo "python's venv is missing (Debian: apt install python3-venv)"; exit 1; }
	@$(install) -r requirements/torch.txt
	@$(install) --require-hashes -r requirements/build.txt
	@$(install) -r requirements/dev.txt
	@$(install) --no-deps -r requirements/sample.txt
	@$(py) -c 'import triton' 2>/dev/null || [ "$$(uname -sm)" != "Linux x86_64" ] || $(install) -r requirements/triton.txt
	@touch $@

$(package): $(deps) pyproject.toml
	@$(say) "set-up: longreel itself, with its native libraries"
	@$(install) --no-build-isolation --no-deps -e .
	@touch $@

build/.native: $(package) $(native_sources)
	@$(say) "build: native libraries (what changed)"
	@$(py) setup.py -q build_ext --inplace
	@mkdir -p build && touch $@

setup: $(package)

build: $(package) build/.native ## set-up, and the native libraries up to date

test: build ## set-up, then every test that needs no GPU
	@$(say) "test: everything that needs no GPU"
	@$(pytest) $(workers) $(ARGS)

check: build ## the inner loop: fast tests and lint
	@$(say) "check: lint"
	@$(MAKE) --no-print-directory lint
	@$(say) "check: fast tests"
	@$(pytest) -m "fast and not slow" $(workers) $(ARGS)

figures: build ## what docs/ and README say of benchmarks/results, made anew: docs/benchmarks.md, docs/figures.md, README's table
	@$(py) benchmarks/tables.py

docs: figures ## ... and docs/ as a site in build/site; a broken link ends it (downloads mkdocs the first time)
	@$(install) -r requirements/site.txt
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict -q

fuzz: build ## 10,000 random layouts against brute force; 2,000 mutated inputs of three seeds
	@LONGREEL_FUZZ=10000 $(py) -m pytest tests/layout/test_random_layouts.py
	@LONGREEL_MUTATIONS=2000 $(py) -m pytest tests/fuzz

sanitize: build ## AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer over the native CPU code
	@$(py) .ci/sanitize.py $(ARGS)

soak: build ## an hour of short runs of every system in one process: does memory, or anything else, grow (ARGS=--minutes=5)
	@$(py) benchmarks/soak.py $(ARGS)

matrix: build ## oldest and newest transformers and torch, oldest triton, each in a folder of its own (downloads; ARGS=--only=triton)
	@$(py) .ci/matrix.py $(ARGS)

wheel: build ## one wheel for every Python of this platform, into dist/, checked with the oldest and the newest torch (downloads)
	@$(install) -r requirements/wheel.txt
	@$(py) .ci/wheel.py $(ARGS)

lint: $(deps) ## ruff, clang-format and mypy
	@$(VENV)/bin/ruff check -q .
	@$(VENV)/bin/ruff format -q --check .
	@$(VENV)/bin/clang-format --dry-run -Werror $(native_code)
	@$(VENV)/bin/mypy --no-error-summary

compile-only: $(package) ## every .cu through nvcc into one _ops.so that CPU torch loads; every Triton kernel ahead of time
	@$(say) "compile-only: CUDA objects in _ops.so, loaded by this torch"
	@$(py) .ci/cuda_build.py
	@$(say) "compile-only: kernels within their register and shared-memory budgets"
	@$(py) -m pytest tests/ops/test_cuda_compile.py tests/ops/test_triton_aot.py

demo: build ## set-up, then an hour of real video on this machine
	@$(say) "demo: one hour of video, 3600 frames, through a whole system with a small language model"
	@$(py) benchmarks/hour.py --cache .cache $(ARGS)
	@$(say) "demo: digit cards in an hour of video, found again by a small model trained for that"
	@$(py) benchmarks/needle/cards_asked.py --cache .cache

gpu: ## on a machine with a CUDA GPU, one visit of nine minutes: roofs, values, times, profiles, tests (RESULTS=DIR BUDGET=seconds OPS=a,b)
	@$(gpu) visit

gpu-again: BUDGET = 360
gpu-again: ## ... a shorter one for what failed there, was not reached, or has changed since
	@$(gpu) again

gpu-carry: $(deps) ## the library for a Hopper card, built here into build/gpu, to be carried to one
	@LONGREEL_CUDA=1 TORCH_CUDA_ARCH_LIST=9.0a $(py) setup.py -q build --build-lib build/gpu

gpu-tests: ## ... the gpu tests alone
	@$(gpu) tests

gpu-bench: ## ... the op benchmarks alone
	@$(gpu) bench

gpu-e2e: ## ... an hour at true size, whole systems (SYSTEM=name; default all)
	@$(gpu) e2e

gpu-sanitize: ## ... compute-sanitizer's four tools over the CUDA C++ kernels at small shapes
	@$(gpu) sanitize

gpu-ncu: ## ... a Nsight Compute profile of the kernels at the true size
	@$(gpu) ncu

clean: ## remove build products and the environment
	rm -rf build dist $(VENV) .cache python/*.egg-info python/longreel/*.so
