# Everything on a fresh machine: each target sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
SETTINGS := pyproject.toml constraints.txt

.PHONY: demo test quick clean

demo: .venv/.installed
	$(BIN)/bnkit compare

test: .venv/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered

quick: .venv/.installed-dev
	$(BIN)/python -m pytest -q -x -n 2 tests/data tests/model tests/report tests/test_moments.py tests/kernels/test_select.py

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "bnkit needs Python 3.11 or newer, $(PYTHON) is older; try make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/.installed: .venv/.python $(SETTINGS)
	$(BIN)/pip install --quiet -e . -c constraints.txt
	touch $@

.venv/.installed-dev: .venv/.python $(SETTINGS)
	$(BIN)/pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@ .venv/.installed

clean:
	rm -rf .venv build dist site src/bnkit.egg-info
