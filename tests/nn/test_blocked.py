"""BlockedTensor: a chain of layers gives what ordinary tensors give."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from regrow.nn import BlockedTensor, SparseConv2d, to_blocked


class Net(nn.Module):
    """Two sparse convolutions, relu in and out of place, a residual, batch norm, pool, flatten."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        options = {"padding": 1, "dtype": torch.float64}
        self.first = SparseConv2d.from_dense(nn.Conv2d(3, 6, 3, **options), torch.rand(6, 3, 3, 3) < 0.3)
        self.second = SparseConv2d.from_dense(nn.Conv2d(6, 6, 3, **options), torch.rand(6, 6, 3, 3) < 0.3)
        self.norm = nn.BatchNorm2d(6, dtype=torch.float64)
        self.seen = []

    def forward(self, x):
        x = torch.relu(self.first(x))
        self.seen.append(type(x))
        y = torch.relu_(self.second(x)) * 0.5
        y = y + x
        y += x
        self.seen.append(type(y))
        y = nn.functional.max_pool2d(self.norm(self.second(y)), 2)
        return y.flatten(1)


def run(net, x, wrap):
    x = x.clone().requires_grad_()
    net.zero_grad()
    y = net(wrap(x))
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in net.parameters())]


def test_a_network_gives_the_same():
    net, x = Net(), torch.randn(5, 3, 6, 4, dtype=torch.float64)
    want = run(net, x, lambda x: x)
    net.seen.clear()
    got = run(net, x, to_blocked)
    assert net.seen == [BlockedTensor, BlockedTensor]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_it_looks_like_the_ordinary_tensor():
    x = torch.randn(5, 3, 6, 4)
    blocked = to_blocked(x)
    assert isinstance(blocked, torch.Tensor)
    assert (blocked.shape, blocked.dtype, blocked.device) == (x.shape, x.dtype, x.device)
    assert torch.equal(blocked.dense(), x)
    assert torch.equal(blocked[1:3, :, 2], x[1:3, :, 2])
    assert torch.equal(torch.cat([blocked, blocked], 1), torch.cat([x, x], 1))
    torch.testing.assert_close(blocked.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(torch.sigmoid(blocked), torch.sigmoid(x))
    assert torch.equal(blocked.mul_(2).dense(), x * 2)
    blocked[:, 0] = 0
    assert torch.equal(blocked.dense()[:, 0], torch.zeros(5, 6, 4))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_and_full_backward_hooks(reentrant):
    net, x = Net(), torch.randn(5, 3, 6, 4, dtype=torch.float64)
    want = run(net, x, lambda x: x)
    fired = []
    net.first.register_full_backward_hook(lambda module, grad_in, grad_out: fired.append(grad_in[0].shape))
    x.requires_grad_()
    net.zero_grad()
    checkpoint(net, to_blocked(x), use_reentrant=reentrant).square().sum().backward()
    assert fired == [torch.Size([5, 3, 6, 4])]
    for a, b in zip([x.grad, *(p.grad for p in net.parameters())], want[1:], strict=True):
        torch.testing.assert_close(a, b)


def test_the_backward_callback_gets_ordinary_tensors():
    net, x = Net(), torch.randn(5, 3, 6, 4, dtype=torch.float64)
    seen = []
    net.first.on_backward = lambda input, grad: seen.append(net.first.dense_weight_grad(input, grad))
    got = run(net, x, to_blocked)
    torch.testing.assert_close(seen[0].reshape(-1)[net.first.indices.long()].unsqueeze(1), got[2])
