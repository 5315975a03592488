"""Functions between backward and step that take compressed weights for rows of one weight each."""

import warnings

import pytest
import torch
from torch import nn

import regrow
from helpers import loss_at, mlp


def adaptive(parameters, clip=0.01, eps=1e-3):
    """Adaptive gradient clipping, unit by unit, as it is published (Brock et al. 2021, arXiv:2102.06171)."""
    for p in parameters:
        weights, gradients = (t.view(t.shape[0] if t.dim() > 1 else 1, -1) for t in (p.detach(), p.grad))
        most = weights.norm(dim=1, keepdim=True).clamp_min(eps).expand_as(weights).reshape(p.shape) * clip
        norm = gradients.norm(dim=1, keepdim=True).expand_as(weights).reshape(p.shape)
        p.grad.copy_(torch.where(norm > most, p.grad * (most / norm.clamp_min(1e-6)), p.grad))


def centralise(parameters):
    for p in parameters:
        if p.dim() > 1:
            p.grad.sub_(p.grad.mean(dim=tuple(range(1, p.dim())), keepdim=True))


def freeze_first(parameters):
    next(iter(parameters)).grad.zero_()


def noise(parameters):
    for p in parameters:
        p.grad.add_(torch.randn_like(p.grad), alpha=0.01)


def largest_half(parameters):
    for p in parameters:
        p.grad.masked_fill_(p.grad.abs() < p.grad.abs().median(), 0)


def train(act, storage, kind=regrow.Static, steps=24):
    model = regrow.sparsify(mlp(8, 40, 4, dtype=torch.float64), 0.3, storage=storage, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    settings = {} if kind is regrow.Static else {"total_steps": 60, "update_every": 5}
    kind(model, optimizer, **settings)
    for step in range(steps):
        optimizer.zero_grad()
        loss_at(model, step, dtype=torch.float64).backward()
        act(list(model.parameters()))
        optimizer.step()
    return model


@pytest.mark.parametrize("kind", [regrow.Static, regrow.RigL])
def test_adaptive_clipping_of_compressed_weights_is_that_of_the_dense_ones(kind):
    """Weights of both storages stay equal over thirty steps, and topologies move alike."""
    masked = train(adaptive, "masked", kind, steps=30)
    with pytest.warns(UserWarning, match=r"now clipped by the rows of the dense weights"):
        compressed = train(adaptive, "compressed", kind, steps=30)
    free = train(lambda parameters: None, "masked", kind, steps=30)
    for ours, theirs, unclipped in zip(
        *(regrow.densify(model).parameters() for model in (compressed, masked, free)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        assert (theirs - unclipped).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [regrow.Static, regrow.RigL])
def test_centralisation_of_compressed_weights_is_refused(kind):
    with pytest.raises(RuntimeError, match=r"0\.weight, 2\.weight are all 0 now.*Gradient centralisation.*'masked'"):
        train(centralise, "compressed", kind)
    train(centralise, "masked", kind)


@pytest.mark.parametrize(
    "act",
    [
        lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.1),
        lambda parameters: nn.utils.clip_grad_value_(parameters, 0.01),
        freeze_first,
        noise,
        largest_half,
        lambda parameters: None,
    ],
    ids=["norm", "value", "freeze", "noise", "largest", "nothing"],
)
def test_what_works_weight_by_weight_is_left_alone(act):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(act, "compressed", regrow.RigL)


def test_norms_of_rows_are_those_of_the_dense_gradient():
    model = train(lambda parameters: None, "compressed", steps=1)
    loss_at(model, 3, dtype=torch.float64).backward()
    weight = regrow.sparse_weights(model)["0.weight"]
    dense = torch.zeros(weight.numel, dtype=torch.float64).index_put((weight.indices,), weight.parameter.grad.view(-1))
    found = torch.zeros(40, dtype=torch.float64).index_add(0, weight.rows, weight.parameter.grad.view(-1) ** 2).sqrt()
    torch.testing.assert_close(found, dense.view(40, 8).norm(dim=1))


def test_the_watch_ends():
    model = train(lambda parameters: None, "compressed", steps=24)
    assert [len(p._post_accumulate_grad_hooks or ()) for p in model.parameters()] == [0] * 4
