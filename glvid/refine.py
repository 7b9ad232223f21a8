"""GLNet's online refinement: the objective needs no labels, so it is minimised again on the very clip at hand.

output   log-depth and poses as free variables ("a dense bundle adjustment"), GLNet's OFT; focal length and flow stay
         as solved: the one belongs to the whole clip, the other is what all else is measured against
params   the depth network's parameters, on a copy, GLNet's PFT
both     params, then output

Both start from what second-order geometry gives: `triangulate`, every pixel's depth from the solved cameras and flow to
several frames (the paper descends all the way by first order, which diverges from a poor start). They work on
overlapping spans of frames, so that memory does not grow with the clip; the frames a span shares with the one before it
are held fixed, so that scale carries over.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from glvid.geometry import inverse, pixel_grid, rays, rigid_flow, se3_exp
from glvid.losses import CameraOffset, Evidence, LossWeights, dissimilarity, observe, total
from glvid.predict import FlowOf, as_tensor
from glvid.solve import PARALLAX
from glvid.types import Intrinsics, Pairs, Shot, Solution
from glvid.warp import guided_upsample, length, resize, resize_flow, visibility, warp

NEAR = (1, 2)  # frames apart: near enough to see what moves, and to average depth without geometry
SPAN, SHARED = 16, 4  # frames refined at once; frames shared with the span before
NEARER, FARTHER = 2.5, 1.6  # log units from the network's depth at which a find is half believed; see `far_fetched`
CONTRADICTED = 0.25  # px^2, of `Solution.cost`: 12 real clips that one rigid scene explains cost 0.03 to 0.14
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


def descent_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size at which the objective is descended: a quarter of the working size.

    At half the size a step costs four times as much and Abs Rel gains 0.001 more (evaluation scene 900002).
    """
    return size[0] // 4, size[1] // 4


# ---------------------------------------------------------------- second order, pixel by pixel
@dataclass(frozen=True)
class Views:
    """What one frame's pixels look like from K others."""

    texture: Float[Tensor, "3 h w"]  # of the frame itself: mean gx^2, gx gy, gy^2 of brightness per px
    images: Float[Tensor, "K 3 h w"]
    flow: Float[Tensor, "K 2 h w"]
    visible: Float[Tensor, "K 1 h w"]
    there_T_here: Float[Tensor, "K 4 4"]


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
    target = xy + views.flow - camera.center[:, None, None]
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
    return Views(texture_of(image[0]), images, go, visible * trusted, there_T_here.float())


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
        rigid.append(dissimilarity(same, warp(views.images, flow)[0]))
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
) -> Dense:
    """Every frame's depth, certainty and moving probability, frame by frame.

    Where the camera rests, depth stays the network's and all that flow shows moves on its own.
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
            depth = start * push_pull(ratio, sure).exp()
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
    over 9x9 px, since one pixel alone matches by chance.
    """
    unlike = [F.avg_pool2d(dissimilarity(here, warp(there, flow)[0]), 9, 1, 4) for flow in (seen, rigid)]
    share = torch.sigmoid((unlike[0] - unlike[1] + TIE) / TIE) * (1 - moving)
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


# ---------------------------------------------------------------- first order, the whole objective
STEPS = {"none": 0, "params": 20, "output": 12, "both": 12}  # per span: twice as many gain 0.02 and 0.001 Abs Rel
POSE_SIGMA = 5e-4  # rad and median depths that poses may leave the solve: its matches are finer than a quarter image
NEAR_AND_FAR = (1, 4)  # offsets of the pairs the objective is taken over


@dataclass(frozen=True)
class Plan:
    """How to refine: mode (none, params, output, both), gradient steps per span, device, weights of the objective,
    where maps are kept."""

    mode: str
    steps: int
    device: str | torch.device = "cpu"
    weights: LossWeights = LossWeights()
    store: Store = in_memory


@dataclass(frozen=True)
class Progress:
    """Objective before and after, averaged over spans, and what there is to say."""

    first: float | None = None
    last: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """Frames refined together; the first `held` of them were refined by the span before and stay."""

    frames: slice
    held: int
    images: Float[Tensor, "S 3 h w"]
    pairs: Pairs
    moving: Float[Tensor, "S 1 h w"]
    seen: Evidence


def bounds(n: int) -> Iterator[tuple[int, int, int]]:
    """(first, last + 1, held): overlapping spans that cover n frames."""
    first = 0
    while True:
        last = min(first + SPAN, n)
        yield first, last, SHARED if first else 0
        if last == n:
            return
        first = last - SHARED


