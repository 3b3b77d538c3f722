# make quickstart   train a static prompt and a generator of prompts beside a real, frozen T5, and compare them
# make test         lint, types and tests
# make lint         ruff and the type checker alone
# make format       put the code into the house's format
# make clean        remove the virtual environment and every cache
#
# PYTHON=python3.12 chooses the Python of the virtual environment; WORKERS=4 and TESTS="tests/lm -k greedy" steer pytest.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
TESTS ?= tests

python := $(VENV)/bin/python
# Python compiles what it imports; pip would compile all of 17,000 files first, which takes 40 seconds.
install := $(python) -m pip install --quiet --disable-pip-version-check --no-compile
to_run := $(VENV)/.installed-to-run
to_test := $(VENV)/.installed-to-test

.PHONY: quickstart test lint format clean

quickstart: $(to_run)
	$(python) run.py --gin_file=gin/runs/quickstart.gin --gin_file=gin/methods/prompt_tuning.gin --gin.MODEL_DIR=runs/quickstart_static --gin.train.report_split=None
	$(python) run.py --gin_file=gin/runs/quickstart.gin --gin.train.report_split=None
	$(python) run.py --gin_file=gin/runs/quickstart_comparison.gin --run_mode=eval

# pytest comes last, so that its verdict is the last line printed. Files go by name: by their number of tests, slow files of few
# tests would be left to one worker at the end.
test: lint
	$(python) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder $(TESTS)

lint: $(to_test)
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m basedpyright --pythonpath $(python)

format: $(to_test)
	$(python) -m ruff check --fix
	$(python) -m ruff format

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build frozen_jax.egg-info

$(python):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	    echo "frozen_jax needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
	         "Name another, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

# Each stamp is newer than the requirements that it stands for: editing them installs again, and nothing else does.
$(to_run): requirements.txt | $(python)
	@echo "Installing requirements.txt into $(VENV): 3.4 GB, one to three minutes."
	@$(install) --requirement requirements.txt
	@touch $@

$(to_test): requirements.txt requirements-dev.txt requirements-parity.txt | $(python)
	@echo "Installing requirements-dev.txt into $(VENV): 3.9 GB, one to four minutes."
	@$(install) --requirement requirements-dev.txt
	@$(install) --requirement requirements-parity.txt || echo "No CPU build of torch where pip looks for one:" \
	    "the comparisons with transformers will be skipped. CONTRIBUTING.md says what to do."
	@touch $@
