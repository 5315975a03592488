"""FLOPs of one weight for one example: 2 for each use."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import regrow
from helpers import hooks
from regrow.flops import FlopsMeter, flop_density, flops_per_weight
from test_sparsify import Conv1D, Tied

B = 5  # examples


class Keyword(nn.Module):
    """Calls its layer with a keyword argument."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        out = self.layer(input=x)
        return out[0] if isinstance(out, tuple) else out


class Position(nn.Module):
    """A root with a parameter of its own, whose output is whatever `wrap` makes of it."""

    def __init__(self, wrap):
        super().__init__()
        self.position, self.layer, self.wrap = nn.Parameter(torch.ones(7, 4)), nn.Linear(4, 3), wrap

    def forward(self, x):
        return self.wrap(self.layer(x + self.position))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


def attention(**settings):
    return nn.MultiheadAttention(8, 2, batch_first=True, **settings)


X4, TOKENS = torch.randn(B, 4), torch.zeros(B, 7, dtype=torch.int64)
IMAGE, SEQUENCE, MEMORY = torch.randn(B, 4, 9, 9), torch.randn(B, 7, 8), torch.randn(B, 3, 8)
KNOWN = {
    "linear": (lambda: nn.Linear(4, 3), (X4,), {"weight": 2}),
    "linear on a sequence": (lambda: nn.Linear(8, 3), (SEQUENCE,), {"weight": 14}),
    "Conv1D": (lambda: Conv1D(3, 4), (X4,), {"weight": 2}),
    "conv": (lambda: nn.Conv2d(4, 6, 3), (IMAGE,), {"weight": 2 * 49}),
    "conv stride": (lambda: nn.Conv2d(4, 6, 3, stride=2), (IMAGE,), {"weight": 2 * 16}),
    "conv dilated": (lambda: nn.Conv2d(4, 6, 3, dilation=2), (IMAGE,), {"weight": 2 * 25}),
    "conv grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2), (IMAGE,), {"weight": 2 * 16}),
    "conv depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (IMAGE,), {"weight": 2 * 49}),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (IMAGE,), {"weight": 2 * 81}),
    "conv1d": (lambda: nn.Conv1d(7, 3, 3), (SEQUENCE,), {"weight": 2 * 6}),
    "LSTM": (lambda: nn.LSTM(8, 3, batch_first=True), (SEQUENCE,), {"weight_ih_l0": 14, "weight_hh_l0": 14}),
    "LSTM proj": (
        lambda: nn.LSTM(8, 4, proj_size=2, batch_first=True),
        (SEQUENCE,),
        {"weight_ih_l0": 14, "weight_hh_l0": 14, "weight_hr_l0": 14},
    ),
    "embedding": (lambda: nn.Embedding(9, 3), (TOKENS,), {"weight": 0}),
    "tied": (Tied, (TOKENS,), {"embed.weight": 14}),
    "self-attention": (attention, (SEQUENCE,) * 3, {"in_proj_weight": 14, "out_proj.weight": 14}),
    "cross-attention": (
        lambda: attention(kdim=8, vdim=6),
        (SEQUENCE, MEMORY, torch.randn(B, 3, 6)),
        {"q_proj_weight": 14, "k_proj_weight": 6, "v_proj_weight": 6, "out_proj.weight": 14},
    ),
    "cross-attention in one": (
        attention,
        (SEQUENCE, MEMORY, MEMORY),
        {"in_proj_weight": 2 * (7 + 3 + 3) / 3, "out_proj.weight": 14},
    ),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (SEQUENCE,),
        dict.fromkeys(
            ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"], 14
        ),
    ),
    "twice": (Twice, (X4,), {"layer.weight": 4}),
    "keyword linear": (lambda: Keyword(nn.Linear(4, 3)), (X4,), {"layer.weight": 2}),
    "keyword transposed": (lambda: Keyword(nn.ConvTranspose2d(4, 6, 3)), (IMAGE,), {"layer.weight": 2 * 81}),
    "keyword LSTM": (
        lambda: Keyword(nn.LSTM(8, 3, batch_first=True)),
        (SEQUENCE,),
        {"layer.weight_ih_l0": 14, "layer.weight_hh_l0": 14},
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_flops(case):
    make, batch, expected = KNOWN[case]
    model = regrow.sparsify(make(), 0.5, seed=0)
    assert flops_per_weight(model, *batch) == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrap",
    [lambda y: y, lambda y: (y,), lambda y: {"logits": y}, lambda y: y.sum(), lambda y: [y, None], lambda y: (None, y)],
    ids=["tensor", "tuple", "dict", "scalar", "list", "None first"],
)
def test_modules_with_parameters_of_their_own_may_return_anything(wrap):
    model = regrow.sparsify(Position(wrap), 0.5, seed=0)
    assert flops_per_weight(model, torch.randn(B, 7, 4))["layer.weight"] == 14
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    regrow.SparseMomentum(model, optimizer, total_steps=3, update_every=1, redistribution="momentum-per-flop")
    model(torch.randn(B, 7, 4))


