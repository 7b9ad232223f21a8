"""Bundle adjustment of anchored points: poses, inverse depths, one log focal length and the time in which the sensor is
read out, by Levenberg-Marquardt.

Points are eliminated by the Schur complement (Triggs et al. 2000, section 6). A frame only meets frames at most
`max(offsets)` away, so the reduced camera system is block-tridiagonal: time and memory grow linearly with the shot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from glvid.geometry import inverse, se3_exp
from glvid.parallel import cores, each
from glvid.solve.matches import CHUNK, Tracks
from glvid.types import Intrinsics

LOG_F = (-1.6, 1.4)  # focal of 0.2 to 4 long sides: 136 to 14 degrees
SPEED_SIGMA = 0.2  # of the mean speed, by which velocity usually changes from frame to frame
READOUT = 1.0  # largest share of the time between frames that rows can be read in
READOUT_SIGMA = 0.5  # of this share: phones need a third to all of it, and a global shutter is 0
CORRELATED = 8.0  # flow errors of neighbouring points agree: the curvature's sigma is too small by about this factor


NO_READOUT = torch.zeros((), dtype=torch.float64)  # a global shutter


@dataclass(frozen=True)
class State:
    """Unknowns of the bundle adjustment."""

    cam_T_world: Float64[Tensor, "N 4 4"]
    log_rho: Float[Tensor, "N M"]  # log inverse depth of the anchored points
    log_f: Float64[Tensor, ""]  # focal = base focal * exp(log_f)
    readout: Float64[Tensor, ""] = NO_READOUT  # first to last row, in times between frames; poses are the middle row's


@dataclass(frozen=True)
class Problem:
    """What stays fixed during an adjustment."""

    tracks: Tracks
    base: Intrinsics  # centre, aspect and the unit of log_f
    sigma_px: float = 0.7  # scale of the Cauchy kernel on reprojection errors
    sigma_depth: float = 0.5  # how far (log) point depths may leave the network's shape; inf: no prior
    focal_start: float = 0.0  # log_f the focal prior is centred on
    sigma_focal: float = float("inf")
    held: int = 1  # frames at the beginning whose poses stay as they start

    @property
    def focal_weight(self) -> float:
        """Weight of the prior on log f beside reprojection errors in px^2."""
        return (CORRELATED * self.sigma_px / self.sigma_focal) ** 2

    @property
    def readout_weight(self) -> float:
        """Weight of the prior on the readout beside reprojection errors in px^2."""
        return (CORRELATED * self.sigma_px / READOUT_SIGMA) ** 2


AT_ONCE = 50  # anchor frames of a core: bounds memory; what a call costs whatever its size weighs as much as 30 of them


def parts(frames: int) -> Sequence[Tensor]:
    """Numbers of frames, AT_ONCE of them together at most, in as many parts of one size as keep all cores busy."""
    rounds = -(-frames // (AT_ONCE * cores()))
    return torch.arange(frames).chunk(rounds * cores())


def camera_of(problem: Problem, log_f: Tensor) -> Intrinsics:
    """The pinhole camera at a log focal length."""
    return replace(problem.base, focal=problem.base.focal * log_f.exp().to(problem.base.focal.dtype))


def unrolled(tracks: Tracks, n: Tensor, readout: Tensor) -> tuple[Float[Tensor, "B M 2"], Float[Tensor, "B K M 2"]]:
    """Points of anchor frames n and their targets, where they would be had all rows been taken at the same time."""
    if tracks.lag is None:
        return tracks.xy[n], tracks.target[n]
    return tracks.xy[n] - readout * tracks.lag[n], tracks.target[n] - readout * tracks.target_lag[n]


def reproject(problem: Problem, state: State, n: Tensor):
    """For anchor frames n: rays r (B, 1, M, 3), R, q = R r + rho t (B, K, M, 3), residual (B, K, M, 2) px, weight."""
    t = problem.tracks
    offsets = torch.tensor(t.offsets)
    b = (n[:, None] + offsets).clamp(0, len(t.xy) - 1)
    G = state.cam_T_world
    b_T_a = (G[b] @ inverse(G[n])[:, None]).float()
    K = camera_of(problem, state.log_f)
    xy, target = unrolled(t, n, state.readout.float())
    r = (xy - K.center) / K.focal
    r = torch.cat([r, torch.ones_like(r[..., :1])], -1)[:, None]
    R = b_T_a[..., :3, :3]
    rho = state.log_rho[n].exp()[:, None, :, None]
    q = r @ R.transpose(-1, -2) + rho * b_T_a[..., None, :3, 3]
    z = q[..., 2:].clamp_min(0.05)
    residual = whitened(q[..., :2] / z * K.focal + K.center - target, t.root[n])
    weight = t.weight[n] * (q[..., 2] > 0.05)
    return r, R, rho, q, z, K, residual, weight


def whitened(x: Float[Tensor, "B K M *d 2"], root: Float[Tensor, "B M 2 2"]) -> Float[Tensor, "B K M *d 2"]:
    """root x, by components, since a matrix product of that many small matrices is slow."""
    r = root[:, None].reshape(len(root), 1, root.shape[1], *[1] * (x.ndim - 4), 2, 2)
    return x[..., :1] * r[..., 0] + x[..., 1:] * r[..., 1]


def lagging(problem: Problem, state: State) -> Problem:
    """The problem with how far every point moves, at the speed of `state`, while the rows from the middle to its own
    are read: what a rolling shutter shifts it by, per unit of readout (Meingast et al. 2005; first order)."""
    t, K, G = problem.tracks, camera_of(problem, state.log_f), state.cam_T_world
    last = len(t.xy) - 1
    lags = []
    for n in torch.arange(len(t.xy)).split(CHUNK):
        frames = (n[:, None] + torch.tensor((0, *t.offsets))).clamp(0, last)
        r = (unrolled(t, n, state.readout.float())[0] - K.center) / K.focal
        r = torch.cat([r, torch.ones_like(r[..., :1])], -1)[:, None]
        rho = state.log_rho[n].exp()[:, None, :, None]
        seen = []
        for b in ((frames - 1).clamp_min(0), (frames + 1).clamp_max(last)):
            T = (G[b] @ inverse(G[n])[:, None]).float()
            q = r @ T[..., :3, :3].transpose(-1, -2) + rho * T[..., None, :3, 3]
            seen.append(q[..., :2] / q[..., 2:].clamp_min(0.05) * K.focal)
        apart = (frames + 1).clamp_max(last) - (frames - 1).clamp_min(0)
        speed = (seen[1] - seen[0]) / apart[..., None, None].clamp_min(1)
        most = 0.25 * max(problem.base.size)  # px a frame: beyond this the point has left the picture
        row = torch.cat([t.xy[n][:, None], t.target[n]], 1)[..., 1:] / problem.base.size[1] - 0.5
        lags.append(row.clamp(-0.5, 0.5) * speed.clamp(-most, most))
    lag = torch.cat(lags)
    return replace(problem, tracks=replace(t, lag=lag[:, 0], target_lag=lag[:, 1:]))


def robust(residual: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Cauchy cost c^2 log(1 + e^2 / c^2) / 2 and its weight, of residuals (..., 2)."""
    e2 = (residual**2).sum(-1)
    return 0.5 * scale**2 * torch.log1p(e2 / scale**2), 1 / (1 + e2 / scale**2)


def depth_prior(problem: Problem, state: State, n: Tensor):
    """Residual (B, M) of log depth against the network's shape, frame by frame up to a scale, and its weight."""
    t = problem.tracks
    e = state.log_rho[n] + t.depth[n].log()
    e = e - e.median(dim=1, keepdim=True).values
    s = sigma_of(problem, n)
    w = (problem.sigma_px / s) ** 2 / (1 + (e / s) ** 2) if np.isfinite(problem.sigma_depth) else torch.zeros_like(e)
    return e, w


def sigma_of(problem: Problem, n: Tensor) -> float | Float[Tensor, "B M"]:
    """How far log depths of anchor frames n may leave the network's shape: where it is surer of itself, less."""
    own = problem.tracks.sigma
    return problem.sigma_depth if own is None else problem.sigma_depth * own[n]


def jolt_cost(problem: Problem, state: State) -> float:
    """Cost of changes of velocity, in px^2 beside the robust costs of reprojection: cameras have mass.

    Counted in units of the mean speed, so the unit of length does not matter.
    """
    velocity = inverse(state.cam_T_world)[:, :3, 3].diff(dim=0)
    jolt = velocity.diff(dim=0) / velocity.norm(dim=1).mean().clamp_min(1e-9) / SPEED_SIGMA
    return (CORRELATED * problem.sigma_px) ** 2 * float(robust(jolt, 1 / SPEED_SIGMA)[0].sum())


