# The native kernels. Included by the Makefile.
PYTHON ?= .venv/bin/python

native:  ## compile the kernels into src/regrow/ops, beside the Python files
	$(PYTHON) setup.py -q build_ext --inplace

wheel:  ## dist/regrow-*-py3-none-<platform>.whl: one build for every torch >= 2.11
	$(PYTHON) -m pip wheel -q --no-build-isolation --no-deps -w dist .

.PHONY: native wheel
