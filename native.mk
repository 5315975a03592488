# The native kernels. Included by the Makefile.

native: .venv/ready  ## compile the kernels into src/regrow/ops, beside the Python files
	$(BIN)/python setup.py -q build_ext --inplace

wheel: .venv/ready  ## dist/regrow-*-py3-none-<platform>.whl: one build for every torch >= 2.11
	$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w dist .

.PHONY: native wheel

FUZZ_ROUNDS ?= 150
SANITIZERS = $(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libubsan.so)

sanitize: .venv/ready  ## fuzz every instruction set of this machine under AddressSanitizer and UBSan
	REGROW_SANITIZE=1 $(BIN)/python setup.py -q build_ext --build-lib build/sanitize-lib
	for isa in $$($(BIN)/python -c "import regrow.ops; print(*regrow.ops.available_isas())"); do \
	  LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	  REGROW_LIBRARY=build/sanitize-lib/regrow/ops/libregrow.so REGROW_ISA=$$isa \
	  PYTHONPATH=tests $(BIN)/python tests/ops/fuzz.py --rounds $(FUZZ_ROUNDS) || exit 1; done

WHEEL_PYTHONS ?= .venv/bin/python

wheel-test: wheel  ## run the operator and layer tests from the wheel under each of WHEEL_PYTHONS (a torch of another version each)
	for python in $(WHEEL_PYTHONS); do \
	  rm -rf build/wheel-test && mkdir -p build/wheel-test && \
	  $$python -m pip install -q --no-deps --target build/wheel-test dist/*.whl && \
	  PYTHONPATH=$(CURDIR)/build/wheel-test $$python -m pytest -q -p no:cacheprovider tests/ops tests/nn || exit 1; done

.PHONY: sanitize wheel-test
