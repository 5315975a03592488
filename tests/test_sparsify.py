"""Model surgery: what becomes sparse, how much of it, and what is refused without a trace."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import regrow
from helpers import EXAMPLES, assert_same, indices, mlp, picture
from regrow.topology.distributions import initial_counts


class Conv1D(nn.Module):
    """Hugging Face's: a Linear with its weight transposed, and no nn.Linear."""

    def __init__(self, n_out, n_in):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(n_in, n_out)), nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.embed(tokens))


LSTM_NAMES = ["weight_ih_l0", "weight_hh_l0"]
MATRICES = ["in_proj_weight", "out_proj.weight"]
KINDS = {
    "Linear": (lambda: nn.Linear(6, 5), ["weight"]),
    "Conv1D": (lambda: Conv1D(5, 6), ["weight"]),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 5), ["weight"]),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3), ["weight"]),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), ["weight"]),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), ["weight"]),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), ["weight"]),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), ["weight"]),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3), ["weight"]),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), ["weight"]),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 2), ["weight"]),
    "Embedding": (lambda: nn.Embedding(10, 6), ["weight"]),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(10, 6), ["weight"]),
    "RNN": (lambda: nn.RNN(4, 5), LSTM_NAMES),
    "LSTM": (lambda: nn.LSTM(4, 5), LSTM_NAMES),
    "LSTM-2": (lambda: nn.LSTM(4, 5, num_layers=2), [*LSTM_NAMES, "weight_ih_l1", "weight_hh_l1"]),
    "LSTM-bidirectional": (
        lambda: nn.LSTM(4, 5, bidirectional=True),
        [*LSTM_NAMES, "weight_ih_l0_reverse", "weight_hh_l0_reverse"],
    ),
    "LSTM-proj": (lambda: nn.LSTM(4, 5, proj_size=3), [*LSTM_NAMES, "weight_hr_l0"]),
    "GRU": (lambda: nn.GRU(4, 5, bias=False), LSTM_NAMES),
    "LSTMCell": (lambda: nn.LSTMCell(4, 5), ["weight_ih", "weight_hh"]),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2), MATRICES),
    "kdim": (
        lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
        ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        [*[f"self_attn.{name}" for name in MATRICES], "linear1.weight", "linear2.weight"],
    ),
    "tied": (Tied, ["embed.weight"]),
    "ParameterList": (lambda: nn.ParameterList([torch.randn(4, 4), torch.randn(4)]), ["0"]),
    "ParameterDict": (lambda: nn.ParameterDict({"u": torch.randn(4, 4), "v": torch.randn(4)}), ["u"]),
    "norms": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm((4, 4)),
                              nn.InstanceNorm2d(4, affine=True), nn.RMSNorm((4, 4))),
        ["0.weight"],
    ),
    "same module twice": (lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2), ["0.weight"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_weight(kind):
    make, names = KINDS[kind]
    torch.manual_seed(0)
    model = make()
    values = copy.deepcopy(model.state_dict())
    model = regrow.sparsify(model, 0.4, seed=0, rescale=False)
    weights = regrow.sparse_weights(model)
    assert list(weights) == names
    assert sum(w.active for w in weights.values()) == round(0.4 * sum(w.numel for w in weights.values()))
    for name, weight in weights.items():
        assert weight.name == name
        assert weight.storage == "masked"
        assert weight.parameter is model.get_parameter(name)
        assert weight.shape == values[name].shape
        assert weight.numel == values[name].numel()
        assert weight.density == weight.active / weight.numel
        assert weight.indices.dtype == torch.int64
        assert weight.indices.shape == weight.values.shape == (weight.active,)
        assert weight.indices.tolist() == sorted(set(weight.indices.tolist()))
        assert torch.equal(weight.values, values[name].flatten()[weight.indices]), "values are kept"
        assert int(weight.parameter.count_nonzero()) == weight.active
        assert not weight.values.requires_grad
    sparse = {weight.parameter.data_ptr() for weight in weights.values()}
    for name, value in model.state_dict().items():
        if name in values and value.data_ptr() not in sparse:
            assert torch.equal(value, values[name]), name


def batches():
    """What each kind is called with."""
    image, sequence, tokens = torch.randn(2, 4, 5, 5), torch.randn(7, 3, 4), torch.randint(10, (3, 4))
    return {
        "Linear": (torch.randn(3, 6),),
        "Conv1D": (torch.randn(3, 6),),
        "Bilinear": (torch.randn(8, 3), torch.randn(8, 4)),
        "Conv1d": (torch.randn(2, 4, 5),),
        "Conv3d": (torch.randn(2, 2, 4, 4, 4),),
        "ConvTranspose1d": (torch.randn(2, 4, 5),),
        "ConvTranspose3d": (torch.randn(2, 2, 4, 4, 4),),
        **dict.fromkeys(("Conv2d", "grouped", "depthwise", "ConvTranspose2d"), (image,)),
        **dict.fromkeys(("RNN", "LSTM", "LSTM-2", "LSTM-bidirectional", "LSTM-proj", "GRU"), (sequence,)),
        **dict.fromkeys(("LSTMCell", "same module twice"), (torch.randn(3, 4),)),
        **dict.fromkeys(("Embedding", "EmbeddingBag", "tied"), (tokens,)),
        "MultiheadAttention": (torch.randn(7, 3, 8),) * 3,
        "kdim": (torch.randn(7, 3, 8), torch.randn(5, 3, 4), torch.randn(5, 3, 6)),
        "TransformerEncoderLayer": (torch.randn(7, 3, 8),),
        "norms": (torch.randn(2, 3, 6, 6),),
    }


NOT_CALLED = {"ParameterList", "ParameterDict"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NOT_CALLED])
@pytest.mark.parametrize("share", ["momentum", "momentum-per-flop"])
def test_every_kind_of_weight_trains_and_moves(kind, share):
    torch.manual_seed(0)
    model = regrow.sparsify(KINDS[kind][0](), 0.4, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    updater = regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=2, redistribution=share)
    before = {name: w.active for name, w in regrow.sparse_weights(model).items()}, indices(model)
    for _ in range(3):
        optimizer.zero_grad()
        out = model(*batches()[kind])
        ((out[0] if isinstance(out, tuple) else out) - 1).square().mean().backward()
        for weight in regrow.sparse_weights(model).values():
            assert not weight.parameter.grad[~weight.mask].any()
        optimizer.step()
        for weight in regrow.sparse_weights(model).values():
            assert not weight.parameter.detach()[~weight.mask].any()
    assert sum(row["grown"] for row in updater.history) > 0
    assert indices(model) != before[1]
    assert sum(w.active for w in regrow.sparse_weights(model).values()) == sum(before[0].values())


