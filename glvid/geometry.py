"""Rigid motion, projection, two-view geometry. Functions are differentiable, and batched over leading dimensions (but
for `rolled_flow`)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from glvid.types import Intrinsics

NEAR = 1e-3  # depths below this (behind or on the camera) are clamped before division


def hat(w: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """Skew-symmetric matrix: `hat(w) @ v = w x v`."""
    x, y, z = w.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


def _so3_coefficients(theta2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin t / t, (1 - cos t) / t^2, (t - sin t) / t^3 with series near 0, differentiable there."""
    small = theta2 < 1e-4
    t2 = torch.where(small, torch.ones_like(theta2), theta2)
    t = t2.sqrt()
    a = torch.where(small, 1 - theta2 / 6 + theta2**2 / 120, t.sin() / t)
    b = torch.where(small, 0.5 - theta2 / 24 + theta2**2 / 720, (1 - t.cos()) / t2)
    c = torch.where(small, 1 / 6 - theta2 / 120 + theta2**2 / 5040, (t - t.sin()) / (t2 * t))
    return a, b, c


def se3_exp(twist: Float[Tensor, "*B 6"]) -> Float[Tensor, "*B 4 4"]:
    """Exponential map; twist = (translation part, rotation vector)."""
    v, w = twist[..., :3], twist[..., 3:]
    a, b, c = (k[..., None, None] for k in _so3_coefficients((w * w).sum(-1)))
    W = hat(w)
    W2 = W @ W
    eye = torch.eye(3, dtype=twist.dtype, device=twist.device).expand_as(W)
    R = eye + a * W + b * W2
    t = (eye + b * W + c * W2) @ v[..., None]
    bottom = torch.tensor([0, 0, 0, 1], dtype=twist.dtype, device=twist.device).expand(*twist.shape[:-1], 1, 4)
    return torch.cat([torch.cat([R, t], -1), bottom], -2)


