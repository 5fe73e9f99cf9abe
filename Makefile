# Short names for the commands that a developer repeats. `make check` is what a change must pass.
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: check format lint types test slow audit quickstart clean

check: lint types test

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

test:
	VENV=$(VENV) bash scripts/test.sh

slow:
	VENV=$(VENV) bash scripts/test.sh -m "slow or distributed or realdata"

# Known vulnerabilities of what is installed; needs the network.
audit:
	VENV=$(VENV) bash scripts/audit.sh

quickstart:
	bash scripts/quickstart.sh

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
