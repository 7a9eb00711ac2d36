# Every target makes the environment it needs in .venv. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# One thread per process: results do not depend on the machine, and JOBS processes share the cores.
# Without the other two, glibc returns every large temporary to the kernel and page faults double the times.
export OMP_NUM_THREADS := 1
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 4294967296

.DEFAULT_GOAL := help
.PHONY: help demo demo-ct demo-task test test-slow lint notebooks docs bench sbom clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/installed  ## Train four simulated hospitals together; writes runs/demo/report.html
	$(BIN)/fedrecon demo --out runs/demo --resume

demo-ct: $(VENV)/installed  ## Train seven simulated CT scanners together; writes runs/demo_ct/report.html
	$(BIN)/fedrecon demo --kind ct --out runs/demo_ct --resume

demo-task: $(VENV)/installed  ## Train heads on labels three ways and score them; writes runs/demo_task/*/report.html
	$(BIN)/fedrecon demo --kind task --out runs/demo_task --resume

test: lint  ## Check style, types, the import rule, and run the quick tests
	$(BIN)/python -m pytest -q -n $(JOBS)

test-slow: $(VENV)/installed-dev  ## Run the slow and the deployment tests
	$(BIN)/python -m pytest -q -n $(JOBS) -m "slow and not deployment"
	$(BIN)/python -m pytest -q -m deployment

lint: $(VENV)/installed-dev  ## Check style, types and the import rule
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(VENV)/installed-dev  ## Execute notebooks/*.py into runs/notebooks/*.ipynb
	mkdir -p runs/notebooks
	set -e; for file in notebooks/*.py; do \
		$(BIN)/jupytext --to ipynb --execute --output runs/notebooks/$$(basename $$file .py).ipynb $$file; done

docs: $(VENV)/installed-dev  ## Build the documentation, tutorials executed, into docs/_build/index.html
	$(BIN)/sphinx-build -q -W --keep-going -c docs . docs/_build

bench: $(VENV)/installed-dev  ## Run every benchmark; each prints a table with its bars
	set -e; for file in $$(grep -l __main__ benchmarks/*.py); do $(BIN)/python $$file; done

sbom: $(VENV)/installed-dev  ## Write dist/fedrecon.cdx.json, the bill of materials of what a site needs, with the versions in .venv
	$(BIN)/python scripts/sbom.py dist/fedrecon.cdx.json --extra deploy --extra privacy

clean:  ## Remove the environment, caches and build files; keeps runs/
	rm -rf $(VENV) build docs/_build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .
	touch $@

# fastmri is a test oracle: its Lightning pin is not wanted, hence --no-deps.
$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install --editable '.[dev]'
	$(PIP) install --no-deps fastmri==0.3.0 runstats==2.0.0
	touch $@
