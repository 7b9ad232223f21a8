"""What moves on its own: whole objects whose flow no depth explains, and whose colours follow the flow."""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from glvid.geometry import rigid_flow
from glvid.losses import dissimilarity
from glvid.predict import Flows
from glvid.store import Store, fill
from glvid.types import Intrinsics
from glvid.views import Views, median_seen
from glvid.warp import box_mean, guided_upsample, length, spread, warp

NEARER, FARTHER = 2.5, 1.6  # log units from the network's depth at which a find is half believed; see `far_fetched`
WRONG, MOVES = (0.9, 0.09), (0.2, 0.08)  # errors (px, and share of the flow) at which `doubt` and `excess` are half, 1
WORSE = 0.02  # dissimilarity by which a moving object must look worse under rigid motion than under its flow
LEAKS = 0.001  # dissimilarity by which the rigid scene is the better explanation
SUSPECT, PROVEN = 0.75, 0.2  # excess from which pixels belong to an object; share of it whose colours must say so
LEAST = 12  # px of refinement size that an object has
SEEN, STEADY = 0.5, 0.35  # how visible an object is in neighbouring frames, at least; how unsteadily it moves, at most
ROUNDS, MAJORITY = 5, 0.4  # of `voted`; share of votes that decides
OUTLINED = 20  # rounds of `spread`, which has settled by then: twice as many change no pixel by 0.1, the mean by 0.0006
BAND, BLEND = 2, 0.06  # px around an outline that may go over to the other side; difference of colour that separates


