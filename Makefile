# `make demo` and `make test` do everything on a fresh machine; both keep what is there already.
PYTHON ?= python3
VENV   ?= .venv
# onnxruntime and onnxruntime-gpu own the same files: never both.
ONNX   := $(if $(shell command -v nvidia-smi),onnx-gpu,onnx)

# Processes that run tests at once, and more options: `make test OPTIONS='-p randomly'` shuffles them.
JOBS   ?= 2
OPTIONS ?=
PYTEST := $(VENV)/bin/python -m pytest

.PHONY: demo lint docs test slow coverage install install-dev clean

demo: install
	$(VENV)/bin/xfer demo

lint: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# What is generated from the code: the command line reference, and the schema of report.json.
docs: install-dev
	$(VENV)/bin/python docs/generate_cli.py
	$(VENV)/bin/python -m benchmarks.report.schema docs/report.schema.json

test: lint
	$(PYTEST) -n $(JOBS) -m 'not slow and not timing' $(OPTIONS)
	$(PYTEST) -m 'timing and not slow' $(OPTIONS)

slow: install-dev
	$(PYTEST) -m slow $(OPTIONS)

# Lines that the tests of `make test` run, in all processes.
coverage: install-dev
	$(VENV)/bin/coverage erase
	$(VENV)/bin/coverage run -m pytest -n $(JOBS) -m 'not slow and not timing' $(OPTIONS)
	$(VENV)/bin/coverage run -m pytest -m 'timing and not slow' $(OPTIONS)
	$(VENV)/bin/coverage combine
	$(VENV)/bin/coverage report

install: $(VENV)/demo.stamp
install-dev: $(VENV)/dev.stamp

$(VENV)/demo.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[workstation,tensorrt-rtx,$(ONNX)]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[dev,tensorrt-rtx,$(ONNX)]'
	$(VENV)/bin/pip install --quiet --no-deps 'leapp>=0.7.2'  # its dependency onnxruntime would overwrite onnxruntime-gpu
	touch $@

clean:
	rm -rf $(VENV) build dist .coverage .coverage.*
