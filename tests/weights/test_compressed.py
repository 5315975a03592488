"""Compressed storage: which layers get it, that it equals masked storage, and that the two convert into each other."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import regrow
from regrow.nn import SparseConv2d, SparseLinear

STEPS, EVERY = 54, 5


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.Tanh(), nn.Linear(60, 30), nn.Tanh(), nn.Linear(30, 10))


def convolutions():
    body = [nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Conv2d(6, 8, 3, stride=2), nn.Tanh()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(32, 10))


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(37, 1, 8, 8, generator=generator, dtype=dtype)
    return images, torch.randint(10, (37,), generator=generator)


def optimizer_of(kind, model):
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def train(model, kind, steps=STEPS, clip=None, **settings):
    optimizer = optimizer_of(kind, model)
    updater = regrow.SparseMomentum(model, optimizer, total_steps=60, update_every=EVERY, **settings)
    images, labels = batch(next(model.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        for part, targets in zip(images.chunk(2), labels.chunk(2), strict=True):
            (nn.functional.cross_entropy(model(part), targets) / 2).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return updater, optimizer


def both(make, density=0.25, dtype=torch.float64):
    torch.manual_seed(1)
    dense = make().to(dtype)
    return {
        kind: regrow.sparsify(copy.deepcopy(dense), density, storage=kind, seed=0) for kind in ("masked", "compressed")
    }


@pytest.mark.parametrize("make", [mlp, convolutions])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("window", ["all", 3])
def test_compressed_equals_masked_over_ten_updates(make, kind, clip, window):
    """Same topologies, weights to 1e-10, with accumulation, in float64 (DESIGN section 5)."""
    models = both(make)
    updaters = {name: train(model, kind, clip=clip, window=window)[0] for name, model in models.items()}
    assert {row["step"] for row in updaters["masked"].history} == set(range(EVERY, STEPS + 1, EVERY))
    for row, other in zip(updaters["masked"].history, updaters["compressed"].history, strict=True):
        assert row | {"importance": 0} == other | {"importance": 0}
    masked, compressed = (regrow.sparse_weights(models[name]) for name in ("masked", "compressed"))
    for name, weight in masked.items():
        assert compressed[name].storage == "compressed"
        assert torch.equal(weight.indices, compressed[name].indices)
        torch.testing.assert_close(weight.values, compressed[name].values, rtol=0, atol=1e-10)


def wide_convolutions():
    """Its second layer has channels enough for Winograd's algorithm."""
    body = [nn.Conv2d(1, 80, 3, stride=2), nn.Tanh(), nn.Conv2d(80, 84, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(84 * 9, 10))


@pytest.mark.parametrize("window", ["all", 3])
def test_gradients_by_winograds_algorithm_equal_those_of_masked_storage(window):
    models = both(wide_convolutions)
    settings = {"masked": {}, "compressed": {"winograd": True}}
    updaters = {n: train(model, "sgd", 3 * EVERY, window=window, **settings[n])[0] for n, model in models.items()}
    assert [row["step"] for row in updaters["masked"].history] == [EVERY] * 3 + [2 * EVERY] * 3 + [3 * EVERY] * 3
    for row, other in zip(updaters["masked"].history, updaters["compressed"].history, strict=True):
        assert row | {"importance": 0} == other | {"importance": 0}
    masked, compressed = (regrow.sparse_weights(models[name]) for name in ("masked", "compressed"))
    for name, weight in masked.items():
        assert torch.equal(weight.indices, compressed[name].indices)
        torch.testing.assert_close(weight.values, compressed[name].values, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("settings", "uses"), [({}, True), ({"winograd": True}, True), ({"winograd": False}, False)])
def test_sparse_momentum_uses_winograds_algorithm_unless_told_not_to(monkeypatch, settings, uses):
    seen = []
    plain = SparseConv2d.dense_weight_grad

    def noted(self, input, grad_output, winograd=False):
        seen.append(winograd)
        return plain(self, input, grad_output, winograd)

    monkeypatch.setattr(SparseConv2d, "dense_weight_grad", noted)
    train(both(convolutions)["compressed"], "sgd", steps=EVERY, window=2, **settings)
    assert seen
    assert set(seen) == {uses}


@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_resumes_in_the_middle_of_a_window_to_the_same_bits(winograd, dtype):
    images, labels = batch(dtype)

    def parts():
        model = both(wide_convolutions, dtype=dtype)["compressed"]
        optimizer = optimizer_of("sgd", model)
        settings = {"total_steps": 60, "update_every": EVERY, "window": 4, "winograd": winograd}
        return model, optimizer, regrow.SparseMomentum(model, optimizer, **settings)

    def go_on(model, optimizer, updater, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    whole, begun, resumed = parts(), parts(), parts()
    go_on(*whole, 2 * EVERY)
    go_on(*begun, 2 * EVERY - 2)
    assert all(collector.steps == 2 for collector in begun[2]._collectors.values())
    for part, before in zip(resumed, begun, strict=True):
        stream = io.BytesIO()
        torch.save(before.state_dict(), stream)
        stream.seek(0)
        part.load_state_dict(torch.load(stream, weights_only=True))
    go_on(*resumed, 2)
    assert resumed[2].history == whole[2].history
    for ours, theirs in zip(*(regrow.sparse_weights(run[0]).values() for run in (resumed, whole)), strict=True):
        assert torch.equal(ours.indices, theirs.indices)
        assert torch.equal(ours.values, theirs.values)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_optimizer_state_moves_with_its_weight(kind):
    models = both(mlp)
    optimizers = {name: train(model, kind, window="all")[1] for name, model in models.items()}
    masked, compressed = (regrow.sparse_weights(models[name]) for name in ("masked", "compressed"))
    for name, weight in masked.items():
        state = optimizers["masked"].state[weight.parameter]
        other = optimizers["compressed"].state[compressed[name].parameter]
        for key in state.keys() - {"step"}:
            torch.testing.assert_close(weight.take(state[key]), other[key].view(-1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", [mlp, convolutions])
@pytest.mark.parametrize("between", ["gradient of the input", "frozen", "backward of the input"])
def test_gradients_that_do_not_reach_the_weights_do_not_count(make, between):
    """Saliency maps and penalties, or a pass while the weights are frozen, before the pass that trains."""
    histories, active = [], []
    for model in both(make).values():
        optimizer = optimizer_of("sgd", model)
        updater = regrow.SparseMomentum(model, optimizer, total_steps=60, update_every=EVERY, window=3)
        images, labels = batch()
        for step in range(2 * EVERY):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            shown = 3 * images.flip(0).requires_grad_()
            model.requires_grad_(between != "frozen")
            output = model(shown).square().sum() * (step + 1)
            if between == "gradient of the input":
                torch.autograd.grad(output, shown)
            else:
                output.backward(inputs=[shown] if between == "backward of the input" else None)
            model.requires_grad_(True)
            loss.backward()
            optimizer.step()
        histories.append([row | {"importance": 0} for row in updater.history])
        active.append({name: weight.indices.tolist() for name, weight in regrow.sparse_weights(model).items()})
    assert histories[0] == histories[1]
    assert active[0] == active[1]
    assert {weight.storage for weight in updater._weights.values()} == {"compressed"}
    assert not any(collector.tap._passes for collector in updater._collectors.values())


class Recomputed(torch.autograd.Function):
    """A layer that is computed again in backward, and hands over the gradients of its parameters."""

    @staticmethod
    def forward(ctx, layer, x, *parameters):
        ctx.layer, ctx.x = layer, x.detach()
        return layer(x)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.x.requires_grad_()
            return None, *torch.autograd.grad(ctx.layer(x), (x, *ctx.layer.parameters()), gradient)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_layer_whose_dense_gradient_is_not_known_keeps_its_topology(storage):
    model = both(mlp)[storage]
    optimizer = optimizer_of("sgd", model)
    updater = regrow.RigL(model, optimizer, total_steps=60, update_every=3)
    images, labels = batch()
    before = regrow.sparse_weights(model)["3.weight"].indices
    for _ in range(3):
        optimizer.zero_grad()
        output = Recomputed.apply(model[3], model[:3](images), *model[3].parameters())
        nn.functional.cross_entropy(model[4:](output), labels).backward()
        optimizer.step()
    grown = {row["name"]: row["grown"] for row in updater.history}
    assert grown["1.weight"] > 0
    assert (grown["3.weight"] > 0) == (storage == "masked")
    assert storage == "masked" or torch.equal(before, regrow.sparse_weights(model)["3.weight"].indices)


def test_nothing_of_dense_size_lives_outside_the_window():
    model = both(mlp)["compressed"]
    updater, _ = train(model, "sgd", steps=EVERY + 1, window=2)
    assert not any(missing.moments or missing._staged is not None for missing in updater._collectors.values())
    assert all(layer.on_backward is None for layer in model.modules() if isinstance(layer, SparseLinear))


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 10), lambda: nn.Conv2d(1, 10, 8)], ids=["linear", "conv"])
@pytest.mark.parametrize("part", [None, 5, 100])
def test_a_sub_batch_of_the_window(make, part):
    """The grown weights are those of largest gradient over the first `part` examples, and enter with it, scaled up."""
    dense, (images, labels) = make().double(), batch()
    images = images.flatten(1) if isinstance(dense, nn.Linear) else images

    def loss(model, examples):
        return nn.functional.cross_entropy(model(images[:examples]).flatten(1), labels[:examples])

    model = regrow.sparsify(copy.deepcopy(dense), 0.1, storage="compressed", seed=0)
    dense = regrow.densify(model)
    loss(dense, part).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.5)
    regrow.SparseMomentum(model, optimizer, total_steps=2, update_every=1, window=1, window_batch=part)
    before = regrow.sparse_weights(model)["weight"].indices
    loss(model, None).backward()
    optimizer.step()

    weight = regrow.sparse_weights(model)["weight"]
    gradient, entered = dense.weight.grad.flatten(), weight.indices[~torch.isin(weight.indices, before)]
    missing = gradient.abs().clone()
    missing[before] = 0
    assert entered.tolist() == missing.topk(entered.numel()).indices.sort().values.tolist()
    buffer = optimizer.state[weight.parameter]["momentum_buffer"].view(-1)[torch.isin(weight.indices, entered)]
    torch.testing.assert_close(buffer, gradient[entered] / (1 - 0.5), rtol=1e-10, atol=0)


def test_conversion_between_storages_by_state_dict():
    for source, target in (("masked", "compressed"), ("compressed", "masked")):
        trained, fresh = both(convolutions)[source], both(convolutions, density=0.2)[target]
        train(trained, "sgd", window="all")
        fresh.load_state_dict(trained.state_dict())
        images, _ = batch()
        torch.testing.assert_close(fresh(images), trained(images))
        for name, weight in regrow.sparse_weights(trained).items():
            assert torch.equal(weight.indices, regrow.sparse_weights(fresh)[name].indices)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("start", ["dense", "masked", "compressed"])
def test_files_convert_between_storages(tmp_path, storage, start):
    trained = both(convolutions)[storage]
    regrow.save(tmp_path / "model", trained)
    target = convolutions().double() if start == "dense" else both(convolutions, density=0.3)[start]
    loaded = regrow.load(tmp_path / "model", target, storage="compressed")
    expected = "compressed" if start == "dense" else start
    assert {weight.storage for weight in regrow.sparse_weights(loaded).values()} == {expected}
    images, _ = batch()
    torch.testing.assert_close(loaded(images), trained(images))
    torch.testing.assert_close(regrow.densify(loaded)(images), trained(images))


def test_densify_is_plain():
    plain = regrow.densify(both(convolutions)["compressed"])
    assert list(plain.state_dict()) == list(convolutions().state_dict())
    assert [type(layer) for layer in plain] == [type(layer) for layer in convolutions()]


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_compressed_models_travel(travel):
    model = both(convolutions)["compressed"]
    other = travel(model)
    images, _ = batch()
    assert torch.equal(model(images), other(images))
    train(other, "sgd")
    assert regrow.summary(other).active == regrow.summary(model).active


def test_resume_to_the_same_bits():
    """model, optimizer, updater, into a freshly made model whose layers have other lengths."""

    def run(parts):
        model = both(mlp, dtype=torch.float32)["compressed"]
        images, labels = batch(torch.float32)
        optimizer = optimizer_of("sgd", model)
        updater = regrow.SparseMomentum(model, optimizer, total_steps=60, update_every=EVERY, window=3)
        for part in parts:
            for _ in range(part):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
            file = io.BytesIO()
            torch.save((model.state_dict(), optimizer.state_dict(), updater.state_dict()), file)
            file.seek(0)
            states = torch.load(file, weights_only=True)
            model = both(mlp, density=0.2, dtype=torch.float32)["compressed"]
            optimizer = optimizer_of("sgd", model)
            updater = regrow.SparseMomentum(model, optimizer, total_steps=60, update_every=EVERY, window=3)
            for thing, state in zip((model, optimizer, updater), states, strict=True):
                thing.load_state_dict(state)
        return model

    straight, stopped = run([34]), run([9, 4, 6, 15])
    for a, b in zip(straight.state_dict().values(), stopped.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- which layers are compressed


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.out = nn.Linear(8, 20)
        self.out.weight = self.embedding.weight


REASONS = {
    "linear": (lambda: nn.Linear(20, 20), 0.3, "compressed", "auto"),
    "rounded up": (lambda: nn.Linear(4, 4), 0.3, "compressed", "auto"),  # 5 of 16
    "conv": (lambda: nn.Conv2d(4, 4, 3), 0.3, "compressed", "auto"),
    "dense": (lambda: nn.Linear(20, 20), 0.31, "masked", "density above 30%"),
    "grouped": (lambda: nn.Conv2d(4, 4, 3, groups=2), 0.1, "masked", "grouped"),
    "reflect": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), 0.1, "masked", "reflect"),
    "even same": (lambda: nn.Conv2d(4, 4, 2, padding="same"), 0.1, "masked", "same"),
    "conv1d": (lambda: nn.Conv1d(4, 4, 3), 0.1, "masked", "Conv1d has no compressed form"),
    "subclass": (lambda: type("Linear", (nn.Linear,), {})(20, 20), 0.1, "masked", f"{__name__}.Linear has no"),
    "tied": (Tied, 0.1, "masked", "Embedding"),
    "bf16": (lambda: nn.Linear(20, 20).bfloat16(), 0.1, "masked", "bfloat16"),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16).linear1, 0.1, "compressed", "auto"),
}


