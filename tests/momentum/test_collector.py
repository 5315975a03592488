"""The momentum of weights that do not exist: what the optimizer would have, had it been given the dense gradient."""

import math
import warnings

import pytest
import torch
from torch import nn

import regrow
from helpers import Fed, fed, feed, indices, mask_of, masked

G = [float(g) for g in range(1, 9)]
ACTIVE = {"a": range(4)}
ROW = [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]


def make(optimizer=torch.optim.SGD, window=None, dtype=torch.float64, lr=0.0, update_every=None, **settings):
    """One layer of 8 positions, the first four active; a huge total keeps updates to those asked for."""
    model = fed(ACTIVE, dtype, a=ROW)
    trained = optimizer(model.parameters(), lr=lr, **settings)
    updater = regrow.SparseMomentum(
        model, trained, total_steps=1000, update_every=update_every, window=window, schedule="constant"
    )
    return model, trained, updater


def missing(updater, key="momentum_buffer", name="a"):
    """What has been collected for the inactive positions of a layer."""
    collected = updater.state_dict()["missing"][name]["moments"]
    return collected[key].flatten()[4:] if collected else None


def dense_twin(optimizer, gradients, lr=0.0, **settings):
    """The state of a dense optimizer of the same settings, given the same gradients."""
    parameter = nn.Parameter(torch.zeros(1, 8, dtype=torch.float64))
    trained = optimizer([parameter], lr=lr, **settings)
    for gradient in gradients:
        parameter.grad = torch.as_tensor(gradient, dtype=torch.float64).reshape(1, 8).clone()
        trained.step()
    return {key: value.flatten()[4:] for key, value in trained.state[parameter].items() if value.dim()}


def close(left, right):
    torch.testing.assert_close(left, torch.as_tensor(right, dtype=left.dtype), rtol=1e-6, atol=1e-12)


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
IMPLEMENTATIONS = [{"foreach": False}, {"foreach": True}, {"fused": True}]
OPTIMIZERS = [
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "nesterov": True}),
    (SGD, {"momentum": 0.9, "maximize": True}),
    (SGD, {"momentum": 0.5, "nesterov": True, "maximize": True}),
    (ADAM, {"betas": (0.5, 0.75)}),
    (ADAM, {"amsgrad": True}),
    (ADAMW, {"maximize": True}),
]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=["single", "foreach", "fused"])
@pytest.mark.parametrize(("optimizer", "settings"), OPTIMIZERS)
def test_all_steps_equal_the_dense_optimizer(optimizer, settings, implementation):
    model, trained, updater = make(optimizer, **settings, **implementation)
    gradients = [[g * factor for g in G] for factor in (1.0, -2.0, 0.25)]
    for gradient in gradients:
        feed(model, trained, a=[gradient])
    for key, expected in dense_twin(optimizer, gradients, **settings).items():
        if key in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
            close(missing(updater, key), expected)


def test_dampening_applies_to_every_step():
    model, trained, updater = make(momentum=0.5, dampening=0.25)
    for _ in range(2):
        feed(model, trained, a=[G])
    close(missing(updater), [0.75 * g * 1.5 for g in G[4:]])


def test_weight_decay_is_no_part_of_a_missing_weight():
    model, trained, updater = make(momentum=0.5, weight_decay=0.1)
    feed(model, trained, a=[G])
    close(missing(updater), G[4:])


@pytest.mark.parametrize("max_norm", [1.0, 1e6])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_clipping_by_the_norm_of_the_sparse_network(max_norm, foreach, nesterov):
    model, trained, updater = make(momentum=0.9, nesterov=nesterov, foreach=foreach)
    for _ in range(2):
        trained.zero_grad()
        model(a=[G]).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        assert norm.item() == pytest.approx(math.sqrt(30))  # 1 + 4 + 9 + 16: the active four
        trained.step()
    factor = min(1.0, max_norm / math.sqrt(30))
    close(missing(updater), [1.9 * factor * g for g in G[4:]])


def test_clipping_where_the_active_gradient_of_a_layer_is_zero():
    model = fed({"a": range(4), "b": range(2)}, a=ROW, b=[1.0, 1.0])
    trained = SGD(model.parameters(), lr=0.0, momentum=0.9)
    updater = regrow.SparseMomentum(model, trained, total_steps=9, update_every=None)
    model(a=[[0.0] * 4 + [8.0] * 4], b=[[3.0, 4.0]]).backward()
    assert nn.utils.clip_grad_norm_(model.parameters(), 1.0).item() == 5.0
    trained.step()
    close(missing(updater), [1.6] * 4)  # 8 / 5


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("clip", [False, True])
def test_accumulation_adds_up_micro_batches(set_to_none, clip):
    model, trained, updater = make(momentum=0.5)
    for _ in range(2):
        trained.zero_grad(set_to_none=set_to_none)
        for part in (0.5, 0.25, 0.25):
            model(a=[[part * g for g in G]]).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), math.sqrt(30) / 2)
        trained.step()
    close(missing(updater), [1.5 * g * (0.5 if clip else 1) for g in G[4:]])


