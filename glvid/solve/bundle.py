"""Bundle adjustment of anchored points: poses, inverse depths and one log focal length, by Levenberg-Marquardt.

Points are eliminated by the Schur complement (Triggs et al. 2000, section 6). A frame only meets frames at most
`max(offsets)` away, so the reduced camera system is block-tridiagonal: time and memory grow linearly with the shot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from glvid.geometry import inverse, se3_exp
from glvid.solve.matches import CHUNK, Tracks
from glvid.types import Intrinsics

LOG_F = (-1.6, 1.4)  # focal of 0.2 to 4 long sides: 136 to 14 degrees
SPEED_SIGMA = 0.2  # of the mean speed, by which velocity usually changes from frame to frame
CORRELATED = 8.0  # flow errors of neighbouring points agree: the curvature's sigma is too small by about this factor


@dataclass(frozen=True)
class State:
    """Unknowns of the bundle adjustment."""

    cam_T_world: Float64[Tensor, "N 4 4"]
    log_rho: Float[Tensor, "N M"]  # log inverse depth of the anchored points
    log_f: Float64[Tensor, ""]  # focal = base focal * exp(log_f)


@dataclass(frozen=True)
class Problem:
    """What stays fixed during an adjustment."""

    tracks: Tracks
    base: Intrinsics  # centre, aspect and the unit of log_f
    sigma_px: float = 0.7  # scale of the Cauchy kernel on reprojection errors
    sigma_depth: float = 0.5  # how far (log) point depths may leave the network's shape; inf: no prior
    focal_start: float = 0.0  # log_f the focal prior is centred on
    sigma_focal: float = float("inf")

    @property
    def focal_weight(self) -> float:
        """Weight of the prior on log f beside reprojection errors in px^2."""
        return (CORRELATED * self.sigma_px / self.sigma_focal) ** 2


def camera_of(problem: Problem, log_f: Tensor) -> Intrinsics:
    """The pinhole camera at a log focal length."""
    return replace(problem.base, focal=problem.base.focal * log_f.exp().to(problem.base.focal.dtype))


def reproject(problem: Problem, state: State, n: Tensor):
    """For anchor frames n: rays r (B, 1, M, 3), R, q = R r + rho t (B, K, M, 3), residual (B, K, M, 2) px, weight."""
    t = problem.tracks
    offsets = torch.tensor(t.offsets)
    b = (n[:, None] + offsets).clamp(0, len(t.xy) - 1)
    G = state.cam_T_world
    b_T_a = (G[b] @ inverse(G[n])[:, None]).float()
    K = camera_of(problem, state.log_f)
    r = (t.xy[n] - K.center) / K.focal
    r = torch.cat([r, torch.ones_like(r[..., :1])], -1)[:, None]
    R = b_T_a[..., :3, :3]
    rho = state.log_rho[n].exp()[:, None, :, None]
    q = r @ R.transpose(-1, -2) + rho * b_T_a[..., None, :3, 3]
    z = q[..., 2:].clamp_min(0.05)
    residual = q[..., :2] / z * K.focal + K.center - t.target[n]
    weight = t.weight[n] * (q[..., 2] > 0.05)
    return r, R, rho, q, z, K, residual, weight


def robust(residual: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Cauchy cost c^2 log(1 + e^2 / c^2) / 2 and its weight, of residuals (..., 2)."""
    e2 = (residual**2).sum(-1)
    return 0.5 * scale**2 * torch.log1p(e2 / scale**2), 1 / (1 + e2 / scale**2)


def depth_prior(problem: Problem, state: State, n: Tensor):
    """Residual (B, M) of log depth against the network's shape, frame by frame up to a scale, and its weight."""
    t = problem.tracks
    e = state.log_rho[n] + t.depth[n].log()
    e = e - e.median(dim=1, keepdim=True).values
    s = problem.sigma_depth
    w = (problem.sigma_px / s) ** 2 / (1 + (e / s) ** 2) if np.isfinite(s) else torch.zeros_like(e)
    return e, w


