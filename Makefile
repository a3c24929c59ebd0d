# make demo       see it work: a store, a chain of layers, a mount, a kill, an audit
# make test       lint, types, import contracts, the suite on two Pythons, a kill at every point
# make campaigns  what else takes long: kills in every way of a verb, mutants, pairs of kills, power cuts, crowds, a soak, a second kernel, dockerd
# make check      the same questions in under three minutes, without the crash campaigns
# make crash      the crash campaigns in their long form
# make bench      the measurements; BIG=1 with a store of 100,000 layers, which CACHE=DIR keeps there
# make powercut   a power cut in front of every call of every verb, and 70,000 states of a disk after one
# make soak       an hour of mixed load (SOAK_SECONDS=…), a million gets, a tree of a million files
# make docker-soak  a real dockerd; its server, itself or the machine ends all the time; ROUNDS=500
# make share      the manual pages and shell completion, after a change to the command line
# make venv       only the environment; make clean removes it and everything else generated
#
# PYTHON=/path/to/python3 chooses the interpreter; WORKERS=8 the number of test processes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo test campaigns check crash powercut soak docker-soak bench share venv clean lint suite-oldest

WORKERS ?= 2
PYTEST_ARGS ?=

# The real path of each supported interpreter that can make a virtual environment, newest first.
# Each is asked for its own path: a pyenv shim is a bash script, and python in an active
# environment is a link; a test that kills or traces an interpreter has to meet the program itself.
define FIND_PYTHONS
for minor in 14 13 12 11; do
  for candidate in python3.$$minor {/usr/local,/usr}/bin/python3.$$minor \
                   "$${HOME:-/root}"/.pyenv/versions/3.$$minor.*/bin/python3.$$minor; do
    "$$candidate" -c "import sys, venv, ensurepip, sqlite3; assert sys.version_info[:2] == (3, $$minor); \
      print(getattr(sys, '_base_executable', None) or sys.executable)" 2>/dev/null && break;
  done;
done || true
endef

ifndef PYTHON
PYTHONS := $(shell $(FIND_PYTHONS))
PYTHON := $(firstword $(PYTHONS))
OLDEST := $(lastword $(PYTHONS))
else
override PYTHON := $(shell $(PYTHON) -c "import sys; print(getattr(sys, '_base_executable', None) or sys.executable)")
OLDEST := $(PYTHON)
endif

# Root mounts for real, and out of sight of the rest of the machine: nothing propagates out, and
# the kernel takes down what a killed test left when the last process in the namespace is gone.
# Other users have no such right; what needs it is skipped, and pytest says how many that were.
PRIVATE := $(shell [ "$$(id -u)" = 0 ] && echo unshare --mount --propagation private)

BIN := .venv/bin
RUN = $(PRIVATE) $(1)/python -m pytest -n $(WORKERS) -r s $(PYTEST_ARGS)

demo: .venv/stamp
	$(PRIVATE) $(BIN)/layerstore demo

test: lint suite-oldest
	@echo "== suite and the kills at every point, $$($(BIN)/python -V)"
	$(call RUN,$(BIN)) -m "not campaign"

# Together with `make test` every test that there is, each at least once; CI runs the one after the other.
campaigns: .venv/stamp
	@echo "== campaigns, $$($(BIN)/python -V)"
	$(call RUN,$(BIN)) -m campaign

check: lint
	$(call RUN,$(BIN)) -m "not crash"

# Every kill point, and every pair of a kill and a kill of its recovery: some 700,000 kills, about
# two hours on two idle cores. The counts come last. `-k double`, `-k "kills and create"` and the
# like choose (PYTEST_ARGS); `make test` and `make campaigns` have each point once, and more than
# 5,000 of the pairs.
crash: .venv/stamp
	LAYERSTORE_TEST_LONG=1 $(call RUN,$(BIN)) -m crash -o faulthandler_timeout=0

# All that was acknowledged is there after each: some 16,000 cuts on ext4 and XFS, 70,000 states of a disk
# with one of these or btrfs, and 100 cuts of a whole machine, which take hours. The counts come last;
# PYTEST_ARGS='-k btrfs' chooses.
powercut: .venv/stamp
	LAYERSTORE_TEST_LONG=1 $(call RUN,$(BIN)) tests/crash/test_powercut.py tests/crash/test_blocks.py \
	  tests/crash/test_reboots.py -o faulthandler_timeout=0

# What has to stay flat for a year. The tables and one line of JSON each come last; `make
# campaigns` has a minute of it, 50,000 gets and puts, and 100,000 files.
SOAK_SECONDS ?= 3600
soak: .venv/stamp
	LAYERSTORE_SOAK_SECONDS=$(SOAK_SECONDS) $(call RUN,$(BIN)) tests/crash/test_soak.py tests/crash/test_trees.py \
	  -o faulthandler_timeout=0

# Builds, runs, commits and removals while the server dies at random and in the middle of requests; in
# CI five rounds, here also in the middle of archives, each of which costs dockerd 15 s. Then the same
# number of rounds in each of which the server, dockerd, both or the machine end; in CI twenty. And a
# layer of 10 GiB in and out, on a disk; in CI 256 MiB.
ROUNDS ?= 500
docker-soak: .venv/stamp
	LAYERSTORE_LARGE_MIB=10240 LAYERSTORE_TEST_DIR=/var/tmp $(PRIVATE) $(BIN)/python -m pytest tests/docker/test_server.py -k constant_memory \
	  -o faulthandler_timeout=0
	LAYERSTORE_DOCKER_ROUNDS=$(ROUNDS) $(PRIVATE) $(BIN)/python -m pytest -s tests/docker/test_kills.py tests/docker/test_machine.py $(PYTEST_ARGS) \
	  -o faulthandler_timeout=0

bench: .venv/stamp
	$(PRIVATE) $(BIN)/python bench/run.py $(if $(CACHE),--cache $(CACHE))

share: .venv/stamp
	$(BIN)/python tools/make_share.py

lint: .venv/stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# A second Python where there is one: everything but the campaigns, whose subject is not Python.
ifneq ($(OLDEST),$(PYTHON))
suite-oldest: .venv-oldest/stamp
	@echo "== suite without the campaigns, $$(.venv-oldest/bin/python -V)"
	$(call RUN,.venv-oldest/bin) -m "not crash"
else
suite-oldest:
	@echo "== only one supported Python here: $(PYTHON)"
endif

venv: .venv/stamp

# share/ is in the wheel, and `make share` makes it with this environment: so it may be empty here.
.venv/stamp: INTERPRETER = $(PYTHON)
.venv-oldest/stamp: INTERPRETER = $(OLDEST)
.venv/stamp .venv-oldest/stamp: pyproject.toml
	@[ -n "$(INTERPRETER)" ] || { echo "make: no Python 3.11 to 3.14 that can make a virtual environment;" \
	  "on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	rm -rf $(@D)
	mkdir -p share
	$(INTERPRETER) -m venv $(@D)
	$(@D)/bin/python -m pip --quiet --disable-pip-version-check install --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +
