"""What is known of a recording beside what a run says of it: depth, path, camera, row by row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64

from glvid.errors import InputError, UsageError
from glvid.evaluate.metrics import garg_crop, resized_as_disparity
from glvid.formats import FLO_TAG, stated_size
from glvid.results import Row, RunFolder
from glvid.types import Recording

Map = Float64[np.ndarray, "H W"]


@dataclass(frozen=True)
class Judged:
    """A run and the recording it is of; `at` holds, for every row of the run, the number of its picture."""

    run: RunFolder
    recording: Recording
    at: tuple[int, ...]


def judged(run: RunFolder, recording: Recording) -> Judged:
    """Rows and pictures matched by file name, or by number where the run is of a video.

    Raises UsageError where a row has no picture: then they do not belong together.
    """
    number = {path.stem: n for n, path in enumerate(recording.pictures)}
    if not any(row.name for row in run.rows):
        number = {str(n): n for n in range(len(recording.pictures))}
    asked = [Path(row.name).stem or str(row.index) for row in run.rows]
    missing = next((name for name in asked if name not in number), None)
    if missing is not None:
        raise UsageError(f"{run.path}: its frame '{missing}' is none of {recording.path}; give the truth of this clip")
    return Judged(run, recording, tuple(number[name] for name in asked))


def measured_depth(recording: Recording, n: int) -> Map | None:
    """Depth map of picture n in metres, 0 where nothing was measured; None where there is none.

    A 16-bit picture, or Sintel's `.dpt`. Raises InputError where the file is neither.
    """
    path = recording.depth[n] if recording.depth else None
    if path is None:
        return None
    if path.suffix == ".dpt":
        return sintel_depth(path)
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if stated_size(path) is not None else None
    if raw is None or raw.dtype != np.uint16 or raw.ndim != 2:
        raise InputError(f"{path}: is no 16-bit depth map; copy the data set anew")
    return raw * recording.depth_unit


def sintel_depth(path: Path) -> Map:
    """Depth of a `.dpt` file: a float32 tag, int32 width and height, float32 metres. Raises InputError."""
    data = path.read_bytes() if path.is_file() else b""
    w, h = np.frombuffer(data[4:12], "<i4") if len(data) >= 12 else (0, 0)
    if (
        min(w, h) < 1
        or len(data) != 12 + 4 * int(w) * int(h)
        or np.frombuffer(data[:4], "<f4")[0] != np.float32(FLO_TAG)
    ):
        raise InputError(f"{path}: is no depth map of Sintel; copy the data set anew")
    return np.frombuffer(data[12:], "<f4").reshape(h, w).astype(np.float64)


def scanned_depth(recording: Recording, n: int) -> Map | None:
    """LiDAR of picture n, (H, W) in metres, 0 between the points: the truth of the Eigen protocol; None without a scan.

    As Monodepth2 exports it: what lies before the scanner; its distance along the scanner's axis, not the camera's, is
    the depth; pixels are rounded and count from 1; of several points in a pixel the nearest stays.
    """
    path = recording.lidar[n] if recording.lidar else None
    if path is None or recording.lidar_camera is None or recording.camera is None:
        return None
    points = np.fromfile(path, np.float32) if path.is_file() else np.empty(0, np.float32)
    if len(points) % 4 or not len(points):
        raise InputError(f"{path}: is no LiDAR scan (x y z reflectance in float32); copy the data set anew")
    ahead = points.reshape(-1, 4)[:, :3].astype(np.float64)
    ahead = ahead[ahead[:, 0] >= 0]
    x, y, z = recording.lidar_camera @ np.column_stack([ahead, np.ones(len(ahead))]).T
    w, h = recording.camera.size
    with np.errstate(divide="ignore", invalid="ignore"):
        column, row = np.round(x / z) - 1, np.round(y / z) - 1
    lands = (z > 0) & (column >= 0) & (column < w) & (row >= 0) & (row < h)
    depth = np.full((h, w), np.inf)
    np.minimum.at(depth, (row[lands].astype(int), column[lands].astype(int)), ahead[lands, 0])
    return np.where(np.isfinite(depth), depth, 0.0)


DepthOf = Callable[[Recording, int], Map | None]


def depth_pairs(
    case: Judged,
    truth: DepthOf,
    low: float,
    cap: float,
    crop: bool = False,
    frames: set[int] | None = None,
    cubic: bool = False,
) -> Iterator[tuple[Row, np.ndarray, np.ndarray]]:
    """(row, predicted, true) depth of every frame that has truth, at the pixels where low < true < cap.

    The prediction is resampled to the truth's size, bilinearly in disparity, or bicubically as depth (`cubic`). `crop`:
    Garg's; `frames`: these picture numbers only.
    """
    for row, n in zip(case.run.rows, case.at, strict=True):
        true = truth(case.recording, n) if frames is None or n in frames else None
        if true is None:
            continue
        known = (true > low) & (true < cap)
        if crop:
            known &= garg_crop(true.shape)
        size, depth = (true.shape[1], true.shape[0]), case.run.depth(row)
        if cubic and np.isfinite(depth).all():
            said = cv2.resize(depth, size, interpolation=cv2.INTER_CUBIC).astype(np.float64).clip(1e-6)
        else:
            said = resized_as_disparity(depth, size)
        yield row, said[known], true[known]


def path_pair(case: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Poses (N, 4, 4) of the run and of the truth, camera to world, of the rows whose pose is known.

    Only the longest shot: after a cut a run's world begins anew. Raises UsageError where nothing is known.
    """
    kept = posed(case)
    return case.run.trajectory().world_T_cam[kept], case.recording.poses[list(case.at)][kept]


def posed(case: Judged) -> np.ndarray:
    """Which rows of the run, (N,) bool, `path_pair` is of."""
    if case.recording.poses is None:
        raise UsageError(f"{case.recording.path}: its data set knows no camera path")
    shots = np.array([row.shot for row in case.run.rows])
    true = case.recording.poses[list(case.at)]
    kept = (shots == np.bincount(shots).argmax()) & np.isfinite(true).all((1, 2))
    if kept.sum() < 2:
        raise UsageError(f"{case.recording.path}: fewer than two poses are known of this clip")
    return kept
