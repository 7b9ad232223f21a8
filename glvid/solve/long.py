"""Shots of any length, in windows, so that memory does not grow with them.

The focal length comes from a few windows, each solved for itself, and belongs to all. Then one window after another is
adjusted; the poses that it shares with the one before are held, so that place and scale carry over.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from glvid.geometry import inverse
from glvid.predict import Flows
from glvid.solve.bundle import Problem, State, jolt_cost
from glvid.solve.loops import closed
from glvid.solve.matches import Tracks, tracks
from glvid.solve.shot import (
    ANNEAL,
    GIVEN_SIGMA,
    PARALLAX,
    POINTS,
    PREDICTED_SIGMA,
    WIDE,
    Asked,
    annealed,
    baselines,
    motionless,
    nothing_to_see,
    settle,
    sharpened,
    solution,
    solve_shot,
)
from glvid.solve.starts import two_view_chain
from glvid.store import digest
from glvid.types import Intrinsics, Shot, Solution

WINDOW = 400  # frames adjusted at once: about 100 MB
SHARED = 48  # frames that a window shares with the one before
UNSETTLED = 16  # of these, the last ones are adjusted again: the window before saw them from one side only


def solve(
    shot: Shot,
    flows: Flows,
    predicted: Intrinsics,
    given: bool = False,
    fix: bool = False,
    full: bool = True,
    advance: Callable[[int], None] | None = None,
    window: int = WINDOW,
) -> Solution:
    """Camera of a shot.

    predicted: the intrinsics to start from at working size, the network's or (`given`) the user's; with `fix` they
    stay as they are. full: more baselines and more points. advance: called with numbers that add up to the frames.
    window: frames adjusted at once. Degenerate shots (one frame, a still image) keep `predicted` and say so in
    `warnings`.
    """
    asked = Asked(predicted, given, fix, full)
    if len(shot) <= window:
        return closed(shot, solve_shot(shot, flows, asked, advance))
    lens = probed(shot, flows, asked, window)
    parts = list(walked(shot, flows, asked, lens, window, advance))
    return closed(shot, joined(parts, lens))


def probed(shot: Shot, flows: Flows, asked: Asked, window: int) -> Solution:
    """The solution of one window that determines the focal length, of three along the shot; else the surest."""
    found = []
    for first in ((len(shot) - window) // 2, 0, len(shot) - window):
        part, matches = shot.part(first, first + window), flows.part(first, first + window)
        solved = partial(solve_shot, part, matches, asked)
        found.append(flows.store.once(f"probe-{first}-{digest(asked, window)}", solved))
        if found[-1].observable or asked.fix:
            return found[-1]
    return min(found, key=lambda s: np.inf if s.focal_sigma is None else s.focal_sigma)


def windows(n: int, window: int) -> Iterator[tuple[int, int, int]]:
    """(first, last + 1, held): overlapping windows that cover n frames; the first `held` poses of each are settled."""
    first = 0
    while True:
        last = min(first + window, n)
        yield first, last, SHARED - UNSETTLED if first else 0
        if last == n:
            return
        first = last - SHARED


def walked(
    shot: Shot,
    flows: Flows,
    asked: Asked,
    lens: Solution,
    window: int,
    advance: Callable[[int], None] | None,
) -> Iterator[tuple[int, int, Solution]]:
    """Window after window: its first new frame, its first frame, and its solution from there, in the unit of the
    first."""
    offsets, before = baselines(shot, flows, asked.full), None
    for first, last, held in windows(len(shot), window):
        settled = None if before is None else (before.world_T_cam[-SHARED:], before.depth_scale[-SHARED:])

        def settle_window(first=first, last=last, held=held, settled=settled) -> Solution:
            part = shot.part(first, last)
            matched = tracks(part, flows.part(first, last), offsets, POINTS[asked.full])
            return adjusted(part, matched, asked, lens, settled, held)

        before = flows.store.once(f"window-{first}-{digest(asked, lens, settled, offsets, last)}", settle_window)
        yield first + held, first, before
        if advance:
            advance(last - first - (SHARED if first else 0))


def adjusted(
    part: Shot,
    matched: Tracks,
    asked: Asked,
    lens: Solution,
    settled: tuple[torch.Tensor, torch.Tensor] | None,
    held: int,
) -> Solution:
    """The solution of one window with the camera of `lens`. settled: poses and depth scales that the window before has
    found of its first frames; the first `held` of them stay."""
    carried = None if settled is None else float(settled[1][:held].log().median())
    if still := nothing_to_see(part, matched):
        rest = motionless(part, lens.intrinsics, asked.given, asked.fix, still[0])
        scale = torch.full_like(rest.depth_scale, np.exp(carried or 0.0))
        found = replace(rest, resting=still[1], depth_scale=scale)
    else:
        sigma = GIVEN_SIGMA if asked.given else PREDICTED_SIGMA
        problem = Problem(matched, lens.intrinsics, sigma_focal=sigma)
        if settled is None:
            state = settle(problem, None)[0]
        else:
            problem = replace(problem, held=held)
            ends = [
                annealed(problem, continued(problem, settled[0], carried, moves), schedule, 2, None)
                for moves, schedule in ((True, ANNEAL), (False, WIDE))
            ]
            state, _ = min(ends, key=lambda end: end[1] + jolt_cost(problem, end[0]))
        problem, state, _ = sharpened(problem, state, None)
        found = solution(part, problem, state, (lens.observable, lens.focal_sigma), "given", carried)
    if settled is None:
        return found
    path = found.world_T_cam.clone()
    path[:held] = inverse(settled[0][0]) @ settled[0][:held]
    if found.parallax < PARALLAX:  # it stays where it was
        path[held:, :3, 3] = path[held - 1, :3, 3]
    return replace(found, world_T_cam=path)


def continued(problem: Problem, settled: torch.Tensor, carried: float, moves: bool) -> State:
    """State of a window whose first poses are known; the others chained to them by two views each, or, unless the
    camera `moves`, where the last known one is."""
    known = inverse(settled) @ settled[0]  # cam_T_world, the world being the first frame
    last, frames = len(known) - 1, len(problem.tracks.xy)
    ahead = known[last].repeat(frames - last - 1, 1, 1)
    if moves:
        chain = two_view_chain(problem.tracks, problem.base)
        steps, true = ((p[1:] @ inverse(p[:-1]))[:, :3, 3].norm(dim=1) for p in (chain[: last + 1], known))
        chain[:, :3, 3] *= float(true.median() / steps.median().clamp_min(1e-9))
        ahead = chain[last + 1 :] @ inverse(chain[last]) @ known[last]
    log_rho = -problem.tracks.depth.log() - carried
    return State(torch.cat([known, ahead]), log_rho, torch.zeros((), dtype=torch.float64))


def joined(parts: list[tuple[int, int, Solution]], lens: Solution) -> Solution:
    """One solution of windows: new frames from, first frame, solution of each."""
    n = parts[-1][1] + len(parts[-1][2].world_T_cam)
    path, scale = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1), torch.ones(n, dtype=torch.float64)
    warnings = []
    for new, first, found in parts:
        path[new : first + len(found.depth_scale)] = path[first] @ found.world_T_cam[new - first :]
        scale[new : first + len(found.depth_scale)] = found.depth_scale[new - first :]
        warnings += [f"frames {first} to {first + len(found.depth_scale) - 1}: {w}" for w in found.warnings]
    found = [part[2] for part in parts]
    if all(s.warnings == found[0].warnings for s in found):
        warnings = list(found[0].warnings)
    readouts = [s.readout for s in found if s.parallax >= PARALLAX]
    return replace(
        lens,
        world_T_cam=path,
        depth_scale=scale,
        parallax=max(s.parallax for s in found),
        cost=float(np.mean([s.cost for s in found])),
        offsets=found[0].offsets,
        readout=float(np.median(readouts)) if lens.readout and readouts else 0.0,
        resting=all(s.resting for s in found),
        warnings=(*(w for w in lens.warnings if "focal length" in w), *warnings),
    )
