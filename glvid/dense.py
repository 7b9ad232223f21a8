"""Second order, pixel by pixel: every pixel's depth from the solved cameras and flow to several frames.

What no depth explains moves on its own. Depth that flow leaves open stays the network's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from glvid.geometry import inverse, pixel_grid, rays, rigid_flow, transform
from glvid.losses import dissimilarity
from glvid.moving import FARTHER, NEARER, betrayed, doubt, far_fetched, knows, objects, snapped, unsteadiness, voted
from glvid.parallel import each
from glvid.predict import SURER, Flows, dense_size
from glvid.prior import INFORMATION, Standing, believed, standing, upheld
from glvid.store import Store, fill
from glvid.types import Intrinsics, Shot, Solution
from glvid.views import Views, along, both_ways, dense_prior, views_of
from glvid.warp import box_mean, guided_upsample, length, resize, resize_flow, spread, visibility, warp

NEAR = (1, 2)  # frames apart: near enough to see what moves, and to average depth without geometry
SIGMA_DEPTH = 0.4  # how far off log depths of the network usually are
SKY_LIKE = 20.0  # median depths: networks are not taught what to say of their error beyond
CONTRAST = 0.003**2  # squared brightness change per px at which flow is half trusted: most of a grey level


@dataclass(frozen=True)
class Dense:
    """Per-frame maps of a shot at refinement size."""

    depth: Float32[np.ndarray, "N h w"]  # in the path's unit
    sure: Float32[np.ndarray, "N h w"]  # 0..1: how far flow, not the network, determines the depth
    moving: Float32[np.ndarray, "N h w"]  # probability of independent motion


def triangulate(
    depth: Float[Tensor, "1 h w"],
    views: Views,
    camera: Intrinsics,
    sigma_px: float = 0.4,
    sigma_depth: float | Float[Tensor, "1 h w"] = SIGMA_DEPTH,
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"], Float[Tensor, "K 1 h w"]]:
    """Depth of every pixel from flow to several frames of known pose, its information, and reprojection errors (px).

    Gauss-Newton on log inverse depth, one unknown a pixel: robust (Cauchy, annealed) reprojection errors plus the
    distance to `depth`, in standard deviations (`sigma_depth`: of log depth, one for all or every pixel's). A match is
    as good as `sigma_px` plus 3 % of its flow. Information is in units of 1 / log^2; the prior's share is not counted.
    """
    r, xy, f = rays(camera), pixel_grid(camera.size, depth), camera.focal[:, None, None]
    px = torch.cat([f, f.new_ones(1, 1, 1)])  # z = 1 -> px
    turned = torch.einsum("kij,jhw->kihw", views.there_T_here[:, :3, :3], r) * px
    t = views.there_T_here[:, :3, 3, None, None] * px
    flow = views.flow if views.rolled is None else views.flow - views.rolled
    target = xy + flow - camera.center[:, None, None]
    precision = (sigma_px + 0.03 * length(views.flow)) ** -2

    start = x = -depth.log()
    for kernel in (8.0, 4.0, 2.0, 1.0, 1.0, 1.0):
        q = turned + x.exp() * t
        z = q[:, 2:].clamp_min(0.05)
        p = q[:, :2] / z
        error = p - target
        J = (t[:, :2] - p * t[:, 2:]) * (x.exp() / z)
        contrast = along(views.texture, J)
        trust = views.visible * contrast / (contrast + CONTRAST) * (q[:, 2:] > 0.05)
        w = trust * precision / (1 + dot(error, error) * precision / kernel**2)
        information = (w * dot(J, J)).sum(0)
        away = x - start
        prior = 1 / sigma_depth**2 / (1 + (away / (2 * sigma_depth)) ** 2)
        x = x - (((w * dot(J, error)).sum(0) + prior * away) / (information + prior)).clamp(-0.7, 0.7)
    return (-x).exp(), information, length(error)


def dot(a: Float[Tensor, "K 2 h w"], b: Float[Tensor, "K 2 h w"]) -> Float[Tensor, "K 1 h w"]:
    """a . b, without the slow sum over a strided dimension."""
    return a[:, :1] * b[:, :1] + a[:, 1:] * b[:, 1:]


NEARBY = 4  # views that a sweep compares: in the nearest frames even near things are still in the picture
PLANES, AHEAD = 48, 9.0  # depths that a sweep tries, evenly spaced in inverse depth, up to this much nearer
FINER = (-1.0, -0.5, 0.0, 0.5, 1.0)  # planes about the best of these, tried again at twice the size
ABSENT = 0.5  # dissimilarity where a view shows nothing: colours matched at random come to about as much
AT_ONCE = 400_000  # pixels compared at once
BLOCK = 6  # frames, of which the first one is always searched
ASKED_OF = 2  # frames of which one is matched where only what moves is asked for
FOUND = 0.003  # share of the picture that a sweep must put nearer in it (rooms 0.002; orbit 0.005; drives 0.02 to 0.07)
CLEARLY = 0.2  # share by which a swept depth must explain the colours better than what it replaces
CLOSER = 0.1  # log units by which it must be nearer: for less, flow is the finer measure


def unlikeness(
    image: Float[Tensor, "3 h w"],
    images: Float[Tensor, "k 3 h w"],
    flow: Float[Tensor, "N k 2 h w"],
    seen: Float[Tensor, "N k 1 h w"],
) -> Float[Tensor, "N h w"]:
    """How unlike a frame and what each `flow` points at in its k nearest views are; grey, smoothed along edges.

    Mean over the better half of the views, since a pixel may be hidden in the others.
    """
    n, k = flow.shape[:2]
    found, inside = warp(images.mean(1, keepdim=True).repeat(n, 1, 1, 1), flow.flatten(0, 1))
    unlike = dissimilarity(image.mean(0)[None, None], found)
    unlike = torch.where((inside > 0) & (seen.flatten(0, 1) > 0), unlike, ABSENT).unflatten(0, (n, k))
    better = unlike.sort(1).values[:, : (k + 1) // 2].mean(1)
    return guided_upsample(better, image[None])[:, 0]


def swept(
    depths: Float[Tensor, "N h w"], image: Float[Tensor, "3 h w"], views: Views, camera: Intrinsics
) -> Float[Tensor, "N h w"]:
    """`unlikeness` of every one of `depths`, at their size."""
    size = (image.shape[2], image.shape[1])
    camera, images = camera.resized(size), resize(views.images[:NEARBY], size)
    rolled = None if views.rolled is None else resize_flow(views.rolled[:NEARBY], size)
    found = []
    for some in depths.split(max(1, AT_ONCE // (size[0] * size[1] * len(images)))):
        several = some[:, None, None].expand(-1, len(images), 1, -1, -1)
        flow, z = rigid_flow(several, camera, views.there_T_here[:NEARBY].expand(len(some), -1, -1, -1))
        found.append(unlikeness(image, images, flow if rolled is None else flow + rolled, (z > 0.05).float()))
    return torch.cat(found)


def sweep(
    start: Float[Tensor, "1 h w"],
    depth: Float[Tensor, "1 h w"],
    image: Float[Tensor, "3 h w"],
    views: Views,
    camera: Intrinsics,
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Depths nearer than the network's `start` that explain the colours best, and how far each is to be believed, 0..1.

    A plane sweep (Collins 1996): where a thin or fast thing has torn flow, the solved cameras still say along which
    line of the other images its pixels must lie, and that line is searched, at half the size first. What is found is
    believed where it is clearly better than both `depth` and flow, and nearer than `depth`: a near thing is what flow
    loses, and what moves on its own seldom looks like one.
    """
    size = (image.shape[2], image.shape[1])
    half = (size[0] // 2, size[1] // 2)
    nearer = torch.linspace(1, AHEAD, PLANES)
    small = 1 / resize(1 / start[None], half)[0]
    best = nearer[swept(small / nearer[:, None, None], resize(image[None], half)[0], views, camera).argmin(0)]
    best = F.interpolate(best[None, None], (size[1], size[0]), mode="nearest")[0]
    tried = torch.cat([(best + o * (nearer[1] - nearer[0])).clamp_min(1) for o in FINER])
    costs = swept(torch.cat([start / tried, depth]), image, views, camera)
    cost, at = costs[:-1].min(0, keepdim=True)
    found = start / tried.gather(0, at)
    visible = views.visible[:NEARBY].amax(0, keepdim=True).expand(len(views.images[:NEARBY]), 1, -1, -1)
    flowed = unlikeness(image, views.images[:NEARBY], views.flow[None, :NEARBY], visible[None])
    gain = (torch.minimum(flowed, costs[-1:]) + 0.01) / (cost + 0.01) - 1
    better = torch.sigmoid((gain - CLEARLY) / (0.2 * CLEARLY))
    return found, better * torch.sigmoid(((depth / found).log() - CLOSER) / (0.3 * CLOSER))


def triangulate_shot(
    shot: Shot,
    solution: Solution,
    flows: Flows,
    offsets: Sequence[int],
    advance: Callable[[int], None],
    store: Store | None = None,
    searched: bool = True,
    known: bool = False,
    name: str = "dense",
) -> Dense:
    """Every frame's depth, certainty and moving probability; the last one agreed upon by neighbouring frames.

    Where the camera rests, depth stays the network's and all that flow shows moves on its own. `searched`: near things
    that flow lost are looked for by `sweep`, which costs more than all the rest: in the first frame of every block, and
    where that finds some, in the others. `known`: depth stays the network's, and only what moves is asked for, of every
    ASKED_OF-th frame; those between hear it from their neighbours.
    `name`: of what is kept in `store`.
    """
    store, size = Store() if store is None else store, dense_size(shot.size)
    count, shape = len(shot), (len(shot), size[1], size[0])
    alone = Dense(*(store.array(f"{name}-alone-{kind}", shape) for kind in ("ratio", "sure", "moving")))
    seen = store.array(f"{name}-seen", (count, 2, *shape[1:]))
    swept = store.array(f"{name}-swept", (count,))

    def put_alone(n: int, found: Matched) -> None:
        alone.depth[n], alone.sure[n], alone.moving[n] = found.ratio[0], found.sure[0], found.moving[0]
        seen[n], swept[n] = found.seen, found.swept

    def put_heard(n: int, found: tuple[Tensor, Tensor]) -> None:
        seen[n], alone.sure[n] = found

    of_frame = partial(matched, shot, solution, flows, offsets)
    done, every = store.done(f"{name}-alone", count), ASKED_OF if known else 1
    asked = [n for n in range(count) if knows(n, count, every)]
    leaders = [n for n in asked if n % BLOCK == 0]
    fill(done, leaders, lambda n: of_frame(searched, n), put_alone, advance)
    others = [n for n in asked if n % BLOCK]
    rewarding = swept[::BLOCK] > FOUND
    fill(done, others, lambda n: of_frame(searched and bool(rewarding[n // BLOCK]), n), put_alone, advance)
    if every > 1:
        between = [n for n in range(count) if not knows(n, count, every)]
        fill(done, between, partial(heard, alone.sure, flows), put_heard, advance)

    votes = voted(alone.moving, seen, flows, store.under(name), every)
    sigma = None if known else proven(shot, solution, alone)
    dense = Dense(*(store.array(f"{name}-{kind}", shape) for kind in ("depth", "sure", "moving")))

    def put(n: int, found: tuple[Tensor, Tensor, Tensor]) -> None:
        dense.depth[n], dense.sure[n], dense.moving[n] = (x[0] for x in found)

    whole = partial(completed, shot, solution, flows, replace(alone, moving=votes), sigma, known)
    fill(store.done(name, count), range(count), whole, put)
    return dense


@dataclass(frozen=True)
class Matched:
    """What is known of one frame by itself."""

    ratio: Float[Tensor, "1 h w"]  # log of its depth over the network's
    sure: Float[Tensor, "1 h w"]  # how far that is known where nothing moves
    moving: Float[Tensor, "1 h w"]
    seen: Float[Tensor, "2 h w"]  # how visible it is in the next frame and in the last
    swept: float  # share of the picture that a sweep has put nearer


def prior_sigma(shot: Shot, n: int) -> float | Float[Tensor, "1 h w"]:
    """How far off the network's log depth may be in frame n, for `triangulate`: more than usual where it says so.

    Never less: a network that is sure of itself would vouch for itself, since how far flow determines depth (`Dense`)
    is told apart from what the network adds only where that is little.
    """
    if shot.sigma is None:
        return SIGMA_DEPTH
    said, depth = (torch.from_numpy(np.array(x[n], dtype=np.float32))[None, None] for x in (shot.sigma, shot.depth))
    usual = said[depth < SKY_LIKE * depth.median()].median().clamp_min(1e-6)
    return SIGMA_DEPTH * resize((said / usual).clamp(1, SURER), dense_size(shot.size))[0]


def matched(shot: Shot, solution: Solution, flows: Flows, offsets: Sequence[int], searched: bool, n: int) -> Matched:
    """Depth and motion of frame n from its matches alone."""
    size, start = dense_size(shot.size), dense_prior(shot, solution, n)
    views = views_of(shot, solution, flows, n, offsets)
    nothing = torch.zeros_like(start)
    if views is None or not (solution.solved or solution.resting):
        return Matched(nothing, nothing, nothing, nothing.expand(2, -1, -1), 0.0)
    camera, image = solution.intrinsics.resized(size), flows.images(n)[0]
    found, information, errors = triangulate(start, views, camera, sigma_depth=prior_sigma(shot, n))
    ratio, left_out = (found / start).log(), unwanted(shot, n)
    wrong = torch.maximum(doubt(errors, views, image), far_fetched(ratio))
    bounded = start * ratio.clamp(-NEARER, FARTHER).exp()
    worse = betrayed(image, (start, bounded), views, camera)
    unsteady = unsteadiness(views, start, camera, 0 < n < len(shot) - 1)
    moving, torn = objects(errors, ratio, worse, unsteady, views)
    wrong = torch.maximum(torch.maximum(wrong, torn), left_out)
    sure = information / (information + INFORMATION) * (1 - wrong) ** 2
    share = nothing
    if searched:
        rests = sure * (1 - moving) ** 2
        depth = start * spread(ratio, rests, image).exp()
        near, share = sweep(start, depth, image, views, camera)
        share = share * (1 - rests) * (1 - left_out)
        ratio = torch.lerp(ratio, (near / start).log(), share / (rests * (1 - share) + share).clamp_min(1e-6))
        sure, moving = sure * (1 - share) + share, moving * (1 - share)
    return Matched(ratio, sure, moving, neighbours(views, n, len(shot)), float(share.mean()))


ASKED = 12  # frames of a shot that say whether its prior is to be believed


def proven(shot: Shot, solution: Solution, dense: Dense) -> float | None:
    """Sigma of the network's depth if it stands up to what `matched` found, else None; see `believed`."""

    def of_frame(n: int) -> Standing | None:
        ratio, sure, moving = (torch.from_numpy(x[n])[None] for x in (dense.depth, dense.sure, dense.moving))
        return standing(dense_prior(shot, solution, n), ratio, sure * (1 - moving) ** 2)

    frames = np.unique(np.linspace(0, len(shot) - 1, ASKED).round().astype(int)).tolist()
    return believed([s for s in each(of_frame, frames) if s is not None])


def completed(
    shot: Shot, solution: Solution, flows: Flows, dense: Dense, sigma: float | None, known: bool, n: int
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Frame n once its neighbours have voted: its depth everywhere, how sure it is, what moves. `dense` holds what
    `matched` found, with the votes for `moving`; sigma: that of the network's depth where it is `proven`; known: the
    network's depth is all that is wanted."""
    image = flows.images(n)[0]
    ratio, sure, votes = (torch.from_numpy(x[n])[None] for x in (dense.depth, dense.sure, dense.moving))
    moving = snapped(votes, image)
    sure = sure * (1 - moving) ** 2
    depth = dense_prior(shot, solution, n)
    if not known:
        bend = spread(ratio, sure, image) if sigma is None else upheld(depth, ratio, sure, image, sigma)
        depth = depth * bend.exp()
    return depth, sure, torch.maximum(moving, unwanted(shot, n))


def unwanted(shot: Shot, n: int) -> Float[Tensor, "1 h w"]:
    """1 where pixels are to be left out of everything."""
    asked = np.zeros(shot.images.shape[1:3]) if shot.ignored is None else np.array(shot.ignored[n]) > 0
    return resize(torch.from_numpy(asked).float()[None, None], dense_size(shot.size))[0]


def heard(sure: Float32[np.ndarray, "N h w"], flows: Flows, n: int) -> tuple[Tensor, Tensor]:
    """Of a frame that has both neighbours, by flow alone: how visible it is in the next one and in the last (2, h, w),
    and how sure (h, w) they are of what it shows."""
    others = [n + 1, n - 1]
    go, back = both_ways(flows, n, others)
    carried, inside = warp(torch.from_numpy(sure[others])[:, None], go)
    return visibility(go, back, floor=0.7)[:, 0], (inside * carried).mean((0, 1))


def neighbours(views: Views, n: int, frames: int) -> Float[Tensor, "2 h w"]:
    """How visible frame n is in the next and in the last one; 0 where there is none."""
    found = torch.zeros(2, *views.flow.shape[-2:])
    for view, slot in enumerate(slot for slot, m in enumerate((n + 1, n - 1)) if 0 <= m < frames):
        found[slot] = views.visible[view, 0]
    return found


def untouched(shot: Shot, solution: Solution, store: Store) -> Float32[np.ndarray, "N h w"]:
    """`dense_prior` of every frame."""
    depth = store.array("untouched", (len(shot), *dense_size(shot.size)[::-1]))

    def put(n: int, prior: Tensor) -> None:
        depth[n] = prior[0]

    fill(store.done("untouched", len(shot)), range(len(shot)), partial(dense_prior, shot, solution), put)
    return depth


SAME = 1e-4  # log depth: less than a step of the stored maps; so far two ways to average the network's depth may differ


def full_depth(
    shot: Shot, solution: Solution, dense: Dense, n: int, guide: Float[Tensor, "1 _c H W"]
) -> Float[Tensor, "1 1 H W"]:
    """Depth of frame n at the guide's size, the frame itself, in colours or grey.

    It is the network's, which is sharp, times the refinement's correction, which is smooth: the log ratio of the two is
    upsampled along image edges.
    """
    sharp = float(solution.depth_scale[n]) * torch.from_numpy(np.array(shot.depth[n], dtype=np.float32))[None, None]
    low = 1 / resize(1 / sharp, (dense.depth.shape[2], dense.depth.shape[1]))
    ratio = (torch.from_numpy(dense.depth[n])[None, None] / low).log()
    whole = guided_upsample(sharp.log(), guide, radius=1)
    if bool((ratio.abs() > SAME).any()):
        whole += guided_upsample(ratio, guide)
    return whole.exp_()


OUTSIDE = 0.25  # share of the picture by which rigid flow may lead out of it
TIE = 0.005  # dissimilarity by which rigid flow may be the worse one: where nothing is textured it is the better guess


def adaptive_flow(
    seen: Float[Tensor, "B 2 H W"],
    rigid: Float[Tensor, "B 2 H W"],
    here: Float[Tensor, "B 3 H W"],
    there: Float[Tensor, "B 3 H W"],
    moving: Float[Tensor, "B 1 H W"],
) -> Float[Tensor, "B 2 H W"]:
    """Of two flows here -> there, per pixel the one that explains the picture better (GLNet's adaptive minimum).

    `rigid` follows from refined depth and camera; where things move on their own, `seen` stays. Brightness is compared
    over 10x10 px, since one pixel alone matches by chance. Rigid flow that leads far out of the picture is not taken:
    a depth that comes so near the camera is mostly wrong.
    """
    half = (-(-rigid.shape[3] // 2), -(-rigid.shape[2] // 2))  # large enough to compare at
    a, b = (resize(image.mean(1, keepdim=True), half) for image in (here, there))
    flows = [resize_flow(f, half) for f in (seen, rigid)]
    unlike = [box_mean(dissimilarity(a, warp(b, f)[0]), 2) for f in flows]
    size = rigid.new_tensor(half)[:, None, None]
    reach = ((pixel_grid(half, rigid) + flows[1]) / size - 0.5).abs().amax(1, keepdim=True)
    share = torch.sigmoid((unlike[0] - unlike[1] + TIE) / TIE) * (reach < 0.5 + OUTSIDE)
    return seen + resize(share, (rigid.shape[3], rigid.shape[2])) * (1 - moving) * (rigid - seen)


def steadied(shot: Shot, solution: Solution, flows: Flows, store: Store) -> Float32[np.ndarray, "N h w"]:
    """The network's depth averaged over neighbouring frames along flow: all that can be refined without a camera.

    Frame n meets frames n - k and n + k, scaled to it, where both show the same point; what comes nearer at a steady
    pace is then too near in the one by what it is too far in the other. At refinement size, in the path's unit.
    """
    depth = store.array("steadied", (len(shot), *dense_size(shot.size)[::-1]))
    steady = partial(steadied_frame, shot, solution, flows)
    fill(store.done("steadied", len(shot)), range(len(shot)), steady, depth.__setitem__)
    return depth


def steadied_frame(shot: Shot, solution: Solution, flows: Flows, n: int) -> Float[Tensor, "h w"]:
    """`steadied`, of frame n."""
    here = dense_prior(shot, solution, n)[None].log()
    changes = [torch.zeros_like(here)]
    reach = [k for k in NEAR if 0 <= n - k and n + k < len(shot)]
    others = [m for k in NEAR for m in (n - k, n + k) if 0 <= m < len(shot)]
    pairs = both_ways(flows, n, others) if others else None
    for k in reach:
        at = [others.index(n - k), others.index(n + k)]
        go, back = (f[at] for f in pairs)
        there = torch.stack([dense_prior(shot, solution, m).log() for m in (n - k, n + k)])
        change, seen = warp(there, go)[0] - here, visibility(go, back)
        scale = torch.where(seen > 0, change, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0)
        change = change - scale[:, None, None, None]
        changes.append(seen.prod(0, keepdim=True) * change.mean(0, keepdim=True))
    return (here + torch.cat(changes).mean(0)).exp()[0, 0]


AGREE = 0.1  # log units by which depths of one point may differ in neighbouring frames to be averaged by half


def filtered(shot: Shot, solution: Solution, dense: Dense, flows: Flows, store: Store) -> Float32[np.ndarray, "N h w"]:
    """Refined depth averaged over neighbouring frames along flow, each seen from this one: less flicker.

    What rests is carried over by the camera's motion, what moves by the median change of depth; what disagrees by more
    than AGREE is another surface, and counts little.
    """
    depth, size = store.array("filtered", dense.depth.shape), dense_size(shot.size)
    camera, poses = solution.intrinsics.resized(size), inverse(solution.world_T_cam)

    def average(n: int) -> Float[Tensor, "h w"]:
        here = torch.from_numpy(dense.depth[n])[None, None].log()
        others = [m for k in NEAR for m in (n - k, n + k) if 0 <= m < len(shot)]
        if not others:
            return here.exp()[0, 0]
        go, back = both_ways(flows, n, others)
        there, _ = warp(torch.from_numpy(dense.depth[others])[:, None], go)
        ray = torch.cat([(pixel_grid(size, go) + go - camera.center[:, None, None]) / camera.focal[:, None, None],
                         torch.ones_like(go[:, :1])], 1)  # fmt: skip
        n_T_m = (poses[n] @ inverse(poses[others])).float()
        carried = transform(n_T_m, there * ray)[:, 2:].clamp_min(1e-6).log() - here
        moving = torch.from_numpy(dense.moving[n])[None, None]
        seen = visibility(go, back)
        followed = there.log() - here
        scale = torch.where(seen > 0, followed, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0)
        followed = followed - scale[:, None, None, None]
        change = torch.lerp(carried, followed, moving.expand_as(carried))
        weight = seen / (1 + (change / AGREE) ** 2) ** 2
        return (here + (weight * change).sum(0, keepdim=True) / (1 + weight.sum(0, keepdim=True))).exp()[0, 0]

    fill(store.done("filtered", len(shot)), range(len(shot)), average, depth.__setitem__)
    return depth
