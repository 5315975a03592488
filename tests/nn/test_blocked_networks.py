"""Plain networks, sparsified: blocked from the first convolution to the classifier, and right."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import regrow
from nn.networks import (
    NETWORKS,
    Vgg,
    WideResNet,
    assert_same,
    convolutions,
    dropout_as_blocked,
    gradients,
    images,
    results,
    twins,
)
from regrow.nn import BlockedTensor
from regrow.nn.blocked import recording

each = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(autouse=True)
def _same_noise(monkeypatch):
    monkeypatch.setattr(F, "dropout", dropout_as_blocked)


@each
def test_conversions_are_at_the_two_ends(make):
    sparse, _ = twins(make)
    with recording() as log:
        results(sparse, images().requires_grad_(False))
    assert [c.into for c in log] == [True, False, True, False]
    assert log[0].operation == "SparseConv2d"
    assert log[1].operation in ("flatten", "mean")
    assert log[2].operation == f"{log[1].operation} backward"


@each
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 8, 13])
def test_it_computes_what_the_dense_network_does(make, training, batch):
    sparse, dense = twins(make)
    assert_same(sparse.train(training), dense.train(training), images(batch))


@each
def test_float32_as_near_as_dense_float32(make):
    """Where nothing jumps: with kinks, one relu or pool decided the other way moves all gradients before it."""
    smooth = {"vgg": lambda: Vgg(lambda inplace: nn.SiLU(inplace), nn.AvgPool2d)}
    make = smooth.get(next(name for name, net in NETWORKS.items() if net is make), make)
    sparse, dense = twins(make, torch.float32)
    assert_same(sparse.eval(), dense.eval(), images(16, torch.float32), tolerance=2e-5)


def layers(net):
    return {name: m for name, m in net.named_modules() if not list(m.children())}


def watched(net, x):
    """Outputs of all layers, and gradients with respect to them, seen through hooks."""
    net, seen = copy.deepcopy(net), {}
    for name, module in layers(net).items():
        if getattr(module, "inplace", False):
            module.inplace = False

        def look(module, args, output, name=name):
            seen[f"{name} output"] = output.detach().clone()
            output.register_hook(lambda grad: seen.__setitem__(f"{name} gradient", grad.clone()))

        module.register_forward_hook(look)
    torch.manual_seed(2)
    net(x).square().mean().backward()
    return seen


@each
def test_layer_by_layer(make):
    sparse, dense = twins(make)
    got, want = watched(sparse, images()), watched(dense, images())
    assert got.keys() == want.keys()
    assert sum(isinstance(value, BlockedTensor) for value in got.values()) >= 10
    for name, expected in want.items():
        torch.testing.assert_close(got[name].dense() if isinstance(got[name], BlockedTensor) else got[name], expected)


NORMS = {
    "cumulative": {"momentum": None},
    "batch statistics": {"track_running_stats": False},
    "no parameters": {"affine": False},
    "another eps": {"eps": 0.1, "momentum": 0.7},
}


@pytest.mark.parametrize("options", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_kinds_of_batch_norm(options, training):
    def make():
        net = Vgg()
        for at, layer in enumerate(net.features):
            if isinstance(layer, nn.BatchNorm2d):
                net.features[at] = nn.BatchNorm2d(layer.num_features, **options)
        return net

    sparse, dense = twins(make)
    assert_same(sparse.train(training), dense.train(training), images(), steps=3)


@each
def test_gradients_accumulate(make):
    assert_same(*twins(make), images(), steps=2)


@each
def test_channels_last_input(make):
    assert_same(*twins(make), images().to(memory_format=torch.channels_last))


@each
@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
def test_without_gradients(make, grad):
    sparse, dense = twins(make)
    with grad():
        torch.manual_seed(2)
        got = sparse(images())
        torch.manual_seed(2)
        torch.testing.assert_close(got, dense(images()))
        torch.testing.assert_close(sparse.eval()(images()), dense.eval()(images()))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    sparse, dense = twins(WideResNet)
    torch.manual_seed(2)
    y = dense(images())
    y.square().mean().backward()
    net = copy.deepcopy(sparse)
    torch.manual_seed(2)
    x = net.conv(images())
    for block in net.blocks:
        x = checkpoint(block, x, use_reentrant=reentrant)
        assert isinstance(x, BlockedTensor)
    out = net.linear(F.adaptive_avg_pool2d(F.relu(net.norm(x)), 1).flatten(1))
    out.square().mean().backward()
    torch.testing.assert_close(out, y)
    found = gradients(net)
    for name, p in dense.named_parameters():
        if "norm" in name or "linear.bias" in name:
            torch.testing.assert_close(found[name], p.grad)


def test_backward_hooks_on_modules():
    sparse, dense = twins(WideResNet)
    seen = {}
    for net in (sparse, dense):
        shapes = seen[net] = []
        for block in net.blocks:
            block.register_full_backward_hook(lambda m, gin, gout, shapes=shapes: shapes.append((gin[0], gout[0])))
        torch.manual_seed(2)
        with recording() as log:
            net(images()).sum().backward()
        assert net is dense or len(log) == 3
    assert len(seen[sparse]) == 3
    for got, want in zip(seen[sparse], seen[dense], strict=True):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a.dense(), b)


def test_autocast_keeps_blocked_layers_in_float32():
    sparse, dense = twins(Vgg, torch.float32)
    x = images(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = sparse.features(x)
        assert features.dtype == torch.float32
        assert isinstance(features, BlockedTensor)
        sparse(x).float().sum().backward()
    torch.testing.assert_close(features.dense(), dense.features(x), rtol=1e-4, atol=1e-4)


def test_a_copy_and_a_saved_model_stay_blocked():
    sparse, _ = twins(Vgg)
    buffer = io.BytesIO()
    torch.save(sparse, buffer)
    buffer.seek(0)
    for net in (copy.deepcopy(sparse), torch.load(buffer, weights_only=False)):
        assert isinstance(net.eval().features(images()), BlockedTensor)
        torch.testing.assert_close(net(images()), sparse.eval()(images()))


def test_a_compiled_network_gets_ordinary_tensors():
    sparse, dense = twins(Vgg)
    twin, kinds = copy.deepcopy(sparse).eval(), set()
    for layer in convolutions(twin):
        layer.register_forward_hook(lambda module, inputs, output: kinds.add(type(output)))
    torch.testing.assert_close(torch.compile(twin, backend="eager")(images()), dense.eval()(images()))
    assert kinds == {torch.Tensor}


# -- where the layout begins and ends


class Segmenter(nn.Module):
    """Ends in a convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = self.last(F.relu(self.first(x)))
        return {"maps": y, "all": [y, x.shape]}


