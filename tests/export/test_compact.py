"""The compact model is smaller, and its outputs are equal: shown by hand, for random networks, and for the recipes'."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import regrow
from helpers import EXAMPLES, mlp, picture
from regrow.export import compact, load_compact, save_compact


def filled(layer, weight, bias=None):
    """A layer with these values, in float64."""
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight, dtype=torch.float64).view_as(layer.weight))
        if bias is not None:
            layer.bias.copy_(torch.as_tensor(bias, dtype=torch.float64))
    return layer


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def weights(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)


def assert_equal_outputs(small, model, x):
    wanted = regrow.densify(model).eval()(x)
    torch.testing.assert_close(small(x), wanted, rtol=0, atol=1e-10 * float(wanted.detach().abs().max()))


@torch.no_grad()
def spread(model, x):
    """How much outputs depend on the input, of the largest; where they do not, that two are equal proves nothing."""
    outputs = regrow.densify(model).eval()(x)
    return float(outputs.std(0).max() / outputs.abs().max())


@torch.no_grad()
def scramble(model, x, seed, density):
    """As training may leave it: sparse, with dead neurons, biases, batch norms that fit their inputs, and a signal."""
    random = torch.Generator().manual_seed(seed)
    model = regrow.sparsify(model.double(), density, storage="masked", seed=seed)
    for weight in regrow.sparse_weights(model).values():
        weight.write(weight.values / weight.density**0.5)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0  # keeps the moments of the last batch
        norm.weight.copy_(1 + 0.5 * torch.randn(norm.num_features, generator=random))
        norm.bias.copy_(0.5 * torch.randn(norm.num_features, generator=random))
    model.train()(x)
    for norm in norms:
        norm.running_var.clamp_(min=0.01)  # a constant channel has none, and would magnify rounding 300 times
    return model


# -- by hand


def test_a_neuron_that_nobody_reads_goes_and_frees_what_it_alone_read():
    first = filled(nn.Linear(3, 3), [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    second = filled(nn.Linear(3, 2), [[1, 1, 0], [0, 0, 1]])
    third = filled(nn.Linear(2, 1), [[1, 0]])
    model = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), third)
    small = compact(model, torch.zeros(2, 3))
    assert [tuple(layer.weight.shape) for layer in small if isinstance(layer, nn.Linear)] == [(2, 3), (1, 2), (1, 1)]
    assert (small[0].out_features, small[2].in_features, small[2].out_features) == (2, 2, 1)
    assert_equal_outputs(small, model, torch.randn(5, 3, dtype=torch.float64))


@pytest.mark.parametrize(("bias", "folded"), [(-2.0, 0.0), (2.0, 6.0)])
def test_a_neuron_without_inputs_goes_into_the_bias_behind_it(bias, folded):
    first = filled(nn.Linear(2, 2), [[1, 1], [0, 0]], [0, bias])
    second = filled(nn.Linear(2, 1), [[1, 3]], [0.5])
    model = nn.Sequential(first, nn.ReLU(inplace=True), second)
    small = compact(model, torch.zeros(2, 2))
    assert (small[0].weight.shape, small[2].weight.shape) == ((1, 2), (1, 1))
    assert small[2].bias.tolist() == [0.5 + folded]
    assert_equal_outputs(small, model, torch.randn(5, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("bias", "padding", "mode", "channels"),
    [
        (2.0, 1, "zeros", 2),
        (2.0, 0, "zeros", 1),
        (2.0, 1, "circular", 1),
        (-2.0, 1, "zeros", 1),
        (2.0, "same", "zeros", 2),
    ],
)
def test_only_zero_passes_zero_padding(bias, padding, mode, channels):
    first = filled(nn.Conv2d(1, 2, 1), [1, 0], [0, bias])
    second = filled(nn.Conv2d(2, 1, 3, padding=padding, padding_mode=mode, bias=False), range(1, 19))
    model = nn.Sequential(first, nn.ReLU(), second)
    small = compact(model, torch.zeros(2, 1, 5, 5))
    assert (small[0].out_channels, small[2].in_channels) == (channels, channels)
    assert (small[2].bias is None) == (channels == 2 or bias < 0)
    assert_equal_outputs(small, model, torch.randn(2, 1, 6, 7, dtype=torch.float64))


def test_batch_norm_makes_a_constant_of_a_channel_without_input_and_pools_keep_it():
    norm = nn.BatchNorm2d(2).double()
    norm.running_mean[:], norm.running_var[:] = 1.0, 4.0 - norm.eps
    with torch.no_grad():
        norm.weight[:], norm.bias[:] = 3.0, 0.25
    first = filled(nn.Conv2d(1, 2, 3, padding=1, bias=False), [*range(9), *[0] * 9])
    last = filled(nn.Linear(8, 1), range(8), [0])
    model = nn.Sequential(first, norm, nn.MaxPool2d(2), nn.Flatten(), last)
    small = compact(model, torch.zeros(2, 1, 4, 4))
    assert (small[0].out_channels, small[1].num_features, small[4].in_features) == (1, 1, 4)
    assert small[4].bias.item() == pytest.approx((4 + 5 + 6 + 7) * (3.0 * (0 - 1) / 2 + 0.25), abs=1e-12)
    assert_equal_outputs(small, model, torch.randn(2, 1, 4, 4, dtype=torch.float64))


class Residual(nn.Module):
    """y = tail(relu(a(x)) + relu(b(x))); the features of a and b go together."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = filled(nn.Linear(2, 3), a), filled(nn.Linear(2, 3), b)
        self.tail = filled(nn.Linear(3, 1), [[1, 1, 1]])
        nn.init.zeros_(self.a.bias)
        nn.init.zeros_(self.b.bias)

    def forward(self, x):
        y = self.a(x).relu()
        y += F.relu(self.b(x))
        return self.tail(y)


