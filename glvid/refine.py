"""GLNet's online refinement: the objective needs no labels, so it is minimised again on the very clip at hand.

output   log-depth and poses as free variables ("a dense bundle adjustment"), GLNet's OFT; focal length and flow stay
         as solved: the one belongs to the whole clip, the other is what all else is measured against
params   the depth network's parameters, on a copy, GLNet's PFT
both     params, then output

Both start from what second-order geometry gives: `triangulate`, every pixel's depth from the solved cameras and flow to
several frames (the paper descends all the way by first order, which diverges from a poor start). They work on
overlapping spans of frames, so that memory does not grow with the clip; the frames a span shares with the one before it
are held fixed, so that scale carries over.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.utils.checkpoint import checkpoint

from glvid.dense import NEAR, Dense, filtered, steadied, triangulate_shot, untouched
from glvid.geometry import inverse, se3_exp
from glvid.losses import CameraOffset, Evidence, LossWeights, observe, total
from glvid.predict import Flows, as_tensor, dense_size, is_of_memory, release_memory
from glvid.solve import PARALLAX
from glvid.store import Store
from glvid.types import GLOBAL_SHUTTER, Pairs, Shot, Solution
from glvid.views import rolled_flow_of
from glvid.warp import resize, resize_flow

SPAN = {"params": 16, "output": 24}  # frames refined at once; `params` gains from more spans, each has steps of its own
SHARED = 4  # frames shared with the span before
CONTRADICTED = 0.25  # px^2, of `Solution.cost`: 12 real clips that one rigid scene explains cost 0.03 to 0.14


def descent_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size at which the objective is descended: a quarter of the working size.

    At half the size a step costs four times as much and Abs Rel gains 0.001 more (evaluation scene 900002).
    """
    return size[0] // 4, size[1] // 4


STEPS = {"none": 0, "params": 20, "output": 5, "both": 5}  # per span: twice as many gain 0.02 and 0.0003 Abs Rel
POSE_SIGMA = 5e-4  # rad and median depths that poses may leave the solve: its matches are finer than a quarter image
NEAR_AND_FAR = (1, 4)  # offsets of the pairs the objective is taken over


@dataclass(frozen=True)
class Plan:
    """How to refine: mode (none, params, output, both), gradient steps per span, device, weights of the objective,
    where what is found is kept, whether depth is averaged over time in the end, arithmetic of the networks (fp32 or
    bf16)."""

    mode: str
    steps: int
    device: str | torch.device = "cpu"
    weights: LossWeights = LossWeights()
    store: Store = Store()
    filtered: bool = False
    precision: str = "fp32"


@dataclass(frozen=True)
class Progress:
    """Objective before and after, averaged over spans, and what there is to say.

    `curve` is its mean by step, from before the first one on; every span keeps its own best step, so `last` may lie
    below all of it. Mode both descends twice, one curve after the other.
    """

    first: float | None = None
    last: float | None = None
    warnings: tuple[str, ...] = ()
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Span:
    """Frames refined together; the first `held` of them were refined by the span before and stay."""

    frames: slice
    held: int
    images: Float[Tensor, "S 1 h w"]
    pairs: Pairs
    moving: Float[Tensor, "S 1 h w"]
    seen: Evidence


def bounds(n: int, mode: str) -> Iterator[tuple[int, int, int]]:
    """(first, last + 1, held): overlapping spans that cover n frames."""
    first = 0
    while True:
        last = min(first + SPAN[mode], n)
        yield first, last, SHARED if first else 0
        if last == n:
            return
        first = last - SHARED


