# Two commands on a fresh machine: `make demo` (raw files to report) and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test quick lint types check clean

demo: .venv/ready
	$(BIN)/medssl demo

test: .venv/ready
	$(BIN)/python -m pytest --cov --cov-report=term

quick: .venv/ready
	$(BIN)/python -m pytest -m "not slow"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

check: lint types test

# The stamp is written last, so an interrupted installation starts again.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "medssl needs Python 3.11 to 3.13; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv medssl-demo