def test_tied_weights_stay_tied():
    model = regrow.sparsify(Tied(), 0.5, seed=0)
    assert model.head.weight is model.embed.weight
    assert regrow.summary(model).numel == 60
    other = copy.deepcopy(model)
    assert other.head.weight is other.embed.weight
    assert list(regrow.sparse_weights(other)) == ["embed.weight"]


def test_frozen_parameters_are_skipped():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    assert list(regrow.sparse_weights(regrow.sparsify(model, 0.5))) == ["1.weight"]


def test_a_bare_root_and_the_return_value():
    layer = nn.Linear(20, 10)
    model = regrow.sparsify(layer, 0.1)
    assert list(regrow.sparse_weights(model)) == ["weight"]
    assert model(torch.ones(2, 20)).shape == (2, 10)


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
@pytest.mark.parametrize("density", [0.05, 0.37, 1.0])
def test_exact_sizes(distribution, density):
    model = regrow.sparsify(mlp(20, 30, 10, 3), density, distribution=distribution, seed=0)
    shapes = [w.shape for w in regrow.sparse_weights(model).values()]
    expected = initial_counts(shapes, density, distribution)
    assert [w.active for w in regrow.sparse_weights(model).values()] == expected
    assert sum(expected) == round(density * 930)


def test_a_mapping_of_densities():
    distribution = {"*": 0.1, "2": 0.5, "4.weight": 1.0}
    model = regrow.sparsify(mlp(20, 30, 10, 3), 0.3, distribution=distribution, seed=0)
    assert [w.active for w in regrow.sparse_weights(model).values()] == [60, 150, 30]
    model = regrow.sparsify(mlp(20, 30, 10, 3), 0.3, distribution={"0": 0.1}, seed=0)
    assert [w.active for w in regrow.sparse_weights(model).values()] == [60, 90, 9]


@EXAMPLES
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.floats(0.0, 1.0), st.integers(0, 2**40))
def test_random_masks_have_the_exact_size(sizes, density, seed):
    numel = [a * b for a, b in itertools.pairwise(sizes)]
    if not density > 0 or round(density * sum(numel)) < len(numel):
        return
    model = regrow.sparsify(mlp(*sizes), density, seed=seed)
    assert regrow.summary(model).active == round(density * sum(numel))
    assert all(w.active >= 1 for w in regrow.sparse_weights(model).values())


def test_seeds():
    def topology(seed, global_seed=0, **settings):
        model = mlp(20, 30, 10)
        torch.manual_seed(global_seed)
        return indices(regrow.sparsify(model, 0.1, seed=seed, **settings))

    assert topology(1) == topology(1, global_seed=5)
    assert topology(1) != topology(2)
    assert topology(None, 3) == topology(None, 3)
    assert topology(None, 3) != topology(None, 4)
    torch.manual_seed(0)
    first, second = (indices(regrow.sparsify(mlp_, 0.1)) for mlp_ in (nn.Linear(20, 9), nn.Linear(20, 9)))
    assert first != second


