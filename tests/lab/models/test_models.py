"""The networks: sizes as published, shapes, initialisation."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

from regrow.lab import RunError, UsageError
from regrow.lab.models import MODELS, build, example_input

CIFAR = [name for name in MODELS if name.startswith(("alexnet", "vgg", "wrn", "resnet"))]


def numbers(model: nn.Module) -> tuple[int, int, int]:
    """Weights, biases of layers, and parameters of batch norms."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    of_norms = sum(p.numel() for norm in norms for p in norm.parameters())
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    return weights, sum(p.numel() for p in model.parameters()) - weights - of_norms, of_norms


@pytest.mark.parametrize(
    ("name", "kept", "published"),
    [
        ("alexnet-s", 0.10, 507_000),
        ("alexnet-b", 0.10, 849_000),
        ("vgg16-c", 0.05, 526_000),
        ("vgg16-d", 0.05, 762_000),
        ("vgg16-like", 0.03, 449_000),
        ("wrn-16-8", 0.05, 548_000),
        ("wrn-16-10", 0.05, 856_000),
        ("wrn-22-8", 0.05, 858_000),
    ],
)
def test_parameters_kept_are_those_that_snip_publishes(name: str, kept: float, published: int):
    """SNIP (arXiv:1810.02340) counts weights and biases; batch norms in the wide residual networks only."""
    with torch.device("meta"):
        weights, biases, of_norms = numbers(build(name))
    counted = weights + biases + (of_norms if name.startswith("wrn") else 0)
    assert math.floor(kept * counted / 1000 + 0.5) * 1000 == published


@pytest.mark.parametrize(
    ("name", "millions"), [("wrn-16-8", 11.0), ("wrn-16-10", 17.1), ("wrn-22-8", 17.2), ("wrn-28-10", 36.5)]
)
def test_wide_residual_networks_have_the_size_that_their_authors_give(name: str, millions: float):
    from regrow.lab.models import WideResNet

    with torch.device("meta"):
        total = sum(numbers(WideResNet(*map(int, name.split("-")[1:]))))
    assert round(total / 1e6, 1) == millions


def test_torchvisions_resnet_50():
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        assert sum(numbers(build("resnet-50", num_classes=1000))) == 25_557_032  # torchvision's documentation


@pytest.mark.parametrize("name", CIFAR)
def test_every_network_takes_cifar_images_and_gives_a_score_a_class(name: str):
    with torch.device("meta"):
        assert build(name, num_classes=7).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("survival")])  # of tests/survival
def test_example_inputs_fit_their_networks(name: str):
    if name == "resnet-50":
        pytest.importorskip("torchvision")
    with torch.device("meta"):
        network = build(name).eval()
    assert len(network(example_input(name).to("meta"))) == 2


def test_a_network_learns_in_training_mode_from_a_batch_of_two():
    torch.manual_seed(0)
    model = build("wrn-28-2", width=0.25)
    loss = nn.functional.cross_entropy(model(torch.randn(2, 3, 8, 8)), torch.tensor([0, 1]))
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_half_width_halves_channels_and_hidden_features():
    with torch.device("meta"):
        half, by_option, full = build("vgg16-d-half"), build("vgg16-d", width=0.5), build("vgg16-d")
    shapes = [[tuple(p.shape) for p in model.parameters()] for model in (half, by_option)]
    assert shapes[0] == shapes[1]
    assert (half.conv5_3.out_channels, half.fc1.out_features) == (256, 256)
    assert numbers(half)[0] == pytest.approx(numbers(full)[0] / 4, rel=0.01)


def test_options_reach_the_network():
    with torch.device("meta"):
        assert build("alexnet-s", in_channels=1).conv1.in_channels == 1
        dropout = [m.p for m in build("wrn-16-8").modules() if isinstance(m, nn.Dropout)]
        assert dropout == [0.3] * 6
        assert not any(isinstance(m, nn.Dropout) for m in build("wrn-16-8", dropout=0.0).modules())


def test_wide_residual_networks_are_initialised_by_fan_out():
    torch.manual_seed(0)
    conv = build("wrn-28-2").stage3[0].conv1
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)


def test_the_same_seed_gives_the_same_network():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(build("vgg16-d", width=0.1).conv3_2.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"no model 'vgg16d'; did you mean vgg16-d\? the models are"):
        build("vgg16d")


def test_a_depth_that_cannot_be_built_is_refused():
    from regrow.lab.models import WideResNet

    with pytest.raises(ValueError, match="depth=20 must be 6 n"):
        WideResNet(20, 8)


def test_resnet_50_without_torchvision_names_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(RunError, match="pip install torchvision"):
        build("resnet-50")
