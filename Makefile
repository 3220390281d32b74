# Everything runs from .venv, made on first use. `make` alone lists the targets.

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz lint format runtime tools figures torch ray clean
.DELETE_ON_ERROR:

PYTHON ?= python3
JOBS ?= 2
SECONDS ?= 600
SEED ?= 0
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Where the machine has no C compiler, ziglang's clang from PyPI is one.
ifeq ($(shell command -v cc 2>/dev/null),)
CC := $(BIN)/python -m ziglang cc
ZIG := .venv/zig.stamp
endif

C_STRICT := -std=c99 -Wall -Wextra -Wpedantic -Werror -Iruntime/include -O2 -ffp-contract=off
C_FILES := $(shell find runtime -name '*.[ch]')
OBJECTS := $(patsubst runtime/src/%.c,build/runtime/%.o,$(wildcard runtime/src/*.c))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s%s\n", $$1, $$2 }' Makefile

demo: .venv/own.stamp $(ZIG) ## Learn toys that the network has never seen
	$(BIN)/kilograd demo

test: tools lint runtime ## Everything that must hold: lint, the C library alone, pytest
	$(BIN)/pytest -n $(JOBS)

fuzz: .venv/dev.stamp ## Damage everything that is read, for SECONDS (Linux, gcc)
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS) --seed $(SEED) --jobs $(JOBS)

lint: .venv/dev.stamp ## Style, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/clang-format --dry-run -Werror $(C_FILES) </dev/null

format: .venv/dev.stamp ## Rewrite the sources in house style
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(C_FILES) </dev/null

runtime: $(OBJECTS) ## The C library compiles alone, without a warning

build/runtime/%.o: runtime/src/%.c $(filter %.h,$(C_FILES)) | $(ZIG)
	@mkdir -p $(@D)
	$(CC) $(C_STRICT) -c $< -o $@

# Tools of the system that tests compare with. Downloading may fail or be slow; installing is not
# interrupted, so that no package is left half installed.
APT_TOOLS := qemu-system-arm qemu-user gcc-arm-none-eabi libnewlib-arm-none-eabi
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=1

tools: ## Add QEMU and GCC for Arm from apt: more tests then run
	@if command -v qemu-system-arm && command -v qemu-aarch64 && command -v arm-none-eabi-gcc; then \
		echo "tools: all there"; \
	elif command -v apt-get >/dev/null && $(APT) update && timeout 180 $(APT) install -y -d --no-install-recommends $(APT_TOOLS) \
		&& $(APT) install -y --no-install-recommends $(APT_TOOLS) >/dev/null; then \
		echo "tools: installed $(APT_TOOLS)"; \
	else \
		echo "tools: cannot install $(APT_TOOLS); going on without, some tests will be skipped"; \
	fi

figures: .venv/dev.stamp ## Measure again what docs/results/studies says of programs (needs the networks)
	@mkdir -p build
	for page in memory planning firmware instructions; do \
		$(BIN)/python benchmarks/$$page.py > build/$$page.tables && \
		$(BIN)/python benchmarks/fill.py docs/results/studies/$$page.md < build/$$page.tables || exit 1; \
	done
	$(BIN)/python benchmarks/cost.py

torch: .venv/dev.stamp ## Add PyTorch: more tests then run (large; CPU builds: pytorch.org)
	$(PIP) torch==2.13.0 tensorboard

ray: .venv/dev.stamp .venv/ray.stamp ## Add Ray: the tests of evaluate --ray then run (some 250 MB)

clean: ## Remove what was built (.venv stays: rm -rf .venv)
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +

# One stamp per extra, and one for what needs none. They age with pyproject.toml.
.venv/own.stamp: pyproject.toml | .venv/made
	@echo "Installing Kilograd into .venv"
	@$(PIP) --editable .
	@touch $@

.venv/%.stamp: pyproject.toml | .venv/made
	@echo "Installing Kilograd into .venv, with what $* needs"
	@$(PIP) --editable '.[$*]'
	@touch $@

# Debian and Ubuntu ship venv apart. A failed attempt leaves half a .venv, hence a mark of success.
.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Kilograd needs Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv \
		|| { [ "$$(id -u)" = 0 ] && apt-get install -y python3-venv && $(PYTHON) -m venv .venv; } \
		|| { echo "Python lacks its venv module. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@
