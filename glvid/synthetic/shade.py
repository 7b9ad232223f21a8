"""Colours of a cast view: textures, sun and shadows, haze, sky."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from glvid.geometry import inverse, rays
from glvid.synthetic.raycast import Hits, Points, cast
from glvid.synthetic.surfaces import SIDE, texture_values
from glvid.synthetic.world import ELLIPSOID, SKY, World
from glvid.types import Intrinsics


def _colours(world: World, hits: Hits, points: Points, camera: Intrinsics) -> Tensor:
    """Albedo (P, 3)."""
    table = world.faces.flatten(0, 1)[points.face].T  # 8 P
    solid = points.face // 6
    size = world.affine.norm(dim=1).float()[solid].T  # 3 P, m per local unit
    x, y, z = points.local * size
    shape = world.shape[solid]
    axis = (points.face % 6) // 2
    u, v = torch.where(axis == 0, z, x), torch.where(axis == 1, z, y)
    curved = (shape >= ELLIPSOID) & (axis != 1)
    around = torch.atan2(points.local[0], points.local[2]) * 0.5 * (size[0] + size[2])
    u, v = torch.where(curved, around, u), torch.where(curved, y, v)
    uv = torch.stack([u * table[1] + table[3], v * table[2] + table[4]])
    ray = rays(camera).flatten(1).repeat(1, len(hits.depth))
    cosine = -(points.normal * ray).sum(0) / (ray * ray).sum(0).sqrt()
    pixel = hits.depth.flatten() / camera.focal[0] / cosine.abs().clamp(0.02, 1).sqrt()  # m on the surface
    level = torch.log2(pixel * torch.maximum(table[1], table[2]) * SIDE)
    base = texture_values(world.atlas, table[0].long(), uv, level)
    metres = torch.stack([u, v])
    zero = torch.zeros_like(points.face)
    # the same noise at 5.3 m and 0.37 m: no two tiles alike, and something to match on plain surfaces
    wide = texture_values(world.atlas, zero, metres / 5.3 + table[3:5], torch.log2(pixel / 5.3 * SIDE), smooth=False)
    fine = texture_values(world.atlas, zero, metres / 0.37, torch.log2(pixel / 0.37 * SIDE), smooth=False)
    stains = table[8][:, None]
    factor = (1 + stains * (wide - 0.5)) * (1 + 0.5 * stains * (fine - 0.5))
    return base * table[5:8].T * factor


def _sky(world: World, world_T_view: Tensor, camera: Intrinsics) -> Tensor:
    """Sky colour (P, 3) of every pixel: a gradient and clouds fixed to the world at distance SKY."""
    X = SKY * rays(camera).flatten(1)
    X = (world_T_view[:, :3, :3].float() @ X + world_T_view[:, :3, 3:].float()).transpose(0, 1).flatten(1)
    X = X / (X * X).sum(0).sqrt()
    up = (-X[1]).clamp_min(0)
    uv = torch.stack([X[0], X[2]]) / (up + 0.35) * 0.7
    level = torch.full_like(up, float(torch.log2(SIDE / camera.focal[0]).clamp_min(0)) + 0.5)
    clouds = texture_values(
        world.atlas, torch.zeros(len(up), dtype=torch.int64, device=up.device), uv, level, smooth=False
    )
    base = torch.lerp(world.sky[1], world.sky[0], up.sqrt()[:, None])
    return torch.lerp(
        base, torch.ones_like(base), ((clouds - 0.45) * 2.2).clamp(0, 0.85) * (up * 4).clamp(0, 1)[:, None]
    )


@dataclass(frozen=True)
class Sun:
    """The world seen from the sun at one or S frames: what its light reaches."""

    world_T_sun: Float64[Tensor, "4 4"]
    camera: Intrinsics
    depth: Float[Tensor, "S h w"]
    texel: float  # m on the ground


def sunlight(world: World) -> Sun | None:
    """The static world from far away along the light, around the part that the camera sees; None without shadows."""
    if not world.shadow_side:
        return None
    path = world.world_T_cam[:, :3, 3]
    reach = float((path[-1] - path[0]).norm()) / 2
    radius = reach + min(80.0, 22.0 + 2.5 * abs(float(path[0, 1])))
    target = path.mean(0) + 0.7 * (radius - reach) * world.world_T_cam[:, :3, 2].mean(0) * path.new_tensor([1, 0, 1])
    z = -world.sun.to(path)
    x = torch.nn.functional.normalize(torch.linalg.cross(z, path.new_tensor([0.1, 0.2, 1.0])), dim=0)
    T = torch.eye(4, dtype=path.dtype, device=path.device)
    T[:3, :3] = torch.stack([x, torch.linalg.cross(z, x), z], 1)
    distance = 6 * radius
    T[:3, 3] = target * path.new_tensor([1, 0, 1]) - distance * z
    side = world.shadow_side
    focal = torch.full_like(world.intrinsics.focal, side / 2 * distance / radius)
    camera = Intrinsics(focal, torch.full_like(focal, side / 2), (side, side))
    frames = torch.zeros(1, dtype=torch.int64, device=path.device)
    return Sun(T, camera, cast(world, frames, T[None], camera, world.group == 0).depth, 2 * radius / side)


def with_movers(world: World, sun: Sun, frames: Tensor) -> Sun:
    """The light at these frames: movers cast shadows too."""
    views = sun.world_T_sun.expand(len(frames), 4, 4)
    start = sun.depth.expand(len(frames), -1, -1)
    return replace(sun, depth=cast(world, frames, views, sun.camera, world.group > 0, start).depth)


def _lit(sun: Sun, X: Tensor, normal: Tensor) -> Tensor:
    """Share of sunlight (S, P) that reaches world points (S, 3, P): four texels, bilinear; 1 outside the map."""
    side = sun.camera.size[0]
    T = inverse(sun.world_T_sun).float()
    p = T[:3, :3] @ (X + 1.5 * sun.texel * normal) + T[:3, 3:]
    xy = p[:, :2] / p[:, 2:] * sun.camera.focal[0] + side / 2 - 0.5
    outside = ((xy < 0) | (xy > side - 1)).any(1)
    base = xy.clamp(0, side - 1.001).floor()
    fx, fy = (xy - base).clamp(0, 1).unbind(1)
    x, y = base.long().unbind(1)
    s = torch.arange(len(X), device=X.device)[:, None]

    def free(dx: int, dy: int) -> Tensor:
        return (sun.depth[s, y + dy, x + dx] > p[:, 2] - 0.3 * sun.texel).float()

    top, low = torch.lerp(free(0, 0), free(1, 0), fx), torch.lerp(free(0, 1), free(1, 1), fx)
    return torch.where(outside, torch.ones_like(fx), torch.lerp(top, low, fy))


def images(
    world: World, world_T_view: Tensor, camera: Intrinsics, hits: Hits, points: Points, sun: Sun | None
) -> Float[Tensor, "S 3 H W"]:
    """Shaded colours: Lambert's law for the sun (with its shadows), light from above, haze, sky."""
    S, h, w = hits.depth.shape
    albedo = _colours(world, hits, points, camera)
    towards = world_T_view[:, :3, :3].float().transpose(1, 2) @ world.sun  # S 3
    lambert = (points.normal.unflatten(1, (S, -1)) * towards.T[:, :, None]).sum(0).flatten()
    direct = lambert.clamp_min(0)
    if sun is not None:
        R, t = world_T_view[:, :3, :3].float(), world_T_view[:, :3, 3:].float()
        X = R @ (rays(camera).flatten(1) * hits.depth.flatten(1)[:, None]) + t
        direct = direct * _lit(sun, X, R @ points.normal.unflatten(1, (S, -1)).transpose(0, 1)).flatten()
    # light without direction comes from above and, weakly, from everywhere
    above = (points.normal.unflatten(1, (S, -1)) * -world_T_view[:, 1, :3].float().T[:, :, None]).sum(0).flatten()
    light = world.ambient * (0.8 + 0.2 * above + 0.1 * lambert) + (1.25 - world.ambient) * direct
    colour = albedo * light[:, None]
    fog = 1 - torch.exp(-hits.depth.flatten() * world.haze)
    colour = torch.lerp(colour, world.sky[1].expand_as(colour), fog[:, None])
    if not bool(points.seen.all()):
        colour = torch.where(points.seen[:, None], colour, _sky(world, world_T_view, camera))
    return colour.clamp(0, 1).unflatten(0, (S, h, w)).permute(0, 3, 1, 2)
