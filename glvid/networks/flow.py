"""FlowNet: optical flow of two frames, coarse to fine."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glvid.networks.blocks import Residual, Stage, conv, correlation, double, norm, standardised
from glvid.warp import warp


@dataclass(frozen=True)
class FlowConfig:
    """Channels at 1/2, 1/4, 1/8, 1/16, 1/32 of the size; channels matched; search radius in px of each level."""

    channels: tuple[int, ...] = (32, 48, 64, 96, 128)
    matched: int = 32
    hidden: int = 80
    radius: int = 3


def convex_upsample(
    flow: Float[Tensor, "B 2 h w"], mask: Float[Tensor, "B M h w"], factor: int
) -> Float[Tensor, "B 2 H W"]:
    """Each fine vector is a learned convex combination of 3x3 coarse ones (RAFT, section 3.3), `factor` x as long."""
    b, _, h, w = flow.shape
    weights = mask.reshape(b, 1, 9, factor, factor, h, w).softmax(2)
    near = F.unfold(F.pad(flow * factor, (1, 1, 1, 1), mode="replicate"), 3).view(b, 2, 9, 1, 1, h, w)
    return (weights * near).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(b, 2, factor * h, factor * w)


class FlowNet(nn.Module):
    """Flow by warping and local cost volumes over a pyramid (PWC-Net, Sun et al. 2018), one decoder for all levels.

    Levels 1/32 to 1/4; each looks `radius` px around what the level below found. The last is brought to half size by
    learned convex combinations, from there to full size by bilinear ones.
    """

    def __init__(self, config: FlowConfig | None = None):
        super().__init__()
        self.config = config = config or FlowConfig()
        c2, *rest = config.channels
        m, k = config.matched, config.hidden
        self.stem = conv(12, c2)
        self.stages = nn.ModuleList(Stage(a, b, 1) for a, b in zip([c2, *rest], rest, strict=False))
        self.match = nn.ModuleList(nn.Sequential(norm(c), conv(c, m, kernel=1)) for c in rest)
        self.mix = nn.Sequential(conv((2 * config.radius + 1) ** 2 + 2 * m + 2, k), nn.ReLU(), conv(k, k), Residual(k))
        self.state, self.step = conv(k, m), conv(k, 2)
        self.mask = nn.Sequential(nn.ReLU(), conv(k, 9 * 4, kernel=1))
        nn.init.zeros_(self.step.weight)

    def pyramid(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Features to match, coarsest (1/32) first, `matched` channels each."""
        x, levels = self.stem(F.pixel_unshuffle(standardised(images), 2)), []
        for stage, match in zip(self.stages, self.match, strict=True):
            x = stage(x)
            levels.append(match(x).float())
        return levels[::-1]

    def forward(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B 2 _h _w"]]:
        """Flow a -> b: full size first, then 1/4, 1/8, 1/16, 1/32, each in px of its own size; H, W multiples of 32."""
        levels = self.pyramid(torch.cat([a, b]))
        flow = levels[0].new_zeros(len(a), 2, *levels[0].shape[-2:])
        state = levels[0].new_zeros(len(a), self.config.matched, *flow.shape[-2:])
        flows = []
        for k, (fa, fb) in enumerate(level.chunk(2) for level in levels):
            if k:
                flow, state = 2 * double(flow), double(state)
            cost = 4 * correlation(fa, warp(fb, flow.detach())[0], self.config.radius)  # then as strong as the features
            hidden = self.mix(torch.cat([cost, fa, state, flow.detach() / 8], 1))
            flow, state = flow + self.step(hidden).float(), self.state(hidden).float().tanh()
            flows.append(flow)
        half = convex_upsample(flow, self.mask(hidden).float(), 2)
        return [2 * double(half), *flows[::-1]]
