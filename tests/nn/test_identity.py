"""The identity of active sets: values of one are never taken for those of another, and nothing else is refused."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import regrow
from helpers import mlp, train
from regrow.integrations.averaging import average

X = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))


def two(method=regrow.RigL, before=None, storage="compressed"):
    """A network in training, at step 10 of 20, and a copy that was made at step 3; RigL keeps lengths."""
    model = regrow.sparsify(mlp(8, 12, 4), 0.3, seed=0, storage=storage)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method(model, optimizer, total_steps=20, update_every=2)
    train(model, optimizer, range(3))
    other = copy.deepcopy(model)
    train(model, optimizer, range(3, 10))
    return model, optimizer, other


def soft(model, target, share=0.1):
    """As target networks are updated in most programs."""
    for there, here in zip(target.parameters(), model.parameters(), strict=True):
        there.data.mul_(1 - share).add_(share * here.data)


def soft_in_place(model, target):
    with torch.no_grad():
        for there, here in zip(target.parameters(), model.parameters(), strict=True):
            there.lerp_(here, 0.1)


def vectors(model, target):
    here, there = (nn.utils.parameters_to_vector(m.parameters()) for m in (model, target))
    nn.utils.vector_to_parameters((here + there) / 2, target.parameters())


def entries(model, target):
    """As timm's ModelEmaV2, over state dicts, whole numbers included."""
    for there, here in zip(target.state_dict().values(), model.state_dict().values(), strict=True):
        there.copy_(0.9 * there + 0.1 * here)


def parameters_and_buffers(model, target):
    """As torch's AveragedModel."""
    soft_in_place(model, target)
    for there, here in zip(target.buffers(), model.buffers(), strict=True):
        there.copy_(here)


MIXES = [soft, soft_in_place, vectors, entries, parameters_and_buffers]
mixes = pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.__name__)
REFUSED = "regrow.integrations.averaging: AveragedModel for EMA, SWA and target networks, average"


@mixes
def test_a_mixture_of_active_sets_is_refused(mix):
    model, _, target = two()
    mix(model, target)
    with pytest.raises(RuntimeError, match=REFUSED):
        target(X)
    with pytest.raises(RuntimeError, match=REFUSED):  # and so for ever
        target(X)
    assert REFUSED in regrow.check(target)[0]
    for act in (regrow.densify, partial(regrow.export.save_safetensors, "unwritten")):
        with pytest.raises(ValueError, match=REFUSED):
            act(target)
    with pytest.raises(RuntimeError, match=REFUSED):
        average([model, target])


@mixes
def test_a_mixture_into_the_model_that_was_copied_is_refused(mix):
    """As of a server, whose clients are copies of it."""
    base = regrow.sparsify(mlp(8, 12, 4), 0.3, seed=0, storage="compressed")
    client = copy.deepcopy(base)
    optimizer = torch.optim.SGD(client.parameters(), lr=0.1, momentum=0.9)
    regrow.RigL(client, optimizer, total_steps=20, update_every=2)
    train(client, optimizer, range(9))
    mix(client, base)
    with pytest.raises(RuntimeError, match=REFUSED):
        base(X)
    assert regrow.check(client) == []
    client(X)


@pytest.mark.parametrize("mix", [mix for mix in MIXES if mix is not entries], ids=lambda mix: mix.__name__)
def test_what_has_one_topology_may_be_mixed(mix):
    """Before the first update, after the last one, with `Static`; but not whole numbers cut off, as by `entries`."""
    model = regrow.sparsify(mlp(8, 12, 4), 0.3, seed=0, storage="compressed")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    regrow.Static(model, optimizer)
    target = copy.deepcopy(model)
    wanted = [p.detach().clone() for p in regrow.densify(model).parameters()]
    for step in range(6):
        train(model, optimizer, [step])
        target(X)
        mix(model, target)
        share = 0.5 if mix is vectors else 0.1
        plain = regrow.densify(model).parameters()
        wanted = [(1 - share) * mine + share * p.detach() for mine, p in zip(wanted, plain, strict=True)]
    target(X)
    for mine, p in zip(wanted, regrow.densify(target).parameters(), strict=True):
        torch.testing.assert_close(p.detach(), mine)


@pytest.mark.parametrize("look", [False, True])
def test_torchs_averaged_model_is_refused_once_topologies_differ(look):
    model = regrow.sparsify(mlp(8, 12, 4), 0.3, seed=0, storage="compressed")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    regrow.RigL(model, optimizer, total_steps=20, update_every=4)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(3):
        train(model, optimizer, [step])
        average.update_parameters(model)
        average(X)

    def follow():
        for step in range(3, 12):
            train(model, optimizer, [step])
            average.update_parameters(model)
            if look:
                average(X)
        average(X)

    with pytest.raises(RuntimeError, match=REFUSED):
        follow()


