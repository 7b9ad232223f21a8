"""Points of the static scene with every frame that sees them: what a bundle adjuster, or splatting, starts from.

A point begins where a picture has most texture in a cell that no known point lies in. From frame to frame it goes where
the optical flow leads (where none is stored, where the point projects to), as long as that is near the projection and
the depth there is the point's. So what is observed is measured, and adjusting it has something to find.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, UInt8

from glvid.exports.cloud import FAR, TOLERANCE, View, median_depth, seen_ratio, views
from glvid.parallel import each
from glvid.results import RunFolder
from glvid.types import Intrinsics

CELLS = 1500  # a frame, about; each holds one point
OBSERVATIONS = 2_000_000  # of a run, at most, about: the longer it is, the coarser the cells
ASTRAY = 1.0  # px per 640 px of width that a measured place may be off the projected one
SEEN = 3  # frames that see a point, at least; 2 where there are no more
BORDER = 2  # px that no point begins in


@dataclass(frozen=True)
class Tracks:
    """M points of one world and their O observations, ordered by frame."""

    points: Float64[np.ndarray, "M 3"]
    colors: UInt8[np.ndarray, "M 3"]
    errors: Float64[np.ndarray, " M"]  # mean distance of observed and projected places, px
    frame: Int32[np.ndarray, " O"]  # place in the run's rows
    point: Int32[np.ndarray, " O"]  # number of the point
    xy: Float32[np.ndarray, "O 2"]  # px, centres at .5


@dataclass(frozen=True)
class Alive:
    """Points that the last frame saw."""

    ids: Int[np.ndarray, " A"]
    points: Float64[np.ndarray, "A 3"]
    xy: Float64[np.ndarray, "A 2"]


@dataclass(frozen=True)
class Seen:
    """What one frame adds: observations, where it places their points, and the colours of those that are new."""

    ids: Int32[np.ndarray, " O"]
    xy: Float32[np.ndarray, "O 2"]
    points: Float64[np.ndarray, "O 3"]
    colors: UInt8[np.ndarray, "F 3"]  # of the last F


def tracks(run: RunFolder) -> Tracks:
    """Tracks of a run whose rows are of one shot. Deterministic. Raises UsageError when no depth is stored or known.

    A point lies in the middle of the places that its frames give it. Memory: 12 bytes an observation.
    """
    ids, xy, colors, sums = [], [], [], np.zeros((0, 4))
    for seen in _frames(run):
        ids.append(seen.ids)
        xy.append(seen.xy)
        colors.append(seen.colors)
        sums = np.concatenate([sums, np.zeros((len(seen.colors), 4))])
        sums[seen.ids] += np.concatenate([seen.points, np.ones((len(seen.ids), 1))], 1)
    kept = sums[:, 3] >= min(SEEN, len(run.rows))
    points, number = sums[:, :3] / sums[:, 3:], np.cumsum(kept, dtype=np.int32) - 1
    off, poses = np.zeros(len(points)), run.trajectory().world_T_cam
    for k, (these, there) in enumerate(zip(ids, xy, strict=True)):
        off[these] += np.linalg.norm(there - _projected(points[these], poses[k], run.intrinsics), axis=1)
        ids[k], xy[k] = number[these[kept[these]]], there[kept[these]]
    frame = np.repeat(np.arange(len(ids), dtype=np.int32), list(map(len, ids)))
    errors = (off / sums[:, 3])[kept]
    return Tracks(points[kept], np.concatenate(colors)[kept], errors, frame, np.concatenate(ids), np.concatenate(xy))


def _projected(
    points: Float64[np.ndarray, "O 3"], world_T_cam: Float64[np.ndarray, "4 4"], camera: Intrinsics
) -> Float64[np.ndarray, "O 2"]:
    """Where points lie in a frame."""
    local = (points - world_T_cam[:3, 3]) @ world_T_cam[:3, :3]
    return local[:, :2] / local[:, 2:] * camera.focal.numpy() + camera.center.numpy()


def _frames(run: RunFolder) -> Iterator[Seen]:
    """Frame by frame; no more than one is held, and the flow that leads to it."""
    rows, (w, h) = np.arange(len(run.rows)), run.size
    middle = median_depth(run, rows)
    cell = max(4.0, (w * h / min(CELLS, OBSERVATIONS / len(rows))) ** 0.5)
    alive, born = Alive(np.empty(0, np.int64), np.empty((0, 3)), np.empty((0, 2))), 0
    for view, flow in zip(views(run, rows, FAR * middle), each(lambda k: _flow_to(run, k), rows.tolist()), strict=True):
        alive = _followed(alive, view, flow)
        fresh = _fresh(view, alive.xy, cell)
        ids = np.concatenate([alive.ids, born + np.arange(len(fresh))])
        born += len(fresh)
        xy = np.concatenate([alive.xy, fresh])
        points = _placed(view, xy)
        alive = Alive(ids, np.concatenate([alive.points, points[len(alive.ids) :]]), xy)
        x, y = fresh.astype(np.int64).T
        yield Seen(ids.astype(np.int32), xy.astype(np.float32), points, view.image[y, x])


def _flow_to(run: RunFolder, k: int) -> np.ndarray | None:
    """Flow from the row before row k; None where none is stored, or rows were left out in between."""
    there = k > 0 and run.numbers[k] == run.numbers[k - 1] + 1 and run.rows[k - 1].flow
    return run.flow(run.rows[k - 1]) if there else None


def _followed(alive: Alive, view: View, flow: np.ndarray | None) -> Alive:
    """Those of the last frame's points that this one sees where they should be."""
    if not len(alive.ids):
        return alive
    (fx, fy), (cx, cy) = view.camera.focal.tolist(), view.camera.center.tolist()
    local = (alive.points - view.world_T_cam[:3, 3]) @ view.world_T_cam[:3, :3]
    z = np.where(local[:, 2] > 1e-9, local[:, 2], np.nan)
    projected = local[:, :2] / z[:, None] * (fx, fy) + (cx, cy)
    xy = projected if flow is None else alive.xy + _sampled(flow, alive.xy)
    w, h = view.camera.size
    good = (np.linalg.norm(xy - projected, axis=1) < ASTRAY * w / 640) & ((xy > 0.5) & (xy < (w - 0.5, h - 0.5))).all(1)
    good &= np.abs(seen_ratio(alive.points, view) - 1) < TOLERANCE
    good[good] &= np.isfinite(_inverse_at(view, xy[good]))
    return Alive(alive.ids[good], alive.points[good], xy[good])


