# Short names for the commands that a developer repeats. `make check` is what a change must pass.
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: check format lint types test slow lowest audit kill-points peft-suite quickstart clean

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

# Tests with the lowest versions that pyproject.toml allows; needs the network. TESTS are pytest's flags.
lowest:
	bash scripts/lowest.sh $(TESTS)

# Known vulnerabilities of what is installed; needs the network.
audit:
	VENV=$(VENV) bash scripts/audit.sh

# Kill each command at each of its file events; the table in docs/operations.md. Minutes for each; NAMES chooses some.
kill-points:
	$(BIN)/python tests/faults/kill_points.py $(NAMES)

# PEFT's own tests with shared adapters in the place of LoRA; needs the network the first time. PEFT_SUITE is the folder.
peft-suite:
	$(BIN)/python benchmarks/peft_suite/suite.py --save

quickstart:
	bash scripts/quickstart.sh

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
