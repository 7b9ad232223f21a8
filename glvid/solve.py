"""The camera of a shot from geometry: flow matches and depth -> one focal length, every pose, depth scale, what moves.

Points are anchored in frames (inverse depth along the ray) and followed by flow into frames at fixed offsets. All
poses, inverse depths and one log focal length are solved together by Levenberg-Marquardt on the reprojection error;
points are eliminated by the Schur complement (Triggs et al. 2000, section 6), and because a frame only meets frames at
most `max(offsets)` away, the reduced camera system is a band matrix, so that time and memory grow linearly with the
length of the shot.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from glvid.geometry import inverse, se3_exp
from glvid.predict import FlowOf
from glvid.types import Intrinsics, Shot, Solution
from glvid.warp import sample_at

LOG_F = (-1.6, 1.4)  # focal of 0.2 to 4 long sides: 136 to 14 degrees
ANNEAL = ((4.0, 6), (2.0, 6), (0.7, 20))  # kernel width (px) and steps: wide first, so that a poor start can be left
STARTS = (0.6, 0.9)  # focal lengths tried beside the predicted one, in long sides (80 and 58 degrees)
SEARCH = 100  # frames of a shot the starts are compared on
CORRELATED = 8.0  # flow errors of neighbouring points agree: the curvature's sigma is too small by about this factor
OBSERVABLE = 0.08  # largest sigma of log focal that counts as determined
PREDICTED_SIGMA, GIVEN_SIGMA = (
    0.35,
    0.05,
)  # how far, in log focal, a clip may be from the network's and the user's value
STILL = 0.3  # px: image motion below this is none
CHUNK = 64  # anchor frames handled at once: bounds memory


@dataclass(frozen=True)
class Tracks:
    """M points anchored in each of N frames and where flow sees them in the frames at K offsets."""

    offsets: tuple[int, ...]
    xy: Float[Tensor, "N M 2"]  # px in the anchor frame
    target: Float[Tensor, "N K M 2"]  # px in frame n + offsets[k]
    weight: Float[Tensor, "N K M"]  # 0 outside the shot or where flow disagrees with its way back
    depth: Float[Tensor, "N M"]  # the network's, at xy


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


# ---------------------------------------------------------------- matches
def anchor_points(image: Tensor, grid: tuple[int, int]) -> Float[Tensor, "M 2"]:
    """The pixel of strongest gradient of each cell of a columns x rows grid; px, centres at .5. image: (H, W) grey."""
    h, w = image.shape
    gx = F.pad((image[:, 2:] - image[:, :-2]).abs(), (1, 1))
    gy = F.pad((image[2:] - image[:-2]).abs(), (0, 0, 1, 1))
    score = F.avg_pool2d((gx + gy)[None, None], 5, 1, 2)
    border = torch.zeros_like(score)
    border[..., 4:-4, 4:-4] = 1
    cell = (h // grid[1], w // grid[0])
    score = (score * border)[..., : cell[0] * grid[1], : cell[1] * grid[0]]
    _, index = F.max_pool2d(score, cell, cell, return_indices=True)
    index = index.flatten()
    columns = cell[1] * grid[0]
    return torch.stack([index % columns, index // columns], -1).float() + 0.5


def tracks(
    shot: Shot, flow: FlowOf, offsets: Sequence[int], points: int = 300, advance: Callable[[int], None] | None = None
) -> Tracks:
    """Anchor points in every frame and follow them by flow to n +- each of `offsets` (positive, ascending, first 1).

    A pair of frames in which fewer than 30 % of the points survive the forward-backward test is left out: where motion
    is fast, far pairs are wrong matches and pull everything.
    """
    n, (w, h) = len(shot), shot.size
    grid = (round((points * w / h) ** 0.5), round((points * h / w) ** 0.5))
    signed = tuple(s * k for k in offsets for s in (1, -1))
    found, depth = [], []
    for k in range(n):
        xy = anchor_points(torch.from_numpy(shot.images[k].astype(np.float32).mean(-1)), grid)
        d = torch.from_numpy(np.array(shot.depth[k], dtype=np.float32))[None, None]
        found.append(xy)
        depth.append(sample_at(d, xy.T[None, :, None])[0][0, 0, 0])
    xy, m = torch.stack(found), len(found[0])
    target = torch.zeros(n, len(signed), m, 2)
    weight = torch.zeros(n, len(signed), m)
    for k, offset in enumerate(offsets):
        for start in range(0, n - offset, CHUNK):
            i = np.arange(start, min(start + CHUNK, n - offset))
            a, b = (
                np.asarray(shot.images[i[0] : i[-1] + 1]),
                np.asarray(shot.images[i[0] + offset : i[-1] + 1 + offset]),
            )
            there, back = flow(a, b), flow(b, a)
            for slot, anchor, go, ret in ((2 * k, i, there, back), (2 * k + 1, i + offset, back, there)):
                target[anchor, slot], weight[anchor, slot] = follow(xy[anchor], go, ret)
            if advance:
                advance(len(i))
    if shot.ignored is not None:
        for k in range(n):
            out = torch.from_numpy(np.array(shot.ignored[k], dtype=np.float32))[None, None]
            weight[k] *= sample_at(out, xy[k].T[None, :, None])[0][0, 0, 0] < 0.5
    share = (weight > 0.2).float().mean(-1)
    share[:, :2] = 1  # neighbours always count
    return Tracks(signed, xy, target, weight * (share > 0.3)[..., None], torch.stack(depth))


def follow(xy: Float[Tensor, "B M 2"], go: Float[Tensor, "B 2 H W"], back: Float[Tensor, "B 2 H W"]):
    """Where flow takes points (B, M, 2), and a weight (B, M) that falls with the forward-backward gap; 0 outside."""
    at = xy.transpose(1, 2)[:, :, None]
    step, _ = sample_at(go, at)
    there = at + step
    ret, inside = sample_at(back, there)
    gap = (step + ret).norm(dim=1)[:, 0]
    allowed = 0.5 + 0.02 * step.norm(dim=1)[:, 0]
    w = inside[:, 0, 0] / (1 + (gap / allowed) ** 2) ** 2
    return there[:, :, 0].transpose(1, 2), torch.where(w < 0.05, torch.zeros_like(w), w)


# ---------------------------------------------------------------- bundle adjustment
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


# ---------------------------------------------------------------- starts
def two_view(a: np.ndarray, b: np.ndarray, depth: np.ndarray, tolerance: float) -> Float64[np.ndarray, "4 4"]:
    """Relative pose b_T_a of matched rays (z = 1) a, b (M, 2); translation in the unit of `depth` (M,).

    Essential matrix by USAC (Ivashechkin et al. 2021). Of its two rotations the smaller is right: neighbouring frames
    of a video never turn by 90 degrees, whereas cheirality, the usual test, fails where parallax is small.
    """
    pose, eye, none = np.eye(4), np.eye(3), np.zeros(5)
    if len(a) < 12:
        return pose
    params = cv2.UsacParams()
    params.confidence, params.maxIterations, params.randomGeneratorState, params.threshold = 0.999, 1000, 0, tolerance
    params.score, params.loMethod, params.sampler = (
        cv2.SCORE_METHOD_MSAC,
        cv2.LOCAL_OPTIM_INNER_LO,
        cv2.SAMPLING_UNIFORM,
    )
    E, _ = cv2.findEssentialMat(a, b, eye, eye, none, none, params)
    if E is None or E.shape != (3, 3):
        return pose
    R1, R2, t = cv2.decomposeEssentialMat(E)
    R, t = max(R1, R2, key=np.trace), t[:, 0]
    turned, seen = np.c_[a, np.ones(len(a))] @ R.T, np.c_[b, np.ones(len(b))]
    # seen ~ turned + rho t  =>  seen x turned = -rho seen x t
    p, q = np.cross(seen, turned), np.cross(seen, t)
    rho = -(p * q).sum(1) / ((q * q).sum(1) + 1e-12)
    speed = np.median(rho * depth)  # rho is in units of 1 / |t|
    pose[:3, :3], pose[:3, 3] = R, t * speed
    return pose


def two_view_chain(tracks: Tracks, camera: Intrinsics) -> Float64[Tensor, "N 4 4"]:
    """Start poses cam_T_world: relative poses of neighbours, one after the other, scaled by the network's depth."""
    poses, forward = [np.eye(4)], tracks.offsets.index(1)
    rays = [((x - camera.center) / camera.focal).double().numpy() for x in (tracks.xy, tracks.target[:, forward])]
    for n in range(len(tracks.xy) - 1):
        ok = (tracks.weight[n, forward] > 0.3).numpy()
        step = two_view(rays[0][n][ok], rays[1][n][ok], tracks.depth[n].numpy()[ok], 1.0 / float(camera.focal[0]))
        poses.append(step @ poses[-1])
    return torch.from_numpy(np.stack(poses))