def cost_of(problem: Problem, state: State, kernel: float) -> float:
    """Total robust cost of a state."""

    def of_frames(n: Tensor) -> float:
        *_, residual, weight = reproject(problem, state, n)
        cost, _ = robust(residual, kernel)
        e, w = depth_prior(problem, state, n)
        s = sigma_of(problem, n)
        prior = 0.5 * problem.sigma_px**2 * torch.log1p((e / s) ** 2) if np.isfinite(problem.sigma_depth) else 0 * e
        return float((cost * weight).sum().double() + prior.sum().double())

    total = sum(each(of_frames, parts(len(problem.tracks.xy))))
    readout = problem.readout_weight * float(state.readout) ** 2
    return total + 0.5 * (problem.focal_weight * float(state.log_f - problem.focal_start) ** 2 + readout)


def derivatives(problem: Problem, state: State, n: Tensor, kernel: float):
    """Whitened residuals of anchor frames n, times the roots of their weights, by their unknowns: A (B, K, 16, 2, M).

    Rows: by pose a (its inverse moves the ray), by pose b, by log f, by the readout; the residual itself; by log
    rho. Points lie along the last dimension, which is what processors like.
    """
    r, R, rho, q, z, K, residual, weight = reproject(problem, state, n)
    weight = (weight * robust(residual, kernel)[1]).sqrt()
    t, (f, g), size = problem.tracks, K.focal, (*weight.shape[:2], 16, 2, weight.shape[2])
    moved = (q - r @ R.transpose(-1, -2)).transpose(-1, -2)  # rho times the translation, (B, K, 3, M)
    r, q, rho, z = r.transpose(-1, -2).contiguous(), q.transpose(-1, -2).contiguous(), rho[..., None, :, 0], z[..., 0]
    root, turned = t.root[n].permute(2, 3, 0, 1)[:, :, :, None].contiguous(), R.transpose(-1, -2)
    A = torch.empty(size)
    for v, (a, b) in enumerate(root):
        x, y = weight * a * f / z, weight * b * g / z
        by_q = torch.stack([x, y, -(x * q[:, :, 0] + y * q[:, :, 1]) / z], 2)
        by_r = turned @ by_q
        A[:, :, :3, v], A[:, :, 3:6, v] = by_r * -rho, crossed(by_r, r)
        A[:, :, 6:9, v], A[:, :, 9:12, v] = by_q * rho, crossed(q, by_q)
        # the ray shrinks, the picture grows
        A[:, :, 12, v] = x * q[:, :, 0] + y * q[:, :, 1] - by_r[:, :, 0] * r[:, :, 0] - by_r[:, :, 1] * r[:, :, 1]
        A[:, :, 13, v] = 0.0
        if t.lag is not None:  # the anchor's ray and where it was seen move with the readout
            (lag_x, lag_y), (to_x, to_y) = t.lag[n][:, None].unbind(-1), t.target_lag[n].unbind(-1)
            seen = weight * (a * to_x + b * to_y)
            A[:, :, 13, v] = seen - by_r[:, :, 0] * lag_x / f - by_r[:, :, 1] * lag_y / g
        A[:, :, 14, v], A[:, :, 15, v] = weight * residual[..., v], (by_q * moved).sum(2)
    return A


def crossed(a: Float[Tensor, "B K 3 M"], b: Float[Tensor, "B k 3 M"]) -> Float[Tensor, "B K 3 M"]:
    """a x b of vectors along the third dimension: several times faster here than the library's."""
    (a0, a1, a2), (b0, b1, b2) = a.unbind(2), b.unbind(2)
    return torch.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], 2)


def normal_equations(problem: Problem, state: State, n: Tensor, kernel: float):
    """Gauss-Newton blocks of anchor frames n.

    Local unknowns of anchor a: pose a, poses at the K offsets, log f, readout: D = 6 (K + 1) + 2. Returns H (B, D, D),
    g (B, D), E (B, D, M), C (B, M), g_rho (B, M): pose-pose, gradient, pose-point, point-point, point gradient.
    """
    A = derivatives(problem, state, n, kernel).flatten(3)
    B, k, _, M = A.shape
    M //= 2
    gram = A @ A.transpose(-1, -2)  # (B, K, 16, 16)
    with_point = A * A[:, :, 15:]
    with_point = with_point[..., :M] + with_point[..., M:]  # (B, K, 16, M)
    D = 6 * (k + 1) + 2
    H, E, g = torch.zeros(B, D, D), torch.empty(B, D, M), torch.empty(B, D)
    for s in range(k):
        c = torch.cat([torch.arange(6), torch.arange(6 + 6 * s, 12 + 6 * s), torch.tensor([D - 2, D - 1])])
        H[:, c[:, None], c] += gram[:, s, :14, :14]
    for out, rows in ((E, with_point[:, :, :14]), (g, gram[:, :, :14, 14])):
        out[:, :6], out[:, 6:-2], out[:, -2:] = (
            rows[:, :, :6].sum(1),
            rows[:, :, 6:12].flatten(1, 2),
            rows[:, :, 12:].sum(1),
        )
    e, w = depth_prior(problem, state, n)
    return H, g, E, with_point[:, :, 15].sum(1) + w, with_point[:, :, 14].sum(1) + w * e


