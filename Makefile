# The front door: each target installs what it needs into .venv, then calls the command line.

PYTHON ?= python3
# Each command takes the place of its shell, so that a signal to make reaches it.
RUN := exec .venv/bin/python -m infovae

# What the user types reaches the command line as an environment variable: neither make nor the shell expands it.
override PROFILE := $(or $(value PROFILE),quick)
override EXPERIMENT := $(value EXPERIMENT)
override PARAMS := $(value PARAMS)
override DEVICE := $(or $(value DEVICE),$(value INFOVAE_DEVICE))
override WORKERS := $(or $(value WORKERS),$(value INFOVAE_WORKERS))
export PROFILE EXPERIMENT PARAMS
export INFOVAE_DEVICE := $(DEVICE)
export INFOVAE_WORKERS := $(WORKERS)

# Packages come from the environment alone, whatever the user's own Python and pip are set to.
unexport PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV PIP_NO_DEPS
# Modules are compiled when they are first imported and kept so; pip would spend a minute on compiling them all.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install data reproduce train publish run report verify bench lint test stress lab clean

## List the targets
help:
	@awk '/^## / { text = substr($$0, 4); next } \
	      /^[a-z-]+:/ && text { sub(/:.*/, ""); printf "  make %-10s %s\n", $$0, text } \
	      { text = "" }' Makefile
	@echo 'PROFILE is smoke, quick (the default), laptop, fashion or paper. DEVICE=cuda and WORKERS=4 override what is found.'
	@echo 'Example: make run EXPERIMENT=latent_usage PARAMS="lambdas=[10] seeds=[0]"'

## Install the pinned packages into .venv; the other targets do it when it is due
install: .venv

# What an environment was made with: this folder, its interpreter, these pins. Where they differ it is made anew; one
# that is a link to elsewhere is the user's own, and used as it is.
STAMP = pwd -P; $@/bin/python -c 'import sys; print(sys.version, sys.base_prefix)'; cat pyproject.toml constraints.txt

# The stamp comes last and the environment starts empty: an interrupted install is done again from the beginning.
.PHONY: .venv .venv-bench
.venv: EXTRAS := dev
.venv-bench: EXTRAS := bench
.venv .venv-bench:
	@[ -L $@ ] && exit; { $(STAMP); } 2>&1 | cmp -s - $@/installed && exit; set -e; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; $(PYTHON) is " \
	  + sys.version.split()[0] + ". Name a newer one: make PYTHON=python3.11 ...")'; \
	echo 'Installing the pinned packages into $@: one to two minutes ...'; \
	$(PYTHON) -m venv --clear $@; \
	$@/bin/python -m pip install --quiet --no-user --no-compile --disable-pip-version-check -c constraints.txt \
	  -e '.[$(EXTRAS)]'; \
	{ $(STAMP); } > $@/installed 2>&1

## Fetch and verify the data sets
data: .venv
	@$(RUN) data

## Train what is missing, execute every notebook, write results/PROFILE
reproduce: .venv
	@$(RUN) reproduce --profile "$$PROFILE"

## Train PROFILE in any number of sittings, the most valuable runs first; publish nothing
train: .venv
	@$(RUN) train --profile "$$PROFILE"

## Publish what is trained of PROFILE; train no run of it
publish: .venv
	@export INFOVAE_TRAIN=0; $(RUN) reproduce --profile "$$PROFILE"

## Run one EXPERIMENT with new PARAMS, into results/custom
run: .venv
	@$(RUN) run "$$EXPERIMENT" -p "$$PARAMS"

## Rebuild tables, claims and pages of results/PROFILE, without training
report: .venv
	@$(RUN) report --profile "$$PROFILE"

## Train PROFILE again from an empty store and compare with the committed results
verify: .venv
	@$(RUN) verify --profile "$$PROFILE"

# The variables have freed memory kept, as in a sweep's workers.
## Measure speed and memory beside pythae, which is installed into .venv-bench
bench: .venv-bench
	exec env MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=33554432 INFOVAE_DEVICE=cpu \
	  .venv-bench/bin/python -m bench

## Check style and types
lint: .venv
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

## Check style and types, run every test
test: lint
	exec .venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

## Kill it at random moments, spread it over namespaces, give it 10,000 runs; writes results/stress.md
stress: .venv
	exec .venv/bin/pytest -m stress tests/runs/test_stress.py

## Open the notebooks in JupyterLab; what is saved there keeps its cells, not its outputs
lab: .venv
	@$(RUN) lab

## Remove .venv, .venv-bench and what tools leave behind; trained runs and data stay
clean:
	rm -rf .venv .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis build infovae.egg-info
	find bench infovae tests -name __pycache__ -prune -exec rm -rf {} +