def test_terms_of_a_sum_go_together_or_not_at_all():
    model = Residual([[1, 1], [0, 0], [0, 0]], [[0, 0], [0, 0], [1, 0]])
    small = compact(model, torch.zeros(2, 2))
    assert [tuple(layer.weight.shape) for layer in (small.a, small.b, small.tail)] == [(2, 2), (2, 2), (1, 2)]
    assert_equal_outputs(small, model, torch.randn(5, 2, dtype=torch.float64))


def test_each_layer_keeps_a_feature():
    model = nn.Sequential(filled(nn.Linear(2, 3), [0] * 6), nn.ReLU(), filled(nn.Linear(3, 2), [0] * 6))
    small = compact(model, torch.zeros(2, 2))
    assert (small[0].out_features, small[2].in_features) == (1, 1)
    assert_equal_outputs(small, model, torch.randn(5, 2, dtype=torch.float64))


class Unknown(nn.Module):
    """Forms of the same network that the plan knows more or less of; the second neuron of `first` is dead."""

    def __init__(self, middle):
        super().__init__()
        self.first = filled(nn.Linear(2, 2), [[1, 1], [0, 0]], [0, 0])
        self.last = filled(nn.Linear(2, 1), [[1, 1]], [0])
        self.middle = middle

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


def in_place_under_another(x):
    y = x.relu_()
    return x + y


