# Everything is done in .venv, which is made from this repository's own files.
#   make demo    six families, three seeds each, on real handwritten digits, in about five minutes, report in demo/report.html
#   make test    the whole test suite
#   make check   formatting, linting, floors, types, doctests, docs
#   make bench   timings, written to results/
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
# One thread per process: small networks run no faster on more, and the test processes share the cores.
export OMP_NUM_THREADS ?= 1
# mkdocs-material's notice about other tools is no part of our checks.
export NO_MKDOCS_2_WARNING := 1
# pyright comes whole from its package; it must never fetch another.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: all demo test check docs bench readme format clean

all: check test

# Torch first and alone: what follows then finds it in place, whichever build (CPU, CUDA) the machine was given.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

.venv: $(VENV)/.installed

demo: $(VENV)/.installed
	rm -rf demo
	$(BIN)/pushforward compare --data digits --minutes 0.4 --seeds 3 --out demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(JOBS) -q

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYTHONPATH=src $(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python -m pytest -q --doctest-modules src/pushforward -p no:cacheprovider
	$(BIN)/python docs/readme.py --check
	$(BIN)/mkdocs build --strict

docs: $(VENV)/.installed
	$(BIN)/mkdocs build --strict

readme: $(VENV)/.installed
	$(BIN)/python docs/readme.py

bench: $(VENV)/.installed
	for f in benchmarks/[a-z]*.py; do $(BIN)/python $$f || exit 1; done

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist site demo .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
