"""How well every frame of a run came out, from what is at hand once its shot is refined; for run.json and the report.

Nothing here knows the truth: the numbers say how well depth, camera and flow agree, and where only a network spoke.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from glvid.dense import Dense
from glvid.geometry import inverse, rigid_flow
from glvid.parallel import each
from glvid.predict import Flows
from glvid.types import Shot, Solution
from glvid.views import both_ways, rolled_flow_of
from glvid.warp import length, visibility


@dataclass(frozen=True)
class Quality:
    """One value a frame."""

    reprojection: tuple[float | None, ...] = ()  # px: median distance of flow and rigid flow where things rest
    static: tuple[float, ...] = ()  # share of pixels that rest
    scale: tuple[float, ...] = ()  # of the network's depth, over the shot's median
    confidence: tuple[float, ...] = ()  # mean of `Dense.sure`


def of_shot(shot: Shot, solution: Solution, dense: Dense, flows: Flows, size: tuple[int, int]) -> Quality:
    """Quality of every frame of a finished shot; reprojection is in px of images of `size`."""
    known = len(shot) > 1 and (solution.solved or solution.resting)
    error = each(partial(reprojection, shot, solution, dense, flows, size), range(len(shot))) if known else ()
    scale = solution.depth_scale / solution.depth_scale.median()
    return Quality(
        tuple(error) if known else (None,) * len(shot),
        tuple(float((moving < 0.5).mean()) for moving in dense.moving),
        tuple(scale.tolist()),
        tuple(float(sure.mean()) for sure in dense.sure),
    )


def reprojection(
    shot: Shot, solution: Solution, dense: Dense, flows: Flows, size: tuple[int, int], n: int
) -> float | None:
    """Median distance in px of images of `size`, over what rests in frame n and is visible in the next one (the last
    one's: the one before), between flow and the flow that depth and camera say. None where there is nothing such."""
    other = n + 1 if n + 1 < len(shot) else n - 1
    go, back = both_ways(flows, n, [other])
    rests = (torch.from_numpy(dense.moving[n])[None, None] < 0.5) & (visibility(go, back) > 0)
    if not rests.any():
        return None
    width, height = go.shape[3], go.shape[2]
    ratio = go.new_tensor([size[0] / width, size[1] / height])[:, None, None]
    return float(length((go - expected(shot, solution, dense, n, other)) * ratio)[rests].median())


def expected(shot: Shot, solution: Solution, dense: Dense, n: int, other: int) -> Float[Tensor, "1 2 h w"]:
    """Flow of frame n to another one if nothing moves on its own, at refinement size, as the shutter shows it."""
    depth = torch.from_numpy(np.array(dense.depth[n]))[None, None]
    camera = solution.intrinsics.resized((depth.shape[3], depth.shape[2]))
    other_T_n = inverse(solution.world_T_cam[other]) @ solution.world_T_cam[n]
    rigid, _ = rigid_flow(depth, camera, other_T_n[None].float())
    rolled = rolled_flow_of(shot, solution, n, [other], camera.size)
    return rigid if rolled is None else rigid + rolled


def stated(shots: Sequence[Quality]) -> dict[str, list[Any]]:
    """The `quality` entry of run.json: lists with one entry a row."""
    names = {"reprojection_px": "reprojection", "static": "static", "scale": "scale", "confidence": "confidence"}
    return {
        key: [None if x is None or not math.isfinite(x) else round(x, 5) for shot in shots for x in getattr(shot, name)]
        for key, name in names.items()
    }
