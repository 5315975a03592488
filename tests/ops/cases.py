"""Cases that every kernel must get right."""

import torch

from regrow.ops import conv2d_plan, conv_output_shape, lanes, linear_plan, pixel_plan
from regrow.ops.reference import to_blocked

ops = torch.ops.regrow
# batch, in, out, density
LINEAR = [
    (1, 5, 3, 0.5),
    (33, 784, 300, 0.05),
    (128, 30, 50, 0.0),
    (7, 30, 50, 1.0),
    (0, 30, 50, 0.5),
    (65, 1, 1, 1.0),
    (17, 257, 129, 0.01),
    (200, 64, 64, 0.3),
    (70, 1100, 200, 0.05),
    (130, 200, 1024, 0.2),
]
# batch, in, out, (H, W), kernel, stride, padding, dilation, density
CONV = [
    (5, 3, 7, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 0.3),
    (17, 3, 7, (9, 5), (3, 3), (2, 2), (1, 1), (1, 1), 0.3),
    (16, 33, 35, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 0.05),
    (3, 4, 4, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1.0),
    (9, 4, 4, (2, 2), (3, 3), (1, 1), (1, 1), (1, 1), 0.5),
    (70, 4, 6, (2, 2), (3, 3), (1, 1), (1, 1), (1, 1), 0.5),
    (9, 4, 4, (7, 7), (1, 1), (1, 1), (0, 0), (1, 1), 0.5),
    (9, 4, 4, (7, 9), (5, 5), (3, 3), (2, 2), (2, 2), 0.5),
    (4, 4, 4, (7, 9), (3, 3), (1, 1), (1, 1), (1, 1), 0.0),
    (4, 4, 4, (7, 9), (3, 3), (1, 1), (0, 0), (1, 1), 0.2),
    (2, 3, 5, (11, 13), (7, 7), (2, 2), (3, 3), (1, 1), 0.1),
    (2, 3, 5, (6, 7), (1, 3), (2, 1), (0, 1), (1, 2), 0.4),
    (2, 3, 5, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1), 0.4),
    (2, 3, 5, (1, 9), (1, 3), (1, 1), (0, 3), (1, 1), 0.4),
    (0, 3, 5, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 0.4),
    (1, 1, 1, (3, 3), (3, 3), (1, 1), (0, 0), (1, 1), 1.0),
    (3, 2, 4, (5, 5), (2, 2), (4, 4), (1, 1), (1, 1), 0.5),
    (3, 2, 4, (6, 6), (1, 1), (2, 2), (0, 0), (1, 1), 0.5),
]


def active(numel, density, seed=0):
    """Exactly round(density·numel) random ascending positions, int32."""
    generator = torch.Generator().manual_seed(seed)
    count = round(density * numel)
    return torch.randperm(numel, generator=generator)[:count].sort().values.int()


def linear_case(batch, inputs, outputs, density, dtype=torch.float32):
    """Arguments of sparse_linear, and a gradient of its output."""
    torch.manual_seed(1)
    indices = active(inputs * outputs, density)
    plan = linear_plan(indices, outputs, inputs, dtype)
    x, bias = torch.randn(batch, inputs, dtype=dtype), torch.randn(outputs, dtype=dtype)
    weight = torch.randn(len(indices), 1, dtype=dtype)
    return (x, weight, bias, indices, plan, outputs), torch.randn(batch, outputs, dtype=dtype)


def pixel_case(batch, inputs, outputs, image, kernel, stride, padding, dilation, density, dtype=torch.float32):
    """Arguments of sparse_conv2d_pixels."""
    torch.manual_seed(1)
    geometry = ([outputs, inputs, *kernel], list(stride), list(padding), list(dilation))
    indices = active(outputs * inputs * kernel[0] * kernel[1], density)
    weight, bias = torch.randn(len(indices), 1, dtype=dtype), torch.randn(outputs, dtype=dtype)
    x = torch.randn(batch, inputs, *image, dtype=dtype)
    return x, weight, bias, indices, pixel_plan(indices, *geometry, image), *geometry


def conv_case(batch, inputs, outputs, image, kernel, stride, padding, dilation, density, dtype=torch.float32):
    """Arguments of sparse_conv2d on a blocked input, and a gradient of its output."""
    torch.manual_seed(1)
    shape, weight_shape = [batch, inputs, *image], [outputs, inputs, *kernel]
    geometry = (weight_shape, list(stride), list(padding), list(dilation))
    indices = active(outputs * inputs * kernel[0] * kernel[1], density)
    plan = conv2d_plan(indices, *geometry, image, dtype)
    weight, bias = torch.randn(len(indices), 1, dtype=dtype), torch.randn(outputs, dtype=dtype)
    x = to_blocked(torch.randn(shape, dtype=dtype), lanes(dtype))
    grad = to_blocked(torch.randn(conv_output_shape(shape, *geometry), dtype=dtype), lanes(dtype))
    return (x, weight, bias, indices, plan, shape, lanes(dtype), *geometry), grad
