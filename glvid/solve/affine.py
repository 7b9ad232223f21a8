"""A prior that knows inverse depth up to scale and shift, straightened by points whose depth the camera's motion tells.

One scale and shift for the shot, then every frame's own, as far as its points ask for another."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from glvid.geometry import inverse
from glvid.predict import Flows
from glvid.solve.matches import CHUNK, Tracks, tracks
from glvid.store import Store
from glvid.types import Shot, Solution

POINTS = 150  # a frame
PIXEL = 0.5  # px: what a match may be off by
LOG_SIGMA = 0.3  # log inverse depth that no point is believed to determine better, so that near ones do not rule
LEAST = 0.3  # relative error (one standard deviation) from which a point says nothing
STEADY = 0.3  # points that the shot's scale and shift count as much as, in every frame
FEWEST = 30  # points that determine a shot
MOST = 10.0  # median inverse depths: a larger shift is none
NEAREST, FARTHEST = 30.0, 0.003  # of the median inverse depth: no straightened inverse depth is beyond


def straightened(shot: Shot, flows: Flows, solution: Solution, store: Store) -> tuple[Shot, Solution, float]:
    """The shot with depth that needs no shift any more, the solution with every frame's own `depth_scale` for it, and
    the shift that the inverse depths of the whole shot were given, in their own unit.

    Every frame's scale is near that which the solution gave it, its shift near the shot's as a part of its scale: a
    relative model has another unit in every frame. Where too few points have parallax, or ask for no shift that makes
    sense, nothing changes and the shift is 0. `store` gives room for the depth.
    """
    found = tracks(shot, flows, solution.offsets, POINTS)
    rho, known = inverse_depths(found, solution)
    said = 1 / found.depth.double()
    use = (rho > 0) & (known > 0)
    if int(use.sum()) < FEWEST:
        return shot, solution, 0.0
    whole = typical(said, rho, known, use)
    shift = float(whole[1] / whole[0])
    if whole[0] <= 0 or not -float(said[use].median()) < shift < MOST * float(said[use].median()):
        return shot, solution, 0.0
    depth, scale = store.array("straight", shot.depth.shape), solution.depth_scale.clone()
    for n in range(len(shot)):
        own, inverse_depth = use[n], 1 / np.array(shot.depth[n], np.float64)
        middle = float(np.median(inverse_depth))
        start = middle / float(scale[n]) / max(middle + shift, 0.1 * middle)  # what was the middle stays where it was
        hold = torch.tensor([start, start * shift], dtype=rho.dtype)
        a, b = fitted(said[n][own], rho[n][own], known[n][own], hold).tolist()
        a, b = (a, b) if a > 0.2 * start else hold.tolist()
        inverse_depth = inverse_depth + b / a
        middle = max(float(np.median(inverse_depth)), 1e-9)
        depth[n] = 1 / inverse_depth.clip(FARTHEST * middle, NEAREST * middle)
        scale[n] = 1 / a
    return replace(shot, depth=depth), replace(solution, depth_scale=scale), shift


def typical(said: Tensor, rho: Tensor, known: Tensor, use: Tensor) -> Float[Tensor, " 2"]:
    """The shot's scale and shift: the median of its frames', since scales differ; of all points where frames have few.

    Pooled points of frames of different scales would take the spread of scales for a shift.
    """
    rich = torch.where(use.sum(1) >= FEWEST)[0]
    if not len(rich):
        return fitted(said[use], rho[use], known[use], None)
    own = torch.stack([fitted(said[n][use[n]], rho[n][use[n]], known[n][use[n]], None) for n in rich])
    scale = own[:, 0].median()
    return torch.stack([scale, scale * (own[:, 1] / own[:, 0]).median()])


def inverse_depths(found: Tracks, solution: Solution) -> tuple[Float[Tensor, "N M"], Float[Tensor, "N M"]]:
    """Inverse depth of every anchored point by all frames that it is followed into, and how well it is known: 1 over
    the variance of its logarithm.

    A match in frame m says, of a point on ray r of frame n, u = (R r + rho t)_xy / (R r + rho t)_z: linear in rho once
    multiplied out, so least squares have a closed form (linear triangulation, Hartley and Zisserman 12.2).
    """
    K, G = solution.intrinsics, solution.world_T_cam
    focal, center = K.focal.double(), K.center.double()
    rho, known = torch.zeros(found.xy.shape[:2]).double(), torch.zeros(found.xy.shape[:2]).double()
    for n in torch.arange(len(found.xy)).split(CHUNK):
        ray = torch.cat([(found.xy[n].double() - center) / focal, torch.ones_like(found.xy[n][..., :1]).double()], -1)
        top, bottom = torch.zeros(ray.shape[:2]).double(), torch.zeros(ray.shape[:2]).double()
        for k, offset in enumerate(found.offsets):
            m = (n + offset).clamp(0, len(G) - 1)
            m_T_n = inverse(G[m]) @ G[n]
            turned, t = ray @ m_T_n[:, :3, :3].transpose(1, 2), m_T_n[:, None, :3, 3]
            seen = (found.target[n, k].double() - center) / focal
            a = (seen * turned[..., 2:] - turned[..., :2]) / turned[..., 2:].clamp_min(0.1)
            b = (seen * t[..., 2:] - t[..., :2]) / turned[..., 2:].clamp_min(0.1)
            weight = found.weight[n, k].double()
            top, bottom = top - weight * (a * b).sum(-1), bottom + weight * (b * b).sum(-1)
        rho[n] = top / bottom.clamp_min(1e-12)
        known[n] = bottom * rho[n] ** 2 * (focal.mean() / PIXEL) ** 2
    return rho, torch.where(known > 1 / LEAST**2, known, torch.zeros_like(known))


def fitted(
    said: Float[Tensor, " P"], rho: Float[Tensor, " P"], known: Float[Tensor, " P"], hold: Float[Tensor, " 2"] | None
) -> Float[Tensor, " 2"]:
    """Scale and shift that make what the prior says, inverse depths `said`, those of the points; held near `hold`.

    Relative errors of inverse depth, Cauchy with a scale that follows their median: what moves on its own is wrong.
    """
    if hold is not None and not len(rho):
        return hold
    A = torch.stack([said / rho, 1 / rho], 1)
    weight = known * LOG_SIGMA**2 / (1 + known * LOG_SIGMA**2)  # at most 1
    unit = torch.stack([(rho / said).median(), rho.median()])
    start = torch.tensor([1.0, 0.0], dtype=rho.dtype) if hold is None else hold / unit
    ridge, A, x = torch.full_like(start, 1e-6 if hold is None else STEADY), A * unit, start
    for _ in range(10):
        error = A @ x - 1
        scale = max(1.5 * float(error.abs().median()), 0.02)
        w = (weight / (1 + (error / scale) ** 2))[:, None]
        x = torch.linalg.solve((A * w).T @ A + torch.diag(ridge), (A * w).sum(0) + ridge * start)
    return x * unit
