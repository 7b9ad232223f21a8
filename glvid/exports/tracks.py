"""Points of the static scene with every frame that sees them: what a bundle adjuster, or splatting, starts from.

A point begins where a picture has most texture in a cell that no known point lies in. From frame to frame it goes where
the optical flow leads (where none is stored, where the point projects to), as long as that is near the projection and
the depth there is the point's. So what is observed is measured, and adjusting it has something to find.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt8

from glvid.exports.cloud import FAR, TOLERANCE, View, median_depth, seen_ratio, views
from glvid.parallel import each
from glvid.results import RunFolder

CELLS = 1500  # a frame, about; each holds one point
OBSERVATIONS = 3_000_000  # of a run, at most, about: the longer it is, the coarser the cells
ASTRAY = 1.0  # px per 640 px of width that a measured place may be off the projected one
SEEN = 3  # frames that see a point, at least; 2 where there are no more
BORDER = 2  # px that no point begins in


@dataclass(frozen=True)
class Tracks:
    """M points of one world and their O observations, ordered by frame."""

    points: Float64[np.ndarray, "M 3"]
    colors: UInt8[np.ndarray, "M 3"]
    errors: Float64[np.ndarray, " M"]  # mean distance of observed and projected places, px
    frame: Int[np.ndarray, " O"]  # place in the run's rows
    point: Int[np.ndarray, " O"]  # number of the point
    xy: Float64[np.ndarray, "O 2"]  # px, centres at .5


@dataclass(frozen=True)
class Alive:
    """Points that the last frame saw."""

    ids: Int[np.ndarray, " A"]
    points: Float64[np.ndarray, "A 3"]
    xy: Float64[np.ndarray, "A 2"]


@dataclass(frozen=True)
class Seen:
    """What one frame adds: observations, and the first look at new points."""

    ids: Int[np.ndarray, " O"]
    xy: Float64[np.ndarray, "O 2"]
    points: Float64[np.ndarray, "O 3"]  # as this frame places them
    colors: UInt8[np.ndarray, "O 3"]


def tracks(run: RunFolder) -> Tracks:
    """Tracks of a run whose rows are of one shot. Deterministic. Raises UsageError when no depth is stored or known."""
    frames = list(_frames(run))
    count = np.array([len(f.ids) for f in frames])
    ids, xy, places = (np.concatenate([getattr(f, name) for f in frames]) for name in ("ids", "xy", "points"))
    colors, frame = np.concatenate([f.colors for f in frames]), np.repeat(np.arange(len(frames)), count)
    seen = np.bincount(ids)
    kept = seen >= min(SEEN, max(2, len(frames)) if len(frames) > 1 else 1)
    points = np.stack([np.bincount(ids, axis) for axis in places.T], 1) / np.maximum(seen, 1)[:, None]
    first = np.unique(ids, return_index=True)[1]
    stays = kept[ids]
    number = np.cumsum(kept) - 1
    frame, ids, xy = frame[stays], ids[stays], xy[stays]
    off = np.linalg.norm(xy - _projected(run, points[ids], frame), axis=1)
    errors = np.bincount(ids, off, len(kept)) / np.maximum(seen, 1)
    return Tracks(points[kept], colors[first][kept], errors[kept], frame, number[ids], xy)


def _projected(
    run: RunFolder, points: Float64[np.ndarray, "O 3"], frame: Int[np.ndarray, " O"]
) -> Float64[np.ndarray, "O 2"]:
    """Where every point lies in the frame beside it."""
    poses, (focal, center) = run.trajectory().world_T_cam[frame], _lens(run)
    local = np.einsum("oji,oj->oi", poses[:, :3, :3], points - poses[:, :3, 3])
    return local[:, :2] / local[:, 2:] * focal + center


def _lens(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    return run.intrinsics.focal.numpy(), run.intrinsics.center.numpy()


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
        x, y = xy.astype(np.int64).T
        yield Seen(ids, xy, points, view.image[y, x])


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
