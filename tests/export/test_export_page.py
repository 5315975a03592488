"""The code of docs/export.md runs."""

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import regrow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(fc1=nn.Linear(20, 40), act=nn.ReLU(), fc2=nn.Linear(40, 4)))


def test_the_page(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    write, go_on, take = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    model = regrow.sparsify(make_model(), 0.1, seed=0)
    names = {"model": model, "example_input": torch.randn(2, 20), "make_model": make_model, "torch": torch}
    exec(write, names)
    assert len(list(tmp_path.iterdir())) == 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(8, 20)).sum().backward()
    optimizer.step()
    regrow.export.save_safetensors("training.safetensors", model, optimizer)
    exec(go_on, names)
    assert torch.equal(
        names["optimizer"].state[names["model"].fc1.weight]["momentum_buffer"],
        optimizer.state[model.fc1.weight]["momentum_buffer"],
    )
    names |= {"pruned": make_model(), "plain": make_model(), "mask": torch.ones(40, 20) > 0}
    prune.l1_unstructured(names["pruned"].fc2, "weight", amount=0.5)
    exec(take, names)
    assert list(regrow.sparse_weights(names["model"])) == ["fc1.weight"]
