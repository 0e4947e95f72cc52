# One front door. `make` alone prints what there is.
# Everything lives in .venv; set PYTHON to use another interpreter (3.11 or newer).

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench
COMPILED := $(VENV)/compiled
COMPILED_STAMP := $(COMPILED)/.installed
PYTEST := $(BIN)/python -m pytest
# The tests mostly wait, so there are twice as many workers as cores; those at their stated counts do not.
CORES := $(shell getconf _NPROCESSORS_ONLN)
WORKERS ?= $(shell echo $$(($(CORES) > 3 ? $(CORES) + 2 : ($(CORES) * 5 + 1) / 2)))
LONG_WORKERS ?= $(shell echo $$(($(CORES) > 4 ? 4 : $(CORES))))
ARGS ?=

# Most of what runs here is started many times over, the tests' gateways first of all. Where this variable is
# set, each of them would compile all its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run test test-long test-floors check format lock audit bench chaos clean

help: ## print this list
	@echo "usage: make TARGET [ARGS='…']"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## set up .venv with the locked dependencies (fast when nothing changed)
	@:

$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or say PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "==> making $(VENV) with $(PYTHON)"; \
		$(PYTHON) -m venv --clear $(VENV) || { \
			echo "The venv module is missing: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }; }
	@echo "==> installing $$(grep -c '==' requirements.lock) locked packages (a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements.lock
	@echo "==> installing sse_gateway itself"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
	@touch $(STAMP)

run: install ## start the demo: an embedded server, the gateway, a scripted agent, the console
	@$(BIN)/sse-gateway demo $(ARGS)

test: install ## run the tests, each at a reduced count
	@$(PYTEST) -n $(WORKERS) $(ARGS)

test-long: install ## run the tests that have a stated count, at that count (under 20 minutes)
	@SSE_TEST_LONG=1 $(PYTEST) -n $(LONG_WORKERS) -m "long or scaled" --timeout 900 -o faulthandler_timeout=1000 $(ARGS)

test-floors: install ## run the tests with the oldest dependencies pyproject.toml allows (needs uv)
	@uv venv --quiet --clear --python $(BIN)/python .venv/floors
	@uv pip install --quiet --python .venv/floors --resolution lowest-direct --group dev -e '.[demo]'
	@.venv/floors/bin/python -m pytest -n $(WORKERS) $(ARGS)

check: install ## lint, format, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: install ## rewrite what `make check` would complain about, where that is possible
	@$(BIN)/ruff check --fix --exit-zero .
	@$(BIN)/ruff format .

lock: ## renew requirements.lock from pyproject.toml (needs uv); ARGS=--upgrade for newer versions
	@uv pip compile --quiet --universal --python-version 3.11 --extra demo --group dev --generate-hashes \
		--no-annotate --custom-compile-command "make lock" -o requirements.lock $(ARGS) pyproject.toml
	@uv pip compile --quiet --universal --python-version 3.11 --extra demo --group dev --group bench \
		--constraints requirements.lock --generate-hashes --no-annotate --custom-compile-command "make lock" \
		-o bench/requirements.lock $(ARGS) pyproject.toml

audit: install ## ask the advisory database about the locked versions (without a network it says so and goes on)
	@$(BIN)/python scripts/audit.py requirements.lock bench/requirements.lock scripts/redis5.lock

bench: install $(BENCH_STAMP) $(COMPILED_STAMP) ## measure beside others, a quick pass in minutes; FULL=1 for docs/performance/
	@$(BIN)/python -m bench $(if $(FULL),--full) $(ARGS)

$(BENCH_STAMP): bench/requirements.lock $(STAMP)
	@echo "==> installing the benchmark's peers and matplotlib"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r bench/requirements.lock
	@touch $(BENCH_STAMP)

# What `HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip install` installs, in a folder of its own.
$(COMPILED_STAMP): $(STAMP) scripts/compile_hook.py $(shell find sse_gateway ! -name '*.pyc' ! -name __pycache__)
	@echo "==> compiling the hot path into $(COMPILED) (half a minute)"
	@rm -rf $(COMPILED)
	@HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
		--no-deps --no-build-isolation --target $(COMPILED) .
	@touch $@

chaos: install ## run the fault tests at their stated numbers; see docs/guarantees.md
	@SSE_TEST_LONG=1 $(PYTEST) -m chaos --timeout 900 -o faulthandler_timeout=1000 $(ARGS)

clean: ## remove .venv and every cache
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

test-redis5: install ## run the tests of the agent SDK with redis-py 5
	@scripts/redis5.sh -n $(WORKERS) $(ARGS)
.PHONY: test-redis5

test-aiohttp: install ## run the tests of streams and permissions with streams that stay aiohttp responses
	@SSE_GATEWAY_STREAM_TRANSPORT=aiohttp $(PYTEST) -n $(WORKERS) tests/streams tests/permissions $(ARGS)
.PHONY: test-aiohttp

test-compiled: install $(COMPILED_STAMP) ## run the tests of frames, streams, permissions and faults over the compiled hot path
	@rm -rf $(COMPILED)/tests && cp -R tests config docs README.md pyproject.toml $(COMPILED)
	@cd $(COMPILED) && export PYTHONPATH=$$PWD && ../bin/sse-gateway --version | grep compiled && \
		../bin/python -m pytest -n $(WORKERS) $(or $(TESTS),tests/core tests/streams tests/permissions tests/chaos) $(ARGS)
.PHONY: test-compiled

test-examples: install ## run examples/ against the real packages (installs them, half a gigabyte, and needs node)
	@scripts/examples.sh $(ARGS)
.PHONY: test-examples
