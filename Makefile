# make up    makes the environment, installs Herd, starts it and prints its addresses
# make test  makes the environment, installs what tests need, runs them, but for the slow ones from end to end:
#            make slow runs those
# make lint  style, types, and which room imports which
#
# TORCH_INDEX=<index address> takes torch from another index (a CUDA, ROCm or CPU-only build).
# PYTHON=<interpreter> and VENV=<folder> choose others than python3 and .venv.

PYTHON ?= $(or $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(if \
  $(shell $(p) -c 'import sys; print((3, 11) <= sys.version_info < (3, 14) or "")' 2>/dev/null),$(p)))),python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)
CHROMIUM = $(shell which chromium chromium-browser google-chrome 2>/dev/null) \
  $(wildcard $(HOME)/.cache/ms-playwright/chromium-* $(HOME)/Library/Caches/ms-playwright/chromium-*)
INPUTS := pyproject.toml setup.py constraints.txt $(wildcard herd/engine/kernels/*.cpp herd/engine/kernels/*.h) $(VENV)/.torch

.PHONY: up test slow lint force

up: $(VENV)/.local
	@$(BIN)/herd up $(ARGS)

test: $(VENV)/.dev
	@test -n "$(strip $(CHROMIUM))" || { echo "The page tests need Chromium: apt-get install chromium," \
	  "or $(BIN)/playwright install chromium" >&2; exit 1; }
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slow" $(ARGS)

slow:
	@$(MAKE) --no-print-directory test ARGS="-m slow $(ARGS)"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || \
	  { echo "Herd needs Python 3.11, 3.12 or 3.13; found: $$($(PYTHON) --version 2>&1)." \
	    "Install one, or name it: make PYTHON=/path/to/python3.12 up" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# Holds the index that torch was last taken from; another one, and torch is installed anew.
$(VENV)/.torch: $(VENV)/bin/python force
	@if [ -n "$(TORCH_INDEX)" ] && [ "$$(cat $@ 2>/dev/null)" != "$(TORCH_INDEX)" ]; then \
	  echo "Installing $(TORCH) from $(TORCH_INDEX)"; \
	  $(INSTALL) --force-reinstall --no-deps --index-url "$(TORCH_INDEX)" "$(TORCH)" && echo "$(TORCH_INDEX)" > $@; \
	elif [ ! -e $@ ]; then : > $@; fi

$(VENV)/.local: $(INPUTS)
	@echo "Installing Herd into $(VENV) (torch is large: some minutes on the first run)"
	@$(INSTALL) -c constraints.txt -e '.[local]'
	@touch $@

$(VENV)/.dev: $(INPUTS)
	@echo "Installing Herd and what its tests need into $(VENV)"
	@$(INSTALL) -c constraints.txt -e '.[local,dev]'
	@touch $@ $(VENV)/.local
