# Two commands do everything on a machine with Python 3.11+ and make:
#   make demo   convert SmolLM2-135M into a hybrid and write a report (about 8 minutes on 2 CPU cores, after 2 minutes of installing)
#   make test   run every test and notebook; the Triton kernels in a second process, in the interpreter
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_ARGS ?=

.PHONY: help install demo quick test docs dist clean
help:
	@sed -n '1,3p' Makefile

install: $(VENV)/.installed

$(VENV)/.installed: settings.ini setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (transformers 5.23 asks for it): make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/hybrid-distill run $(DEMO_ARGS)

quick: install
	$(BIN)/hybrid-distill run --quick

test: install
	$(BIN)/python -m pytest tests
	$(BIN)/python -m pytest tests/kernels

docs: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/build.py

# wheel and sdist; the wheel is installed into an environment of its own and imported there
dist: install
	rm -rf dist build
	$(BIN)/python -m build
	$(PYTHON) -m venv dist/.try
	dist/.try/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	cd dist && .try/bin/python -c 'import hybrid_tutorial; from hybrid_tutorial import *; print(hybrid_tutorial.__version__, hybrid_tutorial.__file__)' && .try/bin/hybrid-distill --version
	rm -rf dist/.try

clean:
	rm -rf $(VENV) build dist docs/_build _docs _proc
