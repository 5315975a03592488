"""Time 3x3 convolutions of few images without gradients: lanes along pixels, lanes of images, and torch's dense layer.

Microseconds of the best call of many, in turn in one process; the layers are those of VGG16-D.

    python benchmarks/few_images.py --json results/few_images.json
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn

from regrow.lab.bench.timing import bench_place, times_in_turn
from regrow.nn import SparseConv2d
from regrow.ops import conv2d_arguments, conv2d_plan, sparse_conv2d_nchw

SHAPES = [(64, 64, 32), (128, 128, 16), (256, 256, 8), (512, 512, 4), (512, 512, 2)]
"""Input channels, output channels, height and width."""


@torch.no_grad()
def measure(channels: int, outputs: int, size: int, images: int, density: float, seconds: float) -> dict[str, float]:
    """Best microseconds of each contestant."""
    dense = nn.Conv2d(channels, outputs, 3, padding=1)
    sparse = SparseConv2d.from_dense(dense, torch.rand_like(dense.weight) < density)
    x = torch.randn(images, channels, size, size)
    geometry = (sparse.dense_shape, sparse.stride, sparse.padding, sparse.dilation)
    plan = conv2d_plan(sparse.indices, *geometry, (size, size), x.dtype)
    arguments = conv2d_arguments(sparse.indices, plan, x.shape, x.dtype, geometry)
    shape = (images, outputs, size, size)
    contestants = {
        "pixels": lambda: torch.ops.regrow.sparse_conv2d_pixels(x, sparse.weight, sparse.bias, *pixels),
        "images": lambda: sparse_conv2d_nchw(x, sparse.weight, sparse.bias, arguments, shape),
        "dense": lambda: dense(x),
    }
    lists = [list(sizes) for sizes in geometry]
    pixels = (sparse.indices, torch.ops.regrow.make_pixel_plan(sparse.indices, *lists, [size, size]), *lists)
    times = times_in_turn(contestants, seconds)
    return {name: min(values) * 1e3 for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each contestant in a row")
    parser.add_argument("--json", type=Path, help="the result file")
    chosen = parser.parse_args()
    rows = []
    with bench_place(chosen.threads) as where:
        for channels, outputs, size in SHAPES:
            for images in (1, 2, 4, 8):
                best = measure(channels, outputs, size, images, chosen.density, chosen.seconds)
                case = {"layer": f"{channels}->{outputs} on {size}x{size}", "images": images}
                rows.append({**case, "density": chosen.density, "best_us": best, **where})
                print(*case.values(), *(f"{name} {value:.0f} us" for name, value in best.items()), flush=True)
    if chosen.json:
        command = f"python {' '.join(sys.argv)}"
        chosen.json.write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