@pytest.mark.parametrize(
    ("middle", "kept"),
    [
        (lambda x: x.view(x.size(0), -1), 1),
        (lambda x: x.reshape(x.shape[0], -1), 1),
        (lambda x: x.view(-1, 2), 2),
        (lambda x: x.view(-1, x.size(1)), 2),
        (lambda x: F.softmax(x, 1), 2),
        (nn.MaxPool1d(3, 1, 1), 2),
        (lambda x: F.max_pool1d(x, 3, 1, 1), 2),
        (lambda x: x.cumsum(1), 2),
        (lambda x: x[:, :, None, None].contiguous(memory_format=torch.channels_last).flatten(1), 2),
        (lambda x: x.t().contiguous().t().contiguous(memory_format=torch.contiguous_format), 2),
        (lambda x: x.contiguous(memory_format=torch.contiguous_format), 1),
        (lambda x: torch.cat([x, x], 1)[:, 1:3], 2),
        (in_place_under_another, 2),
        (lambda x: F.relu(x + 1) - 1, 1),
        (nn.LayerNorm(2).double(), 2),
    ],
)
def test_what_is_not_known_stays_as_it_is(middle, kept):
    model = Unknown(middle)
    small = compact(model, torch.zeros(3, 2))
    assert small.first.out_features == kept
    assert_equal_outputs(small, model, torch.randn(5, 2, dtype=torch.float64))


def test_concatenated_features_go_one_by_one():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = filled(nn.Linear(2, 2), [[1, 1], [0, 0]]), filled(nn.Linear(2, 2), [[0, 0], [1, 0]])
            self.last = filled(nn.Linear(4, 1), [[1, 0, 0, 1]])

        def forward(self, x):
            return self.last(torch.cat([self.a(x), self.b(x)], dim=1))

    model = Dense()
    small = compact(model, torch.zeros(2, 2))
    assert (small.a.out_features, small.b.out_features, small.last.in_features) == (1, 1, 2)
    assert_equal_outputs(small, model, torch.randn(5, 2, dtype=torch.float64))


def test_a_layer_that_runs_twice_or_shares_its_weight_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = filled(nn.Linear(2, 2), [[1, 1], [0, 0]])
            self.b = filled(nn.Linear(2, 2), [[1, 0], [1, 0]])
            self.tied = nn.Linear(2, 2).double()
            self.tied.weight = self.b.weight

        def forward(self, x):
            return self.tied(self.b(self.a(self.a(x))))

    model = Twice()
    small = compact(model, torch.zeros(2, 2))
    assert size(small) == size(model)
    assert_equal_outputs(small, model, torch.randn(5, 2, dtype=torch.float64))


# -- any network


