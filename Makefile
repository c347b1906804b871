# The commands a person runs; CI runs the same (.ci/run). `make help` lists them.
#
# Everything lives in .venv and build: nothing is installed elsewhere. cmake and ninja come from PyPI. The package is installed
# as a user would (a wheel, not a link), so what is tested is what is shipped. Stamp files make a repeated call quick.

MAKEFLAGS += --no-builtin-rules
unexport MAKEFLAGS # ninja would look for the jobserver of `make -j`, which recipes do not inherit
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-slow pytest native-test check instructions instructions-renew lint format sanitize race check-arm bench image lock clean

# A user without a home of their own (a container's numeric uid) still needs somewhere for pip's and the tools' caches.
ifneq ($(shell test -n "$$HOME" && test -d "$$HOME" && test -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/build/home
$(shell mkdir -p build/home)
endif

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
JOBS := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

PYTHON_SOURCES := $(shell find server -name '*.py' -o -path 'server/tritserve/demo/checkpoint/*' -type f -o -path 'server/tritserve/web/*' -type f)
NATIVE_SOURCES := $(shell find native -type f)
NATIVE_TESTS := $(shell find tests/native -type f 2>/dev/null) $(shell find benchmarks -name '*.c' 2>/dev/null)
C_FILES := $(filter %.c %.h %.inc,$(NATIVE_SOURCES) $(NATIVE_TESTS))

# read-toml,TABLE,KEY: the strings of a list in pyproject.toml, one per line
read-toml = $(PY) -c 'import functools, tomllib; \
	table = functools.reduce(dict.get, "$(1)".split("/"), tomllib.load(open("pyproject.toml", "rb"))); \
	print("\n".join(table["$(2)"]))'

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' Makefile | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

serve: $(VENV)/.installed ## serve the embedded demo model on 127.0.0.1:8000
	@$(PY) -m tritserve

test: native-test pytest ## build everything and pass every test

test-slow: $(VENV)/.installed $(VENV)/.dev ## the tests left out of `make test`: 2B4T's shape (2.4 GB of disk), kill storms; ten minutes
	@$(PY) -m pytest -m slow

check: lint sanitize test instructions ## what CI runs: style, types, imports, sanitizers, every test, then the instruction counts

# --- the environment ------------------------------------------------------------------------------------------------

$(VENV)/.created: pyproject.toml .ci/find-python
	@python=$$(sh .ci/find-python) && { test -x $(PY) || "$$python" -m venv $(VENV); }
	@$(call read-toml,build-system,requires) > $(VENV)/build-requires.txt
	@$(PIP) -r $(VENV)/build-requires.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(PYTHON_SOURCES) $(NATIVE_SOURCES)
	@$(PIP) --no-build-isolation .
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml | $(VENV)/.installed
	@$(call read-toml,project/optional-dependencies,dev) > $(VENV)/dev-requires.txt
	@$(PIP) -r $(VENV)/dev-requires.txt
	@touch $@

# --- tests ----------------------------------------------------------------------------------------------------------

pytest: $(VENV)/.installed $(VENV)/.dev
	@$(PY) -m pytest

native-test: build/test/.built
	@cd build/test && ../../$(VENV)/bin/ctest --output-on-failure -j $(JOBS)

build/test/.built: $(VENV)/.created $(NATIVE_SOURCES) $(NATIVE_TESTS)
	@$(call configure,build/test,-DCMAKE_BUILD_TYPE=Release)
	@$(VENV)/bin/cmake --build build/test -- --quiet
	@touch $@

# configure,FOLDER,OPTIONS
configure = $(VENV)/bin/cmake -S native -B $(1) -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(VENV)/bin/ninja" -DTRIT_BUILD_TESTS=ON $(2) > /dev/null

COUNT := $(PY) -m benchmarks.instructions --driver build/test/step_driver
instructions: build/test/.built $(VENV)/.installed ## compare the instructions of the demo's step with the committed counts (valgrind)
	@$(COUNT)

instructions-renew: build/test/.built $(VENV)/.installed
	@$(COUNT) --renew

# --- checks ---------------------------------------------------------------------------------------------------------

lint: $(VENV)/.installed $(VENV)/.dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports
	@$(PY) -m codespell_lib
	@$(VENV)/bin/clang-format --dry-run -Werror $(C_FILES)

format: $(VENV)/.dev ## rewrite the sources in the house style
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@$(VENV)/bin/clang-format -i $(C_FILES)

sanitize: build/sanitize/.built ## the C tests under the address and undefined-behaviour sanitizers
	@cd build/sanitize && ../../$(VENV)/bin/ctest --output-on-failure -j $(JOBS)

build/sanitize/.built: $(VENV)/.created $(NATIVE_SOURCES) $(NATIVE_TESTS)
	@$(call configure,build/sanitize,-DCMAKE_BUILD_TYPE=RelWithDebInfo -DTRIT_SANITIZE=address)
	@$(VENV)/bin/cmake --build build/sanitize -- --quiet
	@touch $@

race: build/race/.built ## the C tests that start threads under the thread sanitizer
	@cd build/race && ../../$(VENV)/bin/ctest --output-on-failure -j $(JOBS) -R '^(forward|pool|api|batch|kv)_test$$'

build/race/.built: $(VENV)/.created $(NATIVE_SOURCES) $(NATIVE_TESTS)
	@$(call configure,build/race,-DCMAKE_BUILD_TYPE=RelWithDebInfo -DTRIT_SANITIZE=thread)
	@$(VENV)/bin/cmake --build build/race -- --quiet
	@touch $@

check-arm: build/arm/.built ## cross-compile for aarch64, run the C tests under qemu and say which kernels ran
	@cd build/arm && ../../$(VENV)/bin/ctest --output-on-failure -j $(JOBS)
	@grep -E '^(kerncheck:|instruction set)|ok \(|not run:' build/arm/Testing/Temporary/LastTest.log

build/arm/.built: $(VENV)/.created $(NATIVE_SOURCES) $(NATIVE_TESTS)
	@command -v aarch64-linux-gnu-gcc > /dev/null && command -v qemu-aarch64 > /dev/null || { \
		printf 'Missing: the aarch64 compiler or emulator. Install with:\n\n    %s\n\n' \
		'apt-get install -y gcc-aarch64-linux-gnu qemu-user' >&2; exit 1; }
	@$(call configure,build/arm,-DCMAKE_BUILD_TYPE=Release -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake)
	@$(VENV)/bin/cmake --build build/arm -- --quiet
	@touch $@

# --- the rest -------------------------------------------------------------------------------------------------------

BENCH ?= --shape bitnet-b1.58-2b-4t
bench: $(VENV)/.installed ## measure kernels and model steps on the 2B4T shape
	@$(PY) -m tritserve bench $(BENCH)

image: ## build the container image (docker, podman or buildah)
	@sh docker/build.sh

lock: $(VENV)/.created ## renew docker/requirements.lock
	@$(PIP) uv
	@sh docker/lock.sh $(VENV)/bin

clean: ## remove everything that was built
	@rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
