"""`regrow bench layers`: rows, contestants, messages."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path

import pytest
import torch

from lab.commands import run
from regrow.lab.bench import layers as bench_layers


def test_bench_layers_measures_prints_and_writes(tmp_path: Path):
    file = tmp_path / "out" / "layers.json"
    words = ["--densities", "0.1", "--batch", "16", "--threads", "1", "--kinds", "nchw,onednn", "--seconds", "0"]
    cases = "linear:64->32,conv3x3:4->6@5s2b3"
    result = run("bench", "layers", "--cases", cases, *words, "--json", str(file))
    assert result.exit_code == 0, result.output
    for text in ("1/2  linear:64->32 at density 0.1: ", "2/2  conv3x3", "times as fast as nchw", "best fp32", "oneDNN"):
        assert text in result.stdout
    linear, conv = json.loads(file.read_text())
    assert shlex.split(linear["command"])[:5] == ["regrow", "bench", "layers", "--cases", cases]
    assert {"processor", "isa", "threads", "torch", "allocator", "clock"} <= linear.keys()
    assert (linear["case"], linear["batch"], conv["batch"]) == ("linear:64->32", 16, 3)
    assert set(linear["dense_ms"]) == {"nchw", "onednn"}
    assert set(conv["dense_ms"]) == {"nchw"}
    assert max(linear["max_rel_error"], conv["max_rel_error"]) < 1e-5


def test_bench_layers_silences_one_message_only(caplog: pytest.LogCaptureFixture):
    bench_layers.run(["linear:4->4"], [0.5], batch=2, kinds=["nchw"], seconds=0)
    for text in ("No CUDA runtime is found, using CUDA_HOME='/usr/local'", "something else"):
        logging.getLogger("torch.utils.cpp_extension").warning(text)
    assert caplog.messages == ["something else"]


def test_the_onednn_contestant_computes_a_linear_layer():
    from regrow.lab.bench.layers import _OneDNN

    x, weight = torch.randn(5, 7, requires_grad=True), torch.randn(3, 7, requires_grad=True)
    grad = torch.randn(5, 3)
    want = torch.autograd.grad(x @ weight.t(), [x, weight], grad)
    got = torch.autograd.grad(_OneDNN.apply(x, weight), [x, weight], grad)
    torch.testing.assert_close(got, want)
