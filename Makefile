# make demo         set up and train the built-in digits
# make install      set up, and nothing else
# make train_resnet50 DATA=photos.zip ARGS="--holdout 10%"    any recipe or model by its name
# make resume_resnet50 DATA=photos.zip ARGS="--holdout 10%"   the same: a run that was stopped continues by itself
# make visualize RUN=runs/resnet50-photos-1a2b3c4d            plots, page and notebook of a run
# make docs         build the documentation into build/site, and check its links, commands and Python blocks
# make format       format the code, and repair what can be repaired
# make test         set up and run the tests
# make test-faults  the long shelf: every fault at every stage, and what takes minutes (`make test` has a sample)
# make test-sample  every sixth test of the long shelf, which CI runs
# make test-models  every architecture: all names, parity with torchvision and timm, runs that must leave chance level
# make test-mutants  broken copies of the product: each must turn its test red
# make test-gpu     what must hold on a GPU, killed and resumed runs among it; needs one
# make wheel        build the wheel and the source distribution into dist/
# make test-wheel   install that wheel into an empty environment and use it; takes minutes
# make licences     write the table of docs/licences.md from the installed packages
# make check        format, lint, types, the rules of the house, and whether each broken copy still fits
# make train MODEL=resnet18 DATA=photos.zip ARGS="--holdout 10%"    the recipe that fits the data
# make clean        remove the environment and the caches; runs/ stays

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo install create test test-faults test-sample test-models test-mutants test-gpu check wheel test-wheel licences format docs \
  train visualize clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/saccade train $(ARGS)

# two processes share the tests; each holds up to 4 GB
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

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

# mypy also reads the code as on Windows and on macOS; what is only there on one system needs another branch
check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/python -m pytest tests/house tests/mutants

wheel: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation

# downloads torch once more; another interpreter: make test-wheel PYTHON=python3.12
test-wheel: wheel
	$(BIN)/python tests/release/smoke.py dist --python $(PYTHON)

licences: $(VENV)/.installed-dev
	$(BIN)/python docs/tools/licences.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	$(BIN)/python -m pytest tests/house/test_docs.py tests/house/test_site.py tests/test_python_blocks.py $(ARGS)
	@echo "the documentation is in build/site/index.html"

install create: $(VENV)/.installed

train: $(VENV)/.installed
	$(BIN)/saccade train $(if $(MODEL),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)") $(ARGS)

# resume_x is train_x: the same command continues a run that was stopped
train_% resume_%: $(VENV)/.installed
	$(BIN)/saccade train "$*" $(if $(DATA),--data "$(DATA)") $(ARGS)

visualize: $(VENV)/.installed
	@test -n "$(RUN)" || { echo "Which run? make visualize RUN=runs/..." >&2; exit 2; }
	$(BIN)/saccade report "$(RUN)" --notebook $(ARGS)

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
	@echo "installing Saccade into $(VENV): the first time this takes minutes, and 10 GB of free disk (torch is large)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "installing Saccade and its tools into $(VENV): the first time this takes minutes, and 11 GB of free disk" \
	  "(torch is large)"
	$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.installed
