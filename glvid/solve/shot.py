"""The camera of a shot: several focal starts, whether the focal length was determined, the unit of the path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from glvid.geometry import inverse, rigid
from glvid.predict import Flows
from glvid.solve.bundle import (
    CORRELATED,
    NO_READOUT,
    Problem,
    State,
    adjust,
    camera_of,
    cost_of,
    jolt_cost,
    lagging,
    reduce,
    reproject,
)
from glvid.solve.gaps import bridged
from glvid.solve.matches import CHUNK, Tracks, tracks
from glvid.solve.starts import portion, resting, start, thickened, thinned
from glvid.solve.welds import welded
from glvid.types import Intrinsics, Shot, Solution

POINTS = {True: 200, False: 150}  # per frame, by whether the solve is a full one
ANNEAL = ((4.0, 6), (2.0, 6), (0.7, 20))  # kernel width (px) and steps: wide first, so that a poor start can be left
WIDE = ((8.0, 8), *ANNEAL)  # from a resting camera
WELDS = 4  # rounds of `welded`, at most
SHARP = (0.4, 0.25, 0.15, 0.1)  # kernel widths (px) after that, as far as matches are that good
STARTS = (0.6, 0.9)  # focal lengths tried beside the predicted one, in long sides (80 and 58 degrees)
SEARCH, ENOUGH = 60, 60  # frames of a shot, and points a frame, that the starts are compared on, at most
OBSERVABLE = 0.08  # largest sigma of log focal that counts as determined
LENS_SIGMA = 0.01  # log focal by which a pinhole with its centre in the middle misses a real lens (a guess)
PREDICTED_SIGMA = 0.25  # log focal by which `predict_camera` is expected to be off
GIVEN_SIGMA = 0.05  # and a user's
PARALLAX = 2.0  # px per 640 px of width: real clips whose camera only turns leave 0.9 to 1.9, others 2.0 up
SHOWN, KEPT = 0.2, 0.25  # share of points that suffices if the path explains it; of what turning leaves, the most kept
COSTED = ANNEAL[-1][0]  # kernel width at which `Solution.cost` is taken, so that clips can be compared
FEW = 100  # points a frame that the parallax is taken of, at most
INFINITY = -12.0  # log inverse depth of points so far that translation does not move them
UNLIKELY = 2.0  # sigmas of the prior: farther off, a focal length that the clip does not determine is not believed
SLOW = ((1.5, 16), (4.0, 8))  # px per 640 px that half of all points move at most between neighbours; frames apart then
STILL = 0.3  # px: where half of all points move less, over all baselines, the camera rests and what moves is objects


@dataclass(frozen=True)
class Asked:
    """What `solve` is asked for: where the focal length starts, whether the user gave it, whether it stays, whether
    the solve is a full one."""

    predicted: Intrinsics
    given: bool
    fix: bool
    full: bool


def solve_shot(shot: Shot, flows: Flows, asked: Asked, advance: Callable[[int], None] | None = None) -> Solution:
    """Camera of a shot, all of its frames at once; see `solve`."""
    predicted, given, fix, full = asked.predicted, asked.given, asked.fix, asked.full
    if len(shot) < 2:
        return motionless(shot, predicted, given, fix, "one frame only: no camera motion, focal length as predicted")
    offsets = baselines(shot, flows, full)
    matched = tracks(shot, flows, offsets, POINTS[full], advance)
    if still := nothing_to_see(shot, matched):
        return replace(motionless(shot, predicted, given, fix, still[0]), resting=still[1])
    problem = Problem(matched, predicted, sigma_focal=GIVEN_SIGMA if given else PREDICTED_SIGMA)
    if fix:
        problem, state, _ = sharpened(problem, settle(problem, None)[0], None)
        return solution(shot, problem, state, (True, 0.0), "given")
    problem, state, agree = best_start(problem, only=given)
    problem, state, _ = sharpened(problem, state, 0)
    sigma = float(np.hypot(sigmas(problem, state)[0], LENS_SIGMA))
    observable = bool(sigma < OBSERVABLE and agree)
    off = abs(float(state.log_f) - problem.focal_start) / problem.sigma_focal
    if not observable and not given and (not agree or off > UNLIKELY):
        # The cost has many minima, or one where no camera is, as in dense traffic: it says nothing.
        problem = Problem(matched, predicted, sigma_focal=problem.sigma_focal)
        problem, state, _ = sharpened(problem, settle(problem, None)[0], None)
        return solution(shot, problem, state, (False, problem.sigma_focal), "predicted")
    source = "given" if given else "solved" if observable else "predicted"
    return solution(shot, problem, state, (observable, min(sigma, problem.sigma_focal)), source)


def sigmas(problem: Problem, state: State) -> tuple[float, float]:
    """One standard deviation of log f and of the readout, by the curvature of the cost without their priors; infinite
    where matches alone do not even determine the path."""
    cost = cost_of(problem, state, problem.sigma_px)
    noise = 2 * CORRELATED * np.sqrt(2 * cost / max(float(problem.tracks.weight.sum()), 1e-9))  # px: of matches
    free = replace(problem, sigma_focal=np.inf, sigma_depth=np.inf)  # the network must not vouch for itself
    camera, _ = reduce(free, state, problem.sigma_px, 0.0, False)
    try:
        known = camera.lens_information() - torch.tensor([0.0, problem.readout_weight])
    except torch.linalg.LinAlgError:
        return np.inf, np.inf
    return tuple(float(noise / np.sqrt(max(x, 1e-9))) for x in known.tolist())


def baselines(shot: Shot, flows: Flows, full: bool) -> tuple[int, ...]:
    """Frames apart of the pairs to match: 1, 2, 4, 8 (1, 2, 4 if not `full`); farther where the image moves slowly."""
    n = np.unique(np.linspace(0, len(shot) - 2, 8).astype(int))
    speed = float(flows(n, n + 1).norm(dim=1).median()) * 640 / flows.size[0]
    last = next((k for most, k in SLOW if speed < most), 0)
    offsets = (1, 2, 4, 8, *([16] if last == 16 else [])) if full else (1, 2, max(4, last))
    return tuple(k for k in offsets if k < len(shot))


def settle(problem: Problem, focal_from: int | None, both: bool = True) -> tuple[State, float]:
    """Bundle adjustment from chained two-view poses and, if `both`, from a resting camera too; the cheaper end.

    Jolts count in this choice: in dense traffic, matches are fitted as well by a path that jerks to and fro.
    """
    ends = [annealed(problem, start(problem), ANNEAL, 2, focal_from)]
    if both:
        ends.append(annealed(problem, resting(problem), WIDE, 3, focal_from))
    return min(ends, key=lambda end: end[1] + jolt_cost(problem, end[0]))


def annealed(
    problem: Problem,
    state: State,
    schedule: Sequence[tuple[float, int]],
    points_from: int,
    focal_from: int | None,
) -> tuple[State, float]:
    """`adjust`, and again from wherever the scale of the path turns out to break."""
    state, cost = adjust(problem, state, schedule, points_from, focal_from)
    for _ in range(WELDS):
        better = welded(problem, state, schedule[-1][0])
        if better is None:
            break
        state, cost = adjust(problem, better, schedule[-1:], 0, None if focal_from is None else 0)
    return state, cost


def sharpened(problem: Problem, state: State, focal_from: int | None) -> tuple[Problem, State, float]:
    """The adjustment gone on with ever narrower kernels, until one is as narrow as half of all matches are wrong.

    What moves on its own by a few tenths of a px pulls as hard as anything else until the kernel is narrower than that.
    Returns the problem with the last kernel's width as the scale of its errors, the state, its cost.
    """
    cost = np.inf
    for kernel in SHARP:
        if np.isfinite(cost) and kernel < typical_error(problem, state):
            break
        problem = replace(lagging(problem, state), sigma_px=kernel)
        state, cost = adjust(problem, state, ((kernel, 15),), 0, focal_from)
    return problem, state, cost


def typical_error(problem: Problem, state: State) -> float:
    """Median reprojection error (px) of the matches that count."""
    found = []
    for n in torch.arange(len(problem.tracks.xy)).split(CHUNK):
        *_, residual, weight = reproject(problem, state, n)
        found.append(residual.norm(dim=-1)[weight > 0.2])
    return float(torch.cat(found).median())


def best_start(problem: Problem, only: bool) -> tuple[Problem, State, bool]:
    """The cheapest of several focal starts, and whether the second cheapest ends alike: nearly as cheap (25 %),
    with the same focal length (10 %).

    only: start at the problem's own focal length alone. The starts are compared on SEARCH frames in the middle of long
    shots, and on one of several points where there are more than ENOUGH.
    """
    (n, points), base = problem.tracks.xy.shape[:2], problem.base
    first, every = max(0, (n - SEARCH) // 2), -(-points // ENOUGH)
    short = thinned(portion(problem.tracks, first, min(n, first + SEARCH)), every)
    aspect = base.focal / base.focal.mean()
    long_side = max(base.size[0] / aspect[0], base.size[1] / aspect[1])
    found = []
    for scale in [1.0] if only else [1.0, *(float(s * long_side / base.focal.mean()) for s in STARTS)]:
        trial = replace(
            problem, tracks=short, base=replace(base, focal=base.focal * scale), focal_start=-float(np.log(scale))
        )
        found.append((*settle(trial, 4, both=scale == 1.0)[::-1], trial))
    found.sort(key=lambda f: f[0])
    cost, state, trial = found[0]
    best = [(c, float(s.log_f + t.base.focal[0].double().log())) for c, s, t in found[:2]]
    agree = best[-1][0] < 1.25 * cost and abs(best[-1][1] - best[0][1]) < 0.1
    if n > SEARCH:
        trial = replace(
            trial,
            tracks=problem.tracks,
            base=camera_of(trial, state.log_f),
            focal_start=trial.focal_start - float(state.log_f),
        )
        state, _ = annealed(trial, start(trial), ANNEAL, 2, 4)
    elif every > 1:
        trial = replace(trial, tracks=problem.tracks)
        state, _ = adjust(trial, thickened(trial, state, every), ANNEAL[-1:])
    return trial, state, agree


def solution(
    shot: Shot,
    problem: Problem,
    state: State,
    focal: tuple[bool, float],
    source: str,
    carried: float | None = None,
) -> Solution:
    """Put a solved state in the network depth's unit; focal = (observable, sigma of log focal).

    carried: log of the depth scale of the first frames, which are held, of a part of a shot whose unit is settled.
    """
    t = problem.tracks
    log_scale = -(state.log_rho + t.depth.log()).double().median(dim=1).values  # path unit per network unit, each frame
    unit = log_scale.median() if carried is None else log_scale.new_zeros(())
    turning, parallax = turning_alone(problem, state)
    cam_T_world, missing = bridged(*((problem, state) if parallax >= PARALLAX else turning))
    world_T_cam = rigid(inverse(cam_T_world))
    world_T_cam[:, :3, 3] *= (-unit).exp()
    readout = float(state.readout)
    if abs(readout) < 2 * sigmas(problem, state)[1]:
        readout = 0.0  # as far as this shot tells
    plain = replace(problem, sigma_px=COSTED, tracks=replace(t, sigma=None))  # whatever the network says of its error
    warnings = []
    if missing:
        lost = sum(b - a for a, b in missing)
        warnings.append(
            f"{lost} steps between frames cannot be told (blur, or nothing rests): the path is bridged there"
        )
    if parallax < PARALLAX:
        warnings.append("the camera turns but hardly changes place: depth comes from the network alone")
        world_T_cam[:, :3, 3] = 0
    world_T_cam[0] = torch.eye(4)  # but for rounding it is
    if source == "predicted":
        warnings.append(
            f"this clip does not determine the focal length (sigma {100 * focal[1]:.0f} %), it leans on the network's"
        )
    scale = (log_scale - unit).exp()
    return Solution(
        intrinsics=camera_of(problem, state.log_f),
        focal_sigma=focal[1],
        observable=focal[0],
        source=source,
        world_T_cam=world_T_cam,
        depth_scale=scale if parallax >= PARALLAX else torch.full_like(scale, np.exp(carried or 0.0)),
        parallax=parallax,
        readout=readout if parallax >= PARALLAX else 0.0,
        cost=cost_of(plain, state, COSTED) / max(float(t.weight.sum()), 1e-9),
        warnings=tuple(warnings),
        offsets=tuple(k for k in t.offsets if k > 0),
    )


def turning_alone(problem: Problem, state: State) -> tuple[tuple[Problem, State], float]:
    """The best explanation by rotation alone (all points at infinity) of some of the points, and the parallax: px per
    640 px of width that it leaves, every point in the frame where it leaves most; of half of the points, or, if that is
    more, of a share SHOWN of them for which the solved state explains it.

    A share, since under an open sky most points have no parallax however far the camera goes; that must be explained,
    since what moves on its own is not. Of half of them it need not be: blurred matches fit no path well. How far the
    solved translation shifts points would not do: over a narrow baseline, rotation takes back what any translation does
    (bas-relief ambiguity), and a resting camera that fish swim past is given a path.
    """
    every = -(-problem.tracks.xy.shape[1] // FEW)
    few = thinned(problem.tracks, every)
    problem = replace(problem, tracks=few, held=1)
    solved = replace(state, log_rho=state.log_rho[:, ::every])
    far = replace(state, log_rho=torch.full_like(few.depth, INFINITY), readout=NO_READOUT)  # a global shutter's
    far, _ = adjust(problem, far, ((4.0, 6), (2.0, 6)), points_from=10**9, focal_from=None)
    half, shown = [], []
    for n in torch.arange(len(few.xy)).split(CHUNK):
        *_, residual, weight = reproject(problem, far, n)
        seen = weight > 0.2
        left, rest = ((r.norm(dim=-1) * seen).amax(dim=1) for r in (residual, reproject(problem, solved, n)[-2]))
        half.append(left[seen.any(dim=1)])
        shown.append(torch.where(rest < KEPT * left, left, 0.0)[seen.any(dim=1)])
    half, shown = torch.cat(half), torch.cat(shown)
    parallax = max(float(half.median()), float(shown.quantile(1 - SHOWN))) if len(half) else 0.0
    return (problem, far), parallax * 640 / problem.base.size[0]


def nothing_to_see(shot: Shot, matched: Tracks) -> tuple[str, bool] | None:
    """Why these matches say nothing about the camera, and whether it was seen to rest; None if they do."""
    motion = (matched.target - matched.xy[:, None]).norm(dim=-1)[matched.weight > 0.2].numpy()
    if len(motion) < 20 * len(shot):
        return "too few matches between frames: no camera motion found", False
    if np.median(motion) < STILL:
        return "the image does not move: no camera motion, depth from the network alone", True
    return None


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
