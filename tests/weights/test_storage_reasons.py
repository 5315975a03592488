"""Layers that are more than weight and bias: replaced without losing anything, or masked, and the summary says why."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, spectral_norm

import regrow
from regrow.nn import SparseConv2d, SparseLinear
from regrow.weights.extras import _made_with
from regrow.weights.readers import readers, reads

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
STORAGES = ["masked", "compressed"]


def changed(change):
    layer = nn.Linear(20, 10)
    change(layer)
    return layer


def narrowed(layer):
    layer.weight = nn.Parameter(torch.ones(10, 5))


def normalise(module, inputs):
    with torch.no_grad():
        module.weight.div_(module.weight.norm())


class Marked(nn.Parameter):
    pass


def marked(layer):
    layer.weight = Marked(torch.ones(10, 20))


def plain_bias(layer):
    del layer.bias
    layer.bias = torch.zeros(10)


class Watching:
    def __call__(self, module, inputs):
        self.largest = max(module.weight)


MASKED = {
    "hook form of spectral_norm": (spectral_norm, "its weight is made of weight_orig"),
    "parametrization": (parametrizations.spectral_norm, "ParametrizationList has no compressed form"),
    "parametrized bias": (
        lambda layer: parametrize.register_parametrization(layer, "bias", nn.Identity()),
        "ParametrizedLinear has no",
    ),
    "further parameter": (lambda layer: layer.register_parameter("gain", nn.Parameter(torch.ones(3))), "gain"),
    "further buffer": (lambda layer: layer.register_buffer("scale", torch.ones(())), "a further buffer, scale"),
    "further module": (lambda layer: layer.add_module("norm", nn.LayerNorm(10)), "a further module, norm"),
    "forward of its own": (lambda layer: setattr(layer, "forward", lambda x: x), "it has a forward of its own"),
    "compiled": (
        lambda layer: setattr(layer, "_compiled_call_impl", layer._call_impl),
        "it has a _compiled_call_impl of its own",
    ),
    "its own method kept": (lambda layer: setattr(layer, "before", layer.extra_repr), "it has a before of its own"),
    "name that is taken": (lambda layer: setattr(layer, "density", 0.5), "density, which means something else"),
    "tensor hook": (lambda layer: layer.weight.register_hook(lambda grad: None), "its gradient has a hook"),
    "hook behind the gradient": (
        lambda layer: layer.weight.register_post_accumulate_grad_hook(lambda parameter: None),
        "its gradient has a hook",
    ),
    "hook that reads": (lambda layer: layer.register_forward_pre_hook(normalise), "a hook reads its weight"),
    "partial that reads": (
        lambda layer: layer.register_forward_pre_hook(functools.partial(normalise)),
        "a hook reads its weight",
    ),
    "object that reads": (lambda layer: layer.register_forward_pre_hook(Watching()), "a hook reads its weight"),
    "hook of its state dict": (
        lambda layer: layer.register_state_dict_post_hook(lambda *_: None),
        "its state dict has a hook",
    ),
    "other shape": (narrowed, "its weight is 10x5, its settings say 10x20"),
    "subclass of Parameter": (marked, "its weight is a Marked"),
    "bias that is no parameter": (plain_bias, "its bias is no parameter"),
}


@pytest.mark.parametrize("storage", ["auto", "compressed"])
@pytest.mark.parametrize(("change", "why"), MASKED.values(), ids=MASKED)
def test_a_layer_that_a_replacement_would_change_stays_masked(change, why, storage):
    (row,) = regrow.summary(regrow.sparsify(changed(change), 0.1, storage=storage)).rows
    assert row.storage == "masked"
    assert row.active == round(0.1 * row.numel)
    assert why in row.why


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("make", [lambda: nn.Linear(20, 10), lambda: nn.Conv2d(4, 4, 3)], ids=["linear", "conv"])
def test_attributes_and_marks_go_along_and_come_back(storage, make):
    layer = make()
    layer.scale, layer._is_hf_initialized = [2.0], True
    layer.weight.no_decay, layer.bias.lr_scale = True, 0.5
    sparse = regrow.sparsify(layer, 0.2, storage=storage)
    assert regrow.sparse_weights(sparse)["weight"].storage == storage
    plain = regrow.densify(sparse)
    for one in (sparse, plain):
        assert (one.scale, one._is_hf_initialized) == ([2.0], True)
        assert (one.weight.no_decay, one.bias.lr_scale) == (True, 0.5)
    assert vars(plain).keys() == vars(make()).keys() | {"scale", "_is_hf_initialized"}


@pytest.mark.parametrize("storage", STORAGES)
def test_hooks_on_the_gradient_go_on(storage):
    layer, seen = nn.Linear(20, 10), []
    layer.weight.register_hook(lambda gradient: seen.append(gradient.shape))
    layer.bias.register_hook(lambda gradient: seen.append(gradient.shape))
    regrow.sparsify(layer, 0.2, storage=storage)(torch.randn(2, 20)).sum().backward()
    assert sorted(seen) == [(10,), (10, 20)]


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d, SparseLinear, SparseConv2d])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_layers_are_made_with_is_found_without_drawing(kind, device):
    _made_with.cache_clear()
    state = torch.get_rng_state()
    with torch.device(device):
        names = _made_with(kind)
    assert {"training", "_parameters"} < names
    assert torch.equal(state, torch.get_rng_state())


# ---------------------------------------------------------------- weights that others read


class Pair(nn.Module):
    """Two layers, of which a subclass reads `a`, and calls `b`."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.layers = nn.ModuleList([self.a])
        self.named = nn.ModuleDict({"one": self.a})

    def _init_weights(self):
        nn.init.zeros_(self.b.weight)

    def reset_parameters(self):
        nn.init.zeros_(self.b.weight)

    def tie_weights(self):
        self.a.bias, self.kept = self.b.bias, self.b.weight

    def fix_init_weight(self):
        self.b.weight.data.div_(2)

    def forward(self, x):
        return self.read(self.b(x.to(self.b.weight.dtype)))