def _sampled(maps: Float[np.ndarray, "C H W"], xy: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N C"]:
    """Bilinear, between pixel centres at .5; NaN where a neighbour is."""
    h, w = maps.shape[1:]
    x, y = (xy - 0.5).clip(0, (w - 1, h - 1)).T
    left, top = np.minimum(x.astype(np.int64), w - 2), np.minimum(y.astype(np.int64), h - 2)
    a, b = x - left, y - top
    corners = ((0, 0, (1 - a) * (1 - b)), (0, 1, a * (1 - b)), (1, 0, (1 - a) * b), (1, 1, a * b))
    return sum(maps[:, top + down, left + right] * weight for down, right, weight in corners).T


def _inverse_at(view: View, xy: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, " N"]:
    return _sampled(view.inverse[None], xy)[:, 0]


def _placed(view: View, xy: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 3"]:
    """World points of places in a frame, by its depth."""
    (fx, fy), (cx, cy) = view.camera.focal.tolist(), view.camera.center.tolist()
    rays = np.concatenate([(xy - (cx, cy)) / (fx, fy), np.ones((len(xy), 1))], 1)
    local = rays / _inverse_at(view, xy)[:, None]
    return local @ view.world_T_cam[:3, :3].T + view.world_T_cam[:3, 3]


def _fresh(view: View, taken: Float64[np.ndarray, "A 2"], cell: float) -> Float64[np.ndarray, "F 2"]:
    """The best textured pixel (Shi and Tomasi 1994) of every cell that no known point lies in; centres of pixels."""
    grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
    usable = _surrounded_by_depth(view)
    strength = np.where(usable, cv2.cornerMinEigenVal(grey, 3) + 1e-12, 0)
    w, h = view.camera.size
    columns = int(np.ceil(w / cell))
    y, x = np.nonzero(strength)
    of = (y / cell).astype(np.int64) * columns + (x / cell).astype(np.int64)
    full = (taken[:, 1] / cell).astype(np.int64) * columns + (taken[:, 0] / cell).astype(np.int64)
    free = ~np.isin(of, full)
    x, y, of = x[free], y[free], of[free]
    order = np.lexsort((-strength[y, x], of))
    best = order[np.unique(of[order], return_index=True)[1]]
    return np.stack([x[best], y[best]], 1) + 0.5


def _surrounded_by_depth(view: View) -> Bool[np.ndarray, "H W"]:
    """Pixels whose neighbours all have depth, away from the border."""
    known = cv2.erode(np.isfinite(view.inverse).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    known[:BORDER] = known[-BORDER:] = False
    known[:, :BORDER] = known[:, -BORDER:] = False
    return known
