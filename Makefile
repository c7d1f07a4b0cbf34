# Everything a contributor types. Each target does its own set-up; `make` alone lists them.
#
# PYTHON=python3.12 chooses the interpreter for .venv, ARGS='-k watermark' goes to pytest, the demo or the benchmarks.
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu makes pip take torch's CPU build, which is much smaller.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
SETUP := .venv/setup.stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench kafka clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP) ## make .venv with everything in it; at once when nothing changed

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make: $(PYTHON) is missing or older than 3.10; give another: make setup PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv .venv || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## news articles through a broker, a worker and a model trained here; Ctrl-C ends it
	$(BIN)/stream-classifier demo $(ARGS)

test: setup ## the whole test suite; what needs Apache Kafka is skipped without it
	$(BIN)/python -m pytest $(ARGS)

check: setup ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_import_rules.py tests/unit/test_public_names.py

format: setup ## rewrite the code as `make check` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## the benchmarks, as ratios against named peers
	$(BIN)/python -m benchmarks $(ARGS)

kafka: ## fetch Apache Kafka for the tests with Maven into tests/kafka/libs (needs Java 17)
	mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies

clean: ## remove what the targets above made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/kafka/libs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
