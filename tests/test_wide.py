"""Layers too wide to exist dense: made, trained by every kind of growth, saved and resumed without dense tensors."""

import copy

import pytest
import torch
from torch import nn

import regrow
from helpers import assert_same, picture
from regrow.nn import SparseLinear
from regrow.topology.random import draw_distinct, draw_missing

SIZE = 70_000
"""A square layer of 4.9e9 positions, 19.6 GB in float32."""
ACTIVE = 3_000

native = pytest.mark.skipif(not regrow.ops.info()["loaded"], reason="the plain-torch reference makes the dense weight")


def wide(size=SIZE, seed=0, **settings):
    torch.manual_seed(seed)
    first, last = nn.Linear(6, size), nn.Linear(size, 3)
    with torch.device("meta"):
        middle = nn.Linear(size, size)
    model = nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), last)
    settings = {"storage": "compressed", "dense": ["0", "4"], "seed": 0, "rescale": False, **settings}
    return regrow.sparsify(model, ACTIVE / size**2, **settings)


def step(model, optimizer, number):
    generator = torch.Generator().manual_seed(number)
    x, y = torch.randn(4, 6, generator=generator), torch.randint(3, (4,), generator=generator)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)


GROWTH = {
    "momentum": (regrow.SparseMomentum, {"window": 2}),
    "gradient": (regrow.RigL, {"stop_fraction": 1.0}),
    "random": (regrow.SET, {"seed": 1}),
}


def attach(growth, model, optimizer):
    kind, settings = GROWTH[growth]
    return kind(model, optimizer, total_steps=9, update_every=3, **settings)


@native
@pytest.mark.parametrize("growth", GROWTH)
def test_a_layer_of_more_than_2_to_the_32_positions_trains(growth, tmp_path):
    """Two updates; a run that is saved within the window goes on to the same bits."""
    model = wide()
    optimizer = sgd(model)
    updater = attach(growth, model, optimizer)
    weight = regrow.sparse_weights(model)["2.weight"]
    first = weight.indices
    assert (weight.active, weight.indices.dtype, weight.numel) == (ACTIVE, torch.int64, SIZE**2)
    assert int(first.max()) > 2**32
    for number in range(5):
        step(model, optimizer, number)
    assert weight.active == ACTIVE
    kept = torch.isin(weight.indices, first).sum()
    assert ACTIVE / 4 < kept < ACTIVE

    regrow.save(tmp_path / "model", model)
    torch.save({"optimizer": optimizer.state_dict(), "updater": updater.state_dict()}, tmp_path / "rest")
    other = regrow.load(tmp_path / "model", wide(seed=1))
    resumed = sgd(other)
    rest = torch.load(tmp_path / "rest", weights_only=True)
    resumed.load_state_dict(rest["optimizer"])
    again = attach(growth, other, resumed)
    again.load_state_dict(rest["updater"])
    for number in (5, 6):
        step(model, optimizer, number)
        step(other, resumed, number)
    assert_same(model.state_dict(), other.state_dict())
    assert "2.weight  70000x70000  3,000 / 4,900,000,000" in str(regrow.summary(model))


def test_values_are_drawn_as_the_dense_layer_draws_them():
    layer = wide()[2]
    assert isinstance(layer, SparseLinear)
    bound = SIZE**-0.5
    assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert abs(float(layer.weight.detach().mean())) < bound / 20
    assert 0.99 * bound < float(layer.bias.detach().abs().max()) <= bound
    assert_same(wide().state_dict(), wide().state_dict())
    assert not torch.equal(wide(seed=1)[2].weight, layer.weight)


def test_a_model_on_the_meta_device_is_made_as_far_as_it_is_dense():
    def make():
        return nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Linear(40, 40), nn.Linear(40, 9, bias=False))

    with torch.device("meta"):
        model = make()
    model[2].weight.requires_grad_(False)
    model = regrow.sparsify(model, 0.2, distribution={"0": 0.9}, seed=0)
    weights = regrow.sparse_weights(model)
    assert {name: weight.storage for name, weight in weights.items()} == {
        "0.weight": "masked",
        "3.weight": "compressed",
    }
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    assert not model[2].weight.requires_grad
    assert model[1].running_var.tolist() == [1.0] * 40
    assert float(model[2].weight.detach().abs().max()) <= 40**-0.5
    assert torch.isfinite(model(torch.randn(5, 6))).all()


def test_a_convolution_on_the_meta_device():
    model = regrow.sparsify(nn.Conv2d(3, 8, 3, device="meta"), 0.25, seed=0, rescale=False)
    assert model(torch.randn(2, 3, 6, 6)).shape == (2, 8, 4, 4)
    assert 0 < float(model.weight.detach().abs().max()) <= 27**-0.5


def tied():
    model = nn.Sequential(nn.Embedding(9, 8, device="meta"), nn.Linear(8, 9, bias=False, device="meta"))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (lambda: nn.Linear(SIZE, SIZE, device="meta"), {"density": 1e-6, "storage": "masked"}, "of its 4,900,000,000"),
        (lambda: nn.Linear(9, 9, device="meta"), {"init": "magnitude"}, "on the meta device, where it has no values"),
        (lambda: nn.MultiheadAttention(8, 2, device="meta"), {}, "make this module on the CPU"),
        (tied, {}, "1: weight on the meta device are tied"),
    ],
)
def test_what_cannot_be_made_is_refused(make, settings, words):
    model = make()
    before = picture(model)
    with pytest.raises(ValueError, match=words):
        regrow.sparsify(model, **{"density": 0.2, **settings})
    assert str(picture(model)) == str(before)