def span_of(shot: Shot, dense: Dense, flow: FlowOf, edges: tuple[int, int, int], device: str | torch.device) -> Span:
    """The frames first..last-1 with all their pairs at NEAR_AND_FAR offsets, both ways; poses are filled in later."""
    first, last, held = edges
    n, size = last - first, descent_size(shot.size)
    a = torch.cat([torch.arange(n - k) for k in NEAR_AND_FAR if k < n])
    b = torch.cat([torch.arange(k, n) for k in NEAR_AND_FAR if k < n])
    stored = np.asarray(shot.images[first:last])
    images = resize(as_tensor(stored, device), size)
    go, back = (resize_flow(x, size).to(device) for x in (flow(stored[a], stored[b]), flow(stored[b], stored[a])))
    eye = torch.eye(4, device=device).expand(2 * len(a), 4, 4)
    i, j = torch.cat([a, b]).to(device), torch.cat([b, a]).to(device)
    pairs = Pairs(i, j, torch.cat([go, back]), torch.cat([back, go]), eye)
    moving = resize(torch.from_numpy(dense.moving[first:last, None]).to(device), size)
    return Span(slice(first, last), held, images, pairs, moving, observe(images, pairs))


def posed(pairs: Pairs, cam_T_world: Float[Tensor, "S 4 4"]) -> Pairs:
    """The pairs with j_T_i of these poses."""
    return replace(pairs, j_T_i=cam_T_world[pairs.j] @ inverse(cam_T_world[pairs.i]))


def descend(
    optimiser: torch.optim.Optimizer,
    objective: Callable[[], tuple[Tensor, object]],
    steps: int,
    advance: Callable[[int], None],
) -> tuple[float, float, object]:
    """Minimise; returns the first loss, the best loss, and what `objective` returned beside it."""
    first, best, kept = None, float("inf"), None
    for step in range(steps + 1):
        loss, state = objective()
        value = loss.item()
        first = value if first is None else first
        if value < best:
            best, kept = value, state
        if step < steps:
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            advance(1)
    return first, best, kept


def refine_outputs(
    shot: Shot, solution: Solution, dense: Dense, flow: FlowOf, plan: Plan, advance: Callable[[int], None]
) -> tuple[Dense, Solution, Progress]:
    """GLNet's OFT: log-depth and poses of every span are free variables with priors at where they start.

    The focal length stays as solved: it belongs to the whole clip, a span sees only a part of it.
    """
    depth, poses, losses = plan.store(dense.depth.shape), solution.world_T_cam.clone(), []
    depth[:] = dense.depth
    size = descent_size(shot.size)
    camera = solution.intrinsics.resized(size).to(plan.device)
    for edges in bounds(len(shot)):
        span = span_of(shot, dense, flow, edges, plan.device)
        start = 1 / resize(1 / torch.from_numpy(depth[span.frames, None]).to(plan.device), size)
        G = inverse(poses[span.frames])
        G = G @ inverse(G[0])  # single precision suffices near the origin
        G, held = G.float().to(plan.device), span.held
        sigma = (POSE_SIGMA * float(start.median()), POSE_SIGMA, 1.0)
        change = torch.zeros_like(start[held:], requires_grad=True)
        twist = torch.zeros(len(start) - held, 6, device=plan.device, requires_grad=True)

        def objective(span=span, start=start, G=G, held=held, change=change, twist=twist, sigma=sigma):
            now = torch.cat([start[:held], start[held:] * change.exp()])
            step = se3_exp(twist)
            at = posed(span.pairs, torch.cat([G[:held], step @ G[held:]]))
            offset = CameraOffset(twist, twist.new_zeros(()), sigma)
            loss, _ = total(span.images, now, at, camera, span.moving, plan.weights, start, offset, span.seen)
            return loss, (change.detach().clone(), step.detach())

        optimiser = torch.optim.Adam(
            [{"params": [change], "lr": 5e-3}, {"params": [twist], "lr": POSE_SIGMA / 4}], betas=(0.9, 0.95)
        )
        first, best, (found, step) = descend(optimiser, objective, plan.steps, advance)
        depth[span.frames][held:] *= resize(found, dense_size(shot.size)).exp()[:, 0].cpu().numpy()
        poses[span.frames][held:] = inverse(step.double().cpu() @ inverse(poses[span.frames][held:]))
        losses.append((first, best))
    poses = inverse(poses[0]) @ poses
    poses[0] = torch.eye(4)  # but for rounding it is
    return replace(dense, depth=depth), replace(solution, world_T_cam=poses), progress_of(losses)


