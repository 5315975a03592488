"""Saliencies against what can be written by hand, and that judging leaves the model as it is."""

import copy

import pytest
import torch
from torch import nn

import regrow
from helpers import assert_same, picture


class Quadratic(nn.Module):
    """f(x) = w . x of one output; the loss is (f - y)^2 / 2, so g = (f - y) x and H = x x^T."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64))

    def forward(self, x):
        return x @ self.w.t()


def half_square(outputs, targets):
    return (outputs - targets).square().sum() / 2


X = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
Y = torch.tensor([[1.0]], dtype=torch.float64)  # f = 2, f - y = 1
W = [1.0, 2.0, -1.0]


def test_snip():
    scores = regrow.snip(Quadratic(), [(X, Y)], loss=half_square)
    assert scores["w"].tolist() == [[1.0, 4.0, 3.0]]  # |w * x|
    twice = regrow.snip(Quadratic(), [(X, Y), (X, Y)], loss=half_square)
    assert twice["w"].tolist() == [[2.0, 8.0, 6.0]]


def test_grasp():
    # H g = x (x . x) (f - y) = 14 x
    scores = regrow.grasp(Quadratic(), [(X, Y)], loss=half_square, temperature=1.0)
    assert scores["w"].tolist() == [[14.0, 56.0, -42.0]]


def test_obd_squares_the_gradient_of_each_example():
    batch = (torch.cat([X, X]), torch.tensor([[1.0], [3.0]], dtype=torch.float64))  # f - y = 1 and -1: the mean is 0
    scores = regrow.obd(Quadratic(), [batch], loss=half_square)
    assert scores["w"].tolist() == [[0.5, 8.0, 4.5]]  # w^2 x^2 / 2
    assert not regrow.snip(Quadratic(), [batch], loss=half_square)["w"].any()


def test_synflow_keeps_what_carries_the_most_and_never_cuts_all_paths():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    with torch.no_grad():
        net[0].weight[2] *= 10
        net[2].weight[:, 2] *= 10
    scores = regrow.synflow(net, torch.zeros(5, 6), density=0.2)
    assert [tuple(s.shape) for s in scores.values()] == [(8, 6), (3, 8)]
    flat = torch.cat([s.flatten() for s in scores.values()])
    assert len(set(flat.tolist())) == 72
    survivors = round(0.2 * 72)
    assert int((flat >= 99).sum()) == round(0.2**0.99 * 72)
    model = regrow.sparsify(copy.deepcopy(net), 0.2, init=scores, distribution="global")
    active = {name: weight.indices.tolist() for name, weight in regrow.sparse_weights(model).items()}
    assert sum(map(len, active.values())) == survivors
    entered, left = ({p // 6 for p in active["0.weight"]}, {p % 8 for p in active["2.weight"]})
    assert 2 in entered
    assert entered == left  # nothing leads nowhere
    one_round = regrow.synflow(net, torch.zeros(1, 6), density=1.0, rounds=1)
    assert max(float(s.max()) for s in one_round.values()) < 1


def noisy():
    torch.manual_seed(0)
    body = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)]
    return nn.Sequential(*body)


BATCHES = [(torch.arange(24.0).view(4, 6).sin(), torch.tensor([0, 1, 2, 0]))]
JUDGES = {
    "snip": lambda model, **more: regrow.snip(model, BATCHES, **more),
    "grasp": lambda model, **more: regrow.grasp(model, BATCHES, **more),
    "obd": lambda model, **more: regrow.obd(model, BATCHES, **more),
    "synflow": lambda model, **more: regrow.synflow(model, BATCHES[0][0], 0.3, **more),
}


@pytest.mark.parametrize("judge", JUDGES)
def test_the_model_and_the_random_state_stay_as_they_are(judge):
    model = noisy().train(judge != "obd")
    before, state = picture(model), torch.get_rng_state()
    scores = JUDGES[judge](model)
    assert_same(before, picture(model))
    assert {module.training for module in model.modules()} == {judge != "obd"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {name: s.shape for name, s in scores.items()} == {
        name: p.shape for name, p in model.named_parameters() if p.dim() > 1
    }
    assert_same(scores, JUDGES[judge](model))
    assert list(JUDGES[judge](model, dense=["4"])) == ["0.weight"]


def test_the_largest_of_the_network():
    net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    scores = {"0.weight": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "1.weight": torch.zeros(2, 2)}
    model = regrow.sparsify(copy.deepcopy(net), 0.4, init=scores, distribution="global")
    assert [w.indices.tolist() for w in regrow.sparse_weights(model).values()] == [[3, 4, 5], [0]]
    scores["1.weight"][1, 1] = 5.5
    model = regrow.sparsify(copy.deepcopy(net), 0.4, init=scores, distribution="global")
    assert [w.indices.tolist() for w in regrow.sparse_weights(model).values()] == [[3, 4, 5], [3]]
    magnitude = regrow.sparsify(copy.deepcopy(net), 0.4, init="magnitude", distribution="global")
    assert regrow.summary(magnitude).active == 4


class Attention(nn.Module):
    """Attention, and a layer that is there and not used."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(6, 18)
        self.unused = nn.Linear(6, 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        q, k, v = self.project(x).view(len(x), 1, 6, 3).chunk(3, 2)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).reshape(len(x), 6))


