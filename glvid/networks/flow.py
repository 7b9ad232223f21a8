"""FlowNet: optical flow of two frames, coarse to fine, from a first guess where there is one."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glvid.networks.blocks import Residual, Stage, conv, correlation, double, norm, standardised
from glvid.warp import resize, resize_flow, warp

UNIT = 8.0  # px; flow enters convolutions in these
LONGEST = 512  # px of the long side of pictures to be matched; larger ones are softer than what was trained on
FINE = 1.0  # px
SPREADS = (-5.0, 5.0)  # log px: what the network can say of its error


@dataclass(frozen=True)
class FlowConfig:
    """Channels at 1/2, 1/4, 1/8, 1/16, 1/32 of the size; channels matched; search radius in px of each level."""

    channels: tuple[int, ...] = (32, 48, 64, 96, 128)
    matched: int = 32
    hidden: int = 96
    radius: int = 3
    calibration: tuple[float, float] = (1.0, 0.0)  # share, px: of what it says of its error, less so many px, is true
    blend: int = 32  # channels of what chooses, pixel by pixel, between what was found and the first guess; 0: nothing


def inner_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size (w, h) at which pictures of `size` are matched: no longer than LONGEST, multiples of 32."""
    scale = min(1.0, LONGEST / max(size))
    return tuple(max(32, 32 * round(side * scale / 32)) for side in size)


def calibrated(log_spread: Float[Tensor, "B 1 H W"], calibration: tuple[float, float]) -> Float[Tensor, "B 1 H W"]:
    """Log of the expected error from what training says of it, no less than the least of SPREADS.

    Training counts hidden pixels, and sees too few that are right to a tenth of a pixel to say so.
    """
    if calibration == (1.0, 0.0):
        return log_spread
    share, less = calibration
    return (share * (log_spread.exp() - less)).clamp_min(math.exp(SPREADS[0])).log()


class Matched(NamedTuple):
    """Flow a -> b at full size (blended with the first guess, then not), at 1/4, 1/8, 1/16, 1/32, each in px of its own
    size; and how far the first may be off: log of the expected end-point error in px."""

    flows: list[Float[Tensor, "B 2 _h _w"]]
    log_spread: Float[Tensor, "B 1 H W"]

    @property
    def flow(self) -> Float[Tensor, "B 2 H W"]:
        """At full size."""
        return self.flows[0]


def convex_upsample(
    flow: Float[Tensor, "B C h w"], mask: Float[Tensor, "B M h w"], factor: int
) -> Float[Tensor, "B C H W"]:
    """Each fine vector is a learned convex combination of 3x3 coarse ones (RAFT, section 3.3)."""
    b, c, h, w = flow.shape
    weights = mask.reshape(b, 1, 9, factor, factor, h, w).softmax(2)
    near = F.unfold(F.pad(flow, (1, 1, 1, 1), mode="replicate"), 3).view(b, c, 9, 1, 1, h, w)
    return (weights * near).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(b, c, factor * h, factor * w)


class Blend(nn.Module):
    """Full-size flow out of two: a first guess that follows fine detail, and the network's own, which does not but
    finds what is far, hidden or without texture, and may have been found at a smaller size.

    Sees, besides what the last level saw, how well either explains the picture, and how far they are apart. Where that
    is less than about FINE, the guess stays: what was found lies on a grid of 4 px, and cannot be the closer one.
    """

    def __init__(self, hidden: int, channels: int):
        super().__init__()
        self.seen = conv(hidden, channels, kernel=1)
        self.mix = nn.Sequential(conv(4 * 4 + channels, channels), nn.ReLU(), conv(channels, channels), nn.ReLU())
        self.last = conv(channels, 4 * 3)  # of 2x2 pixels at once: gate, and a step
        nn.init.zeros_(self.last.weight)
        self.last.bias.data[:4] = -2.0  # at first nearly the guess

    def forward(
        self,
        a: Float[Tensor, "B 3 H W"],
        b: Float[Tensor, "B 3 H W"],
        guess: Float[Tensor, "B 2 H W"],
        found: Float[Tensor, "B 2 H W"],
        hidden: Float[Tensor, "B C h w"],
    ) -> Float[Tensor, "B 2 H W"]:
        off = [(warp(b, flow)[0] - a).abs().mean(1, keepdim=True) / 0.1 for flow in (guess, found.detach())]
        apart = found.detach() - guess
        fine = F.pixel_unshuffle(torch.cat([*off, torch.tanh(apart / UNIT)], 1), 2)
        seen = F.interpolate(self.seen(hidden).float(), fine.shape[-2:], mode="bilinear", align_corners=False)
        last = self.last(self.mix(torch.cat([fine, seen], 1))).float()
        gate, step = F.pixel_shuffle(last, 2).split((1, 2), 1)
        square = apart.square().sum(1, keepdim=True)
        return guess + square / (square + FINE**2) * (torch.sigmoid(gate) * (found - guess) + step)