def span_of(
    shot: Shot,
    solution: Solution,
    dense: Dense,
    flows: Flows,
    edges: tuple[int, int, int],
    device: str | torch.device,
) -> Span:
    """The frames first..last-1 with all their pairs at NEAR_AND_FAR offsets, both ways; poses are filled in later."""
    first, last, held = edges
    n, size = last - first, descent_size(shot.size)
    a = torch.cat([torch.arange(n - k) for k in NEAR_AND_FAR if k < n])
    b = torch.cat([torch.arange(k, n) for k in NEAR_AND_FAR if k < n])
    stored = np.asarray(shot.images[first:last])
    images = resize(as_tensor(stored, device).mean(1, keepdim=True), size)  # grey: Abs Rel 0.0001 more, a fifth faster
    go, back = (resize_flow(flows(first + x, first + y), size).to(device) for x, y in ((a, b), (b, a)))
    eye = torch.eye(4, device=device).expand(2 * len(a), 4, 4)
    i, j = torch.cat([a, b]), torch.cat([b, a])
    rolled = None
    if abs(solution.readout) >= GLOBAL_SHUTTER:
        rolled = torch.empty_like(torch.cat([go, back]))
        for k in range(n):
            others = (first + j[i == k]).tolist()
            rolled[i == k] = rolled_flow_of(shot, solution, first + k, others, size).to(device)
    i, j = i.to(device), j.to(device)
    pairs = Pairs(i, j, torch.cat([go, back]), torch.cat([back, go]), eye, rolled)
    moving = resize(torch.from_numpy(dense.moving[first:last, None]).to(device), size)
    return Span(slice(first, last), held, images, pairs, moving, observe(images, pairs))


def posed(pairs: Pairs, cam_T_world: Float[Tensor, "S 4 4"]) -> Pairs:
    """The pairs with j_T_i of these poses."""
    i, j = (cam_T_world.index_select(0, n) for n in (pairs.i, pairs.j))  # [n] adds gradients up in any order
    return replace(pairs, j_T_i=j @ inverse(i))


def adam_of(rates: dict[Tensor, float]) -> Callable[[], None]:
    """A step of Adam for every tensor, at its rate; `torch.optim.Adam` by its functional form, since the class takes a
    second to import torch's compiler."""
    state = {x: (torch.zeros_like(x), torch.zeros_like(x), torch.tensor(0.0)) for x in rates}

    @torch.no_grad()
    def step() -> None:
        for x, rate in rates.items():
            mean, square, count = ([s] for s in state[x])
            known = {"amsgrad": False, "weight_decay": 0.0, "eps": 1e-8, "maximize": False}
            adam([x], [x.grad], mean, square, [], count, beta1=0.9, beta2=0.95, lr=rate, **known)
            x.grad = None

    return step


def descend(
    take_step: Callable[[], None],
    objective: Callable[[], tuple[Tensor, object]],
    steps: int,
    advance: Callable[[int], None],
) -> tuple[list[float], object]:
    """Minimise; returns the loss before and after every step, and what `objective` returned beside the best one."""
    losses, best, kept = [], float("inf"), None
    for step in range(steps + 1):
        loss, state = objective()
        value = loss.item()
        losses.append(value)
        if value < best:
            best, kept = value, state
        if step < steps:
            loss.backward()
            take_step()
            advance(1)
    return losses, kept


def refine_outputs(
    shot: Shot, solution: Solution, dense: Dense, flows: Flows, plan: Plan, advance: Callable[[int], None]
) -> tuple[Dense, Solution, Progress]:
    """GLNet's OFT: log-depth and poses of every span are free variables with priors at where they start.

    The focal length stays as solved: it belongs to the whole clip, a span sees only a part of it.
    """
    n, store = len(shot), plan.store.under("output")
    depth, done = store.array("depth", dense.depth.shape), store.done("done", n)
    poses = torch.from_numpy(store.array("poses", (n, 4, 4), np.float64))
    losses = store.array("losses", (n, plan.steps + 1), np.float64)  # of a span, at its first new frame
    size, edges_of_all = descent_size(shot.size), list(bounds(n, "output"))
    camera = solution.intrinsics.resized(size).to(plan.device)
    for edges in edges_of_all:
        new = slice(edges[0] + edges[2], edges[1])
        if done[new.start]:
            advance(plan.steps)
            continue
        span = span_of(shot, solution, dense, flows, edges, plan.device)
        before = np.concatenate([depth[edges[0] : new.start], dense.depth[new]])
        start = 1 / resize(1 / torch.from_numpy(before[:, None]).to(plan.device), size)
        G = inverse(torch.cat([poses[edges[0] : new.start], solution.world_T_cam[new]]))
        G = G @ inverse(G[0])  # single precision suffices near the origin
        G, held = G.float().to(plan.device), span.held
        sigma = (POSE_SIGMA * float(start.median()), POSE_SIGMA, 1.0)
        change = torch.zeros_like(start[held:], requires_grad=True)
        twist = torch.zeros(len(start) - held, 6, device=plan.device, requires_grad=True)

        def objective(span=span, start=start, G=G, held=held, change=change, twist=twist, sigma=sigma):
            now = torch.cat([start[:held], start[held:] * change.exp()])
            step = se3_exp(twist)
            at = posed(span.pairs, torch.cat([G[:held], step @ G[held:]]))
            offset = CameraOffset(twist, twist.new_zeros(()), sigma)
            loss, _ = total(span.images, now, at, camera, span.moving, plan.weights, start, offset, span.seen)
            return loss, (change.detach().clone(), step.detach())

        take_step = adam_of({change: 1e-2, twist: POSE_SIGMA / 16})
        values, (found, step) = descend(take_step, objective, plan.steps, advance)
        depth[new] = dense.depth[new] * resize(found, dense_size(shot.size)).exp()[:, 0].cpu().numpy()
        poses[new] = inverse(step.double().cpu() @ inverse(solution.world_T_cam[new]))
        losses[new.start], done[new.start] = values, True
    path = inverse(poses[0]) @ poses
    path[0] = torch.eye(4)  # but for rounding it is
    progress = progress_of([losses[first + held].tolist() for first, _, held in edges_of_all])
    return replace(dense, depth=depth), replace(solution, world_T_cam=path), progress


