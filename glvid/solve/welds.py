"""Steps over which a path changes its scale: found by trying every scale, since adjustment may not leave them.

A step at which the scale breaks tears the matches across it so far apart that a robust kernel takes them for outliers;
each side then agrees with itself, and no small change helps. Seen on KITTI 07, where a lorry fills half of the
picture in a bend: the path was 4 to 11 % off with slightly worse flow.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from glvid.geometry import inverse
from glvid.parallel import each
from glvid.solve.bundle import Problem, State, camera_of, cost_of, robust, unrolled, whitened

SCALES = torch.linspace(-1.6, 1.6, 33, dtype=torch.float64).exp()  # tried: a fifth to five times
MIDDLE = 16  # of these: 1
LEAST = 0.002  # share of the whole cost that a weld must gain
UNUSUAL = 1.3  # times the usual cost of a match is what a step must have to be suspected of a break
POINTS = 100  # a frame that the scales are compared on, at most


def welded(problem: Problem, state: State, kernel: float) -> State | None:
    """The state with what comes after a step scaled so that matches across it fit best, wherever that lowers the cost
    (at this kernel width, px) by LEAST; None where it does nowhere.

    Of steps that the same matches cross, only the one that gains most is changed.
    """
    least, reach = LEAST * cost_of(problem, state, kernel), max(problem.tracks.offsets)
    steps = range(max(1, problem.held), len(problem.tracks.xy))
    now = torch.stack(list(each(partial(fit_across, problem, state, kernel, SCALES[MIDDLE, None]), steps)))[..., 0]
    bad = now[:, 0] / now[:, 1].clamp_min(1e-6)
    suspects = [n for n, s in zip(steps, (bad > UNUSUAL * bad.median()) & (now[:, 0] > least), strict=True) if s]
    found = []
    for n, (costs, _) in zip(
        suspects, each(partial(fit_across, problem, state, kernel, SCALES), suspects), strict=True
    ):
        found.append((float(costs[MIDDLE] - costs.min()), n, float(SCALES[costs.argmin()])))
    taken: list[tuple[int, float]] = []
    for gain, n, scale in sorted(found, reverse=True):
        if gain > least and all(abs(n - m) > reach for m, _ in taken):
            taken.append((n, scale))
    for n, scale in taken:
        state = scaled_from(state, n, scale)
    return state if taken else None


def fit_across(
    problem: Problem, state: State, kernel: float, scales: Float64[Tensor, " S"], n: int
) -> Float64[Tensor, "2 S"]:
    """Robust cost of the matches between frames before n and from n on, and their number, if all from the step to n
    on were scaled."""
    t, every = problem.tracks, -(-problem.tracks.xy.shape[1] // POINTS)
    frames, reach = len(t.xy), max(t.offsets)
    a = torch.arange(max(0, n - reach), min(frames, n + reach))
    b = a[:, None] + torch.tensor(t.offsets)
    row, slot = torch.nonzero((b >= 0) & (b < frames) & ((a[:, None] < n) != (b < n)), as_tuple=True)
    xy, target = (x[:, ..., ::every, :] for x in unrolled(t, a, state.readout.float()))
    xy, target, weight = xy[row], target[row, slot], t.weight[a[row], slot, ::every]
    rho, root = state.log_rho[a[row], ::every].exp()[..., None], t.root[a[row], ::every]
    a, b = a[row], b[row, slot]
    world_T_cam, K = inverse(state.cam_T_world), camera_of(problem, state.log_f)
    R_b, hinge = state.cam_T_world[b, :3, :3], world_T_cam[n - 1, :3, 3]
    near, far = world_T_cam[a, :3, 3] - hinge, hinge - world_T_cam[b, :3, 3]  # a's side keeps its scale
    r = (xy - K.center) / K.focal
    turned = torch.cat([r, torch.ones_like(r[..., :1])], -1) @ (R_b @ world_T_cam[a, :3, :3]).float().transpose(1, 2)
    costs = []
    for scale in scales.tolist():
        other = torch.where(a < n, scale, 1 / scale)[:, None]
        t_ba = (R_b @ (near + other * far)[..., None])[..., 0].float()
        q = turned + rho * t_ba[:, None]
        ahead = q[..., 2] > 0.05
        residual = whitened((q[..., :2] / q[..., 2:].clamp_min(0.05) * K.focal + K.center - target)[:, None], root)[
            :, 0
        ]
        lost = torch.full_like(weight, 4 * kernel**2)  # behind the camera: a bad match, not none
        costs.append((weight * torch.where(ahead, robust(residual, kernel)[0], lost)).sum().double() * every)
    costs = torch.stack(costs)
    return torch.stack([costs, weight.sum().double().expand_as(costs) * every])


def scaled_from(state: State, n: int, scale: float) -> State:
    """The state with all from the step n - 1 -> n on grown by `scale`, about the camera centre of frame n - 1."""
    world_T_cam, log_rho = inverse(state.cam_T_world), state.log_rho.clone()
    hinge = world_T_cam[n - 1, :3, 3].clone()
    world_T_cam[n:, :3, 3] = hinge + scale * (world_T_cam[n:, :3, 3] - hinge)
    log_rho[n:] -= float(np.log(scale))
    return replace(state, cam_T_world=inverse(world_T_cam), log_rho=log_rho)
