"""A world small enough to be exact: a textured floor and back wall, slanted, and a patch that may move on its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from glvid.geometry import backproject, inverse, pixel_grid, rays, se3_exp, transform
from glvid.types import Intrinsics, Pairs

SIZE = (64, 48)
TWISTS = [[0.0] * 6, [0.12, 0.02, 0.10, 0.01, -0.02, 0.005], [0.25, -0.02, 0.22, -0.01, -0.03, 0.01]]
PLANES = [([0.1, 1.0, 0.05], 0.9), ([0.15, 0.0, 1.0], 4.0)]  # floor and back wall: n . X = c, in the world


@dataclass(frozen=True)
class State:
    """Everything the objective depends on."""

    images: Tensor
    depth: Tensor
    pairs: Pairs
    intrinsics: Intrinsics
    moving: Tensor


def texture(points: Tensor) -> Tensor:
    """Smooth colours in space, coarse enough for bilinear sampling to be nearly exact."""
    x, y, z = points.unbind(-3)
    waves = [(5 * x + z, 3 * z - 2 * y), (3 * x - 3 * z + 1, 6 * y + x), (6 * x + y, 2 * x - 2 * z)]
    return 0.5 + 0.22 * torch.stack([a.sin() + b.cos() for a, b in waves], -3)


def planes(world_T_cam: Tensor, K: Intrinsics) -> tuple[Tensor, Tensor]:
    """Depth and image of one frame, ray cast."""
    R, t, directions = world_T_cam[:3, :3], world_T_cam[:3, 3], rays(K)
    z = torch.full_like(directions[:1], torch.inf)
    for normal, c in PLANES:
        n = torch.tensor(normal, dtype=torch.float64)
        hit = (c - n @ t) / torch.einsum("i,ihw->hw", n @ R, directions)
        z = torch.where((hit > 0) & (hit < z), hit, z)
    return z, texture(transform(world_T_cam, z * directions))


def world(patch: bool = False) -> State:
    """Three frames, all six pairs, float64. With `patch`, a textured square drifts sideways in front of the wall."""
    K = Intrinsics(torch.tensor([56.0, 60.0]).double(), torch.tensor([32.3, 23.5]).double(), SIZE)
    world_T_cam = se3_exp(torch.tensor(TWISTS).double())
    depth, images = map(torch.stack, zip(*[planes(T, K) for T in world_T_cam], strict=True))
    moving = torch.zeros_like(depth)
    drift = torch.tensor([[0.0, 0, 0], [-0.3, 0.08, 0], [-0.6, 0.16, 0]]).double()
    if patch:
        for n, T in enumerate(world_T_cam):  # plane z = 2.2 of the world, |x|, |y| < 0.5 about the drifting centre
            z = (2.2 - T[2, 3]) / torch.einsum("i,ihw->hw", T[2, :3], rays(K))[None]
            at = transform(T, z * rays(K)) - drift[n][:, None, None]
            on = at[:2].abs().amax(0, keepdim=True) < 0.5
            depth[n], images[n] = torch.where(on, z, depth[n]), torch.where(on, texture(2 * at + 1), images[n])
            moving[n] = on.double()
    i, j = (torch.tensor(k) for k in ([0, 1, 1, 2, 0, 2], [1, 0, 2, 1, 2, 0]))
    j_T_i = inverse(world_T_cam[j]) @ world_T_cam[i]
    shift = torch.einsum("pij,pj->pi", inverse(world_T_cam[j])[:, :3, :3], drift[j] - drift[i])[..., None, None]
    points = transform(j_T_i, backproject(depth[i], K)) + moving[i] * shift
    flow = points[:, :2] / points[:, 2:] * K.focal[:, None, None] + K.center[:, None, None] - pixel_grid(SIZE, depth)
    back = torch.tensor([1, 0, 3, 2, 5, 4])
    return State(images, depth, Pairs(i, j, flow, flow[back], j_T_i), K, moving)