@dataclass(frozen=True)
class Camera:
    """Reduced camera system: poses as a block-tridiagonal matrix, log f and the readout as its border.

    Two frames share an equation only if they are at most 2 max(offsets) apart; blocks of that many frames meet only
    their neighbours.
    """

    diagonal: Float64[Tensor, "L D D"]
    below: Float64[Tensor, "L D D"]  # below[l]: rows of block l + 1, columns of block l; the last is unused
    border: Float64[Tensor, "L D 2"]
    gradient: Float64[Tensor, "L D"]
    corner: Float64[Tensor, "2 2"]
    gradient_lens: Float64[Tensor, "2"]

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

    def step(self, free: Sequence[bool]) -> tuple[Tensor, Float64[Tensor, "2"]]:
        """Newton step of the poses (L D,), and of log f and the readout as far as they are `free`."""
        x = self.inverse_times(torch.cat([self.gradient[..., None], self.border], -1))
        step, some = torch.zeros(2, dtype=torch.float64), torch.tensor(free)
        if some.any():
            across = torch.einsum("lda,ldb->ab", self.border, x)
            curvature = (self.corner - across[:, 1:])[some][:, some] + 1e-9 * torch.eye(int(some.sum()))
            step[some] = -torch.linalg.solve(curvature, (self.gradient_lens - across[:, 0])[some])
        return (-x[..., 0] - x[..., 1:] @ step).flatten(), step

    def lens_information(self) -> Float64[Tensor, "2"]:
        """Curvature of the cost along log f, and along the readout, once everything else follows."""
        x = self.inverse_times(self.border)
        left = self.corner - torch.einsum("lda,ldb->ab", self.border, x)
        return torch.diagonal(left) - left[0, 1] ** 2 / torch.diagonal(left).flip(0).clamp_min(1e-9)


def eliminated(problem: Problem, state: State, n: Tensor, kernel: float, damping: float, freeze_points: bool):
    """Anchor frames n without their points: S (B, D, D), s (B, D) in double precision, and what back-substitution
    needs: E C^-1 (B, D, M), C^-1 g_rho (B, M)."""
    H, g, E, C, g_rho = normal_equations(problem, state, n, kernel)
    torch.diagonal(H, dim1=1, dim2=2).mul_(1 + damping)
    C_inv = torch.zeros_like(C) if freeze_points else 1 / (C * (1 + damping) + 1e-6)
    EC = E * C_inv[:, None]
    S = (H - EC @ E.transpose(1, 2)).double()
    return S, (g - (EC @ g_rho[..., None])[..., 0]).double(), EC, C_inv * g_rho