def refine_parameters(
    shot: Shot,
    solution: Solution,
    dense: Dense,
    flows: Flows,
    net: nn.Module,
    plan: Plan,
    advance: Callable[[int], None],
) -> tuple[Shot, Progress]:
    """GLNet's PFT: a copy of the depth network is trained on the clip's spans, weights carried from one to the next.

    Cameras and flow stay as solved: geometry found them with more certainty than a network can be taught in a few
    steps. `dense` acts as the prior of the objective, so that depth is anchored where flow determines it (SfM-TTR).
    Returns the shot with the tuned network's depth, at working size and in the network's unit.
    """
    tuned = copy.deepcopy(net).to(plan.device)
    tuned.requires_grad_(True)
    optimiser = torch.optim.Adam(tuned.parameters(), lr=6e-4)  # 2e-4 leaves a tenth of what 20 steps can gain

    def take_step() -> None:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    size, store = descent_size(shot.size), plan.store.under("params")
    depth, spans = store.array("depth", shot.depth.shape), list(bounds(len(shot), "params"))
    camera = solution.intrinsics.resized(size).to(plan.device)
    weights = replace(plan.weights, prior_depth=10 * plan.weights.prior_depth)
    losses, at_once = resumed(store.kept("tuned"), tuned, optimiser), SPAN["params"]
    advance(plan.steps * len(losses))
    for edges in spans[len(losses) :]:
        span = span_of(shot, solution, dense, flows, edges, plan.device)
        G = inverse(solution.world_T_cam[span.frames])
        pairs = posed(span.pairs, (G @ inverse(G[0])).float().to(plan.device))
        anchor = 1 / resize(1 / torch.from_numpy(dense.depth[span.frames, None]).to(plan.device), size)
        scale = solution.depth_scale[span.frames].float().to(plan.device)[:, None, None, None]
        whole = as_tensor(shot.images[span.frames], plan.device)

        def objective(at_once: int, span=span, pairs=pairs, anchor=anchor, scale=scale, whole=whole):
            with torch.autocast(whole.device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
                full = depth_of(tuned, whole, at_once).float()  # the objective stays in float32
            now = scale / resize(1 / full, size)
            loss, _ = total(span.images, now, pairs, camera, span.moving, weights, anchor, None, span.seen)
            return loss, full.detach()

        before = copy.deepcopy(state_of(tuned, optimiser, losses))
        while True:
            try:
                values, full = descend(take_step, partial(objective, at_once), plan.steps, advance)
                break
            except RuntimeError as error:
                if not is_of_memory(error) or at_once == 1:
                    raise
            at_once //= 2  # not above: the error holds on to what was in memory
            optimiser.zero_grad(set_to_none=True)
            resumed(before, tuned, optimiser)
            release_memory(plan.device)
        depth[span.frames][span.held :] = full[span.held :, 0].float().cpu().numpy()
        losses.append(values)
        store.keep("tuned", partial(state_of, tuned, optimiser, losses), (depth,))
    store.keep("tuned", lambda: {"losses": losses}, (depth,), last=True)
    return replace(shot, depth=depth, sigma=None), progress_of(losses)  # what it said of itself was of before


def depth_of(net: nn.Module, images: Float[Tensor, "S 3 H W"], at_once: int) -> Float[Tensor, "S 1 H W"]:
    """The network's depth; with fewer images at once than there are, in their memory, and half as long again, since the
    way there is forgotten and gone again for gradients (Chen et al. 2016)."""
    if at_once >= len(images):
        return net.depth(images)
    return torch.cat([checkpoint(net.depth, part, use_reentrant=False) for part in images.split(at_once)])


def state_of(net: nn.Module, optimiser: torch.optim.Adam, losses: list[list[float]]) -> dict:
    """What `resumed` needs: losses of the spans that are done, weights, and Adam's moments by number of the weight."""
    moments = {str(number): moment for number, moment in optimiser.state_dict()["state"].items()}
    return {"losses": losses, "net": dict(net.state_dict()), "moments": moments}


def resumed(kept: dict | None, net: nn.Module, optimiser: torch.optim.Adam) -> list[list[float]]:
    """Puts network and optimiser where they were; returns the losses of the spans that were done by then."""
    if kept is None:
        return []
    if "net" in kept:  # not after the last one
        net.load_state_dict(kept["net"])
        moments = {int(number): moment for number, moment in kept["moments"].items()}
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return kept["losses"]


def progress_of(losses: Sequence[Sequence[float]]) -> Progress:
    """Mean over spans; `losses` are those of every step of each."""
    curve = np.mean(losses, axis=0)
    return Progress(float(curve[0]), float(np.fmin.reduce(losses, axis=1).mean()), curve=tuple(curve.tolist()))


# ---------------------------------------------------------------- a shot
def work(shots: Sequence[tuple[int, int]], mode: str, steps: int) -> int:
    """Units of progress `refine` will count: frames triangulated and gradient steps."""
    frames = sum(b - a for a, b in shots)
    descended = {"none": (), "both": ("params", "output")}.get(mode, (mode,))
    descents = sum(len(list(bounds(b - a, kind))) for a, b in shots for kind in descended)
    return frames * (1 + (mode == "both")) + descents * steps


def refine(
    shot: Shot, solution: Solution, flows: Flows, net: nn.Module, plan: Plan, advance: Callable[[int], None]
) -> tuple[Shot, Dense, Solution, Progress]:
    """Refine a shot as planned.

    Where there is no parallax, or what is seen contradicts every rigid scene, geometry has nothing to say: depth is
    only `steadied`, with a warning. (KITTI drive 0052, dense traffic, refined all the same: Abs Rel 0.27, not 0.26.)
    """
    if plan.mode == "none":  # far pairs fix scale drift and flicker, but only near ones are needed to see what moves
        near = triangulate_shot(shot, solution, flows, NEAR, advance, plan.store, searched=False, known=True)
        return shot, near, solution, Progress()
    hopeless = None
    if solution.parallax < PARALLAX:
        hopeless = "no parallax: depth is steadied over time, no more"
    elif solution.cost > CONTRADICTED:
        hopeless = (
            "matches fit no rigid scene (dense traffic, a crowd, fast motion): depth is steadied over time, no more"
        )
    if hopeless:
        shot, dense, solution, _ = refine(shot, solution, flows, net, replace(plan, mode="none"), advance)
        steady = steadied(shot, solution, flows, plan.store)
        return shot, replace(dense, depth=steady), solution, Progress(warnings=(hopeless,))
    dense, progress = triangulate_shot(shot, solution, flows, solution.offsets, advance, plan.store), Progress()
    if plan.mode in ("params", "both"):
        shot, progress = refine_parameters(shot, solution, dense, flows, net, plan, advance)
        if plan.mode == "params":
            return shot, replace(dense, depth=untouched(shot, solution, plan.store)), solution, progress
        dense = triangulate_shot(shot, solution, flows, solution.offsets, advance, plan.store, name="again")
    dense, solution, after = refine_outputs(shot, solution, dense, flows, plan, advance)
    if plan.filtered:
        dense = replace(dense, depth=filtered(shot, solution, dense, flows, plan.store))
    if progress.first is not None:
        after = Progress(progress.first, after.last, curve=progress.curve + after.curve)
    return shot, dense, solution, after
