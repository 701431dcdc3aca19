# make demo: the whole method on the built-in city.  make test: checks and tests.
# Python 3.11 and make are all that is needed; the first call creates .venv.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Compiling every installed file takes half a minute; Python compiles those that are imported.
INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt

.PHONY: demo test check seeds experiments real clean

demo: $(VENV)/installed
	$(BIN)/larr run configs/city.toml
	@echo "Read runs/city/evaluate/report.html"

# Chromium, which the page's tests need, comes beside the packages, and mypy runs beside the tests.
test:
	@scripts/browser & browser=$$!; $(MAKE) --no-print-directory $(VENV)/installed && wait $$browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/mypy & mypy=$$!; $(BIN)/pytest; tests=$$?; wait $$mypy && exit $$tests

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The honest comparison: three seeds of the world and of the models that nothing was tuned on.
seeds: $(VENV)/installed
	$(BIN)/larr run configs/city_controls.toml --seeds 17,18,19

# The paper's tables, figures and studies, and more: hours; stop it and run it again as you like.
experiments: $(VENV)/installed
	$(BIN)/larr experiments all configs/experiments.toml --seeds 21,22,23,24,25

# Data sets of real people side by side, those whose files are in a folder: make real REAL=FOLDER.
real: $(VENV)/installed
	$(BIN)/larr real $(or $(REAL),$(error REAL is not set: make real REAL=FOLDER)) $(patsubst %,configs/%.toml,\
		canteen coupon frappe unimobile situnes2 situnes3 films)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) torch
	$(INSTALL) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