def test_a_gradient_penalty_with_create_graph_trains():
    model, trained, updater = make(momentum=0.5, lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            trained.zero_grad()
            (model(a=[G]) ** 2).backward(create_graph=True)
            trained.step()
    assert updater.step == 2
    assert model.a[0, :4].tolist() != ROW[:4]
    assert not model.a.detach().flatten()[4:].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=["single", "foreach", "fused"])
@pytest.mark.parametrize(
    ("unscale", "clip"), [(False, False), (True, False), (True, True)], ids=["", "unscale_", "unscale_-clip"]
)
@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_the_scale_of_gradscaler_is_taken_out(implementation, unscale, clip, optimizer):
    settings = {"momentum": 0.9} if optimizer is SGD else {}
    model, trained, updater = make(optimizer, dtype=torch.float32, **settings, **implementation)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(2):
        trained.zero_grad()
        scaler.scale(model(a=[G])).backward()
        if unscale:
            scaler.unscale_(trained)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), math.sqrt(30) / 2)
        scaler.step(trained)
        scaler.update()
    seen = [g * (0.5 if clip else 1) for g in G]
    for key, expected in dense_twin(optimizer, [seen, seen], **settings).items():
        torch.testing.assert_close(missing(updater, key).double(), expected, rtol=1e-5, atol=0)


def skip_with_infinity(model, trained, scaler):
    scaler.scale(model(a=[G]) * math.inf).backward()
    scaler.step(trained)
    scaler.update()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=["single", "foreach", "fused"])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_skipped_step_leaves_nothing_behind(implementation, set_to_none):
    model, trained, updater = make(dtype=torch.float32, momentum=0.5, **implementation)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=1000, backoff_factor=0.999999)
    skip_with_infinity(model, trained, scaler)
    assert updater.step == 0
    assert missing(updater) is None or not missing(updater).any()
    trained.zero_grad(set_to_none=set_to_none)
    scaler.scale(model(a=[G])).backward()
    scaler.step(trained)
    assert updater.step == 1
    torch.testing.assert_close(missing(updater), torch.tensor(G[4:]), rtol=1e-4, atol=0)


def two_layers(**settings):
    model = fed({"a": range(4), "b": range(4)}, a=ROW, b=ROW)
    trained = SGD(model.parameters(), lr=0.0, momentum=0.5)
    return model, trained, regrow.SparseMomentum(model, trained, total_steps=99, update_every=None, **settings)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("bad", [math.inf, math.nan, 100.0])
def test_a_backward_without_step_does_not_leak_into_a_step_without_that_layer(set_to_none, bad):
    model, trained, updater = two_layers()
    feed(model, trained, a=[G], b=[G])
    (model(a=[G], b=[G]) * bad).backward()  # no step: the user skips it
    feed(model, trained, set_to_none=set_to_none, b=[G])
    close(missing(updater, name="b"), [1.5 * g for g in G[4:]])
    factor = 1.0 if set_to_none else 0.5  # without gradient nothing moves; a gradient of 0 lets the momentum decay
    close(missing(updater, name="a"), [factor * g for g in G[4:]])


@pytest.mark.parametrize("how", ["zero_", "none"])
def test_a_gradient_thrown_away_before_the_step_is_not_collected(how):
    model, trained, updater = make(momentum=0.5)
    feed(model, trained, a=[G])
    trained.zero_grad()
    (model(a=[G]) * math.nan).backward()
    if how == "none":
        model.a.grad = None
    else:
        model.a.grad.zero_()
    trained.step()
    close(missing(updater), [g * (1.0 if how == "none" else 0.5) for g in G[4:]])


def test_a_gradient_scaled_by_hand():
    model, trained, updater = make(momentum=0.5)
    model(a=[G]).backward()
    model.a.grad.mul_(0.25)
    trained.step()
    close(missing(updater), [0.25 * g for g in G[4:]])


