"""Other tools on top of a sparse model: new modules around its parameters, memory without content, whole pickles."""

import copy
import gc
import io
import warnings

import pytest
import torch
import torch.ao.quantization as quantization
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import regrow
from helpers import mlp

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


class Quantised(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 4)
        self.into, self.out_of = quantization.QuantStub(), quantization.DeQuantStub()

    def forward(self, x):
        return self.out_of(self.last(torch.relu(self.first(self.into(x)))))


@pytest.mark.parametrize("inplace", [False, True])
def test_quantisation_aware_training_goes_on_sparse(inplace):
    """`prepare_qat` makes modules of its own from the parameters, and leaves the masks behind."""
    model = regrow.sparsify(Quantised(), 0.25, seed=0, storage="masked").train()
    masks = {name: weight.mask.clone() for name, weight in regrow.sparse_weights(model).items()}
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = quantization.prepare_qat(model, inplace=inplace)
    del model
    gc.collect()
    weights = regrow.sparse_weights(ready)
    assert all(torch.equal(weight.mask, masks[name]) for name, weight in weights.items())
    assert type(ready.first) is not nn.Linear
    optimizer = torch.optim.SGD(ready.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.RigL(ready, optimizer, total_steps=20, update_every=2)
    for _ in range(5):
        optimizer.zero_grad()
        ready(X).square().sum().backward()
        optimizer.step()
    assert sum(row["grown"] for row in updater.history) > 0
    assert regrow.check(ready) == []
    assert regrow.summary(ready).active == sum(int(mask.sum()) for mask in masks.values())


def test_masks_come_back_at_the_first_forward_pass():
    model = regrow.sparsify(Quantised(), 0.25, seed=0, storage="masked").train()
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = quantization.prepare_qat(model)
    ready(X).sum().backward()
    assert not ready.first.weight.grad[~ready.first.weight_mask].any()


ON_TOP = {
    "prune": lambda module: prune.l1_unstructured(module, "weight", amount=0.5),
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm by hook": spectral_norm,
    "weight_norm by hook": weight_norm,
}


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("tool", ON_TOP)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_takes_the_parameter_away_is_said(tool, storage):
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage=storage)

    def put_on_top():
        ON_TOP[tool](model[0])
        model(X)

    with pytest.raises(
        RuntimeError, match=r"weight.*(no longer a parameter|taken away).*torch\.nn\.utils\.prune.*from_prune"
    ):
        put_on_top()


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("start", ["cpu", "meta"])
@pytest.mark.parametrize("reset", [True, False])
def test_active_sets_survive_memory_without_content(storage, start, reset):
    """`to_empty` and `reset_parameters`, as FSDP2's examples have them."""
    with torch.device(start):
        model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))
    model = regrow.sparsify(model, 0.25, seed=0, storage=storage)
    before = {name: weight.indices for name, weight in regrow.sparse_weights(model).items()}
    junk = [torch.full((12, 8), 7, dtype=torch.uint8) for _ in range(50)]
    del junk
    model.to_empty(device="cpu")
    if reset:
        for module in model:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        model(X)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    regrow.RigL(model, optimizer, total_steps=10, update_every=4)
    after = {name: weight.indices for name, weight in regrow.sparse_weights(model).items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    if reset:
        model(X).sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
        assert regrow.check(model) == []


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_whole_models_load_where_regrows_classes_are_allowed(storage):
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage=storage)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    own = [nn.Sequential, nn.Linear, nn.Tanh]
    with torch.serialization.safe_globals([*own, *regrow.safe_globals()]):
        again = torch.load(file)
    assert torch.equal(again(X), model(X))
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.SET(again, optimizer, total_steps=10, update_every=1, seed=0)
    again(X).sum().backward()
    optimizer.step()
    assert sum(row["grown"] for row in updater.history) > 0


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_copy_of_a_layer_whose_parameter_was_taken_away_says_so(storage):
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage=storage)
    if storage == "compressed":  # torch cannot copy what its own tools leave of it
        del model[0]._parameters["weight"]
    else:
        parametrizations.spectral_norm(model[0])
    with pytest.raises(RuntimeError, match=r"weight.*(no longer|taken away)"):
        copy.deepcopy(model)(X)
