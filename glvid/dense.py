"""Second order, pixel by pixel: every pixel's depth from the solved cameras and flow to several frames.

What no depth explains moves on its own. Depth that flow leaves open stays the network's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from glvid.geometry import pixel_grid, rays, rigid_flow
from glvid.losses import dissimilarity
from glvid.moving import FARTHER, NEARER, betrayed, doubt, far_fetched, objects, snapped, voted
from glvid.predict import FlowOf, as_tensor
from glvid.types import Intrinsics, Shot, Solution
from glvid.views import Store, Views, along, both_ways, dense_prior, dense_size, in_memory, views_of
from glvid.warp import guided_upsample, length, resize, spread, visibility, warp

NEAR = (1, 2)  # frames apart: near enough to see what moves, and to average depth without geometry
CONTRAST = 0.015**2  # squared brightness change per px at which flow is half trusted


@dataclass(frozen=True)
class Dense:
    """Per-frame maps of a shot at refinement size."""

    depth: Float32[np.ndarray, "N h w"]  # in the path's unit
    sure: Float32[np.ndarray, "N h w"]  # 0..1: how far flow, not the network, determines the depth
    moving: Float32[np.ndarray, "N h w"]  # probability of independent motion


def triangulate(
    depth: Float[Tensor, "1 h w"], views: Views, camera: Intrinsics, sigma_px: float = 0.4, sigma_depth: float = 0.4
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"], Float[Tensor, "K 1 h w"]]:
    """Depth of every pixel from flow to several frames of known pose, its information, and reprojection errors (px).

    Gauss-Newton on log inverse depth, one unknown a pixel: robust (Cauchy, annealed) reprojection errors plus the
    distance to `depth`, in standard deviations. A match is as good as `sigma_px` plus 3 % of its flow. Information is
    in units of 1 / log^2; the prior's share is not counted.
    """
    r, xy = rays(camera), pixel_grid(camera.size, depth)
    turned = torch.einsum("kij,jhw->kihw", views.there_T_here[:, :3, :3], r)
    t = views.there_T_here[:, :3, 3, None, None]
    f = camera.focal[:, None, None]
    flow = views.flow if views.rolled is None else views.flow - views.rolled
    target = xy + flow - camera.center[:, None, None]
    start = -depth.log()
    sigma_px = sigma_px + 0.03 * length(views.flow)
    x = start
    for kernel in (8.0, 4.0, 2.0, 1.0, 1.0, 1.0):
        q = turned + x.exp() * t
        z = q[:, 2:].clamp_min(0.05)
        p = q[:, :2] / z
        error = f * p - target
        J = f * (t[:, :2] - p * t[:, 2:]) * (x.exp() / z)
        contrast = along(views.texture, J)
        s = kernel * sigma_px
        trust = views.visible * contrast / (contrast + CONTRAST) * (q[:, 2:] > 0.05)
        w = trust / (1 + (error**2).sum(1, keepdim=True) / s**2) / sigma_px**2
        information = (w * (J**2).sum(1, keepdim=True)).sum(0)
        away = x - start
        prior = 1 / sigma_depth**2 / (1 + (away / (2 * sigma_depth)) ** 2)
        x = x - (((w * (J * error).sum(1, keepdim=True)).sum(0) + prior * away) / (information + prior)).clamp(
            -0.7, 0.7
        )
    return (-x).exp(), information, length(error)


NEARBY = 4  # views that a sweep compares: in the nearest frames even near things are still in the picture
PLANES, AHEAD = 48, 9.0  # depths that a sweep tries, evenly spaced in inverse depth, up to this much nearer
ABSENT = 0.5  # dissimilarity where a view shows nothing: colours matched at random come to about as much
CLEARLY = 0.2  # share by which a swept depth must explain the colours better than what it replaces
CLOSER = 0.1  # log units by which it must be nearer: for less, flow is the finer measure


def unlikeness(
    image: Float[Tensor, "3 h w"],
    views: Views,
    flow: Float[Tensor, "k 2 h w"],
    seen: Float[Tensor, "k 1 h w"],
) -> Float[Tensor, "1 h w"]:
    """How unlike a frame and what `flow` points at in its k nearest views are; grey, smoothed along edges.

    Mean over the better half of the views, since a pixel may be hidden in the others.
    """
    here, there = image.mean(0).expand(len(flow), 1, -1, -1), views.images[: len(flow)].mean(1, keepdim=True)
    found, inside = warp(there, flow)
    unlike = torch.where((inside > 0) & (seen > 0), dissimilarity(here, found), ABSENT)
    better = unlike.sort(0).values[: (len(flow) + 1) // 2].mean(0, keepdim=True)
    return guided_upsample(better, image[None])[0]


def sweep(
    start: Float[Tensor, "1 h w"],
    depth: Float[Tensor, "1 h w"],
    image: Float[Tensor, "3 h w"],
    views: Views,
    camera: Intrinsics,
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Depths nearer than the network's `start` that explain the colours best, and how far each is to be believed, 0..1.

    A plane sweep (Collins 1996): where a thin or fast thing has torn flow, the solved cameras still say along which
    line of the other images its pixels must lie, and that line is searched. What is found is believed where it is
    clearly better than both `depth` and flow, and nearer than `depth`: a near thing is what flow loses, and what moves
    on its own seldom looks like one.
    """
    k = min(NEARBY, len(views.images))
    there_T_here = views.there_T_here[:k]

    def unlike_at(tried: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
        flow, z = rigid_flow(tried.expand(k, 1, *tried.shape[-2:]), camera, there_T_here)
        return unlikeness(image, views, views.as_seen(flow), (z > 0.05).float())

    nearer = torch.linspace(1, AHEAD, PLANES)
    costs = torch.cat([unlike_at(start / q) for q in nearer])
    best = costs.argmin(0, keepdim=True)
    cost = costs.gather(0, best)
    inner = best.clamp(1, PLANES - 2)
    before, at, after = (costs.gather(0, inner + o) for o in (-1, 0, 1))
    part = ((before - after) / (2 * (before - 2 * at + after)).clamp_min(1e-6)).clamp(-0.5, 0.5)  # parabola
    found = start / (nearer[inner] + part * (nearer[1] - nearer[0]))
    flowed = unlikeness(image, views, views.flow[:k], views.visible[:k].amax(0, keepdim=True).expand(k, 1, -1, -1))
    gain = (torch.minimum(flowed, unlike_at(depth)) + 0.01) / (cost + 0.01) - 1
    better = torch.sigmoid((gain - CLEARLY) / (0.2 * CLEARLY))
    return found, better * torch.sigmoid(((depth / found).log() - CLOSER) / (0.3 * CLOSER))


def triangulate_shot(
    shot: Shot,
    solution: Solution,
    flow: FlowOf,
    offsets: Sequence[int],
    advance: Callable[[int], None],
    store: Store = in_memory,
    searched: bool = True,
) -> Dense:
    """Every frame's depth, certainty and moving probability; the last one agreed upon by neighbouring frames.

    Where the camera rests, depth stays the network's and all that flow shows moves on its own. `searched`: near things
    that flow lost are looked for by `sweep`, which costs more than all the rest.
    """
    size = dense_size(shot.size)
    camera = solution.intrinsics.resized(size)
    shape = (len(shot), size[1], size[0])
    dense, near, kept = Dense(*(store(shape) for _ in range(3))), store((len(shot), 6, *shape[1:])), {}
    for n in range(len(shot)):
        start = dense_prior(shot, solution, n)
        views = views_of(shot, solution, flow, n, offsets, kept)
        depth, sure, moving = start, torch.zeros_like(start), torch.zeros_like(start)
        if views is not None and (solution.parallax > 0 or solution.resting):
            image = resize(as_tensor(shot.images[n : n + 1]), size)[0]
            found, information, errors = triangulate(start, views, camera)
            ratio = (found / start).log()
            wrong = torch.maximum(doubt(errors, views, image), far_fetched(ratio))
            bounded = start * ratio.clamp(-NEARER, FARTHER).exp()
            moving = objects(errors, ratio, betrayed(image, (start, bounded), views, camera), views)
            near[n] = neighbours(views, n, len(shot))
            left_out = unwanted(shot, n)
            wrong = torch.maximum(wrong, left_out)
            sure = information / (information + 20) * (1 - torch.maximum(moving, wrong)) ** 2
            depth = start * spread(ratio, sure, image).exp()
            if searched:
                swept, found = sweep(start, depth, image, views, camera)
                found = found * (1 - sure) * (1 - left_out)
                moving = moving * (1 - found)
                ratio = torch.lerp(ratio, (swept / start).log(), found / (sure * (1 - found) + found).clamp_min(1e-6))
                sure = sure * (1 - found) + found
                depth = start * spread(ratio, sure, image).exp()
        dense.depth[n], dense.sure[n], dense.moving[n] = depth[0], sure[0], moving[0]
        advance(1)
    voted(dense.moving, near)
    for n in range(len(shot)):
        moving = snapped(torch.from_numpy(dense.moving[n])[None], resize(as_tensor(shot.images[n : n + 1]), size)[0])
        dense.moving[n] = torch.maximum(moving, unwanted(shot, n))[0]
    return dense


def unwanted(shot: Shot, n: int) -> Float[Tensor, "1 h w"]:
    """1 where the user wants pixels left out of everything."""
    asked = np.zeros(shot.images.shape[1:3]) if shot.ignored is None else np.array(shot.ignored[n])
    return resize(torch.from_numpy(asked).float()[None, None], dense_size(shot.size))[0]


def neighbours(views: Views, n: int, frames: int) -> Float[Tensor, "6 h w"]:
    """Flow from frame n to the next and to the last one, and where each is visible; 0 where there is none."""
    found = torch.zeros(6, *views.flow.shape[-2:])
    for view, slot in enumerate(slot for slot, m in enumerate((n + 1, n - 1)) if 0 <= m < frames):
        found[2 * slot : 2 * slot + 2], found[4 + slot] = views.flow[view], views.visible[view, 0]
    return found


def untouched(shot: Shot, solution: Solution, store: Store) -> Float32[np.ndarray, "N h w"]:
    """`dense_prior` of every frame."""
    depth = store((len(shot), *dense_size(shot.size)[::-1]))
    for n in range(len(shot)):
        depth[n] = dense_prior(shot, solution, n)[0]
    return depth


def full_depth(
    shot: Shot, solution: Solution, dense: Dense, n: int, guide: Float[Tensor, "1 3 H W"]
) -> Float[Tensor, "1 1 H W"]:
    """Depth of frame n at the guide's size, the frame itself.

    It is the network's, which is sharp, times the refinement's correction, which is smooth: the log ratio of the two is
    upsampled along image edges.
    """
    sharp = float(solution.depth_scale[n]) * torch.from_numpy(np.array(shot.depth[n], dtype=np.float32))[None, None]
    low = 1 / resize(1 / sharp, (dense.depth.shape[2], dense.depth.shape[1]))
    ratio = (torch.from_numpy(dense.depth[n])[None, None] / low).log()
    return (guided_upsample(sharp.log(), guide, radius=1) + guided_upsample(ratio, guide)).exp()


OUTSIDE = 0.25  # share of the picture by which rigid flow may lead out of it
TIE = 0.005  # dissimilarity by which rigid flow may be the worse one: where nothing is textured it is the better guess


def adaptive_flow(
    seen: Float[Tensor, "B 2 H W"],
    rigid: Float[Tensor, "B 2 H W"],
    here: Float[Tensor, "B 3 H W"],
    there: Float[Tensor, "B 3 H W"],
    moving: Float[Tensor, "B 1 H W"],
) -> Float[Tensor, "B 2 H W"]:
    """Of two flows here -> there, per pixel the one that explains the colours better (GLNet's adaptive minimum).

    `rigid` follows from refined depth and camera; where things move on their own, `seen` stays. Colours are compared
    over 9x9 px, since one pixel alone matches by chance. Rigid flow that leads far out of the picture is not taken: a
    depth that comes so near the camera is mostly wrong.
    """
    unlike = [F.avg_pool2d(dissimilarity(here, warp(there, flow)[0]), 9, 1, 4) for flow in (seen, rigid)]
    size = rigid.new_tensor([rigid.shape[3], rigid.shape[2]])[:, None, None]
    reach = ((pixel_grid((rigid.shape[3], rigid.shape[2]), rigid) + rigid) / size - 0.5).abs().amax(1, keepdim=True)
    share = torch.sigmoid((unlike[0] - unlike[1] + TIE) / TIE) * (1 - moving) * (reach < 0.5 + OUTSIDE)
    return share * rigid + (1 - share) * seen


def steadied(shot: Shot, solution: Solution, flow: FlowOf, store: Store) -> Float32[np.ndarray, "N h w"]:
    """The network's depth averaged over neighbouring frames along flow: all that can be refined without a camera.

    Frame n meets frames n - k and n + k, scaled to it, where both show the same point; what comes nearer at a steady
    pace is then too near in the one by what it is too far in the other. At refinement size, in the path's unit.
    """
    depth, kept = store((len(shot), *dense_size(shot.size)[::-1])), {}
    for n in range(len(shot)):
        here = dense_prior(shot, solution, n)[None].log()
        changes = [torch.zeros_like(here)]
        reach = [k for k in NEAR if 0 <= n - k and n + k < len(shot)]
        others = [m for k in NEAR for m in (n - k, n + k) if 0 <= m < len(shot)]
        flows = both_ways(shot, flow, n, others, kept) if others else None
        for k in reach:
            at = [others.index(n - k), others.index(n + k)]
            go, back = (f[at] for f in flows)
            there = torch.stack([dense_prior(shot, solution, m).log() for m in (n - k, n + k)])
            change, seen = warp(there, go)[0] - here, visibility(go, back)
            scale = torch.where(seen > 0, change, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0)
            change = change - scale[:, None, None, None]
            changes.append(seen.prod(0, keepdim=True) * change.mean(0, keepdim=True))
        depth[n] = (here + torch.cat(changes).mean(0)).exp()[0, 0]
    return depth