def jolt_cost(problem: Problem, state: State) -> float:
    """Cost of changes of velocity, in px^2 beside the robust costs of reprojection: cameras have mass.

    Counted in units of the mean speed, so the unit of length does not matter.
    """
    velocity = inverse(state.cam_T_world)[:, :3, 3].diff(dim=0)
    jolt = velocity.diff(dim=0) / velocity.norm(dim=1).mean().clamp_min(1e-9) / SPEED_SIGMA
    return (CORRELATED * problem.sigma_px) ** 2 * float(robust(jolt, 1 / SPEED_SIGMA)[0].sum())


def cost_of(problem: Problem, state: State, kernel: float) -> float:
    """Total robust cost of a state."""
    total = 0.0
    for n in torch.arange(len(problem.tracks.xy)).split(CHUNK):
        *_, residual, weight = reproject(problem, state, n)
        cost, _ = robust(residual, kernel)
        e, w = depth_prior(problem, state, n)
        s = problem.sigma_depth
        prior = 0.5 * problem.sigma_px**2 * torch.log1p((e / s) ** 2) if np.isfinite(s) else 0 * e
        total += float((cost * weight).sum().double() + prior.sum().double())
    return total + 0.5 * problem.focal_weight * float(state.log_f - problem.focal_start) ** 2


def normal_equations(problem: Problem, state: State, n: Tensor, kernel: float):
    """Gauss-Newton blocks of anchor frames n.

    Local unknowns of anchor a: pose a, poses at the K offsets, log f: D = 6 (K + 1) + 1. Returns H (B, D, D),
    g (B, D), E (B, M, D), C (B, M), g_rho (B, M): pose-pose, gradient, point-pose, point-point, point gradient.
    """
    r, R, rho, q, z, K, residual, weight = reproject(problem, state, n)
    weight = weight * robust(residual, kernel)[1]
    B, k, M = weight.shape
    f, p = K.focal, q[..., :2] / z
    du = torch.zeros(B, k, M, 2, 3)  # of the pixel, by q
    du[..., 0, 0], du[..., 1, 1] = (f / z).unbind(-1)
    du[..., :, 2] = -f * p / z
    du_r = du @ R[:, :, None]  # by r
    t = (q - r @ R.transpose(-1, -2))[..., None, :]  # rho times the translation
    J_rho = (du * t).sum(-1)  # by log rho
    J_f = f * p - (du_r[..., :2] * r[..., None, :2]).sum(-1)  # the ray shrinks, the picture grows
    # columns: pose a (its inverse moves r), pose b, log f, residual; row v of du times hat(q) is v x q
    r, q, rho = r[..., None, :].expand_as(du), q[..., None, :].expand_as(du), rho[..., None]
    J_a = (-du_r * rho, torch.linalg.cross(du_r, r))
    A = torch.cat([*J_a, du * rho, torch.linalg.cross(q, du), J_f[..., None], residual[..., None]], -1)
    WA = A * weight[..., None, None]
    gram = WA.flatten(2, 3).transpose(-1, -2) @ A.flatten(2, 3)  # (B, k, 14, 14)
    with_point = (WA * J_rho[..., None]).sum(-2)  # (B, k, M, 14)
    D = 6 * (k + 1) + 1
    H, E, g = torch.zeros(B, D, D), torch.zeros(B, M, D), torch.zeros(B, D)
    for s in range(k):
        c = torch.cat([torch.arange(6), torch.arange(6 + 6 * s, 12 + 6 * s), torch.tensor([D - 1])])
        H[:, c[:, None], c] += gram[:, s, :13, :13]
        E[..., c] += with_point[:, s, :, :13]
        g[:, c] += gram[:, s, :13, 13]
    e, w = depth_prior(problem, state, n)
    C = (weight * (J_rho**2).sum(-1)).sum(1) + w
    return H, g, E, C, with_point[..., 13].sum(1) + w * e


