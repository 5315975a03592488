"""Small networks whose code knows nothing of regrow, and what is compared of them."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

import regrow
from regrow.nn import BlockedTensor, SparseConv2d, SparseLayer, to_blocked

_dropout = F.dropout


def dropout_as_blocked(x, p=0.5, training=True, inplace=False):
    """Dropout that draws for ordinary images the noise that blocked ones get, so that both can be compared."""
    if isinstance(x, BlockedTensor) or not training or x.dim() != 4:
        return _dropout(x, p, training, inplace)
    return x * _dropout(to_blocked(torch.ones_like(x)), p).dense()


dropout_as_blocked.__name__ = "dropout"  # by which a tensor that overrides torch's functions knows it


class Vgg(nn.Module):
    """Convolution, batch norm, relu in place, max pool; then flatten, dropout, linear."""

    def __init__(self, relu=nn.ReLU, pool=nn.MaxPool2d):
        super().__init__()
        layers, channels = [], 3
        for width in (6, 8, 0, 10, 0, 12, 0):
            if width:
                conv = nn.Conv2d(channels, width, 3, padding=1, bias=width == 8)
                layers += [conv, nn.BatchNorm2d(width), relu(inplace=True)]
                channels = width
            else:
                layers.append(pool(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * channels, 10))

    def forward(self, x):
        return self.classifier(self.features(x))


class Block(nn.Module):
    """Batch norm and relu before each convolution, a sum at the end."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x):
        y = F.relu(self.norm1(x), inplace=True)
        z = F.dropout(F.relu(self.norm2(self.conv1(y))), 0.3, self.training)
        return self.conv2(z) + (x if self.shortcut is None else self.shortcut(y))


class WideResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(Block(4, 8, 1), Block(8, 8, 1), Block(8, 12, 2))
        self.norm, self.linear = nn.BatchNorm2d(12), nn.Linear(12, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.blocks(self.conv(x))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Mixed(nn.Module):
    """ResNet's order (norm, sum in place, relu), an overlapping pool, concatenation, average pools, mean."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 5, 1, 2)
        self.conv1, self.norm1 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv3, self.linear = nn.Conv2d(11, 9, 1), nn.Linear(9, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        y = self.norm1(self.conv1(x))
        y += x
        y = F.relu(y)
        x = torch.cat([y, F.silu(self.norm2(self.conv2(y)))], 1)
        x = F.avg_pool2d(x, 2, ceil_mode=True)
        return self.linear(F.leaky_relu(self.conv3(x), 0.1).mean((2, 3)))


NETWORKS = {"vgg": Vgg, "wide resnet": WideResNet, "mixed": Mixed}


def twins(make, dtype=torch.float64, density=0.4):
    """A sparse network that computes sparsely all over, and its dense form."""
    torch.manual_seed(0)
    sparse = regrow.sparsify(make().to(dtype), density, storage="compressed")
    for layer in sparse.modules():
        if isinstance(layer, SparseLayer):
            layer.compute = "sparse"
    return sparse, regrow.densify(sparse)


def images(batch=5, dtype=torch.float64, size=16):
    return torch.randn(batch, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def results(net, x, steps=1):
    """Output, gradients of input and parameters, buffers, after some forward and backward passes."""
    net = copy.deepcopy(net)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    torch.manual_seed(2)
    for _ in range(steps):
        y = net(x)
        (y.square().mean() + y[:, 0].sum()).backward()
    found = {"output": y.detach(), "input": x.grad}
    found |= {name: buffer for name, buffer in net.named_buffers() if "running" in name or "batches" in name}
    return found | gradients(net)


def gradients(net):
    """Gradients of parameters; of the weights of sparse layers, and of what stands for them, as dense tensors."""
    found = {name: p.grad for name, p in net.named_parameters()}
    for name, layer in net.named_modules():
        if isinstance(layer, SparseLayer):
            dense = torch.zeros(layer.dense_shape.numel(), dtype=layer.weight.dtype)
            dense[layer.indices.long()] = layer.weight.grad.view(-1)
            found[f"{name}.weight"] = dense.view(layer.dense_shape)
    return found


def assert_same(sparse, dense, x, tolerance=1e-10, **options):
    """The same results, the gradients of inactive weights left out."""
    got, want = results(sparse, x, **options), results(dense, x, **options)
    active = {f"{name}.weight": m for name, m in sparse.named_modules() if isinstance(m, SparseLayer)}
    assert got.keys() == want.keys()
    for name, expected in want.items():
        if name in active:
            expected = torch.where(active[name].dense_weight() != 0, expected, 0)
        largest = max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(
            got[name], expected, rtol=0, atol=tolerance * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


def convolutions(net):
    return [layer for layer in net.modules() if isinstance(layer, SparseConv2d)]
