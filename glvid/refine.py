"""GLNet's online refinement: the objective needs no labels, so it is minimised again on the very clip at hand.

output   log-depth, poses, focal length and flow as free variables ("a dense bundle adjustment"), GLNet's OFT
params   the depth network's parameters, on a copy, GLNet's PFT
both     params, then output

Both start from what second-order geometry gives: `triangulate`, every pixel's depth from the solved cameras and flow to several
frames (the paper descends all the way by first order, which diverges from a poor start). They work on overlapping spans of frames,
so that memory does not grow with the clip; the frames a span shares with the one before it are held fixed, so that scale carries over.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from glvid.geometry import inverse, pixel_grid, rays, se3_exp
from glvid.losses import CameraOffset, LossWeights, observe, total
from glvid.predict import FlowOf, as_tensor
from glvid.types import Intrinsics, Pairs, Shot, Solution
from glvid.warp import guided_upsample, resize, resize_flow, visibility

SPAN, SHARED = 16, 4  # frames refined at once; frames shared with the span before
OFFSETS = (1, 2, 4, 8)  # frames apart; far pairs fix scale drift and flicker


@dataclass(frozen=True)
class Dense:
    """Per-frame maps of a shot at refinement size."""

    depth: Float32[np.ndarray, "N h w"]  # in the path's unit
    sure: Float32[np.ndarray, "N h w"]  # 0..1: how far flow, not the network, determines the depth
    moving: Float32[np.ndarray, "N h w"]  # probability of independent motion


def dense_size(size: tuple[int, int]) -> tuple[int, int]:
    """Refinement size of a working size: half."""
    return size[0] // 2, size[1] // 2


# ---------------------------------------------------------------- second order, pixel by pixel
@dataclass(frozen=True)
class Views:
    """What one frame's pixels look like from K others."""

    flow: Float[Tensor, "K 2 h w"]
    visible: Float[Tensor, "K 1 h w"]
    there_T_here: Float[Tensor, "K 4 4"]


