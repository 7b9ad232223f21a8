"""From scene units to metres: what somebody measured in the world gives a run its scale.

A video alone does not say how large its world is. `--scale-from` takes what does: how high the camera was above the
ground, how far one thing in one frame was away, or where the camera was (a trajectory in metres, GPS-made or other).
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from glvid import given
from glvid.errors import UsageError
from glvid.exports.cloud import STATIC, chosen, longest_shot, strided
from glvid.formats import printable
from glvid.geometry import umeyama
from glvid.results import RunFolder
from glvid.types import Intrinsics

USAGE = "give camera-height=METRES, distance=FRAME:x,y:METRES or path=FILE"
TILT = 50.0  # degrees that the ground may be away from lying flat under the first picture
STEEP = 0.1  # sine of the angle to the ground under which it is looked at: flatter, small errors of depth tilt it
FITS = 0.05  # of its height: an error of 5 % in a point's depth takes it that much above or below the ground
TRIES = 500  # planes through three points that are tried
ROUNDS = 10  # of levelling
RISE = 0.05  # sine of a way that still goes along the ground, as far as can be told (KITTI 00, 07: 0.03, 0.05)
GROUND = 0.25  # share of what is looked at steeply, in the lower half of the picture, that has to lie on it
FRAMES, POINTS = 40, 8000  # looked at for the ground, at most
ENOUGH = 0.25  # share of the frames that have to show it
APART = 0.15  # of a path's extent that a known one may be off ours (rms): farther, clocks or clips are not the same
WINDOW = 2  # px around the pixel of a distance


@dataclass(frozen=True)
class Known:
    """One measurement. `metres`: height or distance; `frame` and `xy` (px of the source, centres at .5): of what;
    `times` (s, or none where poses count frames of the source) and `places` (N, 3), m: of the camera."""

    spec: str
    kind: str
    metres: float = 0.0
    frame: int = 0
    xy: tuple[float, float] = (0.0, 0.0)
    times: Float64[np.ndarray, " N"] | None = None
    places: Float64[np.ndarray, "N 3"] | None = None


def parsed(spec: str) -> Known:
    """What a `--scale-from` SPEC says. Raises UsageError for anything else, and where a file cannot be read."""
    kind, equals, rest = spec.partition("=")
    where = f"--scale-from {spec}"
    try:
        if kind == "camera-height":
            return Known(spec, kind, _positive(rest))
        if kind == "distance":
            frame, place, metres = rest.split(":")
            x, y = map(float, place.split(","))
            return Known(spec, kind, _positive(metres), int(frame), (x, y))
        if kind == "path" and equals:
            return _path(spec, Path(rest))
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{where}: {error}; {USAGE}") from error
    raise UsageError(f"{where}: knows no {kind or 'such measurement'}; {USAGE}")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < np.inf:
        raise ValueError(f"{text} is no positive number of metres")
    return value


def _path(spec: str, path: Path) -> Known:
    """TUM (8 numbers a line: time, place, quaternion) or KITTI (12 numbers, line i is frame i of the source)."""
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise ValueError(f"{path} is no regular file")
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    values = [list(map(float, words)) for words in lines if words and not words[0].startswith("#")]
    width = len(values[0]) if values else 0
    if width not in (8, 12) or any(len(row) != width for row in values):
        raise ValueError(f"{path} is neither a TUM trajectory (8 numbers a line) nor KITTI poses (12)")
    table = np.array(values)
    if not np.isfinite(table).all():
        raise ValueError(f"{path} holds what is not finite")
    if width == 12:
        return Known(spec, "path", places=table[:, 3::4])
    return Known(spec, "path", times=table[:, 0], places=table[:, 1:4])


# ---------------------------------------------------------------- the scale


def in_metres(run: RunFolder, spec: str) -> RunFolder:
    """The run in metres. Raises UsageError where the measurement is no use for this run, and says why."""
    factor, source = metres_per_unit(run, parsed(spec))
    return run.scaled(factor, "m", source)


def metres_per_unit(run: RunFolder, known: Known) -> tuple[float, str]:
    """Metres of one unit of the run, and a phrase on where that comes from (`scale_source`)."""
    return {"camera-height": by_height, "distance": by_distance, "path": by_path}[known.kind](run, known)


def by_height(run: RunFolder, known: Known) -> tuple[float, str]:
    """The median height of the camera above the ground, over frames of the longest shot that show it."""
    rows = chosen(longest_shot(run), FRAMES)
    turns = run.trajectory().world_T_cam[rows, :3, :3]
    points = [ground_points(run, int(k)) @ turn.T for k, turn in zip(rows, turns, strict=True)]
    heights = np.full(len(rows), np.nan)
    if (down := ground_normal(np.concatenate(points))) is not None:
        down, heights = levelled(down, points)
        path = run.trajectory().world_T_cam[:, :3, 3]
        if np.isfinite(heights).any():
            downs = along_the_way(down, path, rows, float(np.nanmedian(heights)))
            heights = np.array([height_above(n, p) for n, p in zip(downs, points, strict=True)])
    seen = heights[np.isfinite(heights)]
    if len(seen) < max(1, ENOUGH * len(rows)):
        raise UsageError(
            f"--scale-from {known.spec}: the ground is seen in {len(seen)} of {len(rows)} frames only, "
            "a level surface in the lower half of the picture; measure a distance instead"
        )
    middle = float(np.median(seen))
    spread = 100 * float(np.median(np.abs(seen / middle - 1)))
    said = f"ground seen in {len(seen)} of {len(rows)} frames, median deviation {spread:.0f} %"
    return known.metres / middle, f"camera height {known.metres:g} m ({said})"


def ground_points(run: RunFolder, k: int) -> Float64[np.ndarray, "N 3"]:
    """What rests in the lower half of a row's picture, in camera axes; about 2,000 points."""
    row, (w, h) = run.rows[k], run.size
    stride = max(1, round((w * h / 4000) ** 0.5))
    camera = strided(run.intrinsics, stride)
    grid = (slice(stride // 2, None, stride),) * 2
    depth = run.depth(row)[grid].astype(np.float64)
    (fx, fy), (cx, cy) = camera.focal.tolist(), camera.center.tolist()
    x, y = np.meshgrid(np.arange(camera.size[0]) + 0.5, np.arange(camera.size[1]) + 0.5)
    good = np.isfinite(depth) & (y > camera.size[1] / 2) & (depth < 65534 * run.info["depth"]["scale"])
    if row.mask:
        good &= run.mask(row)[grid] < STATIC
    return (np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], -1) * depth[..., None])[good]


def ground_normal(points: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, "3"] | None:
    """Which way is down (a unit vector): across the plane under the camera that most points lie on; None without one.

    `points` are seen from the origin, by the axes of the first camera. Planes through three of them at random are tried
    (RANSAC, Fischler and Bolles 1981).
    """
    draw = np.random.default_rng(0)
    if len(points) < 100:
        return None
    points = points[draw.permutation(len(points))[:POINTS]]
    corners = points[draw.integers(0, len(points), (TRIES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals *= np.where(normals[:, 1:2] < 0, -1, 1)  # down is +y
    length = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(length, 1e-12)[:, None]
    heights = (normals * corners[:, 0]).sum(1)
    allowed = (normals[:, 1] > np.cos(np.radians(TILT))) & (heights > 0) & (length > 1e-12)
    votes = np.array(
        [_on(n, h, points).sum() if good else 0 for n, h, good in zip(normals, heights, allowed, strict=True)]
    )
    best = int(votes.argmax())
    return normals[best] if votes[best] else None


def levelled(
    down: Float64[np.ndarray, "3"], points: list[Float64[np.ndarray, "_ 3"]]
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, " K"]]:
    """`down` and every frame's height, fitted to each other in turn; heights are NaN where that is no ground.

    Least squares, reweighted: what lies farther off than most (the foot of a wall) counts little. A strip of a wall
    that looked like ground turns away until it lies too steep.
    """
    for _ in range(ROUNDS):
        heights = np.array([height_above(down, p) for p in points])
        near = [p[_on(down, h, p)] / h for p, h in zip(points, heights, strict=True) if np.isfinite(h)]
        near = np.concatenate(near) if near else np.empty((0, 3))
        if len(near) < 3 or down[1] < np.cos(np.radians(TILT)):
            return down, np.full(len(points), np.nan)
        off = np.abs(near @ down - 1)
        weight = 1 / (1 + (off / max(np.median(off), 1e-4)) ** 2)
        plane = np.linalg.solve((near * weight[:, None]).T @ near + 1e-9 * np.eye(3), near.T @ weight)
        down = plane / np.linalg.norm(plane)
    return down, heights


def along_the_way(
    down: Float64[np.ndarray, "3"], path: Float64[np.ndarray, "N 3"], rows: np.ndarray, height: float
) -> Float64[np.ndarray, "K 3"]:
    """`down` at each row, turned to be square to the way of the camera there, if that goes along the ground at all.

    Depth of a road that is too near far ahead looks like a road that climbs; but what drives or walks has the ground
    that it came over under it. The way is taken over a height before and behind; one that is shorter, or goes up or
    down by more than RISE, says nothing.
    """
    found = []
    for k in rows:
        far = np.linalg.norm(path - path[k], axis=1) >= height
        before, after = np.flatnonzero(far[: k + 1]), np.flatnonzero(far[k:])
        way = path[k + after[0] if len(after) else -1] - path[before[-1] if len(before) else 0]
        length = np.linalg.norm(way)
        rise = down @ way / max(length, 1e-12)
        square = down - rise * way / max(length, 1e-12)
        found.append(square / np.linalg.norm(square) if length >= height and abs(rise) < RISE else down)
    return np.array(found)


def _steep(normal: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ normal > STEEP * np.linalg.norm(points, axis=1)


def _on(normal: np.ndarray, height: float, points: np.ndarray) -> np.ndarray:
    return _steep(normal, points) & (np.abs(points @ normal / height - 1) < FITS)


def height_above(down: Float64[np.ndarray, "3"], points: Float64[np.ndarray, "N 3"]) -> float:
    """Where most points of one frame lie below the camera (the fullest of overlapping bins); NaN where few do."""
    below = np.sort((points @ down)[_steep(down, points)])
    below = below[below > 0]
    if not len(below):
        return np.nan
    count = np.searchsorted(below, below * (1 + FITS) / (1 - FITS), "right") - np.arange(len(below))
    first = int(count.argmax())
    if count[first] < GROUND * len(below):
        return np.nan
    return float(np.median(below[first : first + count[first]]))


def by_distance(run: RunFolder, known: Known) -> tuple[float, str]:
    """The distance, along the ray, from the camera to what one pixel of a frame shows."""
    where = f"--scale-from {known.spec}"
    row = next((row for row in run.rows if row.index == known.frame), None)
    if row is None:
        indices = f"{run.rows[0].index} to {run.rows[-1].index}"
        raise UsageError(f"{where}: frame {known.frame} of the source is none of the run's, which are {indices}")
    source = run.camera["source_width"], run.camera["source_height"]
    if not (0 <= known.xy[0] < source[0] and 0 <= known.xy[1] < source[1]):
        raise UsageError(f"{where}: lies outside the source's {source[0]}x{source[1]} px")
    xy = given.straightened(np.array(known.xy) * run.size / np.array(source), *lens_of(run))
    window = tuple(slice(max(0, int(a) - WINDOW), int(a) + WINDOW + 1) for a in xy[::-1])
    if row.mask and np.median(run.mask(row)[window]) >= 0.5:
        raise UsageError(f"{where}: shows what moves on its own, whose depth nothing measures; take another point")
    depth = run.depth(row)[window]
    if not np.isfinite(depth).any():
        raise UsageError(f"{where}: no depth is known there; take another point")
    ray = np.append((xy - run.intrinsics.center.numpy()) / run.intrinsics.focal.numpy(), 1.0)
    distance = float(np.nanmedian(depth) * np.linalg.norm(ray))
    return (
        known.metres / distance,
        f"distance {known.metres:g} m at ({known.xy[0]:g}, {known.xy[1]:g}) of frame {row.index}",
    )


def lens_of(run: RunFolder) -> tuple[str | None, Intrinsics | None]:
    """The distortion that the maps are without, and the camera it was given with, at the size of the maps.

    Of a camera given by a file, the run's own stands for it: the file may be another by now, and no path in a run.json
    is to be followed.
    """
    distortion, spec = (run.info["options"].get(name) for name in ("distortion", "intrinsics"))
    if distortion is None or spec is None:
        return None, None
    if not spec.startswith("fov=") and not re.fullmatch(r"[-+.,eE0-9 ]+", spec):
        return distortion, run.intrinsics
    source = run.camera["source_width"], run.camera["source_height"]
    return distortion, given.intrinsics(spec, source).resized(run.size)


def by_path(run: RunFolder, known: Known) -> tuple[float, str]:
    """The similarity that fits the camera's path of the longest shot to the known one (Umeyama 1991)."""
    where, rows = f"--scale-from {known.spec}", longest_shot(run)
    fits = [fitted(run, *pair, known) for pair in matched(run, rows, known) if len(pair[0]) >= 3]
    if not fits:
        raise UsageError(f"{where}: less than three of its poses are of frames of this run")
    scale, off, extent, count = min(fits, key=lambda fit: fit[1] / max(fit[2], 1e-12))
    if not 1e-9 < scale < 1e9 or extent <= 1e-9:
        raise UsageError(f"{where}: the camera does not change place, so there is nothing to compare")
    if off > APART * extent:
        raise UsageError(f"{where}: is another path: {off:.3g} m (rms) off ours, in an extent of {extent:.3g} m")
    name = printable(Path(known.spec.partition("=")[2]).name)
    return scale, f"path of {count} poses, {off:.2g} m (rms) off, in {name}"


def fitted(run: RunFolder, here: np.ndarray, there: np.ndarray, known: Known) -> tuple[float, float, float, int]:
    """Scale of ours to fit the known path, how far off it is then (m, rms), extent of the known one (m), and of how
    many poses; scale 0 where ours does not move."""
    ours, theirs = torch.from_numpy(run.trajectory().world_T_cam[here, :3, 3]), torch.from_numpy(known.places[there])
    extent = [float((x - x.mean(0)).norm(dim=1).max()) for x in (ours, theirs)]
    if extent[0] <= 1e-9:
        return 0.0, 0.0, extent[1], len(here)
    s, R, t = umeyama(ours, theirs)
    off = float(((s * ours @ R.T + t - theirs) ** 2).sum(1).mean().sqrt())
    return float(s), off, extent[1], len(here)


def matched(run: RunFolder, rows: np.ndarray, known: Known) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of the run and the known poses of the same moment, in the ways in which they may belong together.

    By time, half a frame apart at most; where there are as many poses as rows, one by one, as other clocks need it; and
    poses without time: pose i is of frame i of the source.
    """
    pairs = []
    if len(known.places) == len(run.rows):
        pairs.append((rows, rows))
    if known.times is None:
        indices = np.array([run.rows[k].index for k in rows])
        there = indices < len(known.places)
        return [*pairs, (rows[there], indices[there])]
    times, order = np.array([run.rows[k].time_s for k in rows]), np.argsort(known.times)
    after = np.searchsorted(known.times[order], times).clip(1, max(1, len(order) - 1))
    sides = np.stack([order[after - 1], order[np.minimum(after, len(order) - 1)]])
    gaps = np.abs(known.times[sides] - times)
    nearest = sides[gaps.argmin(0), np.arange(len(times))]
    near = gaps.min(0) <= (np.diff(times).mean() / 2 if len(times) > 1 else 0.5)
    return [*pairs, (rows[near], nearest[near])]
