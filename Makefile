# make demo: the full method on the built-in city.  make test: checks and tests.
# Requires Python 3.11 and make; the first call creates .venv.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Compiling all installed files takes half a minute; Python compiles imported files anyway.
INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt

.PHONY: demo test check seeds experiments real clean

demo: $(VENV)/lab
	$(BIN)/larr run configs/demo.toml
	@echo "Read runs/demo/evaluate/report.html"

# Downloads Chromium for the page's tests in parallel with the packages; runs mypy with the tests.
test:
	@scripts/browser & browser=$$!; $(MAKE) --no-print-directory $(VENV)/installed && wait $$browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/mypy & mypy=$$!; $(BIN)/pytest; tests=$$?; wait $$mypy && exit $$tests

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The unbiased comparison: three seeds of city and models that were not used for tuning.
seeds: $(VENV)/installed
	$(BIN)/larr run configs/city_controls.toml --seeds 17,18,19

# The paper's tables, figures and studies, and more. Takes hours; can be interrupted and resumed.
experiments: $(VENV)/installed
	$(BIN)/larr experiments all configs/experiments.toml --seeds 21,22,23,24,25

# Compares rankers on public data sets whose files are in a folder: make real REAL=FOLDER.
real: $(VENV)/installed
	$(BIN)/larr real $(or $(REAL),$(error REAL is not set: make real REAL=FOLDER)) $(patsubst %,configs/%.toml,\
		canteen coupon frappe unimobile_final situnes2 situnes3 films)

$(VENV)/installed: $(VENV)/lab
	$(INSTALL) --editable '.[dev]'
	touch $@

$(VENV)/lab: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) torch
	$(INSTALL) --editable '.[lab]'
	touch $@

clean:
	rm -rf $(VENV) runs