@native
def test_what_would_be_dense_is_refused():
    model = wide()
    for way in (regrow.densify, lambda model: model[2].dense_weight()):
        with pytest.raises(ValueError, match=r"4,900,000,000 positions takes 20 GB"):
            way(model)
    adam = torch.optim.AdamW(model.parameters())
    for optimizer, settings in ((sgd(model), {"window": "all"}), (sgd(model), {"factored": False}), (adam, {})):
        before = picture(model, optimizer)
        with pytest.raises(ValueError, match=r"2.weight: momentum of its 4,900,000,000 positions"):
            regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=3, **settings)
        assert_same(picture(model, optimizer), before)
    updater = regrow.SparseMomentum(model, sgd(model), total_steps=9, update_every=3, per_neuron=True)
    for number in range(2):
        step(model, updater.optimizer, number)
    with pytest.raises(ValueError, match="too many positions for scores of neurons"):
        step(model, updater.optimizer, 2)
    updater.remove()
    regrow.SparseMomentum(model, adam, total_steps=9, update_every=3, growth="random")


# ---------------------------------------------------------------- small layers, factored all the same


def trained(factored, growth="momentum", dtype=torch.float64, window=3, batch=4, steps=13):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 9)).to(dtype)
    model = regrow.sparsify(model, 0.2, storage="compressed", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, dampening=0)
    updater = regrow.SparseMomentum(
        model, optimizer, total_steps=99, update_every=4, growth=growth, window=window, factored=factored
    )
    for number in range(steps):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(batch, 30, generator=generator, dtype=dtype)
        optimizer.zero_grad()
        for part in x.chunk(2):
            model(part).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    return model, optimizer, updater


@pytest.mark.parametrize("growth", ["momentum", "gradient"])
def test_factored_equals_dense(growth):
    """Same topologies over three updates, weights and momentum to 1e-12, in float64, with accumulation and clipping."""
    (dense, *_), (factored, *_) = trained(False, growth), trained(True, growth)
    for one, other in zip(dense.state_dict().values(), factored.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_factors_live_in_the_window_and_are_multiplied_out_when_they_are_no_smaller():
    kinds = {batch: trained(True, batch=batch, steps=15)[2]._collectors for batch in (4, 20)}
    assert type(kinds[4]["2.weight"].moments["momentum_buffer"]).__name__ == "FactoredMoment"
    assert isinstance(kinds[20]["2.weight"].moments["momentum_buffer"], torch.Tensor)
    assert not trained(True, steps=12)[2]._collectors["2.weight"].moments
    (dense, *_), (factored, *_) = trained(False, batch=20), trained(True, batch=20)
    torch.testing.assert_close(dense[2].weight, factored[2].weight, rtol=0, atol=1e-12)


def test_large_layers_are_factored_and_drawn_lazily_by_themselves(monkeypatch):
    for module in ("criteria", "momentum.collector", "topology.initial"):
        monkeypatch.setattr(f"regrow.{module}.LARGEST_TENSOR", 1_000)
    updater = trained(None, steps=14)[2]
    kinds = {name: type(m.moments["momentum_buffer"]).__name__ for name, m in updater._collectors.items()}
    assert kinds == {"0.weight": "FactoredMoment", "2.weight": "FactoredMoment", "4.weight": "Tensor"}
    model, _, updater = trained(None, growth="random", steps=14)
    assert len({row["step"] for row in updater.history}) == 3
    assert sum(w.active for w in regrow.sparse_weights(model).values()) == round(0.2 * (30 * 40 + 40 * 40 + 40 * 9))


def test_distinct_draws_are_uniform_where_a_modulus_would_not_be():
    """Of [0, 3 * 2^26), torch.randint takes those below 2^26 by 5 % more often than the others."""
    generator = torch.Generator().manual_seed(0)
    drawn = draw_distinct(90_000, 3 * 2**26, generator)
    assert drawn.unique().numel() == 90_000
    counts = torch.bincount(drawn // 2**26, minlength=3)
    assert (counts - 30_000).abs().max() < 500  # standard deviation 141; torch.randint: about 950
    beyond = draw_distinct(1_000, 2**40, generator)
    assert int(beyond.max()) > 0.99 * 2**40


def test_missing_draws():
    generator = torch.Generator().manual_seed(0)
    taken = torch.tensor([0, 2, 3, 7])
    drawn = torch.cat([draw_missing(2, 8, taken, generator) for _ in range(2_000)])
    counts = torch.bincount(drawn, minlength=8)
    assert counts[taken].tolist() == [0] * 4
    assert (counts[[1, 4, 5, 6]] - 1_000).abs().max() < 110
    for number in (0, 4):
        assert draw_missing(number, 8, taken, generator).tolist() == [1, 4, 5, 6][:number]


def test_positions_as_init():
    positions = {"weight": torch.tensor([1, 5])}
    weight = regrow.sparse_weights(regrow.sparsify(nn.Linear(4, 3), None, init=positions))["weight"]
    assert weight.indices.tolist() == [1, 5]
    for bad, words in (([5, 1], "out of order"), ([1, 12], "position 12 is out of range"), ([], "no active position")):
        with pytest.raises(ValueError, match=words):
            regrow.sparsify(nn.Linear(4, 3), None, init={"weight": torch.tensor(bad, dtype=torch.int64)})


def test_copies():
    layer = wide()[2]
    assert_same(copy.deepcopy(layer).state_dict(), layer.state_dict())