@pytest.mark.parametrize("judge", JUDGES)
def test_attention_is_judged_and_what_is_not_used_counts_nothing(judge):
    torch.manual_seed(0)
    scores = JUDGES[judge](Attention())
    assert all(s.isfinite().all() for s in scores.values())
    assert scores["project.weight"].any()
    assert judge == "synflow" or not scores["unused.weight"].any()


REFUSED = [
    (lambda net: regrow.sparsify(net, 0.5, distribution="global"), ValueError, "distribution='global' needs"),
    (lambda net: regrow.synflow(net, torch.zeros(1, 6), 0.0), ValueError, r"density=0\.0"),
    (lambda net: regrow.synflow(net, torch.zeros(1, 6), 0.5, rounds=0), ValueError, "rounds=0"),
    (lambda net: regrow.grasp(net, BATCHES, temperature=0.0), ValueError, r"temperature=0\.0"),
    (lambda net: regrow.obd(net, []), ValueError, "no example"),
    (lambda net: regrow.snip(net, iter([])), ValueError, "holds no example"),
    (lambda net: regrow.grasp(net, []), ValueError, "batches holds no example"),
    (lambda net: regrow.synflow(net, torch.zeros(1, 6).long(), 0.5), ValueError, r"inputs are torch\.int64; use snip"),
    (lambda net: regrow.snip(regrow.sparsify(net, 0.5), BATCHES), ValueError, "already sparse.*densify"),
    (lambda net: regrow.snip(net, BATCHES, dense=["nothing"]), ValueError, "'nothing' matches none"),
]


@pytest.mark.parametrize("case", REFUSED, ids=[message for *_, message in REFUSED])
def test_bad_input_is_refused(case):
    call, error, message = case
    with pytest.raises(error, match=message):
        call(noisy())


def test_skeletonization_is_the_slope_of_a_factor_on_each_unit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4)).double()
    x, y = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    scores = regrow.skeletonization(model, [(x[:2], y[:2]), (x[2:], y[2:])])

    def loss(channels, units):
        hidden = torch.tanh(model[0](x * channels.view(1, -1, 1, 1))).flatten(1) * units
        outputs = model[3](hidden)
        return sum(nn.functional.cross_entropy(outputs[part], y[part]) for part in (slice(0, 2), slice(2, 5)))

    factors = torch.ones(2, dtype=torch.float64), torch.ones(48, dtype=torch.float64)
    channels, units = torch.autograd.functional.jacobian(loss, factors)
    torch.testing.assert_close(scores["0.weight"], -channels.view(1, 2, 1, 1).expand(3, 2, 3, 3))
    torch.testing.assert_close(scores["3.weight"], -units.view(1, 48).expand(4, 48))


def test_skeletonization_takes_whole_units_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))
    data = [(torch.randn(20, 8), torch.randint(4, (20,)))]
    scores = regrow.skeletonization(model, data, dense=["0"])
    model = regrow.sparsify(model, 0.5, init=scores, dense=["0"], storage="masked")
    columns = regrow.sparse_weights(model)["2.weight"].mask.sum(0)
    best = scores["2.weight"][0].topk(6).indices
    assert columns[best].tolist() == [4] * 6
    assert int(columns.sum()) == 24
