# `make demo` and `make test` do everything on a fresh machine; both keep what is there already.
PYTHON ?= python3
VENV   ?= .venv
# onnxruntime and onnxruntime-gpu own the same files: never both.
ONNX   := $(if $(shell command -v nvidia-smi),onnx-gpu,onnx)

.PHONY: demo test slow install install-dev clean

demo: install
	$(VENV)/bin/xfer demo

test: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pytest

slow: install-dev
	$(VENV)/bin/pytest -m slow

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
	rm -rf $(VENV) build dist
