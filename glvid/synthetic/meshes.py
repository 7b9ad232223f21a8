"""Worlds of triangles, cast by Open3D's rays: a pair of frames with exact depth, flow, visibility and motion.

A hundred times as many triangles as the analytic worlds have solids, in a fifth of the time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from glvid.synthetic.models import SIDE, Model, Paints, joined, moved
from glvid.synthetic.truth import Truth
from glvid.synthetic.world import SKY
from glvid.types import Intrinsics

NEAR = 0.05  # m
PASSES = 5  # leaves, one behind another, that a ray may pass between
SPOTS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))  # samples of a pixel, px from its middle
GRAZING = 2e-3  # of a distance: two hits nearer to each other are the same surface

Rays = Float32[np.ndarray, "P 6"]


@dataclass(frozen=True)
class Lamp:
    """A light at a place, or far away in a direction; its colour is as bright as it is at 1 m, or anywhere."""

    at: Float64[np.ndarray, " 3"]
    colour: Float64[np.ndarray, " 3"]
    far: bool


@dataclass(frozen=True)
class Light:
    """Lamps, light from everywhere (more from above), and the air: sky at the zenith and horizon, haze per metre."""

    lamps: tuple[Lamp, ...]
    ambient: Float64[np.ndarray, " 3"]
    sky: Float64[np.ndarray, "2 3"]
    haze: float = 0.0


@dataclass(frozen=True)
class Surface:
    """What rays hit: distance in units of their direction (inf: nothing), the triangle, where on it, its normal."""

    along: Float32[np.ndarray, " P"]
    triangle: np.ndarray
    uv: Float32[np.ndarray, "P 2"]  # barycentric
    normal: Float32[np.ndarray, "P 3"]


class Caster:
    """Triangles of things at one instant, ready for rays."""

    def __init__(self, things: Sequence[Model], paints: Paints):
        import open3d  # heavy, and not needed by those who cast no meshes

        self.core, self.things, self.all, self.paints = open3d.core, tuple(things), joined(things), paints
        self.thing = np.repeat(np.arange(len(things)), [len(t.corners) for t in things])
        flat = np.ascontiguousarray(self.all.corners.reshape(-1, 3))
        self.scene = open3d.t.geometry.RaycastingScene(nthreads=1)
        self.scene.add_triangles(flat, np.arange(len(flat), dtype=np.uint32).reshape(-1, 3))
        self.leafy = paints.holed[self.all.texture]
        self.density = densities(self.all)

    def cast(self, rays: Rays) -> Surface:
        """The first surface of every ray, looking through what is cut out of leaves."""
        rays = rays.copy()
        out = self._cast(rays)
        if not self.leafy.any():
            return out
        passed = np.zeros(len(rays), np.float32)
        for _ in range(PASSES):
            at = np.flatnonzero(np.isfinite(out.along))
            at = at[self.leafy[out.triangle[at]]]
            at = at[self.values(out, at, np.zeros(len(at), np.float32))[:, 3] < 0.5]
            if not len(at):
                break
            step = (out.along[at] - passed[at]) + np.float32(1e-3)
            rays[at, :3] += step[:, None] * rays[at, 3:]
            passed[at] += step
            again = self._cast(rays[at])
            out.along[at] = again.along + passed[at]
            for name in ("triangle", "uv", "normal"):
                getattr(out, name)[at] = getattr(again, name)
        return out

    def _cast(self, rays: Rays) -> Surface:
        found = self.scene.cast_rays(self.core.Tensor(np.ascontiguousarray(rays)))
        found = {k: found[k].numpy() for k in ("t_hit", "primitive_ids", "primitive_uvs", "primitive_normals")}
        names = ("t_hit", "primitive_ids", "primitive_uvs", "primitive_normals")
        along, triangle, uv, normal = (found[k].copy() for k in names)
        triangle[~np.isfinite(along)] = 0
        return Surface(along, triangle.astype(np.int64), uv, normal)

    def values(self, hit: Surface, at: np.ndarray, level: np.ndarray) -> Float32[np.ndarray, "P 4"]:
        """Colour and alpha of the surface at hits number `at`."""
        k, (u, v) = hit.triangle[at], hit.uv[at].T[..., None]
        corners = self.all.uv[k]
        uv = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        return self.paints.looked_up(self.all.texture[k], uv, level)

    def hidden(self, points: np.ndarray, lamp: Lamp) -> np.ndarray:
        """Is something between a lamp and points?"""
        to = np.float32(lamp.at) if lamp.far else np.float32(lamp.at) - points
        rays = np.concatenate([points, np.broadcast_to(to, points.shape)], 1).astype(np.float32)
        far = np.inf if lamp.far else 1.0
        return self.scene.test_occlusions(self.core.Tensor(rays), tfar=far).numpy()


def densities(model: Model) -> Float32[np.ndarray, " F"]:
    """Texels a metre on every triangle."""
    a, b = ((model.corners[:, k] - model.corners[:, 0]).T for k in (1, 2))
    u, v = ((model.uv[:, k] - model.uv[:, 0]).T * np.float32(SIDE) for k in (1, 2))
    area = sum((a[i] * b[j] - a[j] * b[i]) ** 2 for i, j in ((0, 1), (1, 2), (2, 0)))
    return (np.abs(u[0] * v[1] - u[1] * v[0]) / np.sqrt(np.maximum(area, 1e-18))) ** np.float32(0.5)


# --- a picture -------------------------------------------------------------------------------------------------------


def rays_of(camera: Intrinsics, world_T_cam: np.ndarray, spot: tuple[float, float] = (0, 0)) -> Rays:
    """Rays through all pixels, rows first; z along the camera's axis grows by 1 a unit."""
    w, h = camera.size
    (fx, fy), (cx, cy) = camera.focal.tolist(), camera.center.tolist()
    x, y = (np.arange(w) + 0.5 + spot[0] - cx) / fx, (np.arange(h) + 0.5 + spot[1] - cy) / fy
    R, out = world_T_cam[:3, :3], np.empty((h, w, 6), np.float32)
    out[..., :3] = world_T_cam[:3, 3]
    for k in range(3):
        out[..., 3 + k] = np.float32(R[k, 0] * x + R[k, 2]) + np.float32(R[k, 1] * y)[:, None]
    return out.reshape(-1, 6)