def test_a_gradient_replaced_by_a_scaled_one():
    model, trained, updater = make(momentum=0.5)
    model(a=[G]).backward()
    model.a.grad = model.a.grad * 0.25
    trained.step()
    close(missing(updater), [0.25 * g for g in G[4:]])


def test_closures():
    model, trained, updater = make(momentum=0.5)

    def closure():
        trained.zero_grad()
        loss = model(a=[G])
        loss.backward()
        return loss

    for _ in range(2):
        assert trained.step(closure).item() == 30.0
    close(missing(updater), [1.5 * g for g in G[4:]])
    assert updater.step == 2


def test_float64_weights_converted_after_sparsify_collect_in_float64():
    model = fed(ACTIVE, torch.float32, a=ROW).double()
    trained = SGD(model.parameters(), lr=0.0, momentum=0.5)
    updater = regrow.SparseMomentum(model, trained, total_steps=9, update_every=None)
    feed(model, trained, a=[[g / 3 for g in G]])
    assert missing(updater).dtype == torch.float64
    assert missing(updater).tolist() == [g / 3 for g in G[4:]]


def held(updater):
    """Bytes of dense size that an updater keeps for inactive weights."""
    staged = [m._staged.tensor for m in updater._collectors.values() if m._staged is not None]
    tensors = [t for m in updater._collectors.values() for t in m.moments.values()] + [
        t for t in staged if t is not None
    ]
    return sum(t.numel() * t.element_size() for t in tensors)


def test_a_window_opens_and_closes_at_the_right_steps_and_frees_memory():
    model, trained, updater = make(momentum=0.5, window=2, update_every=5)
    kept = []
    for step in range(1, 11):
        feed(model, trained, a=[[float(step)] * 8])
        kept.append(held(updater) > 0)
        if step == 4:
            close(missing(updater), [4.0] * 4)
    # collected in steps 4 and 5, 9 and 10; given back after the updates of 5 and 10
    assert kept == [False, False, False, True, False, False, False, False, True, False]


@pytest.mark.parametrize(("window", "moved"), [(1, 4), (2, 5)])
def test_a_window_sees_no_gradient_of_before(window, moved):
    """Position 5 had its gradient one step too early for the window of one."""
    model, trained, _updater = make(momentum=0.5, window=window, update_every=3)
    rows = [[0, 0, 1, 1, 0, 0, 0, 99], [0, 0, 1, 1, 0, 9, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0]]
    for row in rows:
        feed(model, trained, a=[row])
    grown = set(indices(model)["a"]) - {2, 3}
    assert moved in grown
    assert 7 not in grown
    assert (5 in grown) == (window == 2)


def test_a_grown_weight_makes_up_for_what_the_window_forgot():
    model, trained, _updater = make(momentum=0.5, window=2, update_every=3)
    for row in ([0, 0, 1, 1, 0, 64, 0, 0], [0, 0, 1, 1, 0, 2, 0, 0], [0, 0, 1, 1, 0, 3, 0, 0]):
        feed(model, trained, a=[row])
    assert 5 in indices(model)["a"]
    close(trained.state[model.a]["momentum_buffer"][0, 5], 4.0 / (1 - 0.25))


def test_a_just_pruned_weight_that_returns_keeps_its_exact_state():
    model, trained, _updater = make(momentum=0.5, window=1, update_every=2)
    for row in ([8, 0, 1, 1, 0, 0, 0, 0], [9, 0, 1, 1, 0, 0, 0, 0]):
        feed(model, trained, a=[row])
    assert indices(model)["a"] == [0, 1, 2, 3]  # 0 by its momentum, 1 by the tie of zeros
    assert model.a[0].tolist() == [0.0, 0.0, 3.0, 4.0] + [0.0] * 4
    assert trained.state[model.a]["momentum_buffer"][0, :4].tolist() == [13.0, 0.0, 1.5, 1.5]


def test_by_hand_with_a_window_collects_only_after_expect_update():
    model, trained, updater = make(momentum=0.5, window=2)
    updater.expect_update(after=4)
    kept = []
    for _ in range(4):
        feed(model, trained, a=[G])
        kept.append(held(updater) > 0)
    assert kept == [False, False, True, True]
    close(missing(updater), [1.5 * g for g in G[4:]])
    updater.update()
    assert held(updater) == 0


def test_by_hand_with_a_window_but_without_expect_update_collects_since_the_last_update():
    model, trained, updater = make(momentum=0.5, window=2)
    for _ in range(3):
        feed(model, trained, a=[G])
    close(missing(updater), [1.75 * g for g in G[4:]])


