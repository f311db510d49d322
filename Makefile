# make demo, make test: each makes .venv, installs what it needs there, and runs.

# The first Python that is new enough; PYTHON=/path/to/python3.12 chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; \
	done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
JOBS ?= 2
TEST_ARGS ?=
SCRIPTS := $(wildcard tpu/*.sh) .ci/run

.PHONY: help demo tables test lint clean

help:
	@echo "make demo   prunes the bundled model: a table, a report page, a model for transformers"
	@echo "make tables prints the tables of the README, from runs on the bundled model (30 minutes)"
	@echo "make test   runs the tests"
	@echo "make lint   checks style, format, types and shell scripts"
	@echo "make clean  removes $(VENV) and what the demo wrote"

demo: $(VENV)/.installed
	$(BIN)/jprune demo

tables: $(VENV)/.installed
	@$(BIN)/jprune demo >/dev/null
	@$(BIN)/jprune report jprune-demo --format=md
	@echo
	@$(BIN)/jprune report jprune-demo --format=md --table=curve
	@for criterion in magnitude wanda sparsegpt; do \
		for seed in 0 1 2; do \
			$(BIN)/jprune run --config=demo_sparse:$$criterion --config.seed=$$seed \
				--workdir=jprune-demo-sparse/$$criterion-$$seed >/dev/null || exit; \
		done; \
		echo && $(BIN)/jprune report jprune-demo-sparse/$$criterion-* --format=md --table=curve; \
	done
	@for removed in 3 6; do \
		for kind in lora last_k cpt distill; do \
			$(BIN)/jprune run --config=demo_retrain:$$kind --config.remove=$$removed \
				--workdir=jprune-demo-retrain/$$removed-$$kind >/dev/null || exit; \
		done; \
		echo && $(BIN)/jprune report jprune-demo-retrain/$$removed-* --format=md; \
	done

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) -m "not parity" $(TEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for script in $(SCRIPTS); do bash -n $$script || exit 1; done
	$(BIN)/shellcheck --external-sources $(SCRIPTS)

clean:
	rm -rf $(VENV) jprune-demo jprune-demo-sparse jprune-demo-retrain

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.installed

# A venv that could not be completed is removed, so that the next make starts afresh.
$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "jprune needs Python 3.11 or newer; install it, or name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "jprune needs Python 3.11 or newer, and $(PYTHON) is older or does not run" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: sudo apt install python3-venv" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