@dataclass(frozen=True)
class Camera:
    """Reduced camera system: poses as a block-tridiagonal matrix, log f as its border.

    Two frames share an equation only if they are at most 2 max(offsets) apart; blocks of that many frames meet only
    their neighbours.
    """

    diagonal: Float64[Tensor, "L D D"]
    below: Float64[Tensor, "L D D"]  # below[l]: rows of block l + 1, columns of block l; the last is unused
    border: Float64[Tensor, "L D"]
    gradient: Float64[Tensor, "L D"]
    corner: float
    gradient_f: float

    def inverse_times(self, b: Float64[Tensor, "L D R"]) -> Float64[Tensor, "L D R"]:
        """Pose block inverse times b, by block Cholesky: forward elimination, back-substitution."""
        factors, y = [], []
        for n in range(len(self.diagonal)):
            A, r = self.diagonal[n], b[n]
            if n:
                M = torch.cholesky_solve(self.below[n - 1].T, factors[-1])  # A_{n-1}^-1 B^T
                A, r = A - self.below[n - 1] @ M, r - M.T @ y[-1]
            factors.append(torch.linalg.cholesky(A))
            y.append(r)
        x = [torch.cholesky_solve(y[-1], factors[-1])]
        for n in range(len(y) - 2, -1, -1):
            x.append(torch.cholesky_solve(y[n] - self.below[n].T @ x[-1], factors[n]))
        return torch.stack(x[::-1])

    def step(self, fix_focal: bool) -> tuple[Tensor, float]:
        """Newton step of the poses (L D,) and of log f."""
        x = self.inverse_times(torch.stack([self.gradient, self.border], -1))
        if fix_focal:
            return -x[..., 0].flatten(), 0.0
        curvature = self.corner - float((self.border * x[..., 1]).sum())
        df = -(self.gradient_f - float((self.border * x[..., 0]).sum())) / max(curvature, 1e-9)
        return (-x[..., 0] - x[..., 1] * df).flatten(), df

    def focal_information(self) -> float:
        """Curvature of the cost along log f once everything else follows."""
        x = self.inverse_times(self.border[..., None])[..., 0]
        return self.corner - float((self.border * x).sum())


