# make demo   fetch a small model, export it, let the exported file speak
# make test   every check and every test
# make lint   the checks alone
# make clean  remove all that the others made

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= Tell me about the sea.
PYTEST_ARGS ?=

BIN := $(VENV)/bin
MODELS := build/models
MODEL := $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
EXPORTED := build/smollm2/model.onnx
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

PACKAGING := pyproject.toml constraints.txt $(shell find custom_ops -type f)
PYTHON_SOURCES := $(shell find resq_onnx passes -name '*.py')
CXX_SOURCES := $(shell find custom_ops -name '*.h' -o -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test lint clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(VENV)/installed-demo $(MODEL)
	mkdir -p $(dir $(EXPORTED))
	$(BIN)/resq-onnx export $(MODEL) $(EXPORTED)
	$(BIN)/resq-onnx generate $(EXPORTED) --chat --prompt "$(PROMPT)" --max-new-tokens 60
	$(BIN)/resq-onnx inspect $(EXPORTED)

# Warnings are errors by pyproject.toml; `-W error` here would undo the exceptions listed there.
test: lint $(MODEL)
	RESQ_TEST_MODEL=$(abspath $(MODEL)) $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

# Two ways to install, and the later one replaces the earlier: each takes the other's stamp away.
# The demo installs what a user would; the tests install in place and follow edits of Python files.
$(VENV)/installed-demo: $(PACKAGING) $(PYTHON_SOURCES) | $(BIN)/python
	rm -f $(VENV)/installed-*
	$(PIP_INSTALL) ".[export,cpu]"
	touch $@

$(VENV)/installed-test: $(PACKAGING) | $(BIN)/python
	rm -f $(VENV)/installed-*
	$(PIP_INSTALL) -e ".[export,cpu,test]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(MODEL): | $(BIN)/python
	$(BIN)/python scripts/fetch_smollm2.py $(MODELS)

clean:
	rm -rf build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
