"""Layers that become compressed while they train: like masked training, with optimizer and updater attached."""

import copy
import pickle

import pytest
import torch
from torch import nn

import regrow
from helpers import assert_same, frozen, loss_at
from regrow.integrations.averaging import AveragedModel

STEPS, EVERY, BELOW = 20, 2, 0.3
METHODS = {
    "gmp": (regrow.GMP, 1.0),
    "granet": (regrow.GraNet, 0.6),
    "han": (regrow.Han, 1.0),
    "ac-dc": (regrow.ACDC, 1.0),
}


def network(convolutions=False, dtype=torch.float64):
    torch.manual_seed(0)
    if convolutions:
        body = [nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
        return nn.Sequential(*body, nn.Conv2d(6, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 4)).to(dtype)
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 4)).to(dtype)


def optimizer_of(kind, model):
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def made(method="granet", kind="sgd", below=BELOW, dtype=torch.float64, convolutions=False, dense=None):
    make, density = METHODS[method]
    storage = {"storage": "masked"} if below is None else {"compress_below": below}
    model = regrow.sparsify(copy.deepcopy(dense) or network(convolutions, dtype), density, seed=0, **storage)
    optimizer = optimizer_of(kind, model)
    updater = make(model, optimizer, total_steps=STEPS, update_every=EVERY, density=0.1)
    return model, optimizer, updater