class Direct(Pair):
    def read(self, x):
        return F.linear(x, self.a.weight.t())


class ByName(Pair):
    def read(self, x):
        layer = self.a
        other = layer
        return x @ other.weight


class ByLoop(Pair):
    def read(self, x):
        for _, layer in enumerate(self.layers):
            x = x @ layer.weight
        return x


class ByComprehension(Pair):
    def read(self, x):
        return x + sum(layer.weight.abs().sum() for layer in self.named.values())


class BySubscript(Pair):
    def read(self, x):
        return x @ self.layers[0].weight


class ByGetattr(Pair):
    def read(self, x):
        return x @ getattr(self, "a").weight  # noqa: B009


class ByWrapped(Pair):
    @torch.no_grad()
    def read(self, x):
        return x @ self.a.weight


class ByProperty(Pair):
    @property
    def weight(self):
        return self.a.weight

    def read(self, x):
        return x @ self.weight


class Writing(Pair):
    def read(self, x):
        self.a.weight.data.clamp_(-1, 1)
        return self.a(x)


READERS = [Direct, ByName, ByLoop, ByComprehension, BySubscript, ByGetattr, ByWrapped, ByProperty, Writing]


@pytest.mark.parametrize("kind", READERS)
def test_a_layer_whose_weight_another_module_reads_stays_masked(kind):
    rows = {row.name: row for row in regrow.summary(regrow.sparsify(kind(), 0.2)).rows}
    assert (rows["a.weight"].storage, rows["a.weight"].why) == ("masked", f"{kind.__name__} reads its weight")
    assert rows["b.weight"].storage == "compressed"


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Pair()

    def forward(self, x):
        return x @ self.inner.a.weight


def test_reading_from_further_up():
    outer = Outer()
    assert readers(outer) == {id(outer.inner.a): "Outer"}


def test_a_forward_of_one_module_alone():
    def forward(self, x):
        return x @ self.a.weight

    pair = Pair()
    pair.forward = forward.__get__(pair)
    assert readers(pair) == {id(pair.a): "Pair"}


class Asking(Pair):
    def read(self, x):
        if self.a.weight is None or not isinstance(self.a.weight, torch.Tensor):
            return x
        return self.a(x.to(self.a.weight.device)) + self.a.weight.requires_grad


@pytest.mark.parametrize("kind", [Pair, Asking])
def test_what_all_storages_have_alike_and_what_runs_before_training_does_not_count(kind):
    assert reads(kind) == frozenset()
    assert {row.storage for row in regrow.summary(regrow.sparsify(kind(), 0.2)).rows} == {"compressed"}


def test_a_class_without_source_reads_nothing():
    scope = {"Pair": Pair}
    exec("class Hidden(Pair):\n    def read(self, x):\n        return x @ self.a.weight", scope)
    assert reads(scope["Hidden"]) == frozenset()