def test_whole_copies_are_taken_over():
    """By load_state_dict, and tensor by tensor."""
    model, _, target = two()
    target.load_state_dict(model.state_dict())
    torch.testing.assert_close(target(X), model(X))
    model, _, target = two()
    for there, here in zip(target.state_dict().values(), model.state_dict().values(), strict=True):
        there.copy_(here)
    torch.testing.assert_close(target(X), model(X))
    assert regrow.check(target) == []
    torch.testing.assert_close(regrow.densify(target)(X), model(X))


def test_a_copy_that_is_trained_is_nobodys_average():
    """With an updater, or by a plain optimizer."""
    for moves in (True, False):
        model, optimizer, old = two()
        own = torch.optim.SGD(old.parameters(), lr=0.1)
        if moves:
            regrow.RigL(old, own, total_steps=20, update_every=2)
        for step in range(6):
            old(X)
            train(old, own, [step])
        old(X)
        train(model, optimizer, range(10, 14))
        model(X)


def test_a_copy_that_nobody_writes_to_is_right():
    model, optimizer, old = two()
    before = old(X)
    train(model, optimizer, range(10, 14))
    assert torch.equal(old(X), before)


def test_values_that_are_meant_are_taken():
    model, _, old = two()
    assert regrow.check(model) == []
    for layer in (old[0], old[2]):
        nn.init.ones_(layer.weight)
    with pytest.raises(RuntimeError, match=r"call layer\.accept_values\(\)"):
        old(X)
    for layer in (old[0], old[2]):
        layer.accept_values()
    old(X)
    nn.init.zeros_(old[0].weight)
    weight = regrow.sparse_weights(old)["0.weight"]
    weight.write(torch.ones_like(weight.values))
    old(X)


@pytest.mark.parametrize("into", ["masked", "compressed"])
def test_averages_of_state_dicts_are_refused_when_they_are_loaded(into):
    """The mean of indices is made of indices too, and of as many."""
    model, _, other = two()
    states = [m.state_dict() for m in (model, other)]
    mean = {k: torch.stack([s[k].double() for s in states]).mean(0).to(states[0][k].dtype) for k in states[0]}
    target = regrow.sparsify(mlp(8, 12, 4), 0.3, seed=5, storage=into)
    with pytest.raises(ValueError, match=rf"0\.indices: the state mixes active sets.*{REFUSED}"):
        target.load_state_dict(mean)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
@pytest.mark.parametrize("into", ["masked", "compressed"])
def test_averages_of_state_dicts_of_one_topology_are_loaded(into, dtype):
    """Whatever arithmetic has made of whole numbers."""
    one = regrow.sparsify(mlp(8, 12, 4), 0.3, seed=0, storage="compressed")
    others = [copy.deepcopy(one) for _ in range(7)]
    for scale, other in enumerate(others):
        for layer in (other[0], other[2]):
            layer.weight.data.mul_(scale)
    states = [m.state_dict() for m in others]
    mean = {k: sum(s[k] * (1 / 7) for s in states) for k in states[0]}
    if dtype is None:
        mean = {k: torch.stack([s[k].float() for s in states]).mean(0).to(states[0][k].dtype) for k in states[0]}
    else:
        mean = {k: value.to(dtype) for k, value in mean.items()}
    target = regrow.sparsify(mlp(8, 12, 4), 0.3, seed=5, storage=into)
    target.load_state_dict(mean)
    for layer in (one[0], one[2]):
        layer.weight.data.mul_(3)
    torch.testing.assert_close(target[0].bias, one[0].bias)
    torch.testing.assert_close(regrow.densify(target)[0].weight, regrow.densify(one)[0].weight)


def test_masked_averages_are_right_and_know_their_strays():
    """Masked weights lie at their positions; only the mask of the average is another."""
    model, _, target = two(storage="masked")
    wanted = 0.9 * target[0].weight.detach() + 0.1 * model[0].weight.detach()
    soft(model, target)
    torch.testing.assert_close(target[0].weight.detach(), wanted)
    assert "inactive weights are not 0" in regrow.check(target)[0]
    plain = regrow.densify(target, keep_inactive=True)
    torch.testing.assert_close(plain(X), target(X))


def test_state_dicts_without_a_digest_are_loaded():
    """Those of version 0.1 have none."""
    model, _, target = two()
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("digest")}
    target.load_state_dict(state)
    torch.testing.assert_close(target(X), model(X))


def test_copies_and_pickles_have_identities_of_their_own():
    model, _, _ = two()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(X), model(X))
        twin[0].set_topology(torch.tensor([1, 5]), torch.ones(2))
        assert twin[0].digest.tolist() != model[0].digest.tolist()
        assert regrow.check(twin) == regrow.check(model) == []