def train(model, optimizer, steps, clip=None, dtype=torch.float64):
    for step in steps:
        optimizer.zero_grad()
        loss_at(model, step, inputs=16, dtype=dtype).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def storages(model):
    return [weight.storage for weight in regrow.sparse_weights(model).values()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("convolutions", [False, True])
def test_equals_masked_training(method, kind, convolutions):
    """Same active sets, values and optimizer state, in float64."""
    masked, other, of_masked = made(method, kind, below=None, convolutions=convolutions)
    model, optimizer, updater = made(method, kind, convolutions=convolutions)
    assert set(storages(model)) == {"masked"}
    train(masked, other, range(STEPS), clip=0.5)
    train(model, optimizer, range(STEPS), clip=0.5)
    assert "compressed" in storages(model)
    for row, twin in zip(of_masked.history, updater.history, strict=True):
        assert row == twin
    for name, weight in regrow.sparse_weights(model).items():
        twin = regrow.sparse_weights(masked)[name]
        assert torch.equal(weight.indices, twin.indices)
        torch.testing.assert_close(weight.values, twin.values, rtol=0, atol=1e-10)
        state, of_twin = optimizer.state[weight.parameter], other.state[twin.parameter]
        for key in state.keys() - {"step"}:
            torch.testing.assert_close(weight.take(state[key]), twin.take(of_twin[key]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_switch_changes_no_bit_and_no_parameter(kind):
    """At the update that compresses, values, active sets and state are those of masked storage, to the bit."""
    (masked, other, _), (model, optimizer, updater) = made(kind=kind, below=None), made(kind=kind)
    held = list(model.parameters())
    step = 0
    while "compressed" not in storages(model):
        for each in ((masked, other), (model, optimizer)):
            train(*each, [step])
        step += 1
    assert all(now is before for now, before in zip(model.parameters(), held, strict=True))
    assert [group["params"] for group in optimizer.param_groups] == [held]
    for name, weight in regrow.sparse_weights(model).items():
        twin = regrow.sparse_weights(masked)[name]
        assert_same(weight.indices, twin.indices)
        assert_same(weight.values, twin.values)
        assert weight.last_update == twin.last_update == updater.step
        for key, value in optimizer.state[weight.parameter].items():
            wanted = other.state[twin.parameter][key]
            if isinstance(value, torch.Tensor) and value.dim():
                value, wanted = weight.take(value), twin.take(wanted)
            assert_same(value, wanted)


def test_layers_change_one_by_one():
    model, optimizer, _ = made("ac-dc")
    assert "masked until its density is 30%" in str(regrow.summary(model))
    seen = []
    for step in range(STEPS):
        train(model, optimizer, [step])
        for weight in regrow.sparse_weights(model).values():
            assert (weight.storage == "compressed") == (weight.density <= BELOW)
        seen.append(storages(model)[0])
    assert [kind for kind, before in zip(seen, [None, *seen], strict=False) if kind != before][:4] == [
        "masked",
        "compressed",
        "masked",
        "compressed",
    ]
    assert "density fell to 30%" in str(regrow.summary(model))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("convolutions", [False, True])
def test_a_run_that_is_killed_resumes_to_the_same_bits(method, kind, convolutions):
    """Wherever it is killed: before the switch, at its step, and after it."""
    settings = dict(method=method, kind=kind, convolutions=convolutions, dtype=torch.float32)
    model, optimizer, updater = made(**settings)
    saved = []
    for step in range(STEPS):
        saved.append(frozen([model.state_dict(), optimizer.state_dict(), updater.state_dict()]))
        train(model, optimizer, [step], dtype=torch.float32)
    end = frozen([model.state_dict(), optimizer.state_dict(), updater.state_dict()])
    kinds = [state["storage"] for *_, state in saved]
    switches = [step for step in range(1, STEPS) if kinds[step] != kinds[step - 1]]
    assert switches
    for step in (switches[0] - 1, switches[0], switches[-1], switches[-1] + 1):
        again, its_optimizer, its_updater = made(**settings)
        for one, state in zip((again, its_optimizer, its_updater), frozen(saved[step]), strict=True):
            one.load_state_dict(state)
        train(again, its_optimizer, range(step, STEPS), dtype=torch.float32)
        assert_same([again.state_dict(), its_optimizer.state_dict(), its_updater.state_dict()], end)


def test_a_live_training_goes_back_over_its_switch():
    model, optimizer, updater = made()
    objects = model, optimizer, updater
    train(model, optimizer, range(3))
    early = frozen([one.state_dict() for one in objects])
    train(model, optimizer, range(3, STEPS))
    late = frozen([one.state_dict() for one in objects])
    for one, state in zip(objects, frozen(early), strict=True):
        one.load_state_dict(state)
    assert set(storages(model)) == {"masked"}
    train(model, optimizer, range(3, STEPS))
    assert_same([one.state_dict() for one in objects], late)


def test_a_state_without_the_setting_is_refused():
    model, optimizer, updater = made()
    train(model, optimizer, range(STEPS))
    *_, other = made(below=None)
    with pytest.raises(ValueError, match="compress_below"):
        other.load_state_dict(updater.state_dict())


def test_copies_go_on_alike():
    model, optimizer, updater = made()
    train(model, optimizer, range(3))
    twin, its_optimizer, its_updater = copy.deepcopy((model, optimizer, updater))
    for each in ((model, optimizer), (twin, its_optimizer)):
        train(*each, range(3, STEPS))
    assert "compressed" in storages(twin)
    assert_same(twin.state_dict(), model.state_dict())
    assert_same(its_updater.state_dict(), updater.state_dict())


def test_a_pickled_model_becomes_compressed_later():
    model = pickle.loads(pickle.dumps(made()[0]))
    optimizer = optimizer_of("sgd", model)
    updater = regrow.GMP(model, optimizer, total_steps=STEPS, update_every=EVERY, density=0.1)
    train(model, optimizer, range(STEPS))
    assert set(storages(model)) == {"compressed"}
    assert updater.step == STEPS


def test_an_average_follows():
    (masked, other, _), (model, optimizer, _) = made(below=None), made()
    of_masked, average = AveragedModel(masked), AveragedModel(model)
    for step in range(STEPS):
        for each, its_optimizer, its_average in ((masked, other, of_masked), (model, optimizer, average)):
            train(each, its_optimizer, [step])
            its_average.update_parameters(each)
    assert "compressed" in storages(average.module)
    batch = torch.randn(5, 16, dtype=torch.float64)
    torch.testing.assert_close(average(batch), of_masked(batch), rtol=0, atol=1e-10)


def test_what_would_be_lost_stays_masked():
    """A hook that reads the weight, put onto a layer after `sparsify`."""
    model, optimizer, updater = made()
    model[2].register_forward_hook(lambda module, inputs, output: output + module.weight.sum())
    with pytest.warns(UserWarning, match=r"2.weight stays masked, because a hook reads its weight"):
        train(model, optimizer, range(STEPS))
    assert storages(model)[:2] == ["compressed", "masked"]
    weight = regrow.sparse_weights(model)["2.weight"]
    assert weight.why == "a hook reads its weight"
    assert weight.reduces_own_gradient, "DistributedDataParallel has left it out"
    assert updater.step == STEPS


def test_a_state_that_cannot_be_followed_is_refused():
    _, _, updater = objects = made()
    train(*objects[:2], range(STEPS))
    other = made()
    other[0][2].register_forward_hook(lambda module, inputs, output: output + module.weight.sum())
    other[0].load_state_dict(objects[0].state_dict())
    with (
        pytest.warns(UserWarning, match=r"2.weight stays masked"),
        pytest.raises(ValueError, match=r"2.weight had another storage .* forbids here"),
    ):
        other[2].load_state_dict(updater.state_dict())


def test_a_layer_that_is_the_model_stays_masked():
    model = regrow.sparsify(nn.Linear(16, 4), 1.0, compress_below=0.3)
    assert "the model itself" in regrow.sparse_weights(model)["weight"].why


def test_what_is_sparse_enough_is_compressed_at_once():
    model = regrow.sparsify(network(), 0.6, distribution={"0.*": 0.2}, compress_below=0.3)
    assert storages(model) == ["compressed", "masked", "masked"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(compress_below=1.0), "between 0 and 1"),
        (dict(compress_below=0.0), "between 0 and 1"),
        (dict(compress_below=0.3, storage="masked"), "leave one of them out"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        regrow.sparsify(network(), 1.0, **settings)


@pytest.mark.parametrize("method", [regrow.DNS, regrow.TopKAST, regrow.DeepRewiring])
def test_methods_that_need_one_storage_say_so(method):
    model = regrow.sparsify(network(), 0.5, compress_below=0.3)
    density = {} if method is regrow.DeepRewiring else {"density": 0.1}
    with pytest.raises(ValueError, match="without compress_below"):
        method(model, optimizer_of("sgd", model), total_steps=STEPS, update_every=EVERY, **density)


def test_optimizers_that_read_shapes_are_refused_at_once():
    model = regrow.sparsify(network(), 0.5, compress_below=0.3)
    with pytest.raises(ValueError, match="will be stored compressed"):
        regrow.Static(model, torch.optim.Adafactor(model.parameters()))
