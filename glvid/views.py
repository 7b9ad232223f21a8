"""What a frame's pixels look like from other frames of its shot: flow, visibility, cameras, at refinement size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from glvid.geometry import inverse, rolled_flow
from glvid.losses import dissimilarity
from glvid.predict import Flows, dense_size
from glvid.types import GLOBAL_SHUTTER, Shot, Solution
from glvid.warp import resize, resize_flow, texture_of, visibility, warp

ALIKE = 0.08  # dissimilarity of two matched pixels at which the match is half trusted


@dataclass(frozen=True)
class Views:
    """What one frame's pixels look like from K others."""

    texture: Float[Tensor, "3 h w"]  # of the frame itself: mean gx^2, gx gy, gy^2 of brightness per px
    images: Float[Tensor, "K 3 h w"]
    flow: Float[Tensor, "K 2 h w"]
    visible: Float[Tensor, "K 1 h w"]
    there_T_here: Float[Tensor, "K 4 4"]
    unlike: Float[Tensor, "K 1 h w"]  # dissimilarity of what flow matches
    rolled: Float[Tensor, "K 2 h w"] | None = None  # what a rolling shutter adds to the flow of what rests

    def as_seen(self, rigid: Float[Tensor, "k 2 h w"]) -> Float[Tensor, "k 2 h w"]:
        """The rigid flow to the first k views as the shutter shows it."""
        return rigid if self.rolled is None else rigid + self.rolled[: len(rigid)]


def along(texture: Float[Tensor, "3 h w"], direction: Float[Tensor, "K 2 h w"]) -> Float[Tensor, "K 1 h w"]:
    """Mean squared brightness change per px along a direction: where it is 0, flow along it is a guess (aperture)."""
    x, y = direction[:, :1], direction[:, 1:]
    xx, xy, yy = texture[:, None]
    return (x * x * xx + 2 * x * y * xy + y * y * yy) / (x * x + y * y + 1e-12)


def median_seen(x: Float[Tensor, "K 1 h w"], visible: Float[Tensor, "K 1 h w"]) -> Float[Tensor, "1 h w"]:
    """Median over the views a pixel is visible in; 0 where there is none."""
    return torch.where(visible > 0, x, torch.nan).nanmedian(0).values.nan_to_num(0)


def dense_prior(shot: Shot, solution: Solution, n: int) -> Float[Tensor, "1 h w"]:
    """The network's depth of frame n at refinement size, in the path's unit; averaged as inverse depth."""
    depth = torch.from_numpy(np.array(shot.depth[n], dtype=np.float32))[None, None]
    return float(solution.depth_scale[n]) / resize(1 / depth, dense_size(shot.size))[0]


def both_ways(flows: Flows, n: int, others: Sequence[int]) -> tuple[Float[Tensor, "K 2 h w"], Float[Tensor, "K 2 h w"]]:
    """Flow n -> others and back."""
    here = [n] * len(others)
    return flows(here, others), flows(others, here)


def views_of(shot: Shot, solution: Solution, flows: Flows, n: int, offsets: Sequence[int]) -> Views | None:
    """The frames at +- offsets of frame n, at refinement size; None if there is none."""
    others = [n + s * k for k in offsets for s in (1, -1) if 0 <= n + s * k < len(shot)]
    if not others:
        return None
    go, back = both_ways(flows, n, others)
    visible = visibility(go, back, floor=0.7)
    trusted = visible.mean((1, 2, 3), keepdim=True) > 0.3  # where motion is too fast for flow, agreement is chance
    there_T_here = inverse(solution.world_T_cam[others]) @ solution.world_T_cam[n]
    images = flows.images([n, *others])
    image, images = images[0], images[1:]
    unlike = matched_unlikeness(image, images, go)
    visible = visible * torch.sigmoid((ALIKE - unlike) / (0.2 * ALIKE))
    rolled = rolled_flow_of(shot, solution, n, others, dense_size(shot.size))
    return Views(texture_of(image), images, go, visible * trusted, there_T_here.float(), unlike, rolled)


def matched_unlikeness(
    image: Float[Tensor, "3 h w"], images: Float[Tensor, "K 3 h w"], flow: Float[Tensor, "K 2 h w"]
) -> Float[Tensor, "K 1 h w"]:
    """Dissimilarity, in grey, of an image and what `flow` matches it with in others."""
    return dissimilarity(image.mean(0)[None, None], warp(images.mean(1, keepdim=True), flow)[0])


def rolled_flow_of(
    shot: Shot, solution: Solution, n: int, others: Sequence[int], size: tuple[int, int]
) -> Float[Tensor, "K 2 h w"] | None:
    """`rolled_flow` of frame n at a size, at the network's depth; None for a global shutter."""
    if abs(solution.readout) < GLOBAL_SHUTTER:
        return None
    half = (size[0] // 2, size[1] // 2)  # it is smooth
    depth = 1 / resize(1 / dense_prior(shot, solution, n)[None], half)[0]
    poses = inverse(solution.world_T_cam)
    rolled = rolled_flow(depth, solution.intrinsics.resized(half), poses, n, others, solution.readout)
    return resize_flow(rolled, size)
