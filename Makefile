# `make demo` and `make test` need nothing but Python 3.11 or newer; each makes its own environment.
PYTHON ?= python3
# An interpreter that was chosen gets an environment of its own, so that versions can be tested side by side.
VENV ?= .venv$(if $(filter command line,$(origin PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests run on all cores, a file on one of them, in the order of tests/order.py; the suite needs at most 2 GiB for each.
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo fast test test-core lint format clean

demo: $(STAMP)
	$(BIN)/scorefield train --preset digits-ddpm --outdir runs/demo
	$(BIN)/scorefield sample --run runs/demo --seeds 0-99 --batch 100 --outdir runs/demo/pictures
	$(BIN)/scorefield evaluate --run runs/demo --cache runs/demo/cache --samples 300 --elbo-images 180 --elbo-draws 4
	@echo "Look at runs/demo/pictures/samples.png"

# Something of every file, in a minute or three: for each step of one's work. docs/testing.md tells of all tiers.
fast: $(STAMP)
	$(PYTEST) -m "not slow" $(ARGS)

test: $(STAMP)
	$(PYTEST) $(ARGS)

test-core: $(STAMP)
	$(PYTEST) tests/diffusion tests/samplers $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml
	@$(PYTHON) -c '' || \
		{ echo "scorefield needs Python 3.11 or newer, and $(PYTHON) cannot be run; try make PYTHON=python3.12."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "scorefield needs Python 3.11 or newer, and $(PYTHON) is older; try make PYTHON=python3.12."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[train,test,lint]'
	@touch $(STAMP)

clean:
	rm -rf .venv* .pytest_cache .ruff_cache build dist
