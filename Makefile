# `make demo` and `make test` do all the set-up on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs clean

demo: .venv/.installed  ## the main job on an example image
	$(BIN)/cores predict examples/images/fish.jpg "Which part steers the fish?" --output demo

test: .venv/.installed lint  ## every check that CI runs
	$(BIN)/python -m pytest

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.installed  ## the documentation as a web site, in site/; warnings are errors
	$(BIN)/mkdocs build --strict

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv demo site
