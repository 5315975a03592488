# make demo | make test | make docs | make lint | make format | make wheel | make sanitize | make survival.
# Everything lives in .venv.
PYTHON ?= python3
TORCH  ?= torch==2.14.1 torchvision==0.29.1
BIN    := .venv/bin

# Bytecode is kept, also where the environment forbids it: the tests start a hundred processes, and without it each of
# them compiles torch anew.
export PYTHONDONTWRITEBYTECODE :=

include native.mk

.DEFAULT_GOAL := demo
.PHONY: demo test slow survival docs lint format clean

demo: .venv/ready
	$(BIN)/regrow demo

test: .venv/ready
	$(MAKE) --jobs 2 lint docs
	$(BIN)/pytest -n 2

slow: .venv/ready
	$(BIN)/pytest -m slow

survival: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m survival

docs: .venv/ready  ## build/site; warnings and dead links are errors (--quiet would not count them)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist src/*.egg-info

# torch comes first, so that the packages after it find it there and fetch no second one. Of their thousands of files
# few are ever imported, so Python compiles those when they are.
.venv/ready: pyproject.toml setup.py
	@echo "Installing PyTorch (several GB) and compiling the kernels: minutes without a word"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile $(TORCH) "setuptools>=77"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-build-isolation --editable ".[recipes,report,dev,docs,examples]"
	touch $@
