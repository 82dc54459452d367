# make run    simulate a measurement, fit it, print the result beside the truth
# make test   the tests            make lint   ruff and mypy            make wheel   dist/*.whl
# Needs Python >= 3.12 and a package index that pip can reach. Another interpreter: make PYTHON=/path/to/python3.12 run

PIP := .venv/bin/python -m pip install -qq --disable-pip-version-check
STAMP := .venv/installed
SAMPLE := outputs/sample.h5

.PHONY: run test lint wheel clean
.DEFAULT_GOAL := run
.DELETE_ON_ERROR:

run: $(SAMPLE)
	@.venv/bin/homodyne mode=laminar_flow data.path=$(SAMPLE)

test: $(STAMP)
	.venv/bin/python -m pytest -q -n auto --dist loadfile

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

wheel: $(STAMP)
	.venv/bin/python -m build --wheel --no-isolation --outdir dist .

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache

$(SAMPLE): | $(STAMP)
	@mkdir -p outputs
	@.venv/bin/python -c 'from homodyne import option; option("data", "simulated", phi_list=[-60, -30, 0, 30, 60, 80], noise="speckle", pixels=10000, photons=3.0, layers=None, write="$@").load()'
	@echo "wrote $@: simulated speckle under laminar flow, 6 angles x 200 frames, 3 photons per pixel, APS-U layout"

# nlsq is installed without its declared requirements: see pyproject.toml.
$(STAMP): pyproject.toml constraints.txt
	@echo "installing into .venv (once; about two minutes)"
	@set -e; found=; \
	for candidate in "$(PYTHON)" python3.13 python3.12 python3 python python3.14; do \
	  test -n "$$candidate" || continue; \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	done; \
	if test -z "$$found"; then \
	  echo "No Python >= 3.12 with the modules venv and ensurepip was found (tried: $(PYTHON) python3.13 python3.12 python3 python python3.14)."; \
	  echo "Install one (python.org, conda, pyenv install 3.12, or your distribution's python3.12 and python3.12-venv packages), then run: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; \
	  exit 1; \
	fi; \
	"$$found" -m venv --clear .venv
	@$(PIP) --constraint constraints.txt --editable '.[test]' || \
	  { echo "pip could not install the packages in constraints.txt; it needs a package index it can reach (pip config list shows which)"; exit 1; }
	@$(PIP) --constraint constraints.txt --no-deps nlsq psutil
	@touch $(STAMP)