@pytest.mark.parametrize("settings", [{"seed": 3}, {"init": "magnitude"}], ids=str)
def test_nothing_is_drawn_where_nothing_is_random(settings):
    model = mlp(20, 30, 10)
    before = torch.get_rng_state()
    regrow.sparsify(model, 0.1, **settings)
    assert torch.equal(torch.get_rng_state(), before)


def test_uniformly_random_positions():
    counts = torch.zeros(12)
    for seed in range(400):
        counts[regrow.sparse_weights(regrow.sparsify(nn.Linear(4, 3), 0.25, seed=seed))["weight"].indices] += 1
    assert counts.min() > 70  # 100 expected, standard deviation 8.7
    assert counts.max() < 130


def test_init_by_magnitude():
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -4.0, 3.0, 3.0]]))
        model[1].weight.copy_(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    model = regrow.sparsify(model, 0.5, init="magnitude")
    assert indices(model) == {"0.weight": [1, 2], "1.weight": [0, 1]}


def test_init_by_scores_and_masks():
    scores = {"0.weight": torch.tensor([[0, 1], [-9, 1]]), "2.weight": torch.tensor([[1.5, 2.5]])}
    model = regrow.sparsify(mlp(2, 2, 1), 0.5, init=scores)
    assert indices(model) == {"0.weight": [1, 3], "2.weight": [1]}
    masks = {"0.weight": torch.tensor([[True, False], [False, False]]), "2.weight": torch.tensor([[True, True]])}
    for density in (None, 0.5):
        model = regrow.sparsify(mlp(2, 2, 1), density, init=masks)
        assert indices(model) == {"0.weight": [0], "2.weight": [0, 1]}
    masks["0.weight"][1, 1] = True
    assert indices(model)["0.weight"] == [0], "masks are copied"


@pytest.mark.parametrize(
    ("dense", "sparse"),
    [
        ([], ["a.0.weight", "a.1.weight", "b.weight", "c"]),
        (["b"], ["a.0.weight", "a.1.weight", "c"]),
        (["a"], ["b.weight", "c"]),
        (["a.*"], ["b.weight", "c"]),
        (["a.1"], ["a.0.weight", "b.weight", "c"]),
        (["a.0.weight", "c"], ["a.1.weight", "b.weight"]),
        (["*.weight"], ["c"]),
        (["*1*"], ["a.0.weight", "b.weight", "c"]),
        ([nn.Linear], ["c"]),
        (["a", nn.ModuleDict], ["b.weight"]),
    ],
)
def test_dense_patterns(dense, sparse):
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "b": nn.Linear(4, 4)})
    model.register_parameter("c", nn.Parameter(torch.ones(4, 4)))
    weights = regrow.sparse_weights(regrow.sparsify(model, 0.5, dense=dense))
    assert sorted(weights) == sorted(sparse)
    assert sum(w.active for w in weights.values()) == 8 * len(sparse), "density counts sparse weights only"


def test_an_embedding_with_sparse_gradients_may_stay_dense():
    model = regrow.sparsify(sparse_gradients(), 0.5, dense=["1"])
    assert list(regrow.sparse_weights(model)) == ["0.weight"]
    assert model[1].weight.is_leaf


def sparse_net():
    return regrow.sparsify(mlp(4, 4, 4), 0.5)


def lazy():
    return nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3))


def sparse_gradients():
    return nn.Sequential(nn.Linear(4, 4), nn.Embedding(5, 4, sparse=True))


def frozen_net():
    return mlp(4, 4).requires_grad_(False)


def ones(*shape):
    return torch.ones(*shape, dtype=torch.bool)


def net():
    return mlp(4, 4, 4)


