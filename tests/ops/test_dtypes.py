"""A dtype of the kernels is one entry of a list, in C++ and in Python."""

import ctypes
import re
from pathlib import Path

import pytest
import torch

import regrow
from regrow.ops import DTYPES, _native, lanes

OPS = Path(regrow.ops.__file__).parent
native = pytest.mark.skipif(not regrow.ops.info()["loaded"], reason="the native kernels are not loaded")


@native
def test_both_lists_are_the_same():
    _native._library.regrow_dtypes.restype = ctypes.c_char_p
    assert _native._library.regrow_dtypes().decode().split(",") == [str(d).removeprefix("torch.") for d in DTYPES]


@native
def test_lanes_fill_a_vector():
    assert len({lanes(dtype) * dtype.itemsize for dtype in DTYPES}) == 1
    assert _native._library.regrow_lanes(b"int8") == 0


def test_nothing_but_the_lists_names_a_dtype():
    choice = re.compile(r"ScalarType::(Float|Double)\b|(Kernels|kernels|scalar_type|Types)<(float|double)\b")
    sources = [*OPS.glob("csrc/*.*"), *OPS.glob("csrc/kernels/*.*")]
    assert {path.name for path in sources if choice.search(path.read_text())} == {"check.h", "dtypes.h"}  # texts, list
    pair = re.compile(r"torch\.float32, torch\.float64|torch\.float64, torch\.float32|== torch\.float64")
    python = OPS.parent.rglob("*.py")
    assert {path.name for path in python if pair.search(path.read_text())} == {"_dtypes.py"}


def test_others_are_named_in_the_error():
    with pytest.raises(TypeError, match="float32 or float64, got torch\\.float16; convert it first"):
        lanes(torch.float16)
