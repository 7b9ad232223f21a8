"""Analytic ray casting of a `World`. Pure torch.

Every ray has z = 1 in its camera, so the ray parameter is the z-depth, and in the local frame of a solid the ray's
direction is linear in the pixel: M (x, y, 1). Each solid is intersected only inside the rectangle its box projects to.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from glvid.geometry import inverse, rays
from glvid.synthetic.world import CYLINDER, ELLIPSOID, ROOM, SKY, SLANT, World
from glvid.types import Intrinsics

NEAR = 0.02  # m


@dataclass(frozen=True)
class Hits:
    """What the rays of S of V views meet first; M and o give local = o + depth * M (x, y, 1) for all solids, views."""

    depth: Float[Tensor, "S H W"]
    solid: Int[Tensor, "S H W"]  # N = sky
    M: Float64[Tensor, "N V 3 3"]
    o: Float64[Tensor, "N V 3"]


def _local_frames(world: World, frames: Tensor, world_T_view: Tensor) -> tuple[Tensor, Tensor]:
    """(N, S, 3, 3) and (N, S, 3): view point X is local point M X + o, for the solids at these frames."""
    group_T_view = inverse(world.world_T_group[:, frames]) @ world_T_view
    T = group_T_view[world.group]
    A = torch.linalg.inv(world.affine)[:, None]
    return A @ T[..., :3, :3], (A @ (T[..., :3, 3:] - world.offset[:, None, :, None]))[..., 0]


_CORNERS = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]


def _rectangles(M: Tensor, o: Tensor, camera: Intrinsics) -> list[list[int]]:
    """Pixels x0, x1, y0, y1 (half open) that a solid can touch in any of the views; empty where x1 <= x0."""
    w, h = camera.size
    corners = torch.tensor(_CORNERS, dtype=M.dtype, device=M.device)
    X = torch.linalg.solve(M[:, :, None], (corners - o[:, :, None])[..., None])[..., 0]  # N S 8 3
    a, b = (X[:, :, [e[k] for e in _EDGES]] for k in (0, 1))
    za, zb = a[..., 2:], b[..., 2:]
    span = torch.where((zb - za).abs() < 1e-9, torch.full_like(za, 1e-9), zb - za)
    cut = a + (b - a) * ((NEAR - za) / span)
    p = torch.cat([torch.where(za < NEAR, cut, a), torch.where(zb < NEAR, cut, b)], 2)
    behind = torch.cat([(za < NEAR) & (zb < NEAR)] * 2, 2)
    xy = p[..., :2] / p[..., 2:].clamp_min(NEAR) * camera.focal.to(p) + camera.center.to(p)
    low = xy.masked_fill(behind, float("inf")).amin((1, 2)).floor() - 1
    high = xy.masked_fill(behind, -float("inf")).amax((1, 2)).ceil() + 1
    limit = torch.tensor([w, h], dtype=p.dtype, device=p.device)
    low, high = low.clamp_min(0).minimum(limit).nan_to_num(0), high.clamp_min(0).minimum(limit).nan_to_num(0)
    return torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], -1).long().tolist()


def _interval(shape: int, o: Tensor, d: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where a ray enters and leaves a unit solid; o (3, S, 1, 1), d (3, S, h, w); w = o x d for ellipsoids."""
    if shape == ELLIPSOID:
        a = (d * d).sum(0)
        root = (a - (w * w).sum(0)).sqrt()  # discriminant as |d|^2 - |o x d|^2: exact far away; nan = missed
        b = -(o * d).sum(0)
        return (b - root) / a, (b + root) / a
    if shape in SLANT:
        return _slanted(*SLANT[shape], o, d)
    inv = d.reciprocal()
    mid, half = -o * inv, inv.abs()
    low, high = mid - half, mid + half
    if shape == CYLINDER:
        a = d[0] * d[0] + d[2] * d[2]
        root = (a - w[1] * w[1]).sqrt()
        b = -(o[0] * d[0] + o[2] * d[2])
        return torch.maximum(low[1], (b - root) / a), torch.minimum(high[1], (b + root) / a)
    return (
        torch.maximum(torch.maximum(low[0], low[1]), low[2]),
        torch.minimum(torch.minimum(high[0], high[1]), high[2]),
    )