def so3_log(R: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3"]:
    """Rotation vector of R, accurate near 0 and near pi (through the unit quaternion)."""
    q = quaternion(R)
    q = torch.where(q[..., 3:] < 0, -q, q)
    n = q[..., :3].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(n, q[..., 3:])
    return q[..., :3] * torch.where(n < 1e-9, torch.full_like(n, 2.0), angle / n.clamp_min(1e-12))


def se3_log(T: Float[Tensor, "*B 4 4"]) -> Float[Tensor, "*B 6"]:
    """Inverse of `se3_exp` for rotation angles below pi."""
    w = so3_log(T[..., :3, :3])
    a, b, c = (k[..., None, None] for k in _so3_coefficients((w * w).sum(-1)))
    W = hat(w)
    V = torch.eye(3, dtype=T.dtype, device=T.device) + b * W + c * W @ W
    return torch.cat([torch.linalg.solve(V, T[..., :3, 3]), w], -1)


def quaternion(R: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 4"]:
    """Unit quaternion x y z w (w last) of a rotation matrix; the largest component is computed first for accuracy."""
    m = R.flatten(-2)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.unbind(-1)
    w2, x2, y2, z2 = 1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22
    rows = torch.stack([
        torch.stack([m21 - m12, m02 - m20, m10 - m01, w2], -1),
        torch.stack([x2, m01 + m10, m02 + m20, m21 - m12], -1),
        torch.stack([m01 + m10, y2, m12 + m21, m02 - m20], -1),
        torch.stack([m02 + m20, m12 + m21, z2, m10 - m01], -1),
    ], -2)  # fmt: skip
    best = torch.stack([w2, x2, y2, z2], -1).argmax(-1)
    q = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    return q / q.norm(dim=-1, keepdim=True)


def rotation(q: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B 3 3"]:
    """Inverse of `quaternion`: rotation matrix of a quaternion x y z w."""
    q = q / q.norm(dim=-1, keepdim=True)
    W = hat(q[..., :3])
    return torch.eye(3, dtype=q.dtype, device=q.device) + 2 * (q[..., 3, None, None] * W + W @ W)


def inverse(a_T_b: Float[Tensor, "*B 4 4"]) -> Float[Tensor, "*B 4 4"]:
    """b_T_a of a rigid motion."""
    R, t = a_T_b[..., :3, :3], a_T_b[..., :3, 3:]
    Rt = R.transpose(-1, -2)
    return torch.cat([torch.cat([Rt, -Rt @ t], -1), a_T_b[..., 3:, :]], -2)


def rigid(a_T_b: Float[Tensor, "*B 4 4"]) -> Float[Tensor, "*B 4 4"]:
    """The rigid motion nearest to a matrix that rounding has made something else.

    `inverse` takes a motion for rigid: in A inverse(A) A, what rounding has added counts three times. Where such
    products follow each other, as along a path, it grows like a power.
    """
    U, _, V = torch.linalg.svd(a_T_b[..., :3, :3])
    return torch.cat([torch.cat([U @ V, a_T_b[..., :3, 3:]], -1), a_T_b[..., 3:, :]], -2)


def transform(a_T_b: Float[Tensor, "*B 4 4"], points: Float[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Points given in b, expressed in a."""
    return torch.einsum("...ij,...jhw->...ihw", a_T_b[..., :3, :3], points) + a_T_b[..., :3, 3, None, None]


def pixel_grid(size: tuple[int, int], like: Tensor) -> Float[Tensor, "2 H W"]:
    """Pixel centres (x, y) of an image of `size` (width, height): 0.5, 1.5, ..."""
    w, h = size
    y, x = torch.meshgrid(
        torch.arange(h, dtype=like.dtype, device=like.device) + 0.5,
        torch.arange(w, dtype=like.dtype, device=like.device) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y])


def rays(intrinsics: Intrinsics) -> Float[Tensor, "*B 3 H W"]:
    """K^-1 p~ for every pixel: the viewing ray with z = 1."""
    xy = pixel_grid(intrinsics.size, intrinsics.focal)
    uv = (xy - intrinsics.center[..., None, None]) / intrinsics.focal[..., None, None]
    return torch.cat([uv, torch.ones_like(uv[..., :1, :, :])], -3)


def backproject(depth: Float[Tensor, "*B 1 H W"], intrinsics: Intrinsics) -> Float[Tensor, "*B 3 H W"]:
    """X(p) = D(p) K^-1 p~: one 3-D point per pixel, in the camera's frame."""
    return depth * rays(intrinsics)


def project(points: Float[Tensor, "*B 3 H W"], intrinsics: Intrinsics) -> Float[Tensor, "*B 2 H W"]:
    """Pixel position of points in the camera's frame; points nearer than NEAR are clamped (test z yourself)."""
    xy = points[..., :2, :, :] / points[..., 2:, :, :].clamp_min(NEAR)
    return xy * intrinsics.focal[..., None, None] + intrinsics.center[..., None, None]


def rigid_flow(
    depth: Float[Tensor, "*B 1 H W"], intrinsics: Intrinsics, j_T_i: Float[Tensor, "*B 4 4"]
) -> tuple[Float[Tensor, "*B 2 H W"], Float[Tensor, "*B 1 H W"]]:
    """Flow of a static scene, p_r - p with p_r ~ K (R D(p) K^-1 p~ + t) (GLNet, section 3); and depth seen from j."""
    points = transform(j_T_i, backproject(depth, intrinsics))
    return project(points, intrinsics) - pixel_grid(intrinsics.size, depth), points[..., 2:, :, :]


def rolled_flow(
    depth: Float[Tensor, "1 H W"],
    intrinsics: Intrinsics,
    cam_T_world: Float[Tensor, "N 4 4"],
    i: int,
    others: Sequence[int],
    readout: float,
) -> Float[Tensor, "K 2 H W"]:
    """What a rolling shutter adds to the rigid flow of frame i to each of `others`, px.

    A row is taken `readout` (y / H - 1/2) frame times later than the middle one, whose pose frames have; a point is
    then seen where it has moved to in that time, at the speed it has in the picture (first order; Meingast et al.
    2005). So the flow grows by its lag there and shrinks by its lag here. Speeds are differences over two frames:
    shaking as fast as that is underestimated.
    """
    last, H = len(cam_T_world) - 1, intrinsics.size[1]
    frames = torch.tensor([i, *others])
    before, after = (frames - 1).clamp_min(0), (frames + 1).clamp_max(last)
    world_T_here = inverse(cam_T_world[i])
    flow = [
        rigid_flow(depth.expand(len(n), 1, *depth.shape[-2:]), intrinsics, (cam_T_world[n] @ world_T_here).to(depth))[0]
        for n in (frames, before, after)
    ]
    speed = (flow[2] - flow[1]) / (after - before).clamp_min(1)[:, None, None, None]
    most = 0.25 * max(intrinsics.size)  # px a frame: beyond this the point has left the picture
    row = (pixel_grid(intrinsics.size, depth)[1:] + flow[0][:, 1:]) / H - 0.5
    lag = readout * row.clamp(-0.5, 0.5) * speed.clamp(-most, most)
    return lag[1:] - lag[:1]


def epipolar_distance(
    flow: Float[Tensor, "*B 2 H W"], intrinsics: Intrinsics, j_T_i: Float[Tensor, "*B 4 4"]
) -> Float[Tensor, "*B 1 H W"]:
    """Distance in px from p + F(p) to the epipolar line of p, with unit translation.

    The algebraic form |p'~^T K^-T [t]x R K^-1 p~| (GLNet, eq. of the epipolar term) is minimised by t -> 0;
    the point-to-line distance with t normalised is not (as TrianFlow does). Undefined for t = 0: mask by parallax.
    """
    t = j_T_i[..., :3, 3]
    t = t / t.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    E = hat(t) @ j_T_i[..., :3, :3]
    line = torch.einsum("...ij,...jhw->...ihw", E, rays(intrinsics))  # in normalised coordinates of j
    # pixel line: (a / fx, b / fy, c - a cx / fx - b cy / fy)
    a, b = (line[..., :2, :, :] / intrinsics.focal[..., None, None]).unbind(-3)
    p = pixel_grid(intrinsics.size, flow) + flow - intrinsics.center[..., None, None]
    d = (a * p[..., 0, :, :] + b * p[..., 1, :, :] + line[..., 2, :, :]).abs()
    return (d / (a * a + b * b + 1e-18).sqrt())[..., None, :, :]  # finite gradient for t = 0 too


def umeyama(
    a: Float[Tensor, "N 3"], b: Float[Tensor, "N 3"], with_scale: bool = True
) -> tuple[Tensor, Float[Tensor, "3 3"], Float[Tensor, " 3"]]:
    """Similarity (s, R, t) minimising sum |b - (s R a + t)|^2 (Umeyama 1991, eq. 40-42)."""
    ma, mb = a.mean(0), b.mean(0)
    u, d, vt = torch.linalg.svd((b - mb).T @ (a - ma) / len(a))
    sign = torch.ones(3, dtype=a.dtype, device=a.device)
    sign[2] = torch.sign(torch.det(u @ vt))
    R = u @ torch.diag(sign) @ vt
    variance = ((a - ma) ** 2).sum() / len(a)
    s = (d * sign).sum() / variance if with_scale and variance > 0 else torch.ones((), dtype=a.dtype, device=a.device)
    return s, R, mb - s * R @ ma
