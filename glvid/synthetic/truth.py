"""A world rendered with everything known about it: exact correspondence, visibility and masks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from glvid.geometry import inverse, pixel_grid, project, rays, transform
from glvid.synthetic.raycast import NEAR, Hits, Points, cast, surface_points
from glvid.synthetic.shade import Sun, images, sunlight, with_movers
from glvid.synthetic.world import World
from glvid.types import Intrinsics


@dataclass(frozen=True)
class Truth:
    """A clip of S frames with everything known about it. World = first camera; where the sky is seen, depth is SKY."""

    images: Float[Tensor, "S 3 H W"]  # 0..1
    depth: Float[Tensor, "S 1 H W"]  # z, m
    flow: Float[Tensor, "S-1 2 H W"]  # px, s -> s + 1
    flow_back: Float[Tensor, "S-1 2 H W"]  # px, s + 1 -> s
    visible: Float[Tensor, "S-1 1 H W"]  # 1 where the point of s is really seen in s + 1
    moving: Float[Tensor, "S 1 H W"]  # 1 on objects that move on their own
    world_T_cam: Float64[Tensor, "S 4 4"]
    intrinsics: Intrinsics  # (2,)
    times: Float[Tensor, " S"]  # s


def _flow(world: World, hits: Hits, camera: Intrinsics, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Exact flow (S, 2, H, W) of the pixels of frames a to frames b, and their points (S, 3, H, W) in cameras b."""
    S, h, w = hits.depth.shape
    cam_T_group = inverse(world.world_T_cam)[None] @ world.world_T_group
    b_T_a = (cam_T_group[:, b] @ inverse(cam_T_group[:, a])).float()  # G S 4 4, on the group's points
    group = torch.cat([world.group, world.group.new_zeros(1)])[hits.solid]
    X = rays(camera) * hits.depth[:, None]
    moved = transform(b_T_a[0], X)
    for g in group.unique().tolist():
        if g:
            moved = torch.where((group == g)[:, None], transform(b_T_a[g], X), moved)
    return project(moved, _batched(camera, S)) - pixel_grid(camera.size, X), moved


def _batched(camera: Intrinsics, count: int) -> Intrinsics:
    return Intrinsics(camera.focal.expand(count, 2), camera.center.expand(count, 2), camera.size)


def _visible(hits: Hits, points: Points, camera: Intrinsics, flow: Tensor, moved: Tensor) -> Tensor:
    """1 where the point is not behind the surface that the next view shows in the pixel it falls into.

    That surface is taken as its tangent plane: exact for flat solids, so that grazing ground is judged rightly.
    """
    S, _, h, w = flow.shape
    p = (pixel_grid(camera.size, flow) + flow).nan_to_num(-1)
    inside = (p[:, 0] > 0) & (p[:, 0] < w) & (p[:, 1] > 0) & (p[:, 1] < h) & (moved[:, 2] > NEAR)
    x, y = p[:, 0].clamp(0, w - 1).long(), p[:, 1].clamp(0, h - 1).long()
    s = torch.arange(1, S + 1, device=p.device)[:, None, None]
    seen = points.seen.unflatten(0, (S + 1, h, w))
    there = (rays(camera) * hits.depth[1:, None]).transpose(0, 1)
    normal = points.normal.unflatten(1, (S + 1, h, w))[:, s, y, x]
    plane = (there[:, s - 1, y, x] * normal).sum(0)
    own = (moved.transpose(0, 1) * normal).sum(0)
    on_it = (own - plane).abs() < 0.01 * moved[:, 2]
    before_it = (own < 0) & (plane <= 0.99 * own)
    same = hits.solid[s, y, x] == hits.solid[:-1]
    open_sky = ~seen[s, y, x]
    return (inside & ((same & on_it) | (before_it & seen[:-1]) | open_sky))[:, None].float()


def _moving(world: World, hits: Hits) -> Tensor:
    """1 on solids whose group moves during the clip (S, 1, H, W)."""
    drift = (world.world_T_group - world.world_T_group[:, :1]).abs().amax((1, 2, 3)) > 1e-9
    own = torch.cat([drift[world.group], drift.new_zeros(1)])
    return own[hits.solid][:, None].float()


def _piece(world: World, frames: Tensor, keep: int, samples_per_pixel: int, sun: Sun | None) -> list[Tensor]:
    """Images, depth, flow, flow back, visible, moving of consecutive frames; the first `keep` frames and all pairs."""
    camera, poses = world.intrinsics, world.world_T_cam[frames]
    hits = cast(world, frames, poses, camera)
    points = surface_points(world, hits, camera)
    k = round(samples_per_pixel**0.5)
    if k == 1:
        light = None if sun is None else with_movers(world, sun, frames)
        colours = images(world, poses, camera, hits, points, light)[:keep]
    else:
        colours = _smooth(world, frames[:keep], k, sun)
    forward = Hits(hits.depth[:-1], hits.solid[:-1], hits.M, hits.o)
    backward = Hits(hits.depth[1:], hits.solid[1:], hits.M, hits.o)
    flow, moved = _flow(world, forward, camera, frames[:-1], frames[1:])
    back, _ = _flow(world, backward, camera, frames[1:], frames[:-1])
    visible = _visible(hits, points, camera, flow, moved)
    return [colours, hits.depth[:keep, None], flow, back, visible, _moving(world, hits)[:keep]]


def _smooth(world: World, frames: Tensor, k: int, sun: Sun | None) -> Tensor:
    """Images (S, 3, H, W) averaged over k x k rays a pixel."""
    camera, poses = world.intrinsics, world.world_T_cam[frames]
    fine = camera.resized((camera.size[0] * k, camera.size[1] * k))
    hits = cast(world, frames, poses, fine)
    light = None if sun is None else with_movers(world, sun, frames)
    return F.avg_pool2d(images(world, poses, fine, hits, surface_points(world, hits, fine), light), k)


def render(world: World, samples_per_pixel: int = 1, batch: int = 3) -> Truth:
    """All frames of a world with their truth, `batch` frames at a time.

    samples_per_pixel (1, 4, 9, ...) smooths the colours; depth and flow stay those of the pixel centres.
    """
    S = len(world.times)
    sun = sunlight(world)
    pieces = []
    for start in range(0, max(1, S - 1), batch):
        frames = torch.arange(start, min(S, start + batch + 1), device=world.world_T_cam.device)
        keep = len(frames) if start + batch >= S - 1 else batch  # the frame after is there for the last pair's sake
        pieces.append(_piece(world, frames, keep, samples_per_pixel, sun))
    colours, depth, flow, back, visible, moving = (torch.cat(x) for x in zip(*pieces, strict=True))
    poses = inverse(world.world_T_cam[:1]) @ world.world_T_cam
    poses[0] = torch.eye(4, dtype=poses.dtype, device=poses.device)
    return Truth(colours, depth, flow, back, visible, moving, poses, world.intrinsics, world.times)
