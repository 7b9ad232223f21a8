"""What the networks share. No norm uses batch statistics: training mixes rooms and roads, refinement has one clip."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 16 channels a group."""
    return nn.GroupNorm(max(1, channels // 16), channels)


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    """Convolution that keeps (or divides by `stride`) the size; He et al. 2015 initialisation, bias 0."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class Residual(nn.Module):
    """Pre-activation residual block (He et al. 2016b) of two 3x3 convolutions; its branch starts at half strength."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = norm(channels), conv(channels, channels)
        self.norm2, self.conv2 = norm(channels), conv(channels, channels)
        self.conv2.weight.data *= 0.5

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class Context(nn.Module):
    """Adds to every pixel what the whole image says: mean over the image through a two-layer perceptron."""

    def __init__(self, channels: int):
        super().__init__()
        self.perceptron = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x + self.perceptron(x.mean((-2, -1)))[..., None, None]


class Stage(nn.Sequential):
    """Halve the size, then `blocks` residual blocks."""

    def __init__(self, inputs: int, outputs: int, blocks: int):
        down = (norm(inputs), nn.ReLU(), conv(inputs, outputs, 2))
        super().__init__(*down, *(Residual(outputs) for _ in range(blocks)))


def coordinates(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 2 H W"]:
    """Image position of every pixel, -1..1 on both axes (Liu et al. 2018, CoordConv): depth follows the horizon."""
    b, _, h, w = x.shape
    ys = torch.linspace(-1, 1, h, dtype=x.dtype, device=x.device)[:, None].expand(h, w)
    xs = torch.linspace(-1, 1, w, dtype=x.dtype, device=x.device)[None].expand(h, w)
    return torch.stack([xs, ys]).expand(b, 2, h, w)


def double(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
    """Twice the size, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def standardised(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Images 0..1 to about zero mean and unit spread, channels-last in memory (what the CPU's matrix unit wants)."""
    return ((images - 0.45) / 0.25).contiguous(memory_format=torch.channels_last)


def correlation(
    a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"], radius: int
) -> Float[Tensor, "B (2*{radius}+1)**2 H W"]:
    """Mean product of a(p) and b(p + d) for every shift |d|_inf <= radius, rows first (PWC-Net, eq. 2).

    0 outside b. Every row of a is multiplied with whole rows of b and the diagonal band kept: many more products than
    needed, but as matrix products they take a third of the time of shifting b.
    """
    batch, channels, h, w = a.shape
    n, wide = 2 * radius + 1, w + 2 * radius
    rows = a.permute(0, 2, 3, 1).reshape(batch * h, w, channels)
    padded = F.pad(b.permute(0, 2, 3, 1), (0, 0, radius, radius, radius, radius))
    near = padded.unfold(1, n, 1).permute(0, 1, 3, 4, 2).reshape(batch * h, channels, n * wide)
    products = (rows @ near).view(batch * h, w, n, wide).contiguous()
    band = products.as_strided((batch * h, w, n, n), (w * n * wide, n * wide + 1, wide, 1))
    return band.reshape(batch, h, w, n * n).permute(0, 3, 1, 2) / channels