class Listing(nn.Module):
    """Keeps layers where a replacement would not be seen."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.used = [{"first": self.a}]
        self.decayed = (self.b.weight,)

    def forward(self, x):
        return self.b(self.used[0]["first"](x))


def test_layers_and_weights_in_plain_lists_stay_masked_and_are_trained():
    model = regrow.sparsify(Listing(), 0.2)
    reasons = {row.name: row.why for row in regrow.summary(model).rows}
    assert reasons == {"a.weight": "Listing keeps it in used, too", "b.weight": "Listing keeps it in decayed, too"}
    assert model.used[0]["first"] is model.a


HUGGING_FACE = {
    "mamba": ("MambaForCausalLM", "MambaConfig", {"hidden_size": 16, "num_hidden_layers": 1}, "MambaMixer reads"),
    "bert": ("BertForMaskedLM", "BertConfig", {"hidden_size": 16, "num_attention_heads": 2}, None),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 16, "n_head": 2}, None),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {"hidden_size": 16, "num_attention_heads": 2}, None),
}


@pytest.mark.parametrize(("kind", "config", "sizes", "why"), HUGGING_FACE.values(), ids=HUGGING_FACE)
def test_in_transformers_only_true_readers_are_found(kind, config, sizes, why):
    transformers = pytest.importorskip("transformers")
    few = {"num_hidden_layers": 1, "intermediate_size": 16, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    model = getattr(transformers, kind)(getattr(transformers, config)(**few | sizes))
    found = {reader for key, reader in readers(model).items() if id(model.get_output_embeddings()) != key}
    assert {f"{reader} reads" for reader in found} == ({why} if why else set())


# ---------------------------------------------------------------- gains


GAINS = {
    "hook": (lambda: nn.utils.weight_norm(nn.Conv1d(4, 6, 3)), [], "weight_v"),
    "parametrization": (lambda: parametrizations.weight_norm(nn.Linear(4, 6)), [], "parametrizations.weight.original1"),
    "recurrent": (lambda: nn.utils.weight_norm(nn.LSTM(4, 6), "weight_hh_l0"), ["weight_ih_l0"], "weight_hh_l0_v"),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("make", "sparse", "direction"), GAINS.values(), ids=GAINS)
def test_weight_norm_is_refused_with_remedies_and_stays_dense(make, sparse, direction, storage):
    model = nn.Sequential(make(), nn.Linear(6, 6))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"0.{direction}: weight_norm divides each row by its norm.*dense="):
        regrow.sparsify(model, 0.2, storage=storage)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    model = regrow.sparsify(model, 0.2, storage=storage, dense=[f"0.{direction}"])
    assert sorted(regrow.sparse_weights(model)) == sorted([*(f"0.{name}" for name in sparse), "1.weight"])


def test_the_remedy_that_the_error_names_works():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 6))
    assert sorted(regrow.sparse_weights(regrow.sparsify(model, 0.2, dense=["0"]))) == ["1.weight"]
    assert model(torch.randn(2, 4)).isfinite().all()


def test_the_norm_of_a_whole_weight_is_not_that_of_a_row():
    model = regrow.sparsify(nn.utils.weight_norm(nn.Linear(8, 8), dim=None), 0.2)
    assert list(regrow.sparse_weights(model)) == ["weight_v"]
    assert model(torch.randn(2, 8)).isfinite().all()


class Scaled(nn.Module):
    """Magnitude and direction as in DoRA, a scale of channels, and a token."""

    def __init__(self):
        super().__init__()
        self.direction, self.magnitude = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(1, 4))
        self.scale, self.token = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.ones(1, 1, 4))


def test_gains_stay_dense_and_may_be_named_all_the_same():
    assert list(regrow.sparse_weights(regrow.sparsify(Scaled(), 0.5))) == ["direction"]
    assert list(regrow.sparse_weights(regrow.sparsify(Scaled(), 0.5, dense=["magnitude", "token"]))) == ["direction"]


MATRICES = {
    "one feature": (lambda: nn.LSTM(1, 4), {"weight_ih_l0", "weight_hh_l0"}),
    "cell": (lambda: nn.GRUCell(1, 4), {"weight_ih", "weight_hh"}),
    "one output": (lambda: nn.Linear(4, 1), {"weight"}),
    "pointwise": (lambda: nn.Conv2d(4, 1, 1), {"weight"}),
}


@pytest.mark.parametrize(("make", "names"), MATRICES.values(), ids=MATRICES)
def test_matrices_of_a_single_column_or_row_are_no_gains(make, names):
    assert set(regrow.sparse_weights(regrow.sparsify(make(), 0.5))) == names


@pytest.mark.parametrize("storage", STORAGES)
def test_files_in_which_a_gain_is_sparse_load(tmp_path, storage):
    masks = {name: torch.rand(p.shape) < 2 for name, p in Scaled().named_parameters()}
    regrow.save(tmp_path / "model.pt", regrow.sparsify(Scaled(), None, init=masks, storage=storage))
    loaded = regrow.load(tmp_path / "model.pt", Scaled())
    assert regrow.sparse_weights(loaded).keys() == masks.keys()
