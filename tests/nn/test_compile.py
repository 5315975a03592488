"""torch.compile over compressed layers: they stay outside the graphs, so changing lengths compile nothing again."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import regrow


class Net(nn.Module):
    """Two stretches of dense work beside a sparse convolution and a sparse product."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv(x)
        x = F.relu(self.norm(x)).mean((2, 3))
        return F.log_softmax(self.out(x), 1)


def looped():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))


def train(net, forward, steps):
    """SGD with a topology update after every second step; yields after each step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    regrow.SparseMomentum(net, optimizer, total_steps=100, update_every=2, window=1)
    x, y = torch.randn(5, 3, 6, 6, dtype=torch.float64), torch.randint(4, (5,))
    for _ in range(steps):
        optimizer.zero_grad()
        F.nll_loss(forward(x), y).backward()
        optimizer.step()
        yield


@pytest.mark.parametrize("make", [Net, looped])
def test_twelve_updates_compile_nothing_again(make):
    torch.compiler.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    net = regrow.sparsify(make().double(), 0.2, storage="compressed", seed=0)
    twin = copy.deepcopy(net)
    counts, lengths = [], set()
    torch.manual_seed(1)
    for _ in train(net, torch.compile(net, backend=backend), 25):
        counts.append(len(graphs))
        lengths.add(next(iter(regrow.sparse_weights(net).values())).active)
    assert len(set(counts)) == 1
    assert counts[0] == (2 if make is Net else 0)  # a graph break in a loop leaves the loop uncompiled
    assert len(lengths) > 2
    torch.manual_seed(1)
    for _ in train(twin, twin, 25):
        pass
    for mine, its in zip(net.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, its)  # batch norm rounds differently in the kernels' layout