SCORES = {"0.weight": torch.ones(4, 4), "2.weight": torch.ones(4, 4)}
ERRORS = {
    "density 0": (net, 0, {}, "density=0 "),
    "density below 0": (net, -0.5, {}, r"density=-0\.5"),
    "density above 1": (net, 1.01, {}, r"density=1\.01"),
    "density nan": (net, math.nan, {}, "density=nan"),
    "density None": (net, None, {}, "density=None.*masks"),
    "density too small": (net, 0.01, {}, r"density=0\.01.*at least"),
    "distribution": (net, 0.5, {"distribution": "erdos"}, "'erdos'.*uniform, er, erk"),
    "distribution pattern": (net, 0.5, {"distribution": {"fc": 0.5}}, "'fc'.*0.weight, 2.weight"),
    "distribution value": (net, 0.5, {"distribution": {"0": 1.5}}, r"1\.5 of '0'"),
    "distribution too small": (net, 0.5, {"distribution": {"2": 0.001}}, r"0\.001.*2\.weight|2\.weight.*0\.001"),
    "distribution without the rest": (net, None, {"distribution": {"0": 0.5}}, "2.weight"),
    "dense pattern": (net, 0.5, {"dense": ["fc3"]}, "'fc3' matches none.*0.weight, 2.weight"),
    "dense type": (net, 0.5, {"dense": [nn.Embedding]}, r"type Embedding, but to \['Linear'\]"),
    "dense is a string": (net, 0.5, {"dense": "0"}, r"dense=\['0'\]"),
    "everything dense": (net, 0.5, {"dense": ["*"]}, "nothing to make sparse"),
    "everything frozen": (frozen_net, 0.5, {}, "nothing to make sparse"),
    "storage": (net, 0.5, {"storage": "csr"}, "storage='csr'.*'auto', 'masked'"),
    "init": (net, 0.5, {"init": "zeros"}, "init='zeros'"),
    "init lacks a name": (net, 0.5, {"init": {"0.weight": torch.ones(4, 4)}}, r"missing: \['2.weight'\]"),
    "init knows more": (net, 0.5, {"init": SCORES | {"x": torch.ones(1)}}, r"unknown: \['x'\]"),
    "init of another shape": (net, 0.5, {"init": SCORES | {"2.weight": torch.ones(4, 5)}}, r"2.weight .*\(4, 5\)"),
    "init nan": (net, 0.5, {"init": SCORES | {"2.weight": torch.full((4, 4), math.nan)}}, "2.weight.*finite"),
    "empty mask": (net, None, {"init": {"0.weight": ones(4, 4), "2.weight": ~ones(4, 4)}}, "2.weight.*at least one"),
    "masks of another density": (net, 0.5, {"init": {n: ones(4, 4) for n in SCORES}}, r"density=0\.5.*16.*32"),
    "sparse already": (sparse_net, 0.5, {}, "already sparse.*densify"),
    "lazy": (lazy, 0.5, {}, "1.weight.*batch"),
    "sparse gradients": (sparse_gradients, 0.5, {}, "1.weight.*sparse=False"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_errors_name_value_place_and_remedy_and_change_nothing(error):
    make, density, settings, message = ERRORS[error]
    model = make()
    lazily = error == "lazy"
    before = picture(model) if not lazily else copy.deepcopy(model[0].state_dict())
    generator = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        regrow.sparsify(model, density, **settings)
    assert_same(before, picture(model) if not lazily else model[0].state_dict())
    assert torch.equal(torch.get_rng_state(), generator), "a refused call draws nothing"


def test_a_module_that_has_a_mask_of_that_name_is_refused_or_left_as_it_is():
    model = mlp(4, 4, 4)
    model[2].register_buffer("weight_mask", torch.tril(torch.ones(4, 4)))
    before = picture(model)
    try:
        regrow.sparsify(model, 0.5)
    except (ValueError, KeyError):
        assert_same(before, picture(model))
    else:
        assert torch.equal(model[2].weight_mask, torch.tril(torch.ones(4, 4))), "the user's own buffer was overwritten"


def test_summary():
    model = regrow.sparsify(mlp(20, 10, 5), 0.1, dense=["2"], storage="masked", seed=0)
    found = regrow.summary(model)
    assert (found.active, found.numel, found.density, found.parameters) == (20, 200, 0.1, 265)
    (row,) = found.rows
    assert (row.name, row.shape, row.active, row.numel, row.storage) == ("0.weight", (10, 20), 20, 200, "masked")
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "shape", "active", "/", "total", "density", "storage"]
    assert any(all(part in line for part in ("0.weight", "10x20", "20 / 200", "10.00%", "masked")) for line in lines)
    assert row.why in str(found)
    assert any(line.startswith("total") and "20 / 200" in line for line in lines)
    assert "65 " in lines[-1]


def test_summary_of_a_dense_model():
    found = regrow.summary(mlp(4, 4))
    assert (found.rows, found.density, found.parameters) == ((), 1.0, 20)
    assert "20 further parameters are dense" in str(found)


def test_sparse_weights_of_a_dense_model_and_their_repr():
    assert regrow.sparse_weights(mlp(4, 4)) == {}
    text = repr(regrow.sparse_weights(regrow.sparsify(mlp(4, 4), 0.5))["0.weight"])
    assert "0.weight" in text
    assert "(4, 4)" in text
    assert "active=8" in text


def test_indices_and_values_of_a_transposed_or_channels_last_weight_are_row_major():
    conv = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    reference = conv.weight.detach().contiguous().flatten()
    weight = regrow.sparse_weights(regrow.sparsify(conv, 0.5, seed=0, rescale=False))["weight"]
    assert torch.equal(weight.values, reference[weight.indices])
    assert weight.parameter.detach().contiguous().flatten().nonzero().flatten().tolist() == weight.indices.tolist()