def test_modes_and_hooks_are_restored_even_after_a_failure():
    model = regrow.sparsify(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)), 0.5)
    model[1].eval()
    before, modes = hooks(model), [m.training for m in model.modules()]
    statistics = model[1].running_mean.clone()
    flops_per_weight(model.train(modes[0]), X4)
    model[1].eval()
    with pytest.raises(RuntimeError):
        flops_per_weight(model, torch.randn(B, 3))
    assert hooks(model) == before
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model[1].running_mean, statistics)
    assert all(p.grad is None for p in model.parameters())


def test_a_packed_sequence():
    lengths = torch.tensor([4, 2])
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 4, 3), lengths, batch_first=True)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 5, batch_first=True)

        def forward(self, x):
            return self.rnn(packed)[0].data

    assert flops_per_weight(regrow.sparsify(Net(), 0.5), torch.zeros(2))["rnn.weight_hh_l0"] == 2 * 3


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_counts_a_forward_pass_once(reentrant):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return self.c(checkpoint(lambda x: self.b(torch.tanh(self.a(x))), x, use_reentrant=reentrant))

    model = regrow.sparsify(Net(), 0.5, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=5, redistribution="momentum-per-flop")
    model(X4.clone().requires_grad_()).sum().backward()
    optimizer.step()
    assert updater.state_dict()["flops"] == {"a.weight": 2, "b.weight": 2, "c.weight": 2}


def test_the_meter_averages_over_batches_of_different_size():
    model = regrow.sparsify(nn.Conv2d(4, 6, 3), 0.5)
    meter = FlopsMeter(model)
    assert not meter.has_counted
    model(IMAGE)
    model(IMAGE[:2])
    assert meter.has_counted
    assert meter.close() == {"weight": 98}
    model(IMAGE)
    assert meter.close() == {"weight": 98}


def test_flop_density():
    model = regrow.sparsify(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), 0.5, distribution={"0": 0.25, "1": 1.0})
    flops = flops_per_weight(model, X4)
    assert flop_density(model, flops) == (4 + 8) / 24
    assert flop_density(model, {"0.weight": 6.0, "1.weight": 2.0}) == (24 + 16) / (96 + 16)
    assert flop_density(nn.Linear(2, 2), {}) == 1.0


class Functional(nn.Module):
    """Reads the weights of its layers without calling them, so no forward hook fires."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return nn.functional.linear(nn.functional.linear(x, self.a.weight), self.b.weight)


@pytest.mark.parametrize("settings", [{"share": "momentum-per-flop"}, {"flops_budget": 0.9}], ids=str)
def test_flops_that_cannot_be_measured_are_said_to_be_so(settings):
    model = regrow.sparsify(Functional(), 0.5, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=1, **settings)
    model(X4).sum().backward()
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)flops.*a\.weight|a\.weight.*flops"):
        optimizer.step()