def triangulate(
    depth: Float[Tensor, "1 h w"], views: Views, camera: Intrinsics, sigma_px: float = 0.4, sigma_depth: float = 0.6
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"], Float[Tensor, "K 1 h w"]]:
    """Depth of every pixel from flow to several frames of known pose, its information, and the reprojection errors (px).

    Gauss-Newton on log inverse depth, one unknown a pixel: robust (Cauchy, annealed) reprojection errors plus the distance to
    `depth`, in standard deviations. Information is in units of 1 / log^2; the prior's share is not counted.
    """
    r, xy = rays(camera), pixel_grid(camera.size, depth)
    turned = torch.einsum("kij,jhw->kihw", views.there_T_here[:, :3, :3], r)
    t = views.there_T_here[:, :3, 3, None, None]
    f = camera.focal[:, None, None]
    target = xy + views.flow - camera.center[:, None, None]
    start = -depth.log()
    x = start
    for kernel in (8.0, 4.0, 2.0, 1.0, 1.0, 1.0):
        q = turned + x.exp() * t
        z = q[:, 2:].clamp_min(0.05)
        p = q[:, :2] / z
        error = f * p - target
        J = f * (t[:, :2] - p * t[:, 2:]) * (x.exp() / z)
        s = kernel * sigma_px
        w = views.visible * (q[:, 2:] > 0.05) / (1 + (error**2).sum(1, keepdim=True) / s**2) / sigma_px**2
        information = (w * (J**2).sum(1, keepdim=True)).sum(0)
        away = x - start
        prior = 1 / sigma_depth**2 / (1 + (away / (2 * sigma_depth)) ** 2)
        x = x - (((w * (J * error).sum(1, keepdim=True)).sum(0) + prior * away) / (information + prior)).clamp(-0.7, 0.7)
    return (-x).exp(), information, error.norm(dim=1, keepdim=True)


def views_of(shot: Shot, solution: Solution, flow: FlowOf, n: int, offsets: Sequence[int]) -> Views | None:
    """The frames at +- offsets of frame n, at refinement size; None if there is none."""
    others = [n + s * k for k in offsets for s in (1, -1) if 0 <= n + s * k < len(shot)]
    if not others:
        return None
    here = np.repeat(np.asarray(shot.images[n : n + 1]), len(others), 0)
    there = np.stack([shot.images[k] for k in others])
    go, back = (resize_flow(x, dense_size(shot.size)) for x in (flow(here, there), flow(there, here)))
    there_T_here = inverse(solution.world_T_cam[others]) @ solution.world_T_cam[n]
    return Views(go, visibility(go, back, floor=0.7), there_T_here.float())


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


def moving_probability(
    errors: Float[Tensor, "K 1 h w"], views: Views, image: Float[Tensor, "3 h w"]
) -> Float[Tensor, "1 h w"]:
    """Probability that a pixel moves on its own: no depth explains its flow. Smoothed along image edges."""
    allowed = 0.6 + 0.05 * views.flow.norm(dim=1, keepdim=True)
    seen = views.visible.sum(0)
    excess = (views.visible * (errors / allowed).clamp_max(6)).sum(0) / seen.clamp_min(1)
    p = torch.sigmoid(3 * (excess - 1.5)) * (seen >= 1)
    return guided_upsample(p[None], image[None], radius=3, eps=3e-3)[0].clamp(0, 1)


def triangulate_shot(
    shot: Shot, solution: Solution, flow: FlowOf, offsets: Sequence[int], advance: Callable[[int], None]
) -> Dense:
    """Every frame's depth, certainty and moving probability, frame by frame."""
    size = dense_size(shot.size)
    camera = solution.intrinsics.resized(size)
    shape = (len(shot), size[1], size[0])
    dense = Dense(*(np.zeros(shape, np.float32) for _ in range(3)))
    for n in range(len(shot)):
        start = dense_prior(shot, solution, n)
        views = views_of(shot, solution, flow, n, offsets)
        depth, sure, moving = start, torch.zeros_like(start), torch.zeros_like(start)
        if views is not None and solution.parallax > 0:
            image = resize(as_tensor(shot.images[n : n + 1]), size)[0]
            found, information, errors = triangulate(start, views, camera)
            moving = moving_probability(errors, views, image)
            sure = information / (information + 20) * (1 - moving) ** 2
            ratio = (found / start).log()
            depth = start * push_pull(ratio, sure).exp()
        dense.depth[n], dense.sure[n], dense.moving[n] = depth[0], sure[0], moving[0]
        advance(1)
    return dense


def dense_prior(shot: Shot, solution: Solution, n: int) -> Float[Tensor, "1 h w"]:
    """The network's depth of frame n at refinement size, in the path's unit; averaged as inverse depth."""
    depth = torch.from_numpy(np.array(shot.depth[n], dtype=np.float32))[None, None]
    return float(solution.depth_scale[n]) / resize(1 / depth, dense_size(shot.size))[0]


# ---------------------------------------------------------------- first order, the whole objective
def spans(n: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, held): overlapping spans that cover n frames; the `held` first frames were refined by the span before."""
    first = 0
    while True:
        last = min(first + SPAN, n)
        yield first, last, SHARED if first else 0
        if last == n:
            return
        first = last - SHARED


def pairs_of(shot: Shot, flow: FlowOf, first: int, last: int, offsets: Sequence[int]) -> Pairs:
    """All pairs of frames first..last-1 at the given offsets, both ways, at refinement size; poses are filled in later."""
    n = last - first
    a = torch.cat([torch.arange(n - k) for k in offsets if k < n])
    b = torch.cat([torch.arange(k, n) for k in offsets if k < n])
    images = np.asarray(shot.images[first:last])
    go, back = (resize_flow(x, dense_size(shot.size)) for x in (flow(images[a], images[b]), flow(images[b], images[a])))
    eye = torch.eye(4).expand(2 * len(a), 4, 4)
    return Pairs(torch.cat([a, b]), torch.cat([b, a]), torch.cat([go, back]), torch.cat([back, go]), eye)


@dataclass(frozen=True)
class Progress:
    """Objective before and after, summed over spans."""

    first: float = 0.0
    last: float = 0.0

    def plus(self, first: float, last: float) -> "Progress":
        return Progress(self.first + first, self.last + last)


def refine_outputs(
    shot: Shot,
    solution: Solution,
    dense: Dense,
    flow: FlowOf,
    steps: int,
    weights: LossWeights,
    device: str | torch.device,
    advance: Callable[[int], None],
) -> tuple[Dense, Solution, Progress]:
    """GLNet's OFT over all spans of a shot: log-depth and poses as free variables with priors; the best state seen is kept."""
    depth, poses, progress = dense.depth.copy(), solution.world_T_cam.clone(), Progress()
    camera = solution.intrinsics.resized(dense_size(shot.size)).to(device)
    for first, last, held in spans(len(shot)):
        images = resize(as_tensor(shot.images[first:last], device), dense_size(shot.size))
        pairs = on(pairs_of(shot, flow, first, last, (1, 4)), device)
        moving = torch.from_numpy(dense.moving[first:last, None]).to(device)
        start = torch.from_numpy(depth[first:last, None]).to(device)
        cam_T_world = inverse(poses[first:last])
        seen = observe(images, pairs)
        x = torch.zeros_like(start[held:], requires_grad=True)
        twist = torch.zeros(last - first - held, 6, device=device, requires_grad=True)
        optimiser = torch.optim.Adam([{"params": [x], "lr": 5e-3}, {"params": [twist], "lr": 5e-4}], betas=(0.9, 0.95))
        best, first_loss = None, None
        for step in range(steps + 1):
            now = torch.cat([start[:held], start[held:] * x.exp()])
            free = se3_exp(twist)
            G = torch.cat([cam_T_world[:held].float().to(device), free @ cam_T_world[held:].float().to(device)])
            at = replace(pairs, j_T_i=G[pairs.j] @ inverse(G[pairs.i]))
            offset = CameraOffset(twist, torch.zeros((), device=device))
            loss, _ = total(images, now, at, camera, moving, weights, start, offset, seen)
            value = float(loss)
            first_loss = value if first_loss is None else first_loss
            if best is None or value < best[0]:
                best = (value, now.detach().clone(), free.detach().clone())
            if step < steps:
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                advance(1)
        depth[first:last] = best[1][:, 0].cpu().numpy()
        poses[first + held : last] = inverse(best[2].double().cpu() @ cam_T_world[held:])
        progress = progress.plus(first_loss, best[0])
    return replace(dense, depth=depth), replace(solution, world_T_cam=poses), progress


def on(pairs: Pairs, device: str | torch.device) -> Pairs:
    """Pairs on a device."""
    return Pairs(*(getattr(pairs, k).to(device) for k in ("i", "j", "flow_ij", "flow_ji", "j_T_i")))