def start(problem: Problem) -> State:
    """State at the base focal length: chained two-view poses, the network's depth."""
    poses = two_view_chain(problem.tracks, problem.base)
    return State(poses, -problem.tracks.depth.log(), torch.zeros((), dtype=torch.float64))


def portion(tracks: Tracks, first: int, last: int) -> Tracks:
    """Tracks of frames first..last-1 alone."""
    part = Tracks(tracks.offsets, *(getattr(tracks, k)[first:last] for k in ("xy", "target", "weight", "depth")))
    seen = torch.arange(last - first)[:, None] + torch.tensor(tracks.offsets)
    return replace(part, weight=part.weight * ((seen >= 0) & (seen < last - first))[..., None])


# ---------------------------------------------------------------- the whole shot
def solve(
    shot: Shot,
    flow: FlowOf,
    predicted: Intrinsics,
    given: bool = False,
    fix: bool = False,
    full: bool = True,
    advance: Callable[[int], None] | None = None,
) -> Solution:
    """Camera of a shot.

    predicted: the intrinsics to start from at working size, the network's or (`given`) the user's; with `fix` they
    stay as they are. full: more baselines and more points. advance: called with the number of frame pairs matched.
    Degenerate shots (one frame, a still image) keep `predicted` and say so in `warnings`.
    """
    if len(shot) < 2:
        return motionless(shot, predicted, given, fix, "one frame only: no camera motion, focal length as predicted")
    offsets = [k for k in ((1, 2, 4, 8) if full else (1, 2, 4)) if k < len(shot)]
    matched = tracks(shot, flow, offsets, 300 if full else 150, advance)
    motion = (matched.target - matched.xy[:, None]).norm(dim=-1)[matched.weight > 0.2].numpy()
    if len(motion) < 20 * len(shot) or np.quantile(motion, 0.8) < STILL:
        return motionless(
            shot, predicted, given, fix, "the image does not move: no camera motion, depth from the network alone"
        )
    problem = Problem(matched, predicted, sigma_focal=GIVEN_SIGMA if given else PREDICTED_SIGMA)
    if fix:
        state, cost = adjust(problem, start(problem), ANNEAL, 2, None)
        return solution(shot, problem, state, cost, (True, 0.0), "given")
    problem, state, cost, agree = best_start(problem, only=given)
    camera, _ = reduce(replace(problem, sigma_focal=np.inf), state, 0.7, 0.0, False)
    sigma = CORRELATED * problem.sigma_px / np.sqrt(max(camera.focal_information(), 1e-9))
    observable = bool(sigma < OBSERVABLE and agree)
    source = "given" if given else "solved" if observable else "predicted"
    sigma = min(sigma, problem.sigma_focal) if agree else problem.sigma_focal
    return solution(shot, problem, state, cost, (observable, sigma), source)


