# From a fresh clone: `make bench` measures what is there, `make test` is what CI runs. `make help` lists the rest.
# Each target sets up .venv first, with what it needs and no more; an up-to-date .venv costs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What running needs, and that with what tests, linters and the docs site need.
RUNTIME := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.installed-for-tests
EXTRAS := test,hub
# Hundreds of processes start: without bytecode each compiles the package again, so keep it though the user's
# environment may say not to.
unexport PYTHONDONTWRITEBYTECODE
# Tests of one file share fixtures, so a file goes to one process; NPROC=0 runs everything in one process.
# One more than there are cores, since many tests wait for other processes, and for some that hang.
NPROC ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) + 1)')
# One thread each: the processes share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(NPROC) --dist loadfile --no-loadscope-reorder

.PHONY: help bench test fast lint format reports site clean

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

bench: $(RUNTIME)  ## Measure on this machine: suite `paper` on a GPU, `quick` on a CPU
	$(BIN)/lbench speed

test: $(DEVELOPMENT) lint  ## Run what CI runs: lint, then every test
	$(PYTEST)

fast: $(DEVELOPMENT)  ## Run the tests without those marked slow or browser
	$(PYTEST) -m 'not slow and not browser'

lint: $(DEVELOPMENT)  ## Check style, format, imports and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(DEVELOPMENT)  ## Fix what ruff can fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# What is committed in reports/, from results/: the commands of reports/README.md, in their order.
reports: $(RUNTIME)  ## Regenerate reports/ from results/
	rm -rf reports/h200/plots reports/h200/eight
	sed -n 's/.*`lbench \(report .*\)`.*/\1/p' reports/README.md | \
	  while read -r command; do $(BIN)/lbench $$command --quiet || exit 1; done

site: $(DEVELOPMENT)  ## Build the docs site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(RUNTIME): pyproject.toml constraints.txt
	$(call install,.)
	touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt
	$(call install,.[$(EXTRAS)])
	touch $(RUNTIME) $@

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lightning-bench needs Python 3.11 or later; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'
endef

clean:  ## Remove .venv and the caches
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis
