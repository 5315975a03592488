"""Masked storage: inactive weights are 0 after every step, whatever trains them."""

import contextlib
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import regrow
from helpers import (
    assert_inactive_are_zero,
    assert_same,
    fed,
    feed,
    indices,
    loss_at,
    masked,
    picture,
    sgd,
    sparse_mlp,
    train,
    with_updater,
)

SGD = torch.optim.SGD
OPTIMIZERS = [
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True}),
    (torch.optim.Adam, {"weight_decay": 0.1}),
    (torch.optim.Adam, {"amsgrad": True, "maximize": True}),
    (torch.optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.NAdam, {"weight_decay": 0.1}),
]
FUSED = (SGD, torch.optim.Adam, torch.optim.AdamW)


def every(implementations=("single", "foreach", "fused")):
    for optimizer, settings in OPTIMIZERS:
        for name in implementations:
            if name != "fused" or optimizer in FUSED:
                extra = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}[name]
                label = "-".join([optimizer.__name__, *(k for k in settings if settings[k] is True), name])
                yield pytest.param(optimizer, settings | extra, id=label)


@pytest.mark.parametrize("static", [False, True], ids=["momentum", "static"])
@pytest.mark.parametrize(("optimizer", "settings"), list(every()))
def test_inactive_weights_and_their_state_are_zero_after_every_step(optimizer, settings, static):
    model = sparse_mlp()
    trained, _ = with_updater(model, optimizer, static, **settings)
    before = indices(model)
    for step in range(6):
        train(model, trained, [step])
        assert_inactive_are_zero(model, trained)
    assert (indices(model) == before) == static


@pytest.mark.parametrize("plain", [{}, {"momentum": 0.9, "weight_decay": 0.1}])
def test_without_any_updater_too(plain):
    model = sparse_mlp()
    trained = SGD(model.parameters(), lr=0.1, **plain)
    train(model, trained, range(3))
    assert_inactive_are_zero(model, trained)


def test_static_puts_back_what_was_written_into_inactive_weights():
    model = sparse_mlp()
    trained, _ = with_updater(model, static=True)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    train(model, trained, [0])
    assert_inactive_are_zero(model)


def test_the_sparse_network_is_trained_as_the_dense_one_with_masked_gradients():
    model = sparse_mlp(dtype=torch.float64)
    dense = regrow.densify(model)
    masks = {name: weight.mask for name, weight in regrow.sparse_weights(model).items()}
    settings = dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    trained, reference = (SGD(m.parameters(), **settings) for m in (model, dense))
    for step in range(4):
        train(model, trained, [step], torch.float64)
        reference.zero_grad()
        loss_at(dense, step, dtype=torch.float64).backward()
        for name, mask in masks.items():
            dense.get_parameter(name).grad.mul_(mask)
        reference.step()
    assert_same(list(model.parameters()), list(dense.parameters()))


def test_clipping_sees_the_norm_of_the_sparse_network():
    model = fed({"a": [0, 1]}, a=[1.0, 1.0, 0.0, 0.0])
    model(a=[[3.0, 4.0, 100.0, math.nan]]).backward()
    assert nn.utils.clip_grad_norm_(model.parameters(), 1.0).item() == 5.0
    assert nn.utils.get_total_norm([model.a.grad]).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_infinities_at_inactive_positions_vanish(bad, dtype):
    model = fed({"a": [0, 1]}, dtype, a=[1.0, 1.0, 0.0, 0.0])
    model(a=[[3.0, 4.0, bad, 1.0]]).backward()
    assert model.a.grad.tolist() == [[3.0, 4.0, 0.0, 0.0]]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_accumulation_equals_one_batch(set_to_none):
    one, parts = sparse_mlp(dtype=torch.float64), sparse_mlp(dtype=torch.float64)
    (a, first), (b, second) = with_updater(one), with_updater(parts)
    for step in range(0, 10, 2):
        a.zero_grad(set_to_none=set_to_none)
        both = [loss_at(one, s, dtype=torch.float64) for s in (step, step + 1)]
        (sum(both) / 2).backward()
        a.step()
        b.zero_grad(set_to_none=set_to_none)
        for s in (step, step + 1):
            (loss_at(parts, s, dtype=torch.float64) / 2).backward()
        b.step()
        assert_inactive_are_zero(parts, b)
    assert indices(one) == indices(parts)
    assert len(first.history) == len(second.history) == 4
    torch.testing.assert_close(one.state_dict(), parts.state_dict())


def test_closure():
    one, two = sparse_mlp(), sparse_mlp()
    (a, _), (b, updater) = with_updater(one), with_updater(two)
    train(one, a, range(5))
    for step in range(5):

        def closure(step=step):
            b.zero_grad()
            loss = loss_at(two, step)
            loss.backward()
            return loss

        b.step(closure)
    assert updater.step == 5
    assert_same(one.state_dict(), two.state_dict())


def test_set_to_none_makes_no_difference():
    models = [sparse_mlp(), sparse_mlp()]
    for model, set_to_none in zip(models, (True, False), strict=True):
        trained, _ = with_updater(model)
        for step in range(5):
            trained.zero_grad(set_to_none=set_to_none)
            loss_at(model, step).backward()
            trained.step()
    assert_same(models[0].state_dict(), models[1].state_dict())


def test_a_loss_kept_from_the_last_step():
    one, two = sparse_mlp(), sparse_mlp()
    (a, _), (b, _) = with_updater(one), with_updater(two)
    train(one, a, range(5))
    losses = []
    for step in range(5):
        b.zero_grad()
        losses.append(loss_at(two, step))
        losses[-1].backward()
        b.step()
    assert_same(one.state_dict(), two.state_dict())
    assert all(loss.isfinite() for loss in losses)


def convolutions(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 3)).to(dtype)


def conv_loss(model, step, dtype=torch.float32):
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step), dtype=dtype)
    return model(x).square().mean()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("optimizer", [SGD, torch.optim.AdamW])
def test_channels_last_parameters(when, optimizer):
    plain = masked(convolutions(torch.float64), 0.3, seed=1)
    other = convolutions(torch.float64)
    if when == "before":
        other = other.to(memory_format=torch.channels_last)
    other = masked(other, 0.3, seed=1).to(memory_format=torch.channels_last)
    assert other[0].weight.is_contiguous(memory_format=torch.channels_last)
    for model in (plain, other):
        settings = {"momentum": 0.9} if optimizer is SGD else {"betas": (0.9, 0.99)}
        trained, _ = with_updater(model, optimizer, **settings)
        for step in range(7):
            trained.zero_grad()
            conv_loss(model, step, torch.float64).backward()
            trained.step()
            assert_inactive_are_zero(model, trained)
    assert indices(plain) == indices(other)
    torch.testing.assert_close(list(plain.parameters()), list(other.parameters()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    model = sparse_mlp(dtype=dtype)
    trained, updater = with_updater(model)
    for step in range(5):
        train(model, trained, [step], dtype)
        assert_inactive_are_zero(model, trained)
    assert updater.history[-1]["step"] == 4
    assert model[0].weight.dtype == dtype


def test_double_after_sparsify_and_after_the_updater():
    model = sparse_mlp()
    topology = indices(model)
    trained, updater = with_updater(model.double(), update_every=3)
    assert indices(model) == topology
    train(model, trained, range(3), torch.float64)
    model.double()
    train(model, trained, range(3, 7), torch.float64)
    assert_inactive_are_zero(model, trained)
    assert {row["step"] for row in updater.history} == {3, 6}


@pytest.mark.parametrize("setting", ["set_overwrite_module_params_on_conversion"])
def test_conversions_that_replace_parameters(setting):
    model = sparse_mlp()
    getattr(torch.__future__, setting)(True)
    try:
        model.double()
    finally:
        getattr(torch.__future__, setting)(False)
    trained, _ = with_updater(model)
    for step in range(5):
        train(model, trained, [step], torch.float64)
        assert_inactive_are_zero(model, trained)


def test_autocast():
    model = sparse_mlp()
    trained, updater = with_updater(model)
    for step in range(5):
        trained.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_at(model, step)
        loss.backward()
        trained.step()
        assert_inactive_are_zero(model, trained)
    assert model[0].weight.dtype == torch.float32
    assert {row["step"] for row in updater.history} == {2, 4}


def scaled_run(model, trained, scaler, steps, infinite=()):
    for step in steps:
        trained.zero_grad()
        loss = loss_at(model, step) * (math.inf if step in infinite else 1.0)
        scaler.scale(loss).backward()
        scaler.step(trained)
        scaler.update()


@pytest.mark.parametrize("settings", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("optimizer", [SGD, torch.optim.Adam])
@pytest.mark.parametrize("static", [False, True], ids=["momentum", "static"])
def test_a_step_that_gradscaler_skips_does_not_count(settings, optimizer, static):
    momentum = {"momentum": 0.9} if optimizer is SGD else {}
    model = sparse_mlp()
    trained, updater = with_updater(model, optimizer, static, **momentum, **settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, backoff_factor=1 - 1e-9)
    scaled_run(model, trained, scaler, range(3))
    before = picture(model, trained, updater)
    scaled_run(model, trained, scaler, [3], infinite=[3])
    assert updater.step == 3
    after = picture(model, trained, updater)
    assert_same(before, after, exclude=["saw_gradient", "param_groups"])


@pytest.mark.parametrize("settings", [{"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize("optimizer", [SGD, torch.optim.AdamW])
def test_scaled_training_equals_unscaled_training_whatever_was_skipped(settings, optimizer):
    momentum = {"momentum": 0.9} if optimizer is SGD else {}
    one, two = sparse_mlp(), sparse_mlp()
    a, first = with_updater(one, optimizer, **momentum, **settings)
    b, second = with_updater(two, optimizer, **momentum, **settings)
    train(one, a, [0, 1, 2, 4, 5, 6])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, backoff_factor=0.5)  # powers of two: exact
    scaled_run(two, b, scaler, range(7), infinite=[3])
    assert indices(one) == indices(two)
    assert [row["active"] for row in first.history] == [row["active"] for row in second.history]
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=1e-5, atol=1e-7)


class Checkpointed(nn.Module):
    def __init__(self, model, reentrant):
        super().__init__()
        self.inner, self.reentrant = model, reentrant

    def forward(self, x):
        return checkpoint(self.inner, x.requires_grad_(), use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant):
    plain, inner = sparse_mlp(), sparse_mlp()
    a, _ = with_updater(plain)
    b, _ = with_updater(inner)
    train(plain, a, range(5))
    train(Checkpointed(inner, reentrant), b, range(5))
    assert_same(plain.state_dict(), inner.state_dict())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("share", ["momentum", "momentum-per-flop"])
@pytest.mark.parametrize("warm", [False, True], ids=["", "compiled-before"])
def test_compiled_models(backend, share, warm):
    torch._dynamo.reset()
    plain, inner = sparse_mlp(), sparse_mlp()
    compiled = torch.compile(inner, backend=backend)
    assert list(regrow.sparse_weights(compiled)) == list(regrow.sparse_weights(plain))
    if warm:
        loss_at(compiled, 0).backward()
    for model in (plain, compiled):
        trained = SGD(model.parameters(), lr=0.05, momentum=0.9)
        updater = regrow.SparseMomentum(model, trained, total_steps=100, update_every=2, redistribution=share)
        train(model, trained, range(5))
        assert_inactive_are_zero(model, trained)
    assert len(updater.history) == 4
    torch.testing.assert_close(plain.state_dict(), inner.state_dict())


def test_a_weight_used_twice_and_an_expanded_gradient():
    layer = masked(nn.Linear(4, 4), 0.5, seed=0)
    mask = regrow.sparse_weights(layer)["weight"].mask
    (layer.weight.sum() + layer(layer(torch.ones(2, 4))).sum()).backward()
    assert not layer.weight.grad[~mask].any()
    assert layer.weight.grad[mask].all()


def test_an_update_between_backward_and_step_leaves_no_state_behind():
    model = fed({"a": range(4)}, a=[1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    trained = SGD(model.parameters(), lr=0.01, momentum=0.9)
    updater = regrow.SparseMomentum(model, trained, total_steps=9, update_every=None)
    gradient = [[float(g) for g in range(1, 9)]]
    feed(model, trained, a=gradient)
    trained.zero_grad()
    model(a=gradient).backward()
    updater.update()
    trained.step()
    assert_inactive_are_zero(model, trained)


def test_a_hook_of_the_users_sees_the_masked_gradient_and_may_step_in_backward():
    model = sparse_mlp()
    weight = regrow.sparse_weights(model)["0.weight"]
    seen = []
    optimizer = sgd(model)
    model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad[~weight.mask].any().item()))
    model[0].weight.register_post_accumulate_grad_hook(lambda p: optimizer.step())
    before = weight.values
    loss_at(model, 0).backward()
    assert seen == [False]
    assert not torch.equal(before, weight.values)
    assert_inactive_are_zero(model, optimizer)


def test_a_shard_without_rows_has_a_sample():
    assert regrow.sparse_weights(sparse_mlp())["0.weight"].sample(0).numel() > 0


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_algorithms_are_enough():
    model = sparse_mlp()
    trained, updater = with_updater(model)
    with deterministic():
        train(model, trained, range(5))
    assert len(updater.history) == 4