def picture(caster: Caster, light: Light, camera: Intrinsics, world_T_cam: np.ndarray) -> Float32[np.ndarray, "h w 3"]:
    """What the camera sees, 0..1: the mean of four samples a pixel."""
    w, h = camera.size
    shown = [shaded(caster, light, rays_of(camera, world_T_cam, s), float(camera.focal[0])) for s in SPOTS]
    return np.mean(shown, 0).reshape(h, w, 3)


def shaded(caster: Caster, light: Light, rays: Rays, focal: float) -> Float32[np.ndarray, "P 3"]:
    """Colours of rays: matt surfaces in the light of lamps (with shadows) and of everywhere, then haze."""
    hit, out = caster.cast(rays), sky_of(light, rays)
    at = np.flatnonzero(np.isfinite(hit.along))
    along, direction = hit.along[at, None], rays[at, 3:]
    points, length = rays[at, :3] + along * direction, np.linalg.norm(direction, axis=1)
    normal = hit.normal[at]
    facing = (normal * direction).sum(1)
    normal = normal * -np.sign(facing)[:, None]
    slant = np.maximum(np.abs(facing) / length, 0.1)
    footprint = caster.density[hit.triangle[at]] * hit.along[at] / (focal * np.sqrt(slant))
    level = np.log2(np.maximum(footprint, 1e-6)) - 0.5
    colour = caster.values(hit, at, level)[:, :3] * caster.all.tint[hit.triangle[at]]
    total = np.float32(light.ambient) * (0.8 - 0.2 * normal[:, 1:2])
    for lamp in light.lamps:
        to = np.broadcast_to(np.float32(lamp.at), points.shape) if lamp.far else np.float32(lamp.at) - points
        far2 = (to**2).sum(1)
        lit = np.maximum((normal * to).sum(1) / np.sqrt(far2), 0)
        strength = lit if lamp.far else lit / np.maximum(far2, 0.1)
        on = np.flatnonzero(strength > 0.01)
        strength[on] *= ~caster.hidden(points[on] + normal[on] * np.float32(2e-3) * (1 + along[on]), lamp)
        total = total + strength[:, None] * np.float32(lamp.colour)
    air = np.exp(-np.float32(light.haze) * along * length[:, None])
    out[at] = out[at] + air * (colour * total - out[at])
    return out


def sky_of(light: Light, rays: Rays) -> Float32[np.ndarray, "P 3"]:
    """Sky of every ray's direction: from the horizon's colour to the zenith's."""
    up = -rays[:, 4] / np.linalg.norm(rays[:, 3:], axis=1)
    share = np.clip(up * 1.6, 0, 1)[:, None] ** np.float32(0.6)
    zenith, horizon = np.float32(light.sky)
    return (horizon + share * (zenith - horizon)).astype(np.float32)