def refine_parameters(
    shot: Shot,
    solution: Solution,
    dense: Dense,
    flow: FlowOf,
    net: nn.Module,
    plan: Plan,
    advance: Callable[[int], None],
) -> tuple[Shot, Progress]:
    """GLNet's PFT: a copy of the depth network is trained on the clip's spans, weights carried from one to the next.

    Cameras and flow stay as solved: geometry found them with more certainty than a network can be taught in a few
    steps. `dense` acts as the prior of the objective, so that depth is anchored where flow determines it (SfM-TTR).
    Returns the shot with the tuned network's depth, at working size and in the network's unit.
    """
    tuned = copy.deepcopy(net).to(plan.device)
    tuned.requires_grad_(True)
    optimiser = torch.optim.Adam(tuned.parameters(), lr=2e-4)
    size, losses, depth = descent_size(shot.size), [], plan.store(shot.depth.shape)
    camera = solution.intrinsics.resized(size).to(plan.device)
    weights = replace(plan.weights, prior_depth=10 * plan.weights.prior_depth)
    for edges in bounds(len(shot)):
        span = span_of(shot, dense, flow, edges, plan.device)
        G = inverse(solution.world_T_cam[span.frames])
        pairs = posed(span.pairs, (G @ inverse(G[0])).float().to(plan.device))
        anchor = 1 / resize(1 / torch.from_numpy(dense.depth[span.frames, None]).to(plan.device), size)
        scale = solution.depth_scale[span.frames].float().to(plan.device)[:, None, None, None]
        whole = as_tensor(shot.images[span.frames], plan.device)

        def objective(span=span, pairs=pairs, anchor=anchor, scale=scale, whole=whole):
            with torch.autocast(whole.device.type, torch.bfloat16):  # 2.5 times faster; the objective stays in float32
                full = tuned.depth(whole).float()
            now = scale / resize(1 / full, size)
            loss, _ = total(span.images, now, pairs, camera, span.moving, weights, anchor, None, span.seen)
            return loss, full.detach()

        first, best, full = descend(optimiser, objective, plan.steps, advance)
        depth[span.frames][span.held :] = full[span.held :, 0].float().cpu().numpy()
        losses.append((first, best))
    return replace(shot, depth=depth), progress_of(losses)


def progress_of(losses: list[tuple[float, float]]) -> Progress:
    """Mean over spans."""
    first, last = np.mean(losses, axis=0)
    return Progress(float(first), float(last))


# ---------------------------------------------------------------- a shot
def work(shots: Sequence[tuple[int, int]], mode: str, steps: int) -> int:
    """Units of progress `refine` will count: frames triangulated and gradient steps."""
    frames = sum(b - a for a, b in shots)
    descents = sum(len(list(bounds(b - a))) for a, b in shots) * {"none": 0, "both": 2}.get(mode, 1)
    return frames * (1 + (mode == "both")) + descents * steps


def refine(
    shot: Shot, solution: Solution, flow: FlowOf, net: nn.Module, plan: Plan, advance: Callable[[int], None]
) -> tuple[Shot, Dense, Solution, Progress]:
    """Refine a shot as planned.

    Where there is no parallax, or what is seen contradicts every rigid scene, geometry has nothing to say: depth is
    only `steadied`, with a warning. (KITTI drive 0052, dense traffic, refined all the same: Abs Rel 0.27, not 0.26.)
    """
    if plan.mode == "none":  # far pairs fix scale drift and flicker, but only near ones are needed to see what moves
        near = triangulate_shot(shot, solution, flow, NEAR, advance, plan.store)
        return shot, replace(near, depth=untouched(shot, solution, plan.store)), solution, Progress()
    hopeless = None
    if solution.parallax < PARALLAX:
        hopeless = "no parallax: depth is steadied over time, no more"
    elif solution.cost > CONTRADICTED:
        hopeless = (
            "matches fit no rigid scene (dense traffic, a crowd, fast motion): depth is steadied over time, no more"
        )
    if hopeless:
        shot, dense, solution, _ = refine(shot, solution, flow, net, replace(plan, mode="none"), advance)
        steady = steadied(shot, solution, flow, plan.store)
        return shot, replace(dense, depth=steady), solution, Progress(warnings=(hopeless,))
    dense, progress = triangulate_shot(shot, solution, flow, solution.offsets, advance, plan.store), Progress()
    if plan.mode in ("params", "both"):
        shot, progress = refine_parameters(shot, solution, dense, flow, net, plan, advance)
        if plan.mode == "params":
            return shot, replace(dense, depth=untouched(shot, solution, plan.store)), solution, progress
        dense = triangulate_shot(shot, solution, flow, solution.offsets, advance, plan.store)
    dense, solution, after = refine_outputs(shot, solution, dense, flow, plan, advance)
    return shot, dense, solution, after if progress.first is None else Progress(progress.first, after.last)