def _slanted(kx: float, kz: float, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """`_interval` of |x| <= 1 - kx + kx y, |z| <= 1 - kz + kz y, |y| <= 1: four half-spaces and a slab."""
    side = torch.stack([d[0] - kx * d[1], -d[0] - kx * d[1], d[2] - kz * d[1], -d[2] - kz * d[1]])
    away = torch.stack([o[0] - kx * o[1], -o[0] - kx * o[1], o[2] - kz * o[1], -o[2] - kz * o[1]])
    limit = o.new_tensor([1 - kx, 1 - kx, 1 - kz, 1 - kz])[:, None, None, None]
    t = (limit - away) / side
    inv = d[1].reciprocal()
    mid, half = -o[1] * inv, inv.abs()
    low = torch.where(side < 0, t, torch.full_like(t, -torch.inf)).amax(0)
    high = torch.where(side > 0, t, torch.full_like(t, torch.inf)).amin(0)
    return torch.maximum(low, mid - half), torch.minimum(high, mid + half)


def _linear(coefficients: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(S, 3, 3) applied to (x, y, 1) for a grid of pixels -> (3, S, h, w)."""
    c = coefficients.permute(1, 2, 0).to(x.dtype)[..., None]
    return (c[:, 0] * x)[:, :, None, :] + (c[:, 1] * y + c[:, 2])[..., None]


def cast(
    world: World,
    frames: Int[Tensor, " S"],
    world_T_view: Float64[Tensor, "S 4 4"],
    camera: Intrinsics,
    among: Bool[Tensor, " N"] | None = None,
    before: Float[Tensor, "S H W"] | None = None,
) -> Hits:
    """First hits of all pixels of S views, view s showing the world at frame `frames[s]`.

    `among`: the solids to look at, default all; `before`: depths that a hit must undercut, default SKY.
    """
    M, o = _local_frames(world, frames, world_T_view)
    w, h = camera.size
    S, N = len(frames), len(world.shape)
    x, y = rays(camera)[0, 0], rays(camera)[1, :, 0]
    depth = torch.full((S, h, w), SKY, dtype=x.dtype, device=x.device) if before is None else before.clone()
    wanted = [True] * N if among is None else among.tolist()
    solid = torch.full((S, h, w), N, dtype=torch.int64, device=x.device)
    cross = torch.linalg.cross(o[..., None].expand_as(M), M, dim=-2)
    nudged = M + 1e-12  # keeps 0 * inf out of the slabs
    for n, (shape, rect) in enumerate(zip(world.shape.tolist(), _rectangles(M, o, camera), strict=True)):
        x0, x1, y0, y1 = rect
        if x1 <= x0 or y1 <= y0 or not wanted[n]:
            continue
        at = (slice(None), slice(y0, y1), slice(x0, x1))
        d = _linear(nudged[n], x[x0:x1], y[y0:y1])
        curved = shape in (ELLIPSOID, CYLINDER)
        enter, leave = _interval(
            shape, o[n].T.to(x.dtype)[..., None, None], d, _linear(cross[n], x[x0:x1], y[y0:y1]) if curved else None
        )
        t = leave if shape == ROOM else enter
        mask = (enter < leave) & (t > NEAR) & (t < depth[at])
        depth[at] = torch.where(mask, t, depth[at])
        solid[at] = solid[at].masked_fill_(mask, n)
    return Hits(depth, solid, M, o)


@dataclass(frozen=True)
class Points:
    """Surface points of P = S H W pixels."""

    local: Float[Tensor, "3 P"]  # in the solid's frame
    normal: Float[Tensor, "3 P"]  # in the camera's frame, unit, towards the outside
    face: Int[Tensor, " P"]  # row of `World.faces`, flattened (N * 6)
    seen: Bool[Tensor, " P"]  # False = sky


def surface_points(world: World, hits: Hits, camera: Intrinsics) -> Points:
    N, S = hits.M.shape[:2]
    seen = (hits.solid < N).flatten()
    solid = hits.solid.flatten().clamp_max(N - 1)
    view = torch.arange(S, device=solid.device).repeat_interleave(hits.solid[0].numel())
    table = torch.cat([hits.M.flatten(2), hits.o], -1).flatten(0, 1).float()
    row = table[solid * S + view].T.contiguous()  # 12 P
    ray = rays(camera).flatten(1).repeat(1, S)
    t = hits.depth.flatten()
    local = torch.stack([row[9 + i] + t * (row[3 * i : 3 * i + 3] * ray).sum(0) for i in range(3)])
    shape = world.shape[solid]
    kx, kz = (torch.zeros_like(t) for _ in range(2))
    for slanted, (x, z) in SLANT.items():
        kx, kz = torch.where(shape == slanted, x, kx), torch.where(shape == slanted, z, kz)
    wide = torch.stack([1 - kx + kx * local[1], torch.ones_like(t), 1 - kz + kz * local[1]]).clamp_min(1e-3)
    a, b, c = (local / wide).abs()  # argmax over a short dimension is slow
    axis = torch.where((a >= b) & (a >= c), 0, torch.where(b >= c, 1, 2))
    flat = torch.stack([(axis == k) * local[k].sign() for k in range(3)])
    sign = flat.sum(0)
    flat[1] -= torch.where(axis == 0, kx, torch.where(axis == 2, kz, torch.zeros_like(kx)))
    # a cylinder's cap is where |y| reaches 1
    cap = (shape == CYLINDER) & (local[1].abs() > 0.99999)
    upright = torch.tensor([[1.0], [0.0], [1.0]], device=t.device)
    n = torch.where(shape == ELLIPSOID, local, torch.where(shape == CYLINDER, local * upright, flat))
    n = torch.where(cap, local * (1 - upright), n)
    n = torch.where(shape == ROOM, -flat, n)
    normal = sum(row[3 * i : 3 * i + 3] * n[i] for i in range(3))  # covector: M^T n
    face = torch.where(
        shape >= ELLIPSOID, torch.where(cap, 2 + (local[1] > 0), torch.zeros_like(axis)), 2 * axis + (sign > 0)
    )
    length = (normal * normal).sum(0).sqrt().clamp_min(1e-12)
    return Points(local, normal / length, solid * 6 + face, seen)