def test_a_network_gives_its_user_ordinary_tensors():
    sparse = regrow.sparsify(Segmenter(), 0.3, storage="compressed")
    output = sparse(torch.randn(2, 3, 8, 8))
    assert type(output["maps"]) is torch.Tensor
    assert type(output["all"][0]) is torch.Tensor
    output["maps"].sum().backward()
    assert sparse.first.weight.grad is not None
    plain = regrow.densify(sparse)
    assert not plain._forward_hooks
    assert type(plain(torch.randn(2, 3, 8, 8))["maps"]) is torch.Tensor


def test_a_convolution_alone_gives_ordinary_tensors():
    layer = regrow.sparsify(nn.Conv2d(3, 4, 3), 0.3, storage="compressed")
    assert type(layer(torch.randn(2, 3, 8, 8))) is torch.Tensor


@pytest.mark.parametrize("at", range(4))
def test_a_layer_that_computes_densely_does_not_end_the_layout(at):
    sparse, dense = twins(Vgg)
    convolutions(sparse)[at].compute = "dense"
    assert_same(sparse, dense, images())
    with recording() as log:
        assert isinstance(sparse.features(images()), BlockedTensor)
    inside = [c for c in log if "dense" in c.operation]
    assert [c.into for c in inside] == ([True] if at == 0 else [False, True])


def computing_sparsely(net):
    """Whatever the instruction set, by which it would be decided else."""
    for layer in convolutions(net):
        layer.compute = "sparse"
    return net


def test_a_dense_layer_in_the_middle():
    torch.manual_seed(0)
    sparse = computing_sparsely(regrow.sparsify(Vgg().double(), 0.4, storage="compressed", dense=["features.7"]))
    assert_same(sparse, regrow.densify(sparse), images())
    with recording() as log:
        assert isinstance(sparse.features(images()), BlockedTensor)
    assert "conv2d" in [c.operation for c in log]


@pytest.mark.parametrize("make", [Vgg, WideResNet])
def test_behind_a_dense_convolution_batch_norm_enters_the_layout(make):
    torch.manual_seed(0)
    first = next(name for name, module in make().named_modules() if isinstance(module, nn.Conv2d))
    sparse = computing_sparsely(regrow.sparsify(make().double(), 0.4, storage="compressed", dense=[first]))
    assert_same(sparse, regrow.densify(sparse), images())
    with recording() as log:
        results(sparse, images())
    assert log[0].operation == "batch_norm"
    assert [c.into for c in log] == [True, False, True, False]
    assert not any(module._forward_pre_hooks for module in regrow.densify(sparse).modules())


def test_batch_norm_leaves_to_torch_what_has_no_layout():
    sparse = regrow.sparsify(Vgg(), 0.4, storage="compressed", dense=["features.0"])
    for x in (images(dtype=torch.float32).bfloat16(), images(dtype=torch.float32).to("meta")):
        norm = sparse.features[1].to(x.device)
        maps = x[:, :1].expand(-1, 6, -1, -1)
        assert not isinstance(norm(maps), BlockedTensor)


def test_masked_storage_is_left_alone():
    sparse = regrow.sparsify(Vgg(), 0.4, storage="masked")
    hooks = [hook.mean for hook in sparse._forward_hooks.values()]
    assert [type(owner).__name__ for owner in hooks] == ["GradientMean"]  # which averages over processes
    assert type(sparse.features(images(dtype=torch.float32))) is torch.Tensor


# -- what summary says


def test_summary_names_the_conversions():
    class Odd(Vgg):
        def forward(self, x):
            return self.classifier(torch.sort(self.features(x), 1).values)

    sparse, _ = twins(Odd)
    before, state = copy.deepcopy(sparse.state_dict()), torch.get_rng_state()
    found = regrow.summary(sparse, images()).conversions
    assert [(c.into, c.operation, c.module) for c in found] == [
        (True, "SparseConv2d", "features.0"),
        (False, "sort", ""),
        (True, "sort backward", ""),
    ]
    text = str(regrow.summary(sparse, (images(),)))
    assert "3 conversions" in text
    assert "into the layout: SparseConv2d in features.0, 5x3x16x16" in text
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in sparse.state_dict().items())
    assert all(p.grad is None for p in sparse.parameters())
    assert "conversion" not in str(regrow.summary(sparse))
