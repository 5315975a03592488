"""Pruning of trained models, against the formulas of the papers in slow loops."""

import copy
import math

import pytest
import torch
from torch import nn

import regrow
from helpers import assert_same, mlp, picture

F64 = torch.float64


def batches(number=3, size=20, inputs=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator, dtype=F64)  # inputs depend on each other
    return [torch.randn(size, inputs, generator=generator, dtype=F64) @ mix for _ in range(number)]


class Idle(nn.Module):
    def __init__(self, used):
        super().__init__()
        self.used, self.unused = used, nn.Linear(3, 3, dtype=F64)

    def forward(self, x):
        return self.used(x)


def test_wanda_is_magnitude_times_the_norm_of_the_input():
    model, data = mlp(6, 8, 4, dtype=F64), batches()
    scores = regrow.wanda(model, data, compare="layer")
    x = torch.cat(data)
    hidden = torch.tanh(model[0](x)).detach()
    for name, inputs in (("0.weight", x), ("2.weight", hidden)):
        weight = model.get_parameter(name).detach()
        for i in range(weight.size(0)):
            for j in range(weight.size(1)):
                expected = abs(float(weight[i, j])) * math.sqrt(sum(float(v) ** 2 for v in inputs[:, j]))
                assert float(scores[name][i, j]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.72])
def test_wanda_keeps_the_largest_of_each_output(density):
    model, data = mlp(6, 8, 4, dtype=F64), batches()
    products = regrow.wanda(model, data, compare="layer")
    sparse = regrow.sparsify(model, density, init=regrow.wanda(model, data), storage="masked")
    for name, weight in regrow.sparse_weights(sparse).items():
        rows, counts = weight.mask, weight.mask.sum(1)
        assert int(counts.max() - counts.min()) <= 1
        for row, count, product in zip(rows, counts.tolist(), products[name], strict=True):
            assert set(row.nonzero().squeeze(1).tolist()) == set(product.topk(count).indices.tolist())


def test_wanda_sees_the_windows_of_a_convolution():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1, stride=2, dtype=F64)
    images = torch.randn(4, 2, 7, 7, dtype=F64)
    scores = regrow.wanda(nn.Sequential(conv), [(images, None)], compare="layer")["0.weight"]
    patches = nn.functional.unfold(images, 3, padding=1, stride=2)
    norms = patches.square().sum((0, 2)).sqrt().view(1, 2, 3, 3)
    torch.testing.assert_close(scores, conv.weight.detach().abs() * norms)


def naive_sparsegpt(weight, x, count_of_block, block, damping):
    """Column by column, with the inverse of the Hessian of the columns that are left, inverted anew each time."""
    weight, columns = weight.clone(), weight.size(1)
    hessian = x.t() @ x
    hessian += damping * hessian.diagonal().mean() * torch.eye(columns, dtype=F64)
    stays = torch.zeros_like(weight, dtype=torch.bool)
    for j in range(columns):
        inverse = torch.linalg.inv(hessian[j:, j:])
        if j % block == 0:
            width = min(block, columns - j)
            # of column c, with the columns before it out of the Hessian
            diagonal = torch.stack([torch.linalg.inv(hessian[c:, c:])[0, 0] for c in range(j, j + width)])
            scores = (weight[:, j : j + width].square() / diagonal).reshape(-1)
            for chosen in scores.topk(count_of_block(j, width)).indices.tolist():
                stays[chosen // width, j + chosen % width] = True
        for i in range(weight.size(0)):
            if not stays[i, j]:
                weight[i, j:] -= weight[i, j] / inverse[0, 0] * inverse[0]
                weight[i, j] = 0
    return weight, stays


@pytest.mark.parametrize(("block", "counts"), [(128, {0: 24}), (3, {0: 12, 3: 12}), (1, dict.fromkeys(range(6), 4))])
def test_sparsegpt_is_the_papers_algorithm(block, counts):
    model, data = nn.Sequential(mlp(6, 8, dtype=F64)[0]), batches()
    expected, stays = naive_sparsegpt(
        model[0].weight.detach(), torch.cat(data), lambda j, width: counts[j], block, damping=0.02
    )
    masks = regrow.sparsegpt(model, data, 0.5, block=block, damping=0.02)
    assert torch.equal(masks["0.weight"], stays)
    torch.testing.assert_close(model[0].weight.detach(), expected, rtol=1e-9, atol=1e-11)


def test_layerwise_obs_prunes_by_the_change_of_the_output_and_makes_up_for_it():
    model, x = nn.Sequential(mlp(6, 8, dtype=F64)[0]), torch.cat(batches())
    before = model[0].weight.detach().clone()
    hessian = x.t() @ x + 0.01 * (x.t() @ x).diagonal().mean() * torch.eye(6, dtype=F64)
    saliency = before.square() / (2 * torch.linalg.inv(hessian).diagonal())
    mask = regrow.layerwise_obs(model, [x], 0.4)["0.weight"]
    assert int(mask.sum()) == round(0.4 * 48)
    assert saliency[mask].min() >= saliency[~mask].max()
    after = model[0].weight.detach()
    for i in range(8):  # the gradient of (w' - w)' H (w' - w) is 0 where weights stay
        slope = hessian @ (after[i] - before[i])
        torch.testing.assert_close(slope[mask[i]], torch.zeros_like(slope[mask[i]]), rtol=0, atol=1e-9)
    assert not after[~mask].any()


@pytest.mark.parametrize("prune", [regrow.sparsegpt, regrow.layerwise_obs])
def test_outputs_change_less_than_by_magnitude_alone(prune):
    model, data = mlp(6, 16, 16, 4, dtype=F64), batches()
    x = torch.cat(data)
    outputs = model(x).detach()
    plain = regrow.sparsify(copy.deepcopy(model), 0.5, init="magnitude")
    mine = copy.deepcopy(model)
    mine = regrow.sparsify(mine, None, init=prune(mine, data, 0.5))
    errors = [float((other(x).detach() - outputs).square().mean()) for other in (mine, plain)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("prune", [regrow.sparsegpt, regrow.layerwise_obs])
@pytest.mark.parametrize("density", [0.1, 0.37, 1.0])
def test_counts_are_exact_and_what_is_pruned_is_0(prune, density):
    model, data = mlp(6, 16, 9, 4, dtype=torch.float32), [x.float() for x in batches()]
    masks = prune(model, data, density, distribution="er")
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(density * total)
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()
    assert regrow.summary(regrow.sparsify(model, density=None, init=masks)).active == round(density * total)


def naive_surgeon(model, data, targets, keep, damping):
    parameters = [model[0].weight, model[2].weight]
    gradients = []
    for one, target in zip(data, targets, strict=True):
        loss = nn.functional.cross_entropy(model(one[None]), target[None])
        gradients.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
    stack = torch.stack(gradients)
    hessian = stack.t() @ stack / len(data) + damping * torch.eye(stack.size(1), dtype=F64)
    values = torch.cat([p.detach().reshape(-1) for p in parameters])
    left, first = list(range(len(values))), parameters[0].numel()
    while len(left) > keep:
        inverse = torch.linalg.inv(hessian[left][:, left])
        saliency = values[left].square() / (2 * inverse.diagonal())
        for q in saliency.argsort(stable=True).tolist():
            layer = [p for p in left if (p < first) == (left[q] < first)]
            if len(layer) > 1:
                break
        values[left] -= values[left[q]] / inverse[q, q] * inverse[:, q]
        values[left[q]] = 0
        del left[q]
    return values, left


@pytest.mark.parametrize("keep", [40, 7])
def test_obs_deletes_one_weight_after_the_other(keep):
    model, data = mlp(6, 5, 3, dtype=F64, bias=False), torch.cat(batches(2))
    targets = torch.randint(3, (40,), generator=torch.Generator().manual_seed(1))
    values, left = naive_surgeon(copy.deepcopy(model), data, targets, keep, 1e-3)
    masks = regrow.obs(model, [(data[:25], targets[:25]), (data[25:], targets[25:])], keep / 45, damping=1e-3)
    mask = torch.cat([m.reshape(-1) for m in masks.values()])
    assert mask.nonzero().squeeze(1).tolist() == left
    mine = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(mine, values, rtol=1e-6, atol=1e-9)


def test_wanda_and_refusals_change_nothing():
    model, data = nn.Sequential(mlp(6, 8, 4, dtype=F64), nn.BatchNorm1d(4, dtype=F64)).train(), batches()
    before, state = picture(model), torch.get_rng_state()
    regrow.wanda(model, data)
    assert torch.equal(state, torch.get_rng_state())
    refused = [
        (lambda: regrow.wanda(model, data, compare="row"), "compare='row'"),
        (lambda: regrow.wanda(model, []), "holds no example"),
        (lambda: regrow.sparsegpt(model, data, 0.0), r"density=0\.0"),
        (lambda: regrow.sparsegpt(model, data, 0.5, block=0), "block=0"),
        (lambda: regrow.layerwise_obs(model, data, 0.5, damping=0.0), r"damping=0\.0"),
        (lambda: regrow.layerwise_obs(nn.Sequential(model, nn.Embedding(3, 4)), data, 0.5), r"1\.weight.*dense="),
        (lambda: regrow.obs(mlp(200, 100), [], 0.5), r"20,000 x 20,000.*layerwise_obs"),
        (lambda: regrow.wanda(regrow.sparsify(mlp(6, 4), 0.5), data), "already sparse"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"unused\.weight took no part"):
        regrow.sparsegpt(Idle(model), data, 0.5)
    assert_same(before, picture(model))
