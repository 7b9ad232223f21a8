"""Steps of a path that the picture hardly tells: motion blur, spray on the lens, an object that fills the picture.

What little matches there fits any motion, so the best fit leaps. Cameras have mass.
"""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from glvid.geometry import inverse, rigid, se3_exp, se3_log
from glvid.solve.bundle import Problem, State, camera_of, reproject
from glvid.solve.matches import CHUNK

FITS = 1.0  # px: a match this near to where the path puts it fits
TOLD = 0.5  # share of what usually fits in a shot, from which on a step is told
SHOWN = 0.8  # and from which on a leap, or a gap's length, is
LEAP = 2.0  # a step so many times as long, or turning as far, as is usual around it
TREMOR = 0.01  # median depths, and rad, that no step is a leap by
AROUND = 5  # steps before and after that say what is usual; the told ones say how fast the camera moves meanwhile
LEFT = 0.7  # share of motion; whip pans leave 0.2 to 0.7, chance 0.9
FEW = 20  # matches that a rotation is taken from, at least


def support(problem: Problem, state: State) -> Float[Tensor, "K N"]:
    """Share of all points of every frame that fit in the frame at each offset."""
    found = []
    for n in torch.arange(len(problem.tracks.xy)).split(CHUNK):
        *_, residual, weight = reproject(problem, state, n)
        found.append(((weight > 0.2) & (residual.norm(dim=-1) < FITS)).float().mean(-1))
    return torch.cat(found).T


def leaps(poses: Float64[Tensor, "N 4 4"], depth: float) -> Bool[Tensor, " S"]:
    """Steps far longer, or turning far more, than those around them; depth: a usual one."""
    step = se3_log(poses[1:] @ inverse(poses[:-1]))
    found = torch.zeros(len(step), dtype=torch.bool)
    for size in (step[:, :3].norm(dim=1) / depth, step[:, 3:].norm(dim=1)):
        for n in range(len(size)):
            near = torch.cat([size[max(0, n - AROUND) : n], size[n + 1 : n + 1 + AROUND]])
            found[n] |= bool(len(near)) and bool(size[n] > LEAP * near.median() + TREMOR)
    return found


def gaps(told: Bool[Tensor, " S"], first: int) -> list[tuple[int, int]]:
    """First and last + 1 of every run of steps that are not told, from step `first` on."""
    found = []
    for n in range(first, len(told)):
        if not told[n]:
            found = [*found[:-1], (found[-1][0], n + 1)] if found and found[-1][1] == n else [*found, (n, n + 1)]
    return found


def bridged(problem: Problem, state: State) -> tuple[Float64[Tensor, "N 4 4"], list[tuple[int, int]]]:
    """cam_T_world with every gap bridged, and the gaps: step n leads from frame n to n + 1.

    Where a pair of frames from before a gap to behind it shows it, both ends stay and the way between them is even.
    Else the camera goes on at the speed it has before and after, turns as most of the picture does, and what comes
    behind goes with it.
    """
    share, offsets = support(problem, state), problem.tracks.offsets
    share = share / share[offsets.index(1), :-1].median().clamp_min(1e-6)
    leap = leaps(state.cam_T_world, float((-state.log_rho.median()).exp()))
    steps = share[offsets.index(1), :-1] >= torch.where(leap, SHOWN, TOLD)
    poses, found = state.cam_T_world.clone(), gaps(steps, problem.held - 1)
    for a, b in found:
        spans = [(share[s, max(0, b - k) : a + 1] >= SHOWN).any() for s, k in enumerate(offsets) if k >= b - a]
        if b < len(poses) - 1 and any(spans):
            even = se3_log((poses[b] @ inverse(poses[a]))[None]) / (b - a)
            chain = se3_exp(even * torch.arange(b - a + 1)[:, None]) @ poses[a]
        else:
            near = [n for n in range(len(steps)) if steps[n] and (a - AROUND <= n < a or b <= n < b + AROUND)]
            known = (poses[1:] @ inverse(poses[:-1]))[near]
            usual = se3_log(known).mean(0) if near else torch.zeros(6, dtype=poses.dtype)
            chain = [poses[a]]
            for n in range(a, b):
                step = se3_exp(usual[None])[0]
                turn = turned(problem, state, n)
                step[:3, :3] = step[:3, :3] if turn is None else turn
                chain.append(step @ chain[-1])
        behind = rigid(poses[b:] @ inverse(poses[b]) @ chain[-1])
        poses = torch.cat([poses[:a], torch.stack(list(chain))[:-1], behind])
    return poses, found


def turned(problem: Problem, state: State, n: int) -> Float64[Tensor, "3 3"] | None:
    """Rotation of frame n to the next that most matches agree with (Kabsch 1976, reweighted); None of too few matches,
    or where it leaves more than LEFT of how far they move."""
    t, K, s = problem.tracks, camera_of(problem, state.log_f), problem.tracks.offsets.index(1)
    use = t.weight[n, s] > 0.2
    if use.sum() < FEW:
        return None
    here, there = (
        torch.cat([(xy[use] - K.center) / K.focal, torch.ones(int(use.sum()), 1)], 1).double()
        for xy in (t.xy[n], t.target[n, s])
    )
    here, there = (r / r.norm(dim=1, keepdim=True) for r in (here, there))
    weight, px = torch.ones(len(here), 1, dtype=torch.float64), float(K.focal.mean())
    for _ in range(10):
        U, _, V = torch.linalg.svd(there.T @ (weight * here))
        R = U @ torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(U @ V))], dtype=torch.float64)) @ V
        away = px * (there - here @ R.T).norm(dim=1, keepdim=True)
        weight = 1 / (1 + (away / away.median().clamp_min(FITS)) ** 2)
    moved = px * (there - here).norm(dim=1)
    return R if away.median() < max(FITS, LEFT * moved.median()) else None
