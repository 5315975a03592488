"""torch's FLOP counter sees the active weights, as `regrow.flops` counts them."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import regrow
from regrow.flops import flops_per_weight
from regrow.nn import SparseLayer


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2)),
        *(nn.Flatten(), nn.Linear(72, 4)),
    )
    net = regrow.sparsify(net, 0.1, storage="compressed")
    for module in net.modules():
        if isinstance(module, SparseLayer):
            module.compute = "sparse"
    return net


def counted(run):
    with FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


@pytest.mark.parametrize("first_needs_gradient", [False, True])
def test_forward_and_backward(first_needs_gradient):
    net, x = network(), torch.randn(5, 3, 8, 8, requires_grad=first_needs_gradient)
    each, weights = flops_per_weight(net, x), regrow.sparse_weights(net)
    flops = [5 * each[name] * weight.active for name, weight in weights.items()]
    forward, output = counted(lambda: net(x))
    backward, _ = counted(lambda: output.sum().backward())
    assert forward == sum(flops)
    assert backward == 2 * sum(flops) - (0 if first_needs_gradient else flops[0])


def test_the_counter_is_not_imported_before_somebody_wants_it():
    """It takes longer than regrow itself, and has to know the operators all the same."""
    assert torch.ops.regrow.sparse_linear in flop_registry
    program = """
import sys, torch, regrow.nn
assert "torch.utils.flop_counter" not in sys.modules
import torch.utils.flop_counter
assert torch.ops.regrow.sparse_conv2d_backward in torch.utils.flop_counter.flop_registry
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("regrow.ops")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
