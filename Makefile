# Every target sets up what it needs: a fresh clone and Python >= 3.11 are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Client libraries that tests drive: Node's, and those of Python that bring much with them.
NODE := tests/clients/node
FRAMEWORKS := .venv-clients

.PHONY: setup demo run test lint bench chaos clients deploy-check clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/responses-gateway demo

run: $(STAMP)
	$(BIN)/responses-gateway serve

clients: $(NODE)/node_modules/.installed $(FRAMEWORKS)/.installed

$(NODE)/node_modules/.installed: $(NODE)/package-lock.json
	@if command -v npm >/dev/null; then cd $(NODE) && npm ci --silent && touch node_modules/.installed; \
	else echo "There is no npm: the tests of clients for Node are skipped."; fi

$(FRAMEWORKS)/.installed: tests/clients/frameworks/requirements.txt
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/pip install --quiet --requirement $<
	@touch $@

test: $(STAMP) clients
	$(BIN)/pytest -n 3

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Some minutes: see tests/chaos/__init__.py.
chaos: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m chaos

# What the deployment is checked with where Docker is not: see tests/deploy/programs.sh. On Debian, as root, ten minutes.
PROGRAMS ?= $(HOME)/.cache/responses-gateway
export PROGRAMS

$(PROGRAMS)/.complete: tests/deploy/programs.sh tests/deploy/collector.go
	tests/deploy/programs.sh $(PROGRAMS)
	@touch $@

deploy-check: $(STAMP) $(PROGRAMS)/.complete
	PATH=$(PROGRAMS)/bin:$$PATH FORBID_SKIPS=1 $(BIN)/pytest -vv tests/deploy/test_*.py tests/deploy/check_*.py

clean:
	rm -rf $(VENV) $(FRAMEWORKS) $(NODE)/node_modules build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