def best_start(problem: Problem, only: bool) -> tuple[Problem, State, float, bool]:
    """The cheapest of several focal starts, and whether the starts as cheap as it agree on the focal length (10 %).

    only: start at the problem's own focal length alone. Long shots: the starts are compared on SEARCH frames in the
    middle.
    """
    n, base = len(problem.tracks.xy), problem.base
    first = max(0, (n - SEARCH) // 2)
    short = portion(problem.tracks, first, min(n, first + SEARCH))
    aspect = base.focal / base.focal.mean()
    long_side = max(base.size[0] / aspect[0], base.size[1] / aspect[1])
    found = []
    for scale in [1.0] if only else [1.0, *(float(s * long_side / base.focal.mean()) for s in STARTS)]:
        trial = replace(
            problem, tracks=short, base=replace(base, focal=base.focal * scale), focal_start=-float(np.log(scale))
        )
        found.append((*adjust(trial, start(trial), ANNEAL, 2, 4)[::-1], trial))
    cost, state, trial = min(found, key=lambda f: f[0])
    log_f = [float(s.log_f) + np.log(float(t.base.focal[0])) for c, s, t in found if c < 1.1 * cost]
    agree = bool(max(log_f) - min(log_f) < 0.1)
    if n > SEARCH:
        trial = replace(
            trial,
            tracks=problem.tracks,
            base=camera_of(trial, state.log_f),
            focal_start=trial.focal_start - float(state.log_f),
        )
        state, cost = adjust(trial, start(trial), ANNEAL, 2, 4)
    return trial, state, cost, agree


def solution(
    shot: Shot, problem: Problem, state: State, cost: float, focal: tuple[bool, float], source: str
) -> Solution:
    """Put a solved state in the network depth's unit; focal = (observable, sigma of log focal)."""
    t = problem.tracks
    log_scale = -(state.log_rho + t.depth.log()).double().median(dim=1).values  # path unit per network unit, each frame
    unit = log_scale.median()
    world_T_cam = inverse(state.cam_T_world).clone()
    world_T_cam[:, :3, 3] *= (-unit).exp()
    world_T_cam[0] = torch.eye(4)  # but for rounding it is
    parallax = translation_parallax(problem, state) * 640 / shot.size[0]
    warnings = []
    if parallax < 1.0:
        warnings.append("the camera hardly changes place: depth comes from the network alone")
    if source == "predicted":
        warnings.append(
            f"this clip does not determine the focal length (sigma {100 * focal[1]:.0f} %): it leans on the predicted one"
        )
    scale = (log_scale - unit).exp()
    return Solution(
        intrinsics=camera_of(problem, state.log_f),
        focal_sigma=focal[1],
        observable=focal[0],
        source=source,
        world_T_cam=world_T_cam,
        depth_scale=scale if parallax >= 1.0 else torch.ones_like(scale),
        parallax=parallax,
        cost=cost / max(float(t.weight.sum()), 1e-9),
        warnings=tuple(warnings),
    )


def translation_parallax(problem: Problem, state: State) -> float:
    """Median over points of the largest px by which translation alone shifts them in any frame they are seen in."""
    shifts = []
    for n in torch.arange(len(problem.tracks.xy)).split(CHUNK):
        r, R, _, q, z, K, _, weight = reproject(problem, state, n)
        turned = r @ R.transpose(-1, -2)
        shift = ((q[..., :2] / z - turned[..., :2] / turned[..., 2:].clamp_min(0.05)) * K.focal).norm(dim=-1)
        seen = weight > 0.2
        shifts.append((shift * seen).amax(dim=1)[seen.any(dim=1)])
    shifts = torch.cat(shifts)
    return float(shifts.median()) if len(shifts) else 0.0


def motionless(shot: Shot, predicted: Intrinsics, given: bool, fix: bool, warning: str) -> Solution:
    """The solution of a shot that says nothing about the camera."""
    n = len(shot)
    return Solution(
        intrinsics=predicted,
        focal_sigma=0.0 if fix else GIVEN_SIGMA if given else None,
        observable=False,
        source="given" if given else "predicted",
        world_T_cam=torch.eye(4, dtype=torch.float64).repeat(n, 1, 1),
        depth_scale=torch.ones(n, dtype=torch.float64),
        parallax=0.0,
        cost=0.0,
        warnings=(warning,),
    )
