"""Points anchored in frames, followed by flow into other frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glvid.parallel import each
from glvid.predict import Flows, drawn, over_median
from glvid.types import Shot
from glvid.warp import box_mean, sample_at, texture_of

CONTRAST = 0.005**2  # squared brightness change per px (a grey level or so) along which matches are half believed
CHUNK = 40  # anchor frames handled at once: bounds memory


@dataclass(frozen=True)
class Tracks:
    """M points anchored in each of N frames and where flow sees them in the frames at K offsets."""

    offsets: tuple[int, ...]
    xy: Float[Tensor, "N M 2"]  # px in the anchor frame
    target: Float[Tensor, "N K M 2"]  # px in frame n + offsets[k]
    weight: Float[Tensor, "N K M"]  # 0 outside the shot or where flow disagrees with its way back
    depth: Float[Tensor, "N M"]  # the network's, at xy
    root: Float[Tensor, "N M 2 2"]  # square root of how far a match at xy is to be believed, by direction
    lag: Float[Tensor, "N M 2"] | None = None  # px that a rolling shutter shifts xy by, per unit of readout
    target_lag: Float[Tensor, "N K M 2"] | None = None  # and the targets
    sigma: Float[Tensor, "N M"] | None = None  # how far off depth is, relative to the frame's other points


def anchor_points(image: Tensor, grid: tuple[int, int]) -> Float[Tensor, "M 2"]:
    """The pixel of strongest gradient of each cell of a columns x rows grid; px, centres at .5. image: (H, W) grey."""
    h, w = image.shape
    gx = F.pad((image[:, 2:] - image[:, :-2]).abs(), (1, 1))
    gy = F.pad((image[2:] - image[:-2]).abs(), (0, 0, 1, 1))
    score = box_mean((gx + gy)[None, None], 2)
    border = torch.zeros_like(score)
    border[..., 4:-4, 4:-4] = 1
    cell = (h // grid[1], w // grid[0])
    score = (score * border)[..., : cell[0] * grid[1], : cell[1] * grid[0]]
    _, index = F.max_pool2d(score, cell, cell, return_indices=True)
    index = index.flatten()
    columns = cell[1] * grid[0]
    return torch.stack([index % columns, index // columns], -1).float() + 0.5


def tracks(
    shot: Shot, flows: Flows, offsets: Sequence[int], points: int = 300, advance: Callable[[int], None] | None = None
) -> Tracks:
    """Anchor points in every frame and follow them by flow to n +- each of `offsets` (positive, ascending, first 1).

    `advance` is called with numbers that add up to that of the frames.

    A pair of frames in which fewer than 30 % of the points survive the forward-backward test is left out: where motion
    is fast, far pairs are wrong matches and pull everything.
    """
    n, (w, h) = len(shot), shot.size
    grid = (round((points * w / h) ** 0.5), round((points * h / w) ** 0.5))
    signed = tuple(s * k for k in offsets for s in (1, -1))
    xy, depth, root, *sigma = (torch.stack(x) for x in zip(*each(partial(anchored, shot, grid), range(n)), strict=True))
    m = xy.shape[1]
    target = torch.zeros(n, len(signed), m, 2)
    weight = torch.zeros(n, len(signed), m)
    for k, offset in enumerate(offsets):
        for start in range(0, n - offset, CHUNK):
            i = np.arange(start, min(start + CHUNK, n - offset))
            if offset > 1 and not flows.polished:
                for slot, anchor, apart in ((2 * k, i, offset), (2 * k + 1, i + offset, -offset)):
                    found, weight[anchor, slot] = follow_far(flows, xy[anchor], anchor, apart)
                    target[anchor, slot] = drawn(shot.images[anchor], shot.images[anchor + apart], xy[anchor], found)
                continue
            there, back = flows.sharp(i, i + offset), flows.sharp(i + offset, i)
            for slot, anchor, go, ret in ((2 * k, i, there, back), (2 * k + 1, i + offset, back, there)):
                target[anchor, slot], weight[anchor, slot] = follow(xy[anchor], go, ret)
        if advance:
            advance(n * (k + 1) // len(offsets) - n * k // len(offsets))
    if shot.ignored is not None:
        for k in range(n):
            out = torch.from_numpy((shot.ignored[k] > 0).astype(np.float32))[None, None]
            weight[k] *= sample_at(out, xy[k].T[None, :, None])[0][0, 0, 0] < 0.5
    share = (weight > 0.2).float().mean(-1)
    share[:, :2] = 1  # neighbours always count
    weight = weight * (share > 0.3)[..., None]
    return Tracks(signed, xy, target, weight, depth, root, sigma=sigma[0] if sigma else None)


def anchored(shot: Shot, grid: tuple[int, int], n: int) -> tuple[Tensor, ...]:
    """Points of frame n, their depth, how far matches there are to be believed (see `Tracks`), and, where the network
    says how far off it may be, that."""
    grey = torch.from_numpy(shot.images[n].astype(np.float32).mean(-1))
    xy = anchor_points(grey, grid)
    root = believed(texture_of(grey[None] / 255)[:, xy[:, 1].long(), xy[:, 0].long()])
    maps = [shot.depth[n], *([] if shot.sigma is None else [shot.sigma[n]])]
    depth, *sigma = (
        sample_at(torch.from_numpy(np.array(x, dtype=np.float32))[None, None], xy.T[None, :, None])[0][0, 0, 0]
        for x in maps
    )
    return xy, depth, root, *(over_median(x) for x in sigma)


def believed(texture: Float[Tensor, "3 M"]) -> Float[Tensor, "M 2 2"]:
    """Square root of G (G + CONTRAST)^-1, G the structure tensor: along an edge, and where nothing is to be seen, flow
    is a guess (aperture)."""
    G = texture[[0, 1, 1, 2]].T.unflatten(1, (2, 2))
    value, axes = torch.linalg.eigh(G)
    value = value.clamp_min(0)
    return axes * (value / (value + CONTRAST)).sqrt()[:, None] @ axes.transpose(1, 2)


def follow(xy: Float[Tensor, "B M 2"], go: Float[Tensor, "B _c H W"], back: Float[Tensor, "B _d H W"]):
    """Where flow takes points (B, M, 2), and a weight (B, M) that falls with the forward-backward gap; 0 outside.

    Where flow says how far off it may be (a third channel), what is surer than the pair's median counts more.
    """
    at = xy.transpose(1, 2)[:, :, None]
    found, _ = sample_at(go, at)
    step = found[:, :2]
    there = at + step
    ret, inside = sample_at(back[:, :2], there)
    w = agreed(step[:, :, 0].transpose(1, 2), (step + ret)[:, :, 0].transpose(1, 2)) * inside[:, 0, 0]
    if found.shape[1] > 2:
        w = w * 2 / (1 + torch.stack([over_median(sigma) for sigma in found[:, 2, 0]]) ** 2)
    return there[:, :, 0].transpose(1, 2), torch.where(w < 0.05, torch.zeros_like(w), w)


def follow_far(
    flows: Flows, xy: Float[Tensor, "B M 2"], i: np.ndarray, apart: int
) -> tuple[Float[Tensor, "B M 2"], Float[Tensor, "B M"]]:
    """`follow` of points of frames i to those so many frames on, by flow between neighbours alone."""
    there, within = flows.led(xy, i, apart)
    back, inside = flows.led(there, i + apart, -apart)
    w = agreed(there - xy, back - xy) * within * inside
    return there, torch.where(w < 0.05, torch.zeros_like(w), w)


def agreed(step: Float[Tensor, "B M 2"], gap: Float[Tensor, "B M 2"]) -> Float[Tensor, "B M"]:
    """How far matches are to be believed whose way there and back (px) ends beside where it began."""
    allowed = 0.5 + 0.02 * step.norm(dim=-1)
    return 1 / (1 + (gap.norm(dim=-1) / allowed) ** 2) ** 2
