# Needs Python 3.11 or newer and make, nothing else.
#   make demo     build the demo cube, show it, train on it
#   make test     what the continuous integration runs
#   make docs     the documentation site, in build/docs
#   make fuzz     hostile raw files, archives and cubes, for hours; make fuzz FUZZ_SECONDS=60 for minutes
# Another interpreter: make test PYTHON=/path/to/python VENV=.venv-other
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO := demo
# What other versions have to run: the core and the pipelines.
ROOMS := $(addprefix tests/,sound cube transport builder analysis loading pipelines)
# How long `make fuzz` takes over each kind of input, and where it begins: a run that ended goes on from its last case.
FUZZ_SECONDS ?= 1800
FUZZ_SEED ?= 0
# pytest-xdist pays for itself from two cores on; more than cores, since many a test waits for a process.
WORKERS ?= 3
# Neighbours stay together, since they share what is built for their module. Each worker has a core, which threads of
# OpenMP and BLAS that wait for each other would keep busy with nothing.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

.PHONY: demo docs notebooks fuzz test test-without-torch test-lower-bounds lint format clean

demo: $(VENV)/.demo
	STRFCUBE_DATA_DIR=$(DEMO) $(BIN)/strfcube build demo
	$(BIN)/strfcube inspect $(DEMO)/demo-dt5.zarr
	$(BIN)/strfcube plot $(DEMO)/demo-dt5.zarr --out $(DEMO)/demo.png --force
	$(BIN)/python notebooks/demo.py $(DEMO)/demo-dt5.zarr

# What it prints with FAULT becomes a test.
fuzz: $(VENV)/.test
	@code=0; for kind in parsers archives stores; do echo "$$kind"; $(BIN)/python fuzz/$$kind.py --count 10000000 \
		--seed $(FUZZ_SEED) --seconds $(FUZZ_SECONDS) || code=1; done; exit $$code

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -j auto -d build/doctrees docs build/docs
	@echo "open build/docs/index.html"

# Runs the notebooks and stores them with what they printed and drew.
notebooks: $(VENV)/.test
	$(BIN)/python notebooks/store.py

test: lint
	$(PYTEST)

# The second leg of the continuous integration: a newer Python, the newest zarr, and no torch.
test-without-torch: $(VENV)/.without-torch
	$(PYTEST) -m "not slow" $(filter-out tests/pipelines,$(ROOMS)) tests/cli \
		tests/test_imports.py tests/test_packaging.py

# The third leg: the lowest versions that pyproject.toml declares, without torch; give it an environment of its own (VENV).
test-lower-bounds: $(VENV)/.lower-bounds
	$(PYTEST) -m "not slow" $(ROOMS)

# mypy and import-linter cannot see mapped packages in an editable install: they get a real one.
lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/lint build/lib build/bdist*
	$(PIP_INSTALL) --no-deps --no-build-isolation --target build/lint .
	cd build/lint && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache
	cd build/lint && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p strfcube

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist docs/generated $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "strfcube needs Python 3.11 or newer; give one with PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) -e ".[torch,plot]"
	@touch $@

$(VENV)/.docs: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) -e ".[torch,jax,plot,docs]"
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) -e ".[torch,jax,plot,export,test,test-torch,docs,lint]"
	@touch $@

$(VENV)/.without-torch: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) -e ".[plot,export,test]"
	@touch $@

$(VENV)/.lower-bounds: $(BIN)/python pyproject.toml constraints.txt tests/lower_bounds.py
	$(BIN)/python tests/lower_bounds.py > $(VENV)/lowest.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/lowest.txt -e ".[plot,test]"
	@touch $@
