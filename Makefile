# `make up` runs a cluster on this machine, `make test` checks everything.
# Both install what they need into this clone first: .tools (uv) and .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help up test unit fuzz agents soak chaos hostile install lint types bench format clean

# The caller's Python settings must not reach ours.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV

ARGS ?=
BIN := .venv/bin
POMONA := $(BIN)/python -I -m pomona_ops
CODE := shared services ops tests

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: install ## run a cluster here; options go into ARGS: make up ARGS="--stages 3"
	@exec $(POMONA) up $(ARGS)

# Two processes share the files out in order, so that the long ones come first.
test: lint types ## lint, types and every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

unit: install ## fast unit tests, in under a minute
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit -p no:schemathesis -m "not slow and not soak" $(ARGS)

fuzz: install ## damaged inputs to every parser: make fuzz SECONDS=1800
	POMONA_FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest tests/fuzz --timeout 0 $(ARGS)

agents: install ## coding agents from npm, each one prompt to the end
	$(BIN)/python -m pytest -m agents tests/clients $(ARGS)

soak: install ## faults for minutes on end, and hundreds of random schedules of guesses
	$(BIN)/python -m pytest -m soak tests/chaos tests/unit/stage_worker $(ARGS)

SECONDS ?= 600
SEED ?= 0
chaos: install ## seeded random faults on two nodes: make chaos SECONDS=3600 SEED=7; needs root
	@CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) \
		$(BIN)/python -m pytest -m soak tests/chaos/test_random_faults.py $(ARGS)

hostile: install ## hostile input beside exact streams: make hostile SECONDS=1800 SEED=7
	@HOSTILE_SECONDS=$(SECONDS) HOSTILE_SEED=$(SEED) \
		$(BIN)/python -m pytest -s -m soak tests/chaos/test_hostile_input.py $(ARGS)

install: ## make .venv what uv.lock says
	@ops/bootstrap.sh

lint: install ## style and common mistakes
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	ops/check_page.sh

types: install ## strict types, for Linux and for macOS
	$(BIN)/pyright --pythonplatform Linux
	$(BIN)/pyright --pythonplatform Darwin

bench: install ## measure decoding: make bench ARGS="--json"
	@exec $(POMONA) bench decode $(ARGS)

format: install ## rewrite the code as lint wants it
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean: ## remove what was installed and built here
	rm -rf .venv .tools .pytest_cache .ruff_cache .hypothesis
	rm -rf tests/clients/openai2/.venv tests/clients/ai/node_modules tests/clients/agents/node_modules
	rm -rf services/gateway/web/node_modules
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +
