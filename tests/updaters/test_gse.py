"""GSE: with all positions in the sample it is RigL; the activity of layers is what its definition says."""

import copy
import io

import pytest
import torch
from torch import nn

import regrow
from helpers import frozen, indices, mlp
from regrow.weights import masked as masked_storage
from regrow.weights.activity import ActivityHook

STEPS, EVERY = 12, 3


class Net(nn.Module):
    """Convolutions with strides, padding and dilation, a linear layer over vectors, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1, dtype=torch.float64)
        self.conv2 = nn.Conv2d(6, 8, (3, 2), stride=2, dilation=(1, 2), dtype=torch.float64)
        self.fc = nn.Linear(16, 16, dtype=torch.float64)
        self.out = nn.Linear(16, 5, dtype=torch.float64)

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        x = torch.tanh(self.fc(x.flatten(1).view(x.size(0), -1, 16)))
        return self.out(torch.tanh(self.fc(x)).mean(1))


def net(storage, density=0.2):
    torch.manual_seed(0)
    return regrow.sparsify(Net(), density, storage=storage, seed=1)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(12, 2, 10, 10, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(5, (12,), generator=generator)


def step_of(model, optimizer, step, parts=1):
    optimizer.zero_grad()
    inputs, targets = batch(step)
    for part, labels in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
        (nn.functional.cross_entropy(model(part), labels) / parts).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


def run(kind, storage, parts=1, **settings):
    model = net(storage)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = kind(model, optimizer, total_steps=STEPS, update_every=EVERY, prune_rate=0.3, seed=0, **settings)
    for step in range(STEPS):
        step_of(model, optimizer, step, parts)
    return model, updater


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("sampling", ["activity", "uniform"])
def test_a_sample_of_all_positions_is_rigl(storage, parts, sampling):
    rigl, gse = run(regrow.RigL, storage, parts), run(regrow.GSE, storage, parts, candidates=1e6, sampling=sampling)
    assert indices(rigl[0]) == indices(gse[0])
    assert any(row["grown"] for row in gse[1].history)
    for row, expected in zip(gse[1].history, rigl[1].history, strict=True):
        assert row == expected


@pytest.mark.parametrize("parts", [1, 3])
def test_a_small_sample_is_the_same_in_both_storages_and_not_rigl(parts):
    masked, compressed = (run(regrow.GSE, storage, parts, candidates=0.5)[0] for storage in ("masked", "compressed"))
    assert indices(masked) == indices(compressed)
    assert indices(masked) != indices(run(regrow.RigL, "masked", parts)[0])


def naive_activity(model, inputs, targets):
    """Sums of |input| under each column and of |gradient| of each output, patch by patch."""
    seen = {}
    dense = regrow.densify(model)
    for name, module in dense.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, i, o, name=name: seen.setdefault(name, []).append((i[0], o)))
    loss = nn.functional.cross_entropy(dense(inputs), targets)
    result = {}
    for name, pairs in seen.items():
        module, rows, columns = dense.get_submodule(name), 0, 0
        grads = torch.autograd.grad(loss, [output for _, output in pairs], retain_graph=True)
        for (x, _), grad in zip(pairs, grads, strict=True):
            if isinstance(module, nn.Conv2d):
                patches = nn.functional.unfold(
                    x.detach(), module.kernel_size, module.dilation, module.padding, module.stride
                )
                columns = columns + patches.abs().sum((0, 2))
                rows = rows + grad.abs().sum((0, 2, 3))
            else:
                columns = columns + x.detach().abs().flatten(0, -2).sum(0)
                rows = rows + grad.abs().flatten(0, -2).sum(0)
        result[f"{name}.weight"] = rows, columns
    return result


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_activity_and_gradients_at_positions_are_those_of_their_definition(storage):
    model = net(storage)
    expected = naive_activity(model, *batch(0))
    dense = regrow.densify(model)
    nn.functional.cross_entropy(dense(batch(0)[0]), batch(0)[1]).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    updater = regrow.GSE(model, optimizer, total_steps=9, update_every=None, seed=0)
    updater.expect_update(1)
    nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    optimizer.step()
    for name, (rows, columns) in expected.items():
        gradient = updater._collectors[name].sampled_gradient
        torch.testing.assert_close(gradient.rows, rows, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient.columns, columns, rtol=1e-9, atol=1e-12)
        whole = dense.get_parameter(name).grad.reshape(-1).abs()
        positions = torch.arange(1, whole.numel(), 3)
        torch.testing.assert_close(gradient.at(positions), whole[positions], rtol=1e-9, atol=1e-12)


def test_no_tensor_of_dense_size_exists_in_compressed_storage():
    layer = nn.Linear(300_000, 300_000, device="meta", bias=False)
    model = regrow.sparsify(nn.Sequential(layer), 2e-8, storage="compressed", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.GSE(model, optimizer, total_steps=4, update_every=1, prune_rate=0.5, stop_fraction=1.0, seed=0)
    before = indices(model)
    for _ in range(2):
        model(torch.randn(2, 300_000)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert indices(model) != before
    assert {row["active"] for row in updater.history} == {1800}


def test_modules_that_show_no_activity_are_sampled_by_their_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 6), nn.Flatten(), nn.Linear(18, 4))
    model = regrow.sparsify(model, 0.3, storage="masked", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.GSE(model, optimizer, total_steps=4, update_every=None, seed=0)
    updater.expect_update(1)
    model(torch.tensor([[1, 2, 3], [3, 4, 4]])).square().sum().backward()
    optimizer.step()
    rows = updater._collectors["0.weight"].sampled_gradient.rows
    assert rows.nonzero().squeeze(1).tolist() == [1, 2, 3, 4]
    assert all(row["grown"] for row in updater.update())


def test_copies_and_dense_forms_listen_to_nothing():
    model = regrow.sparsify(mlp(8, 12, 4), 0.3, storage="masked", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.GSE(model, optimizer, total_steps=4, update_every=1, stop_fraction=1.0, seed=0)
    assert [type(hook) for hook in model[0]._forward_hooks.values()] == [ActivityHook]
    twin = copy.deepcopy(model)
    assert [hook._listener for hook in twin[0]._forward_hooks.values()] == [None]
    torch.save(model, io.BytesIO())
    assert not regrow.densify(model)[0]._forward_hooks
    updater.remove()
    assert not model[0]._forward_hooks
    assert masked_storage.MaskedTap.keeps_pairs is False


def test_flops_count_the_sample_and_not_all_positions():
    for storage in ("masked", "compressed"):
        model = net(storage)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        updater = regrow.GSE(model, optimizer, total_steps=9, update_every=2, candidates=0.5, seed=0)
        weight = regrow.sparse_weights(model)["fc.weight"]
        assert weight.gradient_positions == weight.active
        step_of(model, optimizer, 0)
        assert weight.gradient_positions == weight.active + round(0.5 * weight.active)
        updater.remove()
        assert weight.gradient_positions == weight.active


def test_a_checkpoint_between_step_and_update_keeps_what_was_collected():
    grown = []
    for stopped in (False, True):
        model = net("compressed")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        updater = regrow.GSE(model, optimizer, total_steps=9, update_every=None, seed=0)
        updater.expect_update(1)
        step_of(model, optimizer, 0)
        if stopped:
            stream = io.BytesIO()
            torch.save(frozen([part.state_dict() for part in (model, optimizer, updater)]), stream)
            stream.seek(0)
            states = torch.load(stream, weights_only=True)
            model = net("compressed")
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            updater = regrow.GSE(model, optimizer, total_steps=9, update_every=None, seed=5)
            for part, state in zip((model, optimizer, updater), states, strict=True):
                part.load_state_dict(state)
        assert all(row["grown"] for row in updater.update())
        grown.append(indices(model))
    assert grown[0] == grown[1]


def test_gradients_set_by_hand_stand_in_for_activity():
    model = net("masked")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.GSE(model, optimizer, total_steps=9, update_every=None, seed=0)
    updater.expect_update(1)
    weights = list(model.parameters())
    loss = nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1])
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.grad = gradient
    whole = model.fc.weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(updater._collectors["fc.weight"].sampled_gradient.rows, whole.abs().sum(1))
    assert all(row["grown"] for row in updater.update())


def test_global_growth_asks_each_layer_for_no_more_than_its_sample(monkeypatch):
    sizes = []
    draw = regrow.topology.lazy.sample_products

    def noted(rows, columns, number, taken, generator):
        sizes.append(number)
        return draw(rows, columns, number, taken, generator)

    monkeypatch.setattr("regrow.topology.lazy.sample_products", noted)
    for candidates, whole in ((0.5, True), (0.01, False)):
        sizes.clear()
        model = net("compressed")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        updater = regrow.GSE(
            model, optimizer, total_steps=9, update_every=None, candidates=candidates, scope="global", seed=0
        )
        asked = [max(round(candidates * weight.active), 1) for weight in regrow.sparse_weights(model).values()]
        updater.expect_update(1)
        step_of(model, optimizer, 0)
        rows = updater.update()
        assert sizes[:4] == asked
        assert (len(sizes) == 4) == whole
        assert sum(row["grown"] for row in rows) == sum(row["pruned"] for row in rows) > 0
