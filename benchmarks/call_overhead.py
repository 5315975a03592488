"""What a call of a compressed layer costs beyond its kernel: tiny layers, where the kernel is nothing.

Microseconds of processor time, the best of many batches: forward, and forward + backward, beside the dense
layer of the same shape.
"""

import time

import torch
from torch import nn

from regrow.nn import SparseConv2d, SparseLinear, to_blocked


def best(step, number=200, repeats=15):
    """Smallest mean of `number` calls, microseconds."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        for _ in range(number):
            step()
        times.append((time.thread_time() - start) / number * 1e6)
    return min(times)


def show(name, layer, x):
    x.requires_grad_()
    grad = torch.ones_like(layer(x)).detach()
    print(f"{name:24} {best(lambda: layer(x)):8.1f} {best(lambda: layer(x).backward(grad)):8.1f}")


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    linear, conv = nn.Linear(8, 8), nn.Conv2d(2, 2, 3, padding=1)
    rows, images = torch.randn(4, 8), torch.randn(2, 2, 4, 4)
    sparse_linear, sparse_conv = SparseLinear.from_dense(linear), SparseConv2d.from_dense(conv)
    sparse_linear.set_topology(torch.tensor([3, 40]), torch.ones(2))
    sparse_conv.set_topology(torch.tensor([3, 20]), torch.ones(2))
    print(f"{'layer':24} {'forward':>8} {'+ backward':>8}")
    show("nn.Linear", linear, rows)
    show("SparseLinear", sparse_linear, rows)
    show("nn.Conv2d", conv, images)
    show("SparseConv2d", sparse_conv, images)
    show("SparseConv2d, blocked", sparse_conv, to_blocked(images).detach())


if __name__ == "__main__":
    main()
