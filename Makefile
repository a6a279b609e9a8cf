# make demo         set up and train the built-in digits
# make test         set up and run the tests
# make test-faults  the long shelf: every fault at every stage, and what takes minutes (`make test` has a sample)
# make test-sample  every sixth test of the long shelf, which CI runs
# make test-models  every architecture: all names, parity with torchvision and timm, runs that must leave chance level
# make test-mutants  broken copies of the product: each must turn its test red
# make test-gpu     what must hold on a GPU, killed and resumed runs among it; needs one
# make check        format, lint, types and the rules of the house
# make train MODEL=resnet18 DATA=photos.zip ARGS="--holdout 10%"
# make clean        remove the environment and the caches; runs/ stays

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-faults test-sample test-models test-mutants test-gpu check train clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/saccade train $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

test-faults: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m full $(ARGS)

test-sample: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m full --one-in 6 $(ARGS)

test-models: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m models $(ARGS)

test-mutants: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/mutants -m mutants $(ARGS)

test-gpu: $(VENV)/.installed-dev
	SACCADE_TEST_GPU=1 $(BIN)/python -m pytest tests/device/test_gpu.py tests/faults/test_kill_and_resume.py \
	  tests/faults/test_numbers.py $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/house

train: $(VENV)/.installed
	$(BIN)/saccade train $(if $(MODEL),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)") $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(wildcard src tests bench) -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make the second time quick; a changed pyproject.toml or constraints.txt installs again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Saccade needs Python 3.11 or newer; '$(PYTHON)' is" \
	    "$$($(PYTHON) -V 2>&1). Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "installing Saccade into $(VENV): the first time this takes some minutes (torch is large)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "installing Saccade and its tools into $(VENV): the first time this takes some minutes (torch is large)"
	$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.installed
