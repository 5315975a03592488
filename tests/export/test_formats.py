"""Dense, ONNX and torch-sparse files hold the same network; masks from elsewhere become active sets."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import regrow
from helpers import assert_same, mlp, picture, sparse_mlp
from regrow.export import from_masks, from_prune, save_dense, save_onnx, save_torch_sparse, torch_sparse_state


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm, self.fc = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(F.relu(self.norm(self.conv(x))).mean((2, 3)))


@pytest.fixture(params=["masked", "compressed"])
def net(request):
    return regrow.sparsify(Net(), 0.2, storage=request.param, seed=0).eval()


X = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))


def test_a_dense_file_is_a_plain_state_dict(net, tmp_path):
    save_dense(tmp_path / "d.pt", torch.compile(net, backend="eager"))  # wrappers leave no trace
    plain = Net(seed=1).eval()
    plain.load_state_dict(torch.load(tmp_path / "d.pt", weights_only=True))
    assert torch.equal(plain(X), regrow.densify(net)(X))


def test_torch_sparse_files_hold_csr_and_coo(net, tmp_path):
    save_torch_sparse(tmp_path / "s.pt", net)
    state = torch.load(tmp_path / "s.pt", weights_only=True)
    assert (state["fc.weight"].layout, state["conv.weight"].layout) == (torch.sparse_csr, torch.sparse_coo)
    for name, weight in regrow.sparse_weights(net).items():
        assert torch.equal(state[name].to_dense().flatten()[weight.indices], weight.values)
        assert len(state[name].values()) == weight.active
    plain = Net(seed=1).eval()
    plain.load_state_dict({name: value.to_dense() for name, value in state.items()})
    assert torch.equal(plain(X), regrow.densify(net)(X))
    rows = torch.randn(7, 6)
    torch.testing.assert_close(F.linear(rows, state["fc.weight"]), rows @ plain.fc.weight.t())


def test_active_weights_that_are_zero_stay_in_the_sparse_tensor():
    model = sparse_mlp()
    weight = regrow.sparse_weights(model)["0.weight"]
    weight.write(torch.zeros(weight.active))
    assert len(torch_sparse_state(model)["0.weight"].values()) == weight.active


def test_onnx_gives_equal_outputs_for_any_batch(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = regrow.sparsify(Net(), 0.2, storage="compressed", seed=0).eval()
    save_onnx(tmp_path / "m.onnx", net, X)
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    for batch in (1, 9):
        x = torch.randn(batch, 2, 5, 5)
        (found,) = session.run(None, {name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), regrow.densify(net)(x), rtol=0, atol=1e-6)


def test_onnx_is_not_written_where_outputs_differ_or_a_library_lacks(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    from regrow.export import onnx

    model = mlp(3, 4)
    x = torch.randn(2, 3)
    monkeypatch.setattr(onnx, "onnx_session", lambda file: lambda x: [model(x).detach().numpy() + 1e-3])
    with pytest.raises(RuntimeError, match=r"differs from torch's by 0\.001"):
        save_onnx(tmp_path / "m.onnx", model, x)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime .*pip install 'regrow\[onnx\]'"):
        save_onnx(tmp_path / "m.onnx", model, x)
    assert not list(tmp_path.iterdir())


def test_onnx_may_be_closer_to_the_float64_network_than_torch_is(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from regrow.export import onnx

    class Rounding(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + (1e-3 if x.dtype == torch.float32 else 0)

    model, x = Rounding(3, 4), torch.randn(2, 3)
    exact = torch.nn.functional.linear(x, model.weight, model.bias).detach().numpy()
    monkeypatch.setattr(onnx, "onnx_session", lambda file: lambda x: [exact])
    save_onnx(tmp_path / "m.onnx", model, x)
    monkeypatch.setattr(onnx, "onnx_session", lambda file: lambda x: [exact - 3e-3])
    with pytest.raises(RuntimeError, match=r"differs from torch's by 0\.004"):
        save_onnx(tmp_path / "other.onnx", model, x)


# -- masks


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.int64])
def test_masks_become_active_sets(kind):
    plain = mlp(8, 12, 4)
    mask = torch.rand(12, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    wanted = plain[0].weight.detach() * mask
    model = from_masks(plain, {"0.weight": mask.to(kind)}, storage="masked")
    weights = regrow.sparse_weights(model)
    assert list(weights) == ["0.weight"]
    assert weights["0.weight"].indices.tolist() == mask.flatten().nonzero().squeeze(1).tolist()
    assert torch.equal(model[0].weight, wanted)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "masks is empty"),
        ({"0.bias": torch.ones(12)}, "0.bias cannot be sparse here; use masks for 0.weight, 2.weight"),
        ({"0.weight": torch.full((12, 8), 0.5)}, "values other than 0 and 1"),
        ({"0.weight": torch.ones(8, 12)}, "shape"),
        ({"0.weight": torch.zeros(12, 8)}, "no active position"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, message):
    model = mlp(8, 12, 4)
    before = picture(model)
    with pytest.raises(ValueError, match=message):
        from_masks(model, masks)
    assert_same(before, picture(model))


def test_a_model_pruned_by_torch_computes_the_same_and_is_sparse():
    model = Net().eval()
    prune.l1_unstructured(model.conv, "weight", amount=0.7)
    prune.random_unstructured(model.conv, "weight", amount=0.2)  # twice: a container of both masks
    prune.random_structured(model.fc, "weight", amount=2, dim=1)
    wanted = model(X)
    active = {"conv.weight": int(model.conv.weight_mask.sum()), "fc.weight": int(model.fc.weight_mask.sum())}
    sparse = from_prune(model)
    assert {name: weight.active for name, weight in regrow.sparse_weights(sparse).items()} == active
    torch.testing.assert_close(sparse(X), wanted)
    assert not [name for name in sparse.state_dict() if name.endswith("_orig")]
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1, momentum=0.9)
    regrow.SparseMomentum(sparse, optimizer, total_steps=4, update_every=1)
    for _ in range(2):
        sparse(X).square().sum().backward()
        optimizer.step()
    assert regrow.summary(sparse).active == sum(active.values())


def test_what_torch_has_pruned_and_cannot_be_sparse_is_refused():
    with pytest.raises(ValueError, match="from_masks"):
        from_prune(mlp(3, 4))
    for storage, message in (("auto", "0.weight is pruned, but is no weight"), ("none", "storage='none' is unknown")):
        frozen = mlp(3, 4)
        prune.random_unstructured(frozen[0], "weight", amount=0.5)
        frozen.requires_grad_(storage == "none")
        before = picture(frozen)
        with pytest.raises(ValueError, match=message):
            from_prune(frozen, storage=storage)
        assert_same(picture(frozen), before)
    with pytest.raises(ValueError, match=r"already sparse.*densify"):
        from_masks(regrow.sparsify(mlp(3, 4), 0.5), {"0.weight": torch.ones(4, 3)})
    model = mlp(3, 4)
    prune.l1_unstructured(model[0], "bias", amount=1)
    prune.l1_unstructured(model[0], "weight", amount=1)
    before = picture(model)
    with pytest.raises(ValueError, match=r"0\.bias is pruned, but is no weight.*prune\.remove"):
        from_prune(model)
    assert_same(before, picture(model))