def test_all_steps_survive_an_update():
    model, trained, updater = make(momentum=0.5, update_every=2)
    for _ in range(3):
        feed(model, trained, a=[G])
    everything = updater.state_dict()["missing"]["a"]["moments"]["momentum_buffer"].flatten()
    off = ~regrow.sparse_weights(model)["a"].mask.flatten()
    assert off[:2].all(), "0 and 1, the smallest, have left"
    close(everything[off], [1.75 * g for g, gone in zip(G, off.tolist(), strict=True) if gone])


def test_layers_without_gradient_in_the_interval_are_left_out():
    model, trained, updater = two_layers()
    feed(model, trained, a=[G], b=[G])
    updater.update()
    before = indices(model)["b"], model.b.detach().clone()
    for _ in range(2):
        feed(model, trained, a=[G])
    rows = {row["name"]: row for row in updater.update()}
    assert (rows["b"]["pruned"], rows["b"]["grown"], rows["b"]["importance"]) == (0, 0, 0)
    assert rows["a"]["importance"] == 1.0
    assert rows["a"]["grown"] == rows["a"]["pruned"] > 0
    assert indices(model)["b"] == before[0]
    assert torch.equal(model.b.detach(), before[1])


def test_a_gradient_of_a_skipped_step_does_not_make_a_layer_take_part():
    model, trained, updater = two_layers()
    model(a=[G], b=[G]).backward()  # thrown away
    feed(model, trained, a=[G])
    rows = {row["name"]: row for row in updater.update()}
    assert (rows["a"]["pruned"], rows["b"]["pruned"]) == (2, 0)


def test_an_update_behind_an_update_changes_nothing():
    _, _, updater = model, trained, updater = two_layers()
    feed(model, trained, a=[G], b=[G])
    updater.update()
    before = indices(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert updater.update() == []
    assert indices(model) == before


def test_zero_importance_warns_and_gives_each_layer_its_own_back():
    model, trained, updater = two_layers()
    feed(model, trained, a=[[0.0] * 8], b=[[0.0] * 8])
    with pytest.warns(UserWarning, match="importances are 0 at step 1"):
        rows = updater.update()
    assert [(row["pruned"], row["grown"], row["active"]) for row in rows] == [(2, 2, 4)] * 2


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.NAdam, {}),
        (torch.optim.RAdam, {}),
        (SGD, {"momentum": 0.9}),
        (ADAM, {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_just_pruned_and_missing_weights_compete_on_one_scale(optimizer, settings):
    """Equal gradients everywhere: M of an active weight equals that of a missing one, so larger ones win the growth."""
    model, trained, updater = make(optimizer, **settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        g = torch.rand(4, generator=generator, dtype=torch.float64) * 1e-3
        feed(model, trained, a=torch.cat([g, g])[None])
    layer = updater._view(updater._weights["a"], updater._collectors["a"])
    torch.testing.assert_close(layer.inactive_momentum[:4], layer.inactive_momentum[4:], rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.momentum.abs(), layer.inactive_momentum[:4], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("optimizer", "settings"), [(torch.optim.RMSprop, {"momentum": 0.9}), (torch.optim.Muon, {})])
def test_momentum_in_other_units_is_refused(optimizer, settings):
    with pytest.raises(ValueError, match=rf"{optimizer.__name__}.*other units.*use SGD, Adam or AdamW"):
        make(optimizer, **settings)


def test_an_updater_made_after_the_optimizer_has_trained_scores_on_one_scale():
    model = fed(ACTIVE, a=ROW)
    trained = ADAM(model.parameters(), lr=0.0)
    for _ in range(50):
        feed(model, trained, a=[[1.0] * 8])
    updater = regrow.SparseMomentum(model, trained, total_steps=999, update_every=None)
    for _ in range(50):
        feed(model, trained, a=[[1.0] * 8])
    layer = updater._view(updater._weights["a"], updater._collectors["a"])
    torch.testing.assert_close(layer.inactive_momentum, torch.ones(8, dtype=torch.float64), rtol=1e-6, atol=0)


def test_dense_parameters_do_not_disturb():
    model = nn.ModuleDict({"fed": Fed(a=ROW)})
    model.register_parameter("bias", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    masked(model, None, init={"fed.a": mask_of(8, range(4))})
    trained = SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.SparseMomentum(model, trained, total_steps=9, update_every=None)
    (model["fed"](a=[G]) + model.bias.sum()).backward()
    trained.step()
    assert [row["name"] for row in updater.update()] == ["fed.a"]
    assert model.bias.tolist() == [0.9] * 3
