"""Wide residual networks with pre-activation (Zagoruyko & Komodakis 2016, arXiv:1605.07146)."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["WideResNet"]


class _Block(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice; added to the input, or to a 1x1 convolution of its activation."""

    def __init__(self, channels: int, out: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu2 = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = None if channels == out else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activation = self.relu1(self.bn1(x))
        y = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(activation)))))
        return y + (x if self.shortcut is None else self.shortcut(activation))


class WideResNet(nn.Module):
    """WRN-depth-widen; takes (N, in_channels, H, W) with H and W multiples of 4, 32 on CIFAR.

    Convolutions are initialised normally with variance 2 / fan-out (He et al. 2015, as the authors do), the classifier
    as torch does with bias 0.

    Args:
        depth: 6 n + 4: 10, 16, 22, 28, ...
        widen: factor on the 16, 32 and 64 channels of the three stages.
        dropout: between the two convolutions of a block, in training; 0.3 is what the authors use with it, and what
            the reference implementation of sparse momentum (arXiv:1907.04840) trains with.
        width: a further factor on all channels.
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        dropout: float = 0.3,
        width: float = 1.0,
    ):
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth={depth} must be 6 n + 4, such as 16, 22 or 28")
        first, *stages = (round(width * channels) for channels in (16, 16 * widen, 32 * widen, 64 * widen))
        self.conv = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.stage1 = _stage(blocks, first, stages[0], 1, dropout)
        self.stage2 = _stage(blocks, stages[0], stages[1], 2, dropout)
        self.stage3 = _stage(blocks, stages[1], stages[2], 2, dropout)
        self.bn = nn.BatchNorm2d(stages[2])
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(stages[2], num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.conv(x))))
        return self.fc(self.flatten(self.pool(self.relu(self.bn(x)))))


def _stage(blocks: int, channels: int, out: int, stride: int, dropout: float) -> nn.Sequential:
    rest = (_Block(out, out, 1, dropout) for _ in range(blocks - 1))
    return nn.Sequential(_Block(channels, out, stride, dropout), *rest)