def reduce(problem: Problem, state: State, kernel: float, damping: float, freeze_points: bool):
    """Eliminate the points. Returns the reduced Camera system and, per chunk, what back-substitution needs."""
    t = problem.tracks
    N, offsets = len(t.xy), torch.tensor(t.offsets)
    D = 12 * int(offsets.abs().max())
    L = -(-6 * N // D)
    diagonal, below = torch.zeros(L * D * D, dtype=torch.float64), torch.zeros(L * D * D, dtype=torch.float64)
    border, gradient = torch.zeros(L * D, dtype=torch.float64), torch.zeros(L * D, dtype=torch.float64)
    corner, gradient_f, chunks = (
        problem.focal_weight,
        problem.focal_weight * float(state.log_f - problem.focal_start),
        [],
    )
    for n in torch.arange(N).split(CHUNK):
        H, g, E, C, g_rho = normal_equations(problem, state, n, kernel)
        torch.diagonal(H, dim1=1, dim2=2).mul_(1 + damping)
        C_inv = torch.zeros_like(C) if freeze_points else 1 / (C * (1 + damping) + 1e-6)
        EC = E * C_inv[..., None]
        S = (H - EC.transpose(1, 2) @ E).double()
        s = (g - (EC * g_rho[..., None]).sum(1)).double()
        frames = torch.cat([n[:, None], n[:, None] + offsets], 1)
        keep = ((frames >= 0) & (frames < N)).repeat_interleave(6, 1)
        index = (6 * frames[..., None].clamp(0, N - 1) + torch.arange(6)).flatten(1)
        row, column = torch.broadcast_tensors(index[:, :, None], index[:, None])
        use = keep[:, :, None] & keep[:, None]
        flat = row * D + column % D  # = block row, row in block, column in block
        for target, apart in ((diagonal, 0), (below, 1)):
            here = use & (row // D - column // D == apart)
            target.index_add_(0, flat[here] - apart * D * D, S[:, :-1, :-1][here])
        border.index_add_(0, index[keep], S[:, :-1, -1][keep])
        gradient.index_add_(0, index[keep], s[:, :-1][keep])
        corner, gradient_f = corner + float(S[:, -1, -1].sum()), gradient_f + float(s[:, -1].sum())
        chunks.append((EC, C_inv * g_rho, index, keep))
    diagonal = diagonal.reshape(L, D, D)
    own = torch.diagonal(diagonal, dim1=1, dim2=2)
    own += 1e-6 + 1e-5 * own  # single-precision blocks: keeps the free scale positive definite
    own[0, :6] += 1e9  # gauge: the first pose stays
    own[-1, 6 * N - (L - 1) * D :] = 1  # frames that fill up the last block
    camera = Camera(diagonal, below.reshape(L, D, D), border.reshape(L, D), gradient.reshape(L, D), corner, gradient_f)
    return camera, chunks


def stepped(state: State, dx: Tensor, df: float, chunks: list) -> State:
    """State after a step of poses dx (>= 6 N,) and log f; points follow by back-substitution."""
    poses = dx[: 6 * len(state.cam_T_world)].reshape(-1, 6)
    d_rho = []
    for EC, free, index, keep in chunks:
        local = torch.where(keep, dx[index], 0).float()
        local = torch.cat([local, torch.full((len(local), 1), df)], 1)
        d_rho.append(-free - (EC @ local[..., None])[..., 0])
    log_rho = state.log_rho + torch.cat(d_rho).clamp(-1, 1)
    log_f = (state.log_f + float(np.clip(df, -0.2, 0.2))).clamp(*LOG_F)
    return State(se3_exp(poses.clamp(-0.5, 0.5)) @ state.cam_T_world, log_rho, log_f)


def adjust(
    problem: Problem,
    state: State,
    schedule: Sequence[tuple[float, int]],
    points_from: int = 0,
    focal_from: int | None = 0,
) -> tuple[State, float]:
    """Levenberg-Marquardt over poses, point depths and log f. Returns the state and its cost.

    schedule: kernel widths (px), each with the largest number of steps it gets; a width ends when a step gains less
    than 0.01 %. Points move from step `points_from` on, the focal length from `focal_from` on (None: never).
    """
    damping, cost, step = 1e-3, np.inf, 0
    for kernel, most in schedule:
        cost = cost_of(problem, state, kernel)
        for _ in range(most):
            freeze = step < points_from
            trial, damping = improved(
                problem, state, (kernel, cost), damping, freeze, focal_from is None or step < focal_from
            )
            step += 1
            if trial is None:
                break
            state, before, cost = trial[0], cost, trial[1]
            if before - cost < 1e-4 * cost and step > max(points_from, focal_from or 0):
                break
    return state, cost


def improved(problem: Problem, state: State, at: tuple[float, float], damping: float, freeze: bool, fix_focal: bool):
    """A state of lower cost than `at` = (kernel, cost), and the damping to go on with.

    None for the state where damping does not help any more.
    """
    kernel, cost = at
    for _ in range(5):
        camera, chunks = reduce(problem, state, kernel, damping, freeze)
        try:
            trial = stepped(state, *camera.step(fix_focal), chunks)
        except torch.linalg.LinAlgError:  # rounding made the system indefinite: damp more
            damping *= 10
            continue
        trial_cost = cost_of(problem, trial, kernel)
        if trial_cost < cost:
            return (trial, trial_cost), max(damping / 4, 1e-7)
        damping *= 8
    return None, 1e-3
