# Everything sets itself up: `make train` and `make test` work in a fresh clone.
RECIPE ?= recipes/digits_frozen.yaml
# More arguments for the command: make train ARGS="--set steps=20", make test ARGS="tests/test_order.py -x"
ARGS ?=
# Test processes; several tests start two ranks of their own.
JOBS ?= 2

BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup train test thorough nodes wheels check clean pins

help:
	@echo "make train [RECIPE=recipes/x.yaml] [ARGS='--set steps=20']   set up, then train"
	@echo "make test  [ARGS='tests/test_order.py']                      set up, then check and test"
	@echo "make thorough [ARGS=...]            the rest of every cross-product that make test has a part of"
	@echo "make nodes [ARGS='-k torchrun']     train across two hosts made of namespaces (as root; needs pdsh and sshd)"
	@echo "make wheels [ARGS='-k audio']       install, train and check each plugin alone with the core, from wheels"
	@echo "make check   lint, format and types      make setup   only the environment"
	@echo "make clean   remove caches and builds    make pins    write constraints.txt anew"

setup:
	@bash scripts/setup.sh

train: setup
	@$(BIN)/metaformer train "$(RECIPE)" $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Not part of `make test`, which has a part of each of these cross-products: see docs/reliability.md.
thorough: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m thorough -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Not part of `make test`: see docs/multi-node.md.
nodes: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nodes tests/nodes $(ARGS)

# Not part of `make test`: each plugin in an environment of its own.
wheels: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m wheels tests/wheels $(ARGS)

pins: setup
	$(BIN)/python scripts/pin.py

# Keeps .venv and runs/.
clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist plugins/*/build plugins/*/dist
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
