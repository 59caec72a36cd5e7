# make run, make test: the two commands that need nothing set up before. The others are listed by `make help`.

# The distribution's own Python where it is new enough: it is built with profile-guided optimisation, which an
# interpreter compiled at hand often is not, and that is a fifth of the speed of this program.
PYTHON ?= $(shell for p in /usr/bin/python3 python3; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
STAMP := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed

.PHONY: run test test-long lint types imports bench bench-micro lock system clean help

run: $(STAMP)  ## start the sidecar in front of a demo dependency
	@exec $(BIN)/sidecar demo --config config/demo.yaml

test: $(STAMP) system lint types imports $(VENV)/.compiled  ## everything that CI runs
	$(BIN)/python scripts/run_tests.py

test-long: $(STAMP) system  ## the tests that take minutes: a gigabyte each way
	$(BIN)/python -m pytest -m long -p no:cacheprovider

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

bench: $(BENCH_VENV)/.compiled  ## side by side with nginx, HAProxy, Envoy, Go and aiohttp; ARGS=--quick for a look
	$(BENCH_VENV)/bin/python -m benchmarks.imports
	$(BENCH_VENV)/bin/python -m benchmarks.side_by_side $(ARGS)
	$(BENCH_VENV)/bin/python -m benchmarks.side_by_side --profile policies $(ARGS)
	$(BENCH_VENV)/bin/python -m benchmarks.side_by_side --profile tls $(ARGS)
	$(BENCH_VENV)/bin/python -m benchmarks.itself $(filter --quick,$(ARGS))

bench-micro: $(STAMP)  ## what each policy and each request costs, without sockets
	$(BIN)/python -m pytest benchmarks/micro --benchmark-only --benchmark-sort=name --benchmark-columns=min,median,rounds

system:
	@$(PYTHON) scripts/system_packages.py

lock:  ## resolve pyproject.toml anew into requirements/, with hashes (needs uv)
	scripts/lock.sh

clean:
	rm -rf $(VENV) $(BENCH_VENV) *.egg-info

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

# The lock is whole, so pip resolves nothing (--no-deps): left to itself, it looks for the newest version of what is
# locked without the extra that another package asks for, and then refuses that for want of a hash.
$(STAMP): requirements/test.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --no-deps --require-hashes -r requirements/test.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(BENCH_STAMP): requirements/bench.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(PIP:$(BIN)/%=$(BENCH_VENV)/bin/%) install --no-deps --require-hashes -r requirements/bench.txt
	$(PIP:$(BIN)/%=$(BENCH_VENV)/bin/%) install --no-deps --no-build-isolation --editable .
	@touch $@

# The data plane compiled from the same sources, as an image ships it. Without a compiler the benchmark names its row as
# missing, and `make test` tests the interpreted build alone (with CI=true it fails).
SOURCES := $(shell find sidecar -name '*.py')

$(VENV)/.compiled: $(STAMP) setup.py $(SOURCES) | system
	@scripts/compile.sh $(VENV)
	@touch $@

$(BENCH_VENV)/.compiled: $(BENCH_STAMP) setup.py $(SOURCES) | system
	@scripts/compile.sh $(BENCH_VENV)
	@touch $@
