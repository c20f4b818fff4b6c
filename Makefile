# Everything a person or a checker runs. Each target first brings .venv up to date, which takes
# a fraction of a second when nothing changed.
#
#   make setup       DEEPINTUIT_DEVICE=cpu|cuda overrides what it finds; PYTHON=/path/to/python3.11
#   make demo        all stages on the embedded data, into runs/demo; SEED=k goes to runs/demo-k
#   make demo METHOD=rbft|lvlm-var|splitting   another of the seed methods, into runs/demo-METHOD
#   make study       the demo under three seeds, with control arms, into docs/results.md; hours, and
#                    goes on where it stopped; SEEDS="1 2 3 4 5"
#   make test        what a change must pass; test-all adds the slow tests
#   make test-cuda-lock   installs the CUDA lock beside .venv (10 GB) and runs the unit tests in it
#   make lint        format, types: one check each. .ci/run is all of them
#   make docs        write the pages of docs/ that come from code
#   make lock        resolve requirements/*.in again; FLAGS=--upgrade moves every version

PYTHON ?= $(or $(shell command -v python3.11),python3)
BIN := .venv/bin
SEEDS ?= 1 2 3
RUN_DIR := runs/demo$(if $(METHOD),-$(METHOD))$(if $(SEED),-$(SEED))
RECIPE := recipes/demo$(if $(METHOD),-$(METHOD)).toml

.PHONY: setup demo split-demo study test test-all test-cuda-lock lint format types docs lock clean

setup:
	@$(PYTHON) requirements/setup.py

demo: setup
	@test -f $(RECIPE) || { echo "METHOD=$(METHOD): expected rbft, lvlm-var or splitting, or none for DeepIntuit"; exit 2; }
	test -f build/demo/data/manifest.jsonl || $(BIN)/deepintuit make-demo-data build/demo/data
	test -f build/demo/model/config.json || $(BIN)/deepintuit make-demo-model build/demo/model
	@test "$(METHOD)" != splitting || test -f build/demo/splitting/manifest.jsonl || \
	  $(BIN)/deepintuit make-demo-pairs build/demo/data build/demo/splitting
	$(BIN)/deepintuit run $(RECIPE) --overwrite --run-dir $(RUN_DIR) $(if $(SEED),--set seed=$(SEED))
	@test "$(METHOD)" != splitting || $(MAKE) --no-print-directory split-demo

# What METHOD=splitting does after its run: the label "left" becomes six, and clips of it get one of them.
PARTS := $(foreach last,left right up down grow shrink,"left then $(last)")
split-demo:
	rm -rf $(RUN_DIR).split
	$(BIN)/deepintuit split $(RUN_DIR) $(RUN_DIR).split --label left --into $(PARTS) --yes --bias fine \
	  --measure build/demo/splitting/measure.jsonl --shots build/demo/splitting/shots.jsonl
	$(BIN)/deepintuit classify $(RUN_DIR).split $(foreach n,13 41 49 52,build/demo/data/clips/test/test-0-000$(n).mp4)

# Paths in --set, like those in a recipe, start at the recipe's folder.
study: setup
	for seed in $(SEEDS); do \
	  test -f build/study/data-$$seed/manifest.jsonl || \
	  $(BIN)/deepintuit make-demo-data build/study/data-$$seed --seed $$seed --val 500 --test 1000 || exit 1; \
	done
	test -f build/demo/model/config.json || $(BIN)/deepintuit make-demo-model build/demo/model
	$(BIN)/deepintuit study recipes/demo.toml --run-dir runs/study --seeds $(SEEDS) \
	  --set 'data.manifest=../build/study/data-{seed}/manifest.jsonl' \
	  --group-by seen_combination --results docs/results.md

# Tests that start a Ray have the machine to themselves; the others go to two processes, by file.
test: setup
	$(BIN)/pytest -m "not slow and not ray" -n 2 --dist loadfile
	$(BIN)/pytest -m "not slow and ray"

test-all: setup
	$(BIN)/pytest

test-cuda-lock:
	@$(PYTHON) requirements/cuda_lock.py

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m cluster.docs.pages

lock: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python requirements/lock.py $(FLAGS)

clean:
	rm -rf .venv runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