class FlowNet(nn.Module):
    """Flow by warping and local cost volumes over a pyramid (PWC-Net, Sun et al. 2018), one decoder for all levels.

    Levels 1/32 to 1/4; each looks `radius` px around two guesses: what the level below found, and what the caller
    brings (`start`: DIS, say, which follows fine texture better than a small network, but not what is large and far,
    hidden or without texture). A gate chooses between them, a step goes on from there. The last level is brought to
    full size by learned convex combinations, and blended with the guess there.
    """

    def __init__(self, config: FlowConfig | None = None):
        super().__init__()
        self.config = config = config or FlowConfig()
        c2, *rest = config.channels
        m, k = config.matched, config.hidden
        self.stem = conv(12, c2)
        self.stages = nn.ModuleList(Stage(a, b, 1) for a, b in zip([c2, *rest], rest, strict=False))
        self.match = nn.ModuleList(nn.Sequential(norm(c), conv(c, m, kernel=1)) for c in rest)
        guesses = 2 * (2 * config.radius + 1) ** 2 + 2 * 2
        self.mix = nn.Sequential(conv(guesses + 2 * m, k), nn.ReLU(), conv(k, k), Residual(k))
        self.state, self.step = conv(k, m), conv(k, 3)  # the step's third channel is the gate
        self.fine = nn.Sequential(nn.ReLU(), conv(k, 9 * 16 + 1, kernel=1))  # weights of the 3x3, and the spread
        self.blend = Blend(k, config.blend) if config.blend else None
        for last in (self.step, self.fine[-1]):
            nn.init.zeros_(last.weight)

    def pyramid(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Features to match, coarsest (1/32) first, `matched` channels each."""
        x, levels = self.stem(F.pixel_unshuffle(standardised(images), 2)), []
        for stage, match in zip(self.stages, self.match, strict=True):
            x = stage(x)
            levels.append(match(x).float())
        return levels[::-1]

    def forward(
        self,
        a: Float[Tensor, "B 3 H W"],
        b: Float[Tensor, "B 3 H W"],
        start: Float[Tensor, "B 2 H W"] | None = None,
        inner: tuple[int, int] | None = None,
    ) -> Matched:
        """Flow a -> b; H, W multiples of 32. `start`: a first guess in px, or None. `inner`: the size (w, h), multiples
        of 32, at which all is found but what the blend adds; `inner_size` unless given."""
        size = (a.shape[-1], a.shape[-2])
        inner = inner or inner_size(size)
        if inner == size:
            found, hidden = self.found(a, b, start)
        else:
            less = (resize(a, inner), resize(b, inner), None if start is None else resize_flow(start, inner))
            found, hidden = self.found(*less)
            spread = resize(found.log_spread, size) + math.log(size[0] / inner[0])
            found = Matched([resize_flow(found.flow, size), *found.flows[1:]], spread)
        found = found._replace(log_spread=calibrated(found.log_spread, self.config.calibration))
        if self.blend is None or start is None:
            return found
        return found._replace(flows=[self.blend(a, b, start, found.flow, hidden), *found.flows])

    def found(self, a: Tensor, b: Tensor, start: Tensor | None) -> tuple[Matched, Tensor]:
        """What the pyramid finds at the size of its images, and what its last level saw."""
        levels = self.pyramid(torch.cat([a, b]))
        flow = levels[0].new_zeros(len(a), 2, *levels[0].shape[-2:])
        state = levels[0].new_zeros(len(a), self.config.matched, *flow.shape[-2:])
        flows = []
        for k, (fa, fb) in enumerate(level.chunk(2) for level in levels):
            if k:
                flow, state = 2 * double(flow), double(state)
            other = flow if start is None else resize_flow(start, (fa.shape[-1], fa.shape[-2]))
            flow, state, hidden = self.better(fa, fb, flow, other, state)
            flows.append(flow)
        last = self.fine(hidden).float()
        full = convex_upsample(4 * flow, last[:, :-1], 4)
        spread = F.interpolate(last[:, -1:], scale_factor=4, mode="bilinear", align_corners=False).clamp(*SPREADS)
        return Matched([full, *flows[::-1]], spread), hidden

    def better(
        self, fa: Tensor, fb: Tensor, flow: Tensor, other: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Flow of a level from two guesses, the state carried to the next level, and what was seen."""
        guesses = [flow.detach()] if other is flow else [flow.detach(), other]
        costs = [4 * correlation(fa, warp(fb, f)[0], self.config.radius) for f in guesses]  # as strong as the features
        both = [costs[0], costs[-1], guesses[0] / UNIT, (guesses[-1] - guesses[0]) / UNIT]
        hidden = self.mix(torch.cat([*both, fa, state], 1))
        step = self.step(hidden).float()
        flow = flow + torch.sigmoid(step[:, 2:]) * (other - flow) + step[:, :2]
        return flow, self.state(hidden).float().tanh(), hidden
