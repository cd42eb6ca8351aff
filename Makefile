# From a fresh clone: `make bench` measures what is there, `make test` is what CI runs.
# Each sets up .venv first; an up-to-date .venv costs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: bench test lint reports clean

bench: $(STAMP)
	$(BIN)/lbench speed

test: $(STAMP) lint
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What is committed in reports/, from results/: the commands of reports/README.md, in their order.
reports: $(STAMP)
	rm -rf reports/h200/plots
	sed -n 's/.*`lbench \(report .*\)`.*/\1/p' reports/README.md | \
	  while read -r command; do $(BIN)/lbench $$command --quiet || exit 1; done

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lightning-bench needs Python 3.11 or later; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
