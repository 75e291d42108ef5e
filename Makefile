# Two commands do everything on a machine with Python 3.11 and make:
#   make quickstart    installs, then trains, verifies and exports on drawn faces
#   make test          installs, then lint, types, import contract and tests

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test check slow zoo clean

quickstart: $(VENV)/ready
	$(BIN)/spherekeras quickstart --out build/quickstart

test: check
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

zoo: $(VENV)/ready
	$(BIN)/spherekeras zoo cards zoo
	$(BIN)/spherekeras zoo check

$(VENV)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

clean:
	rm -rf $(VENV) build