@pytest.mark.parametrize(("make", "density", "storage", "why"), REASONS.values(), ids=REASONS)
def test_auto_is_a_fixed_rule(make, density, storage, why):
    (row,) = regrow.summary(regrow.sparsify(make(), density)).rows
    assert row.storage == storage
    assert why in row.why


def test_layers_whose_weight_others_read_stay_masked():
    model = regrow.sparsify(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 0.2)
    assert {row.storage for row in regrow.summary(model).rows} == {"masked"}
    model.eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, 8)).shape == (2, 3, 8)


def test_a_root_layer_is_replaced_and_hooks_stay():
    layer = nn.Linear(20, 10)
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(type(module)))
    sparse = regrow.sparsify(layer, 0.1)
    sparse(torch.zeros(2, 20))
    assert seen == [SparseLinear]


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_hooks_and_their_handles_go_on(storage):
    model = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 5))
    seen = []
    handles = [
        model[0].register_forward_pre_hook(lambda *_: seen.append("before")),
        model[0].register_forward_hook(lambda *_: seen.append("after"), always_call=True),
        model[0].register_full_backward_hook(lambda *_: seen.append("backward")),
    ]

    def fires(model):
        seen.clear()
        model(torch.randn(2, 20)).sum().backward()
        return list(seen)

    model = regrow.sparsify(model, 0.1, storage=storage)
    assert fires(model) == fires(regrow.densify(model)) == ["before", "after", "backward"]
    for handle in handles:
        handle.remove()
    assert fires(model) == []


def test_shared_modules_are_replaced_everywhere():
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = regrow.sparsify(nn.Sequential(shared, nn.ReLU(), shared), 0.2)
    assert isinstance(model[0], SparseConv2d)
    assert model[0] is model[2]
