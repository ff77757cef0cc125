# Everything on a fresh machine: each target sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
SETTINGS := pyproject.toml constraints.txt
# The tests start hundreds of processes: without bytecode on disk, each of them compiles bnkit.
unexport PYTHONDONTWRITEBYTECODE
WHEEL := build/wheel

.PHONY: demo test coverage static test-all quick torture zoo docs wheel release bench pictures clean

demo: .venv/.installed
	$(BIN)/bnkit compare

# A worker that has nothing left takes from the other: until then tests that share what they set up stay in one of them.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
# The tests run the lessons; that their pages can be made too takes no long trainings.
SHORT_LESSONS := LESSON_EPOCHS=2 LESSON_SEEDS=2
COVERAGE := --cov --cov-report=term:skip-covered

test: static
	$(PYTEST)
	$(MAKE) docs wheel $(SHORT_LESSONS)

# The lines and branches that the tests of `make test` do not reach. Tracing every line makes them take a quarter longer.
coverage: .venv/.installed-dev
	$(PYTEST) $(COVERAGE)

# Before a release: every case of every product, all random examples, torture, Ray, the zoo.
test-all: static
	$(PYTEST) -m "" --hypothesis-profile=exhaustive --durations=30 $(COVERAGE)
	$(MAKE) docs wheel $(SHORT_LESSONS)

static: .venv/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# The edit loop: what can go wrong in most edits. After an edit of a compiled loop, all of them are compiled again first.
quick: .venv/.installed-dev
	$(BIN)/ruff check
	$(PYTEST) -q -x -m "not slow and not exhaustive and not zoo and not torture"

# Faults of every kind while a comparison trains: 200 and more kills, a full disk, workers that die. Says what was counted.
torture: .venv/.installed-dev
	$(PYTEST) -m "" -rP --durations=10 tests/torture tests/experiments/running/test_pool.py tests/experiments/running/test_ray_cluster.py tests/experiments/running/test_torchrun.py tests/cli/test_compare.py

# Networks that others wrote: all of them, where `make test` takes a selection.
zoo: .venv/.installed-dev
	$(PYTEST) -m "" tests/zoo

REPOSITORY := $(shell sed -n 's/^Repository = "\(.*\)"/\1/p' pyproject.toml)
ifneq ($(REPOSITORY),)
docs: export BNKIT_REPOSITORY = $(REPOSITORY)
endif
docs: .venv/.installed-dev
	$(BIN)/typer bnkit.cli.main utils docs --name bnkit --title "Command line" --output docs/reference/commands.md
	$(BIN)/python docs/lessons/execute.py
	rm -rf build/docs && mkdir -p build && cp -rL docs build/docs && rm -rf build/docs/*.py build/docs/lessons/*.py build/docs/lessons/.gitignore
	$(BIN)/zensical build

# What a user installs, in an environment that has nothing else.
define try_wheel
	$(PYTHON) -m venv $(1)/venv
	$(1)/venv/bin/pip install --quiet -c constraints.txt $(2)/*.whl
	cd $(1) && venv/bin/bnkit compare --seeds 1 --epochs 2 --grid lr=0.1 -q
	test -s $(1)/results/quickstart/report.html
	cd $(1) && venv/bin/bnkit explain BN101 > /dev/null
endef

wheel: .venv/.installed-dev
	rm -rf $(WHEEL)
	$(BIN)/python -m build --wheel --outdir $(WHEEL)
	$(call try_wheel,$(WHEEL),$(WHEEL))

# What is released, in dist/: the wheel is built from the sdist, which thereby has all that building needs. Uploads nothing.
RELEASE := build/release
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/bnkit/__init__.py)
release: .venv/.installed-dev
	@git diff --quiet HEAD || { echo "there are changes that are not committed; commit them first" >&2; exit 2; }
	@grep -qF "## [$(VERSION)]" CHANGELOG.md || { echo "CHANGELOG.md has no heading '## [$(VERSION)]'; see RELEASING.md" >&2; exit 2; }
	rm -rf $(RELEASE) dist
	$(BIN)/python -m build --outdir dist
	mkdir -p $(RELEASE)
	$(call try_wheel,$(RELEASE),dist)
	$(RELEASE)/venv/bin/pip check
	test "$$($(RELEASE)/venv/bin/bnkit --version | grep -o '[0-9][^ ]*')" = "$(VERSION)"
	cd dist && sha256sum * > SHA256SUMS && cat SHA256SUMS

bench: export BNKIT_COMPILE = now
bench: .venv/.installed-dev
	$(BIN)/python benchmarks/first_minute.py --demo
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/folder.py
	$(BIN)/python -m benchmarks.layer
	$(BIN)/python -m benchmarks.layer --overhead
	$(BIN)/python -m benchmarks.bounds
	$(BIN)/python -m benchmarks.size_thresholds
	$(BIN)/python -m benchmarks.lenet
	$(BIN)/python -m benchmarks.networks
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.rebuild
	$(BIN)/python benchmarks/observe.py
	$(BIN)/python -m benchmarks.models
	$(BIN)/python benchmarks/check.py
	$(BIN)/python -m benchmarks.workers
	$(BIN)/python -m benchmarks.side_by_side
	$(BIN)/python -m benchmarks.sync
	$(BIN)/python -m benchmarks.sequential
	$(BIN)/python -m benchmarks.coverage --simulated

# The pictures of the documentation, from a run of the quickstart. Needs Chromium.
pictures: .venv/.installed-dev
	$(BIN)/python docs/pictures.py

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
	rm -rf .venv build dist src/bnkit.egg-info