class Net(nn.Module):
    """Convolutions, some of them with a shortcut around them; then linear layers."""

    def __init__(self, channels, blocks, hidden, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(2, channels, 3, padding=1, bias=bool(seed % 2))
        self.blocks = nn.ModuleList(self._block(channels, *block) for block in blocks)
        self.shortcuts = [block[-1] for block in blocks]
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * channels, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def _block(self, channels, kernel, padded, norm, activation, bias, shortcut):
        padding = kernel // 2 if padded or shortcut else 0
        conv = nn.Conv2d(channels, channels, kernel, padding=padding, bias=bias)
        norms = [nn.BatchNorm2d(channels)] if norm else []
        return nn.Sequential(conv, *norms, *([activation()] if activation else []))

    def forward(self, x):
        x = self.stem(x)
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            x = x + block(x) if shortcut else block(x)
        return self.head(self.pool(x))


BLOCKS = st.lists(
    st.tuples(
        st.sampled_from([1, 3]),
        st.booleans(),
        st.booleans(),
        st.sampled_from([nn.ReLU, partial(nn.ReLU, inplace=True), nn.Sigmoid, nn.Hardswish, None]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=3,
)


@EXAMPLES
@given(
    channels=st.integers(2, 6),
    blocks=BLOCKS,
    hidden=st.integers(2, 6),
    seed=st.integers(0, 99),
    density=st.floats(0.15, 0.5),
)
def test_any_small_network(channels, blocks, hidden, seed, density):
    x = torch.randn(12, 2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    model = scramble(Net(channels, blocks, hidden, seed), x, seed, density)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(torch.rand_like(parameter) < 0.5)
    assume(spread(model, x) > 1e-3)
    small = compact(model, torch.zeros(2, 2, 9, 9))
    assert weights(small) <= weights(model)
    assert_equal_outputs(small, model, x)


# -- the recipes' networks

FAMILIES = {
    "digits-mlp": ({}, 0.02),
    "lenet-300-100": ({}, 0.02),
    "lenet-5-caffe": ({}, 0.02),
    "alexnet-s": ({"width": 0.1}, 0.03),
    "vgg16-c": ({"width": 0.15}, 0.08),
    "vgg16-d": ({"width": 0.15}, 0.08),
    "vgg16-like": ({"width": 0.15}, 0.08),
    "wrn-16-8": ({"width": 0.1}, 0.03),
    "wrn-28-2": ({"width": 0.4}, 0.03),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_the_recipes(name):
    from regrow.lab import models

    options, density = FAMILIES[name]
    torch.manual_seed(1)
    x = models.example_input(name, 24).double()
    model = scramble(models.build(name, **options), x, 1, density)
    assert spread(model, x) > 0.01
    small = compact(model, torch.zeros_like(x[:2]))
    assert weights(small) < weights(model)
    assert_equal_outputs(small, model, x)


def test_torchvisions_resnet():
    resnet = pytest.importorskip("torchvision").models.resnet
    torch.manual_seed(1)
    x = torch.randn(12, 3, 32, 32, dtype=torch.float64)
    model = resnet.ResNet(resnet.Bottleneck, [2, 1, 1, 1], num_classes=10, width_per_group=4)
    model = scramble(model, x, 1, 0.01)
    assert spread(model, x) > 0.01
    small = compact(model, torch.zeros(2, 3, 32, 32))
    assert weights(small) < weights(model)
    assert_equal_outputs(small, model, x)


# -- refusals, and files


def test_the_model_stays_as_it_is_and_compressed_storage_is_taken():
    model = regrow.sparsify(mlp(8, 30, 4), 0.1, storage="compressed", seed=0)
    before = picture(model)
    small = compact(model, torch.zeros(2, 8))
    assert size(small) < 8 * 30 + 30 + 30 * 4 + 4
    torch.testing.assert_close(small(torch.ones(3, 8)), model(torch.ones(3, 8)))
    after = picture(model)
    assert before["hooks"] == after["hooks"]
    assert all(torch.equal(before["model"][name], value) for name, value in after["model"].items())


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class ReadsItsSize(nn.Module):
    """What it computes depends on a size that the trace does not see."""

    def __init__(self):
        super().__init__()
        self.first, self.last = filled(nn.Linear(2, 2), [[1, 1], [0, 0]], [0, 0]), filled(nn.Linear(2, 1), [[1, 1]])

    def forward(self, x):
        return self.last(self.first(x)) * self.first.out_features


def test_what_cannot_be_traced_or_is_not_equal_is_refused():
    with pytest.raises(ValueError, match=r"Branching cannot be traced.*export it dense"):
        compact(Branching(), torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="the trace misses part"):
        compact(ReadsItsSize(), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"float32.*float64.*model\.float"):
        compact(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), torch.ones(2, 2))


def test_a_compact_file_comes_back(tmp_path):
    model = regrow.sparsify(mlp(8, 30, 4), 0.1, seed=0)
    small = save_compact(tmp_path / "c.pt", model, torch.zeros(2, 8))
    plain = mlp(8, 30, 4)
    loaded = load_compact(tmp_path / "c.pt", plain)
    assert not loaded.training
    assert torch.equal(loaded(torch.ones(3, 8)), small(torch.ones(3, 8)))
    assert size(plain) == 8 * 30 + 30 + 30 * 4 + 4


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no"):
        load_compact(tmp_path / "none", mlp(8, 4))
    (tmp_path / "odd").write_bytes(b"hello")
    torch.save([1], tmp_path / "list")
    save_compact(tmp_path / "longer", mlp(8, 30, 4), torch.zeros(2, 8))
    torch.save({}, tmp_path / "empty")
    messages = {"odd": "damaged", "list": "not a state dict", "longer": "another model", "empty": "another model"}
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            load_compact(tmp_path / name, mlp(8, 4))
