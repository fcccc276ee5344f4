# The words for the keyboard; .ci/run calls the same. All but `venv` work in .venv, which the first of them makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check format clean venv
.DELETE_ON_ERROR:

venv: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(STAMP)  ## six jobs of a real experiment, their states, and mean and deviation over seeds
	$(BIN)/python train.py -m algorithm=TD3,DDPG seed=1,2,3
	$(BIN)/experiment-manager status experiments/train
	$(BIN)/experiment-manager results experiments/train
	$(BIN)/experiment-manager results experiments/train --group-by algorithm

test: $(STAMP)  ## everything that is tested, on real processes and files
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(STAMP)  ## lint, format, types; the house rules are tests, too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

format: $(STAMP)  ## lint and format what can be mended by a machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