# --- a pair ----------------------------------------------------------------------------------------------------------


def exposed(images: Sequence[np.ndarray], mean: float) -> Float32[np.ndarray, "S h w 3"]:
    """Frames as bright as a camera would make the first of them."""
    gain = np.float32(mean / max(float(images[0].mean()), 0.02))
    return (np.stack(images) * gain).clip(0, 1)


def pair(
    first: Caster,
    motions: Float64[np.ndarray, "T 4 4"],
    light: Light,
    camera: Intrinsics,
    world_T_a: np.ndarray,
    world_T_b: np.ndarray,
    brightness: float = 0.45,
) -> Truth:
    """Two frames by one camera, the first of a mean `brightness` (0..1).

    `motions`: how every thing moves, from the first frame's world to the second's; identity: it rests.
    """
    w, h = camera.size
    rests, second = np.isclose(motions, np.eye(4)).all((1, 2)), first
    if not rests.all():
        gone = [t if r else moved(t, m) for t, r, m in zip(first.things, rests, motions, strict=True)]
        second = Caster(gone, first.paints)
    images, seen = [], []
    for caster, pose in ((first, world_T_a), (second, world_T_b)):
        images.append(picture(caster, light, camera, pose))
        rays = rays_of(camera, pose)
        seen.append((rays, caster.cast(rays), caster.thing))
    back = np.linalg.inv(motions)
    flow, visible = flow_of(*seen[0], motions, second, camera, world_T_b)
    flow_back, _ = flow_of(*seen[1], back, first, camera, world_T_a)
    depth = np.stack([np.minimum(np.where(np.isfinite(hit.along), hit.along, SKY), SKY) for _, hit, _ in seen])
    moving = np.stack([~rests[thing[hit.triangle]] & np.isfinite(hit.along) for _, hit, thing in seen])

    def maps(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))

    a_T_world = np.linalg.inv(world_T_a)
    return Truth(
        images=maps(exposed(images, brightness).transpose(0, 3, 1, 2)),
        depth=maps(depth.reshape(2, 1, h, w)),
        flow=maps(flow.reshape(1, h, w, 2).transpose(0, 3, 1, 2)),
        flow_back=maps(flow_back.reshape(1, h, w, 2).transpose(0, 3, 1, 2)),
        visible=maps(visible.reshape(1, 1, h, w)),
        moving=maps(moving.reshape(2, 1, h, w)),
        world_T_cam=torch.from_numpy(np.stack([np.eye(4), a_T_world @ world_T_b])),
        intrinsics=camera,
        times=torch.tensor([0.0, 1 / 15]),
    )


def flow_of(
    rays: Rays,
    hit: Surface,
    thing: np.ndarray,
    motions: Float64[np.ndarray, "T 4 4"],
    other: Caster,
    camera: Intrinsics,
    world_T_other: np.ndarray,
) -> tuple[Float32[np.ndarray, "P 2"], np.ndarray]:
    """Flow of what rays have hit to another frame, and where it is seen there; sky counts as lying at SKY."""
    w, h = camera.size
    focal, center = camera.focal.numpy().astype(float), camera.center.numpy().astype(float)
    found = np.isfinite(hit.along)
    points = rays[:, :3] + np.where(found, hit.along, SKY)[:, None].astype(float) * rays[:, 3:]
    for k in np.unique(thing[hit.triangle[found]]):
        if not np.array_equal(motions[k], np.eye(4)):
            at = found & (thing[hit.triangle] == k)
            points[at] = points[at] @ motions[k][:3, :3].T + motions[k][:3, 3]
    there = (points - world_T_other[:3, 3]) @ world_T_other[:3, :3]
    z = np.maximum(there[:, 2:], 1e-3)
    xy = there[:, :2] / z * focal + center
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    inside = (there[:, 2] > NEAR) & (xy > 0).all(1) & (xy < [w, h]).all(1)
    at = np.flatnonzero(inside)
    along = np.concatenate([np.broadcast_to(world_T_other[:3, 3], (len(at), 3)), points[at] - world_T_other[:3, 3]], 1)
    visible = np.zeros(len(rays), bool)
    visible[at] = other.cast(along.astype(np.float32)).along > 1 - GRAZING
    return (xy - np.stack([x.ravel(), y.ravel()], 1)).astype(np.float32), visible