def reduce(problem: Problem, state: State, kernel: float, damping: float, freeze_points: bool):
    """Eliminate the points. Returns the reduced Camera system and, per chunk, what back-substitution needs."""
    t = problem.tracks
    N, offsets = len(t.xy), torch.tensor((0, *t.offsets))
    F = 2 * int(offsets.abs().max())  # frames of a block
    L = -(-N // F)
    # rows: frames; columns: frames of the block before and of their own; last, what belongs to no frame
    band = torch.zeros(L * F * 2 * F + 1, 36, dtype=torch.float64)
    edge = torch.zeros(L * F + 1, 6, 3, dtype=torch.float64)  # log f, readout, gradient
    weights = torch.tensor([problem.focal_weight, problem.readout_weight], dtype=torch.float64)
    corner = torch.diag(weights)
    gradient_lens = weights * torch.stack([state.log_f - problem.focal_start, state.readout])
    chunks, k = [], len(offsets)
    without_points = partial(eliminated, problem, state, kernel=kernel, damping=damping, freeze_points=freeze_points)
    for n, (S, s, EC, free) in zip(parts(N), each(without_points, parts(N)), strict=True):
        frames = n[:, None] + offsets
        there = (frames >= 0) & (frames < N)
        row, column = frames[:, :, None], frames[:, None]
        at = column - (row // F - 1) * F
        use = there[:, :, None] & there[:, None] & (at >= 0) & (at < 2 * F)
        of_pairs = S[:, :-2, :-2].unflatten(2, (k, 6)).unflatten(1, (k, 6)).transpose(2, 3)
        band.index_add_(0, torch.where(use, row * 2 * F + at, len(band) - 1).flatten(), of_pairs.reshape(-1, 36))
        rest = torch.cat([S[:, :-2, -2:], s[:, :-2, None]], 2).reshape(-1, 6, 3)
        edge.index_add_(0, torch.where(there, frames, L * F).flatten(), rest)
        corner, gradient_lens = corner + S[:, -2:, -2:].sum(0), gradient_lens + s[:, -2:].sum(0)
        chunks.append((EC, free, frames, there))
    band = band[:-1].reshape(L, F, 2, F, 6, 6).permute(2, 0, 1, 4, 3, 5).reshape(2, L, 6 * F, 6 * F)
    edge = edge[:-1].reshape(L, 6 * F, 3)
    diagonal = band[1]
    own = torch.diagonal(diagonal, dim1=1, dim2=2)
    own += 1e-6 + 1e-6 * own  # single-precision blocks: keeps the free scale positive definite
    held = 1e9 * (torch.arange(L * 6 * F) < 6 * problem.held).reshape(L, 6 * F)
    own += held  # gauge: the first pose stays, or the first ones
    own[-1, 6 * (N - (L - 1) * F) :] = 1  # frames that fill up the last block
    return Camera(diagonal, band[0].roll(-1, 0), edge[..., :2], edge[..., 2], corner, gradient_lens), chunks


def stepped(state: State, dx: Tensor, lens: Float64[Tensor, "2"], chunks: list) -> State:
    """State after a step of poses dx (>= 6 N,), log f and readout; points follow by back-substitution."""
    poses = dx[: 6 * len(state.cam_T_world)].reshape(-1, 6)
    d_rho = []
    for EC, free, frames, there in chunks:
        local = torch.where(there[..., None], poses[frames.clamp(0, len(poses) - 1)], 0).flatten(1).float()
        local = torch.cat([local, lens.float().expand(len(local), 2)], 1)
        d_rho.append(-free - (local[:, None] @ EC)[:, 0])
    log_rho = state.log_rho + torch.cat(d_rho).clamp(-1, 1)
    log_f = (state.log_f + lens[0].clamp(-0.2, 0.2)).clamp(*LOG_F)
    readout = (state.readout + lens[1].clamp(-0.3, 0.3)).clamp(-READOUT, READOUT)
    return State(se3_exp(poses.clamp(-0.5, 0.5)) @ state.cam_T_world, log_rho, log_f, readout)


def adjust(
    problem: Problem,
    state: State,
    schedule: Sequence[tuple[float, int]],
    points_from: int = 0,
    focal_from: int | None = 0,
) -> tuple[State, float]:
    """Levenberg-Marquardt over poses, point depths, log f and the readout. Returns the state and its cost.

    schedule: kernel widths (px), each with the largest number of steps it gets; a width ends when a step gains less
    than 0.01 %. Points move from step `points_from` on, the focal length from `focal_from` on (None: never), the
    readout where the problem is `lagging`.
    """
    damping, cost, step = 1e-3, np.inf, 0
    for kernel, most in schedule:
        cost = cost_of(problem, state, kernel)
        for _ in range(most):
            freeze = step < points_from
            free = (focal_from is not None and step >= focal_from, problem.tracks.lag is not None)
            trial, damping = improved(problem, state, (kernel, cost), damping, freeze, free)
            step += 1
            if trial is None:
                break
            state, before, cost = trial[0], cost, trial[1]
            if before - cost < 1e-4 * cost and step > max(points_from, focal_from or 0):
                break
    return state, cost


def improved(
    problem: Problem, state: State, at: tuple[float, float], damping: float, freeze: bool, free: tuple[bool, bool]
):
    """A state of lower cost than `at` = (kernel, cost), and the damping to go on with. free: log f, readout.

    None for the state where damping does not help any more.
    """
    kernel, cost = at
    for _ in range(5):
        camera, chunks = reduce(problem, state, kernel, damping, freeze)
        try:
            trial = stepped(state, *camera.step(free), chunks)
        except torch.linalg.LinAlgError:  # rounding made the system indefinite: damp more
            damping *= 10
            continue
        trial_cost = cost_of(problem, trial, kernel)
        if trial_cost < cost:
            return (trial, trial_cost), max(damping / 4, 1e-7)
        damping *= 8
    return None, 1e-3