def doubt(errors: Float[Tensor, "K 1 h w"], views: Views, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
    """Probability that a depth is `WRONG` by its errors (px) in other views, so that it must not count."""
    over = median_seen(errors / (WRONG[0] + WRONG[1] * length(views.flow)), views.visible)
    p = torch.sigmoid(4 * (over - 1)) * views.visible.amax(0)
    return guided_upsample(p[None], image[None], radius=3, eps=3e-3)[0].clamp(0, 1)


def far_fetched(ratio: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """How unbelievable a depth is, by its log ratio to the network's.

    Much nearer than the network says is a discovery, usually: a pole, a twig. Much farther is not: what moves along
    with the camera hardly moves in the image, and so looks like a distant, resting thing.
    """
    return torch.where(
        ratio < 0, torch.sigmoid((-ratio - NEARER) / (0.1 * NEARER)), torch.sigmoid((ratio - FARTHER) / (0.1 * FARTHER))
    )


def betrayed(
    image: Float[Tensor, "3 h w"], depths: Sequence[Float[Tensor, "1 h w"]], views: Views, camera: Intrinsics
) -> Float[Tensor, "1 h w"]:
    """By how much colours are less alike where a rigid scene of any of `depths` leads than where flow leads.

    Keeps wrong flow (repeated texture, fast motion) from being taken for motion: there the rigid scene explains the
    colours as well.
    """
    there = views.images.mean(1, keepdim=True)
    same = image.mean(0)[None, None]
    rigid = []
    for depth in depths:
        flow, _ = rigid_flow(depth.expand(len(there), 1, *depth.shape[-2:]), camera, views.there_T_here)
        rigid.append(dissimilarity(same, warp(there, views.as_seen(flow))[0]))
    return median_seen(torch.stack(rigid).amin(0) - views.unlike, views.visible)


def objects(
    errors: Float[Tensor, "K 1 h w"],
    ratio: Float[Tensor, "1 h w"],
    worse: Float[Tensor, "1 h w"],
    unsteady: Float32[np.ndarray, "h w"],
    views: Views,
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Probability that a pixel belongs to an object that moves on its own, of one frame, and that flow is torn there.

    errors (px) of the depth that explains the flow best, at log `ratio` to the network's; worse: see `betrayed`,
    unsteady: `unsteadiness`.
    Connected pixels in excess of what errors usually come to (MOVES) are one object; it moves if a fair share of it is
    betrayed by its colours. An even surface betrays nothing, so single pixels cannot be asked. What hardly matches
    either way, or goes elsewhere than it came from, is flow gone wrong (near things in a drive), not an object: things
    have mass.
    """
    excess = median_seen(errors / (MOVES[0] + MOVES[1] * length(views.flow)), views.visible)
    excess = torch.maximum(excess, 3 * far_fetched(ratio)) * (views.visible.amax(0) > 0)
    halo = box_mean(worse[None], 2)[0] < -LEAKS  # there flow leaks onto what rests
    suspect = cv2.medianBlur(((excess > SUSPECT) & ~halo)[0].byte().numpy(), 5)
    count, label, facts, _ = cv2.connectedComponentsWithStats(suspect, connectivity=4)
    worse = box_mean(worse[None], 1)[0, 0]
    proof = torch.sigmoid((worse - WORSE) / (0.25 * WORSE)).numpy()
    area = facts[:, cv2.CC_STAT_AREA]
    seen = views.visible[:2].mean((0, 1)).numpy()
    share, seen, unsteady = (
        torch.from_numpy(np.bincount(label.ravel(), x.ravel(), count) / np.maximum(area, 1))
        for x in (proof, seen, unsteady)
    )
    odd = ((share - PROVEN) / (0.2 * PROVEN)).sigmoid() * torch.from_numpy(area >= LEAST)
    odd[0] = 0  # what is not suspect
    moves = odd * ((seen - SEEN) / (0.1 * SEEN)).sigmoid() * ((STEADY - unsteady) / (0.1 * STEADY)).sigmoid()
    label = torch.from_numpy(label).long()
    return moves.float()[label][None], (odd - moves).float()[label][None]


def unsteadiness(
    views: Views, depth: Float[Tensor, "1 h w"], camera: Intrinsics, between: bool
) -> Float32[np.ndarray, "h w"]:
    """How far the motion from the last frame differs from that to the next, 0..1, 1 px being as good as nothing; by
    as much as the camera's own motion differs, at this depth, it may."""
    if not between:
        return np.zeros(depth.shape[1:], np.float32)
    rigid, _ = rigid_flow(depth.expand(2, 1, *depth.shape[-2:]), camera, views.there_T_here[:2])
    own = (views.flow[:2] - views.as_seen(rigid)).sum(0, keepdim=True)
    moved = length(views.flow[:2]).sum(0, keepdim=True)
    return (length(own) / (moved + 1)).clamp(max=1)[0, 0].numpy()


def voted(
    moving: Float32[np.ndarray, "N h w"],
    seen: Float32[np.ndarray, "N 2 h w"],
    flows: Flows,
    store: Store | None = None,
    every: int = 1,
) -> Float32[np.ndarray, "N h w"]:
    """Every frame's probabilities become the mean of its own and its neighbours', carried along flow, ROUNDS times.
    seen: how visible a frame is in the next and in the last one; every: so many frames apart are those that know."""
    store = Store() if store is None else store
    for number in range(ROUNDS):
        name, before = f"voted-{number}", moving
        moving = store.array(name, before.shape, np.float32)
        of_frame = partial(vote, before, seen, flows, every if number == 0 else 1)
        fill(store.done(name, len(before)), range(len(before)), of_frame, moving.__setitem__)
    return moving


def vote(
    moving: Float32[np.ndarray, "N h w"], seen: Float32[np.ndarray, "N 2 h w"], flows: Flows, every: int, n: int
) -> Float[Tensor, "h w"]:
    """One round of `voted`, for frame n."""
    if not any(moving[m].any() for m in range(max(0, n - 1), min(n + 2, len(moving)))):
        return torch.zeros(moving.shape[1:])
    votes = torch.from_numpy(np.array(moving[n]))[None, None]
    count = torch.full_like(votes, float(knows(n, len(moving), every)))
    for k, m in enumerate((n + 1, n - 1)):
        if 0 <= m < len(moving) and knows(m, len(moving), every):
            carried, inside = warp(torch.from_numpy(np.array(moving[m]))[None, None], flows(n, m))
            inside = inside * torch.from_numpy(seen[n, k] > 0.3)
            votes, count = votes + inside * carried, count + inside
    return (votes / count.clamp_min(1))[0, 0]


def knows(n: int, frames: int, every: int) -> bool:
    """Is frame n one of those so many apart that know by themselves, or the last?"""
    return n % every == 0 or n == frames - 1


def snapped(moving: Float[Tensor, "1 h w"], image: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
    """The objects of a vote, their outlines moved to where colours change."""
    inside = (moving > MAJORITY).float()
    if not inside.any():
        return inside
    size = 2 * BAND + 1
    grown, kept = (s * F.max_pool2d(s * inside[None], size, 1, BAND)[0] for s in (1, -1))
    parts, label = cv2.connectedComponents(inside[0].byte().numpy(), connectivity=4)
    whole = np.bincount(label.ravel(), kept[0].numpy().ravel(), parts) > 0
    thin = torch.from_numpy(~whole[label] & (label > 0)).float()[None]  # nothing but outline: left as it is
    free = (grown - kept) * (1 - thin)
    some = around(free[0], 4 * BAND)
    inside[some] = spread(inside[some], 1 - 0.98 * free[some], image[some], 1.0, BLEND, OUTLINED).clamp(0, 1)
    return inside


def around(wanted: Float[Tensor, "h w"], margin: int) -> tuple[slice, slice, slice]:
    """The smallest part (all channels, rows, columns) of a map that holds all that is not 0, and a margin; all of it
    where there is nothing."""
    ends = [slice(None)]
    for axis in (1, 0):
        at = torch.nonzero(wanted.any(axis))[:, 0]
        ends.append(slice(max(0, int(at[0]) - margin), int(at[-1]) + 1 + margin) if len(at) else slice(None))
    return tuple(ends)
