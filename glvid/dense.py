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

from glvid.geometry import inverse, pixel_grid, rays, rigid_flow, rolled_flow
from glvid.losses import dissimilarity
from glvid.predict import FlowOf, as_tensor
from glvid.types import GLOBAL_SHUTTER, Intrinsics, Shot, Solution
from glvid.warp import guided_upsample, length, resize, resize_flow, visibility, warp

NEAR = (1, 2)  # frames apart: near enough to see what moves, and to average depth without geometry
NEARER, FARTHER = 2.5, 1.6  # log units from the network's depth at which a find is half believed; see `far_fetched`
WORSE = 0.02  # dissimilarity by which a moving object must look worse under rigid motion than under its flow
ALIKE = 0.08  # dissimilarity of two matched pixels at which the match is half trusted
CONTRAST = 0.015**2  # squared brightness change per px at which flow is half trusted


Store = Callable[[tuple[int, ...]], Float32[np.ndarray, "..."]]  # zeros of this shape, in memory or on disk


def in_memory(shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """The `Store` for short shots."""
    return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class Dense:
    """Per-frame maps of a shot at refinement size."""

    depth: Float32[np.ndarray, "N h w"]  # in the path's unit
    sure: Float32[np.ndarray, "N h w"]  # 0..1: how far flow, not the network, determines the depth
    moving: Float32[np.ndarray, "N h w"]  # probability of independent motion


def dense_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size at which pixels are triangulated: half the working size."""
    return size[0] // 2, size[1] // 2


@dataclass(frozen=True)
class Views:
    """What one frame's pixels look like from K others."""

    texture: Float[Tensor, "3 h w"]  # of the frame itself: mean gx^2, gx gy, gy^2 of brightness per px
    images: Float[Tensor, "K 3 h w"]
    flow: Float[Tensor, "K 2 h w"]
    visible: Float[Tensor, "K 1 h w"]
    there_T_here: Float[Tensor, "K 4 4"]
    rolled: Float[Tensor, "K 2 h w"] | None = None  # what a rolling shutter adds to the flow of what rests

    def as_seen(self, rigid: Float[Tensor, "k 2 h w"]) -> Float[Tensor, "k 2 h w"]:
        """The rigid flow to the first k views as the shutter shows it."""
        return rigid if self.rolled is None else rigid + self.rolled[: len(rigid)]


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


def texture_of(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Structure tensor (gx^2, gx gy, gy^2) of brightness, averaged over 5x5 px."""
    gy, gx = torch.gradient(image.mean(0))
    return F.avg_pool2d(torch.stack([gx * gx, gx * gy, gy * gy])[None], 5, 1, 2, count_include_pad=False)[0]


def along(texture: Float[Tensor, "3 h w"], direction: Float[Tensor, "K 2 h w"]) -> Float[Tensor, "K 1 h w"]:
    """Mean squared brightness change per px along a direction: where it is 0, flow along it is a guess (aperture)."""
    x, y = direction[:, :1], direction[:, 1:]
    xx, xy, yy = texture[:, None]
    return (x * x * xx + 2 * x * y * xy + y * y * yy) / (x * x + y * y + 1e-12)


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


Kept = dict[tuple[int, int], Tensor]  # flow (2, h, w) from one frame of a shot to another


def both_ways(
    shot: Shot, flow: FlowOf, n: int, others: Sequence[int], kept: Kept
) -> tuple[Float[Tensor, "K 2 h w"], Float[Tensor, "K 2 h w"]]:
    """Flow n -> others and back at refinement size.

    `kept` holds those a frame before n asked for, which saves half of all; those that a later frame will ask for are
    added, those that none will are taken out.
    """
    new = [k for k in others if (n, k) not in kept]
    if new:
        here, there = (
            np.repeat(np.asarray(shot.images[n : n + 1]), len(new), 0),
            np.stack([shot.images[k] for k in new]),
        )
        there_and_back = (resize_flow(x, dense_size(shot.size)) for x in (flow(here, there), flow(there, here)))
        for k, go, back in zip(new, *there_and_back, strict=True):
            kept[n, k], kept[k, n] = go, back
    pairs = [(kept[n, k], kept[k, n]) for k in others]
    for k in others:
        if k < n:
            del kept[n, k], kept[k, n]
    go, back = zip(*pairs, strict=True)
    return torch.stack(go), torch.stack(back)


def views_of(shot: Shot, solution: Solution, flow: FlowOf, n: int, offsets: Sequence[int], kept: Kept) -> Views | None:
    """The frames at +- offsets of frame n, at refinement size; None if there is none."""
    others = [n + s * k for k in offsets for s in (1, -1) if 0 <= n + s * k < len(shot)]
    if not others:
        return None
    go, back = both_ways(shot, flow, n, others, kept)
    visible = visibility(go, back, floor=0.7)
    trusted = visible.mean((1, 2, 3), keepdim=True) > 0.3  # where motion is too fast for flow, agreement is chance
    there_T_here = inverse(solution.world_T_cam[others]) @ solution.world_T_cam[n]
    stored = np.stack([shot.images[k] for k in (n, *others)])
    images = resize(as_tensor(stored), dense_size(shot.size))
    image, images = images[:1], images[1:]
    unlike = dissimilarity(image.expand_as(images), warp(images, go)[0])
    visible = visible * torch.sigmoid((ALIKE - unlike) / (0.2 * ALIKE))
    rolled = rolled_flow_of(shot, solution, n, others, dense_size(shot.size))
    return Views(texture_of(image[0]), images, go, visible * trusted, there_T_here.float(), rolled)


def rolled_flow_of(
    shot: Shot, solution: Solution, n: int, others: Sequence[int], size: tuple[int, int]
) -> Float[Tensor, "K 2 h w"] | None:
    """`rolled_flow` of frame n at a size, at the network's depth; None for a global shutter."""
    if abs(solution.readout) < GLOBAL_SHUTTER:
        return None
    depth = 1 / resize(1 / dense_prior(shot, solution, n)[None], size)[0]
    poses = inverse(solution.world_T_cam)
    return rolled_flow(depth, solution.intrinsics.resized(size), poses, n, others, solution.readout)


def push_pull(x: Float[Tensor, "1 h w"], weight: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """x where weight is 1, the smooth extension of its surroundings where weight is 0 (pyramid of weighted means)."""
    h, w = x.shape[-2:]
    if min(h, w) < 4:
        return ((x * weight).sum() / weight.sum().clamp_min(1e-6)).expand_as(x)
    size = (-(-w // 2), -(-h // 2))
    coarse_w = resize(weight[None], size)[0]
    coarse = resize((x * weight)[None], size)[0] / coarse_w.clamp_min(1e-6)
    below = resize(push_pull(coarse, coarse_w.clamp_max(1))[None], (w, h))[0]
    return weight * x + (1 - weight) * below


STIFF = 2.0  # how strongly neighbours of one colour hold together, beside a depth that is certain (1)
EDGE = 0.03  # difference of colour at which they hold together by 1/e
LOOSE = 1e-3  # share of that which any two neighbours keep
ROUNDS = 60  # of conjugate gradients


def spread(
    x: Float[Tensor, "1 h w"], weight: Float[Tensor, "1 h w"], image: Float[Tensor, "3 h w"]
) -> Float[Tensor, "1 h w"]:
    """x where it is certain, and elsewhere what its surroundings of the same colour say: a weighted least-squares
    smoother (Farbman et al. 2008) by conjugate gradients, from `push_pull` on."""
    right, down = (
        STIFF * (LOOSE + torch.exp(-(image.diff(dim=d).square().sum(0, keepdim=True) / EDGE**2))) for d in (2, 1)
    )

    def times(y: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
        out = (weight + 1e-6) * y
        dx, dy = right * y.diff(dim=2), down * y.diff(dim=1)
        out[:, :, 1:] += dx
        out[:, :, :-1] -= dx
        out[:, 1:] += dy
        out[:, :-1] -= dy
        return out

    scale = F.pad(right, (1, 0)) + F.pad(right, (0, 1)) + F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    scale = 1 / (scale + weight + 1e-6)
    y = push_pull(x, weight)
    left = weight * x - times(y)
    step = scale * left
    size = (left * step).sum()
    for _ in range(ROUNDS):
        change = times(step)
        a = size / (step * change).sum().clamp_min(1e-20)
        y, left = y + a * step, left - a * change
        toward = scale * left
        before, size = size, (left * toward).sum()
        step = toward + size / before.clamp_min(1e-20) * step
    return y


WRONG, MOVES = (0.9, 0.09), (0.2, 0.08)  # errors (px, and share of the flow) at which `doubt` is a half


def doubt(
    errors: Float[Tensor, "K 1 h w"], views: Views, image: Float[Tensor, "3 h w"], bound: tuple[float, float]
) -> Float[Tensor, "1 h w"]:
    """Probability that no depth explains a pixel's flow: it moves on its own, or its flow is wrong.

    Two bounds, since two questions are asked: is this depth so `WRONG` that it must not count; and might this `MOVES`,
    if its colours say so too. Smoothed along edges.
    """
    excess = median_seen(errors / (bound[0] + bound[1] * length(views.flow)), views.visible)
    p = torch.sigmoid(4 * (excess - 1)) * views.visible.amax(0)
    return guided_upsample(p[None], image[None], radius=3, eps=3e-3)[0].clamp(0, 1)


def far_fetched(ratio: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """How unbelievable a depth is, by its log ratio to the network's.

    Much nearer than the network says is a discovery, usually: a pole, a twig. Much farther is not: what moves along
    with the camera hardly moves in the image, and so looks like a distant, resting thing.
    """
    return torch.where(
        ratio < 0, torch.sigmoid((-ratio - NEARER) / (0.1 * NEARER)), torch.sigmoid((ratio - FARTHER) / (0.1 * FARTHER))
    )


def moving_probability(
    doubtful: Float[Tensor, "1 h w"],
    image: Float[Tensor, "3 h w"],
    depths: Sequence[Float[Tensor, "1 h w"]],
    views: Views,
    camera: Intrinsics,
) -> Float[Tensor, "1 h w"]:
    """Probability that a pixel moves on its own: no depth explains its flow, and its colours follow the flow.

    The second condition keeps wrong flow (repeated texture, fast motion) from being taken for motion: there the rigid
    scene, with any of `depths`, explains the colours as well. Smoothed along image edges.
    """
    same = image[None].expand_as(views.images)
    flowed = dissimilarity(same, warp(views.images, views.flow)[0])
    rigid = []
    for depth in depths:
        flow, _ = rigid_flow(depth.expand(len(same), 1, *depth.shape[-2:]), camera, views.there_T_here)
        rigid.append(dissimilarity(same, warp(views.images, views.as_seen(flow))[0]))
    worse = median_seen(torch.stack(rigid).amin(0) - flowed, views.visible)
    worse = F.avg_pool2d(worse[None], 7, 1, 3, count_include_pad=False)[0]  # objects are larger than pixels
    p = doubtful * torch.sigmoid((worse - WORSE) / (0.25 * WORSE))
    return guided_upsample(p[None], image[None], radius=3, eps=3e-3)[0].clamp(0, 1)


def median_seen(x: Float[Tensor, "K 1 h w"], visible: Float[Tensor, "K 1 h w"]) -> Float[Tensor, "1 h w"]:
    """Median over the views a pixel is visible in; 0 where there is none."""
    return torch.where(visible > 0, x, torch.nan).nanmedian(0).values.nan_to_num(0)


def triangulate_shot(
    shot: Shot,
    solution: Solution,
    flow: FlowOf,
    offsets: Sequence[int],
    advance: Callable[[int], None],
    store: Store = in_memory,
    searched: bool = True,
) -> Dense:
    """Every frame's depth, certainty and moving probability, frame by frame.

    Where the camera rests, depth stays the network's and all that flow shows moves on its own. `searched`: near things
    that flow lost are looked for by `sweep`, which costs more than all the rest.
    """
    size = dense_size(shot.size)
    camera = solution.intrinsics.resized(size)
    shape = (len(shot), size[1], size[0])
    dense, kept = Dense(*(store(shape) for _ in range(3))), {}
    for n in range(len(shot)):
        start = dense_prior(shot, solution, n)
        views = views_of(shot, solution, flow, n, offsets, kept)
        depth, sure, moving = start, torch.zeros_like(start), torch.zeros_like(start)
        if views is not None and (solution.parallax > 0 or solution.resting):
            image = resize(as_tensor(shot.images[n : n + 1]), size)[0]
            found, information, errors = triangulate(start, views, camera)
            ratio = (found / start).log()
            wrong, moves = (
                torch.maximum(doubt(errors, views, image, bound), far_fetched(ratio)) for bound in (WRONG, MOVES)
            )
            bounded = start * ratio.clamp(-NEARER, FARTHER).exp()
            moving = moving_probability(moves, image, (start, bounded), views, camera)
            if shot.ignored is not None:
                asked = torch.from_numpy(np.array(shot.ignored[n], dtype=np.float32))
                moving = torch.maximum(moving, resize(asked[None, None], size)[0])
            sure = information / (information + 20) * (1 - torch.maximum(moving, wrong)) ** 2
            depth = start * spread(ratio, sure, image).exp()
            if searched:
                near, found = sweep(start, depth, image, views, camera)
                found = found * (1 - sure)
                moving = moving * (1 - found)
                ratio = torch.lerp(ratio, (near / start).log(), found / (sure * (1 - found) + found).clamp_min(1e-6))
                sure = sure * (1 - found) + found
                depth = start * spread(ratio, sure, image).exp()
        dense.depth[n], dense.sure[n], dense.moving[n] = depth[0], sure[0], moving[0]
        advance(1)
    return dense


def untouched(shot: Shot, solution: Solution, store: Store) -> Float32[np.ndarray, "N h w"]:
    """`dense_prior` of every frame."""
    depth = store((len(shot), *dense_size(shot.size)[::-1]))
    for n in range(len(shot)):
        depth[n] = dense_prior(shot, solution, n)[0]
    return depth


def dense_prior(shot: Shot, solution: Solution, n: int) -> Float[Tensor, "1 h w"]:
    """The network's depth of frame n at refinement size, in the path's unit; averaged as inverse depth."""
    depth = torch.from_numpy(np.array(shot.depth[n], dtype=np.float32))[None, None]
    return float(solution.depth_scale[n]) / resize(1 / depth, dense_size(shot.size))[0]


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
