# Each target is also a plain command, in the README.
PYTHON := $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: help install run demo test check bench grafana sql lock clean

help:
	@echo "make demo     the whole pipeline on a simulated exchange, without a network"
	@echo "make test     all tests"
	@echo "make run      the pipeline on live Binance data, into ./data"
	@echo "make grafana  dashboards and alerts over the running pipeline"
	@echo "make sql Q=.. ask the store"
	@echo "make bench    all benchmarks"
	@echo "make check    ruff and mypy"

install: .venv/installed

.venv/installed: requirements.lock
	@test -n "$(PYTHON)" || { echo "pairflow needs Python 3.11 or 3.12; none was found"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m flows
	touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

run: install
	@mkdir -p state
	@test -e state/part-0.sqlite3 || $(BIN)/python -m bytewax.recovery state 1
	exec $(BIN)/python -m bytewax.run flows.pairs -r state -s 1 -b 0

demo: install
	@exec $(BIN)/python -m flows.demo

test: .venv/installed-dev
	$(BIN)/python -m pytest

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks

grafana: install
	@exec $(BIN)/python -m grafana.start

sql: install
	@$(BIN)/python -m connectors.clickhouse sql "$$Q"

lock: .venv/installed-dev
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header -q \
		-c requirements.lock -o requirements-dev.lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
