"""The fused point cloud of a run: static pixels that several views agree on, thinned to voxels.

Memory does not grow with the length of the clip: five views and the voxels (at most the points asked for) are held.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8

from glvid.errors import UsageError
from glvid.exports.ply import Cloud
from glvid.parallel import each
from glvid.results import RunFolder
from glvid.types import Intrinsics

T = TypeVar("T")

MAX_POINTS = 2_000_000  # 30 MB of PLY
VIEWS = 60  # fused at most, spread evenly over the shot
SAMPLES = 100_000  # pixels taken of a view, about, on a regular grid
REACH = 2  # views before and after, of those fused, that a point is checked against
TOLERANCE = 0.05  # relative depth difference up to which two views see the same surface
STATIC = 0.3  # probability of moving below which a pixel is static: a missing point is better than a ghost
FAR = 10.0  # median depths; what lies beyond (sky, horizon) has no parallax to speak of
BEND = 0.04  # relative second difference of inverse depth: 0 on any plane, large on a depth edge
GRAZING = 0.05  # cosine between ray and normal, below which a pixel hangs between two surfaces
PENDING = 2_000_000  # points collected before they are merged into the voxels
CELLS = 1 << 21  # voxels along an axis: three coordinates make one 63-bit key


@dataclass(frozen=True)
class View:
    """One frame, ready for fusion: a regular grid of its pixels."""

    inverse: Float32[np.ndarray, "H W"]  # 1 / depth, NaN where moving, far, on a depth edge, or unknown
    image: UInt8[np.ndarray, "H W 3"]
    world_T_cam: Float64[np.ndarray, "4 4"]
    camera: Intrinsics  # of the grid
    row: int = 0  # number of the frame's row


@dataclass(frozen=True)
class Voxels:
    """Sums over the points that fell into each occupied voxel."""

    keys: Int[np.ndarray, " V"]  # ascending
    sums: Float64[np.ndarray, "6 V"]  # x y z red green blue
    counts: Float64[np.ndarray, " V"]
    first: Int[np.ndarray, " V"]  # row of the first view that saw a point of it


def fuse(run: RunFolder, max_points: int = MAX_POINTS) -> Cloud:
    """The static scene of the run's longest shot (every shot has a world of its own), at most `max_points` points.

    A pixel is kept where the mask says static, the depth is no edge and not far, and at least two neighbouring views
    (one, where no more see the point) have a surface there within 5 % of its depth, more than see through it.
    The voxel is as large as a sampled pixel at median depth, and grows until the points are few enough.
    Deterministic. Raises UsageError when no depth is stored, InputError for damaged files.
    """
    return fuse_with_first(run, max_points)[0]


def fuse_with_first(
    run: RunFolder, max_points: int = MAX_POINTS, most_views: int = VIEWS, samples: int = SAMPLES
) -> tuple[Cloud, Int[np.ndarray, " M"]]:
    """What `fuse` makes, and for each point the row number of the first view, of those fused, that saw it.

    Fewer views, and fewer sampled pixels of each, are fused faster.
    """
    rows = chosen(longest_shot(run), most_views)
    middle = median_depth(run, rows)
    stride = max(1, round((run.size[0] * run.size[1] / samples) ** 0.5))
    reach = 2 * np.abs(run.trajectory().world_T_cam[rows, :3, 3]).max()
    edge = 100 * FAR * middle + reach  # the voxel grid spans +-edge
    cell = max(middle * stride / float(run.intrinsics.focal.min()), 2 * edge / CELLS)
    empty = np.empty(0, np.int64)
    voxels, pending = Voxels(empty, np.empty((6, 0)), np.empty(0), empty), []

    def seen(known: tuple[View, list[View]]) -> tuple[Float32[np.ndarray, "N 6"], int]:
        return consistent_points(*known), known[0].row

    for found in each(seen, surrounded(views(run, rows, FAR * middle, stride), REACH)):
        pending.append(found)
        if sum(len(points) for points, _ in pending) > PENDING:
            voxels, cell = _merged(voxels, pending, edge, cell, max_points)
            pending = []
    voxels, _ = _merged(voxels, pending, edge, cell, max_points)
    means = (voxels.sums / voxels.counts).T
    return Cloud(means[:, :3].astype(np.float32), np.rint(means[:, 3:]).astype(np.uint8)), voxels.first


# ---------------------------------------------------------------- views


def longest_shot(run: RunFolder) -> Int[np.ndarray, " N"]:
    """Row numbers of the shot with most frames (the first of equals)."""
    shots = np.array([row.shot for row in run.rows], np.int64)
    return np.flatnonzero(shots == np.bincount(shots).argmax())


def chosen(rows: Int[np.ndarray, " N"], count: int = VIEWS) -> Int[np.ndarray, " K"]:
    """At most `count` of the rows, evenly spread, first and last among them."""
    return rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


def median_depth(run: RunFolder, rows: Int[np.ndarray, " K"]) -> float:
    """Median over about twelve of the rows, sampled sparsely. Raises UsageError when no depth is known at all."""
    sample = np.concatenate([run.depth(run.rows[k])[::4, ::4].ravel() for k in chosen(rows, 12)])
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise UsageError(f"{run.path}: no depth is known in any frame, there is nothing to fuse; try another clip")
    return float(np.median(sample))


def views(run: RunFolder, rows: Int[np.ndarray, " K"], limit: float, stride: int = 1) -> Iterator[View]:
    """The rows one by one, every `stride`-th pixel; what lies beyond `limit`, moves or is an edge says nothing.

    Grey where the run holds no images.
    """
    poses, camera = run.trajectory().world_T_cam, strided(run.intrinsics, stride)
    limit = min(limit, 65534.5 * run.info["depth"]["scale"])  # a clamped value says "at least this far"
    grid = (slice(stride // 2, None, stride),) * 2

    def view(k: int) -> View:
        row = run.rows[k]
        inverse = 1 / run.depth(row)[grid]
        good = ~on_edge(inverse, camera) & (inverse * limit > 1)
        if row.mask:
            good &= run.mask(row)[grid] < STATIC
        image = run.image(row)[grid] if row.image else np.full((*inverse.shape, 3), 128, np.uint8)
        return View(np.where(good, inverse, np.float32(np.nan)), image, poses[k], camera, k)

    return each(view, rows.tolist())


def strided(camera: Intrinsics, stride: int) -> Intrinsics:
    """The camera of every `stride`-th pixel, from pixel stride // 2 on: its first pixel centre is (0.5, 0.5) again."""
    w, h = (len(range(stride // 2, side, stride)) for side in camera.size)
    return Intrinsics(camera.focal / stride, (camera.center - stride // 2 - 0.5) / stride + 0.5, (w, h))


def on_edge(inverse: Float32[np.ndarray, "H W"], camera: Intrinsics) -> Bool[np.ndarray, "H W"]:
    """Pixels that interpolate between two surfaces: depth edges, one pixel around them, and surfaces seen edge-on.

    Inverse depth of a plane n.X = 1 is linear in the pixel: r(u, v) = n.(u, v, 1). So its second difference shows an
    edge, and its gradient gives n, whose angle to the ray shows the ramp that a soft edge leaves.
    """
    if min(inverse.shape) < 3:  # too narrow to tell
        return np.zeros(inverse.shape, bool)
    inverse = np.nan_to_num(inverse)
    (fx, fy), (cx, cy) = camera.focal.tolist(), camera.center.tolist()
    bent = np.zeros_like(inverse)
    for kernel in (np.float32([[1, -2, 1]]), np.float32([[1], [-2], [1]])):
        bent = np.maximum(bent, np.abs(cv2.filter2D(inverse, -1, kernel, borderType=cv2.BORDER_REPLICATE)))
    # at the border itself a replicated neighbour bends any slope
    bent[0], bent[-1], bent[:, 0], bent[:, -1] = bent[1], bent[-2], bent[:, 1], bent[:, -2]
    edge = cv2.dilate((bent > BEND * inverse).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    gy, gx = np.gradient(inverse)
    h, w = inverse.shape
    u, v = (np.arange(w, dtype=np.float32) + 0.5 - cx) / fx, (np.arange(h, dtype=np.float32)[:, None] + 0.5 - cy) / fy
    nx, ny = gx * np.float32(fx), gy * np.float32(fy)
    normal = nx * nx + ny * ny + (inverse - nx * u - ny * v) ** 2
    return edge | ~(inverse**2 > GRAZING**2 * normal * (u * u + v * v + 1))


def surrounded(items: Iterable[T], reach: int) -> Iterator[tuple[T, list[T]]]:
    """Every item with those up to `reach` before and after it; holds 2 reach + 1 of them."""
    held = deque([None] * (2 * reach + 1), 2 * reach + 1)
    for number, item in enumerate(chain(items, [None] * reach)):
        held.append(item)
        if number >= reach:
            yield held[reach], [x for k, x in enumerate(held) if k != reach and x is not None]


# ---------------------------------------------------------------- points


def consistent_points(view: View, others: list[View]) -> Float32[np.ndarray, "N 6"]:
    """World position and colour of the pixels that other views confirm; of all if there is no other."""
    known = np.isfinite(view.inverse)
    v, u = np.nonzero(known)
    (fx, fy), (cx, cy) = view.camera.focal.tolist(), view.camera.center.tolist()
    local = np.stack([(u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy, np.ones(len(u))], 1) / view.inverse[known][:, None]
    points = local @ view.world_T_cam[:3, :3].T + view.world_T_cam[:3, 3]
    agree, through, seen = np.zeros((3, len(points)), np.int64)
    for other in others:
        ratio = seen_ratio(points, other)
        agree += np.abs(ratio - 1) < TOLERANCE
        through += ratio < 1 - TOLERANCE
        seen += np.isfinite(ratio)
    kept = (agree >= seen.clip(1, 2)) & (agree > through) if others else np.ones(len(points), bool)
    return np.concatenate([points[kept], view.image[known][kept]], 1, dtype=np.float32)


def seen_ratio(points: Float64[np.ndarray, "N 3"], view: View) -> Float[np.ndarray, " N"]:
    """Depth of world points in a view over that of its surface there; NaN outside, behind, or where none is known."""
    if not len(points):  # of a view in which all moves; cv2.remap takes no empty map
        return np.empty(0, np.float32)
    x, y, z = ((points - view.world_T_cam[:3, 3]) @ view.world_T_cam[:3, :3]).astype(np.float32).T
    (fx, fy), (cx, cy) = view.camera.focal.tolist(), view.camera.center.tolist()
    front = np.where(z > 0, z, np.float32(np.nan))
    u, v = x / front * fx + cx, y / front * fy + cy
    w, h = view.camera.size
    inside = (u > 0) & (u < w) & (v > 0) & (v < h)
    # inverse depth of a plane is linear in the pixel, so there bilinear values are exact
    lines = [_in_lines(np.where(inside, a - np.float32(0.5), 0)) for a in (u, v)]
    inverse = cv2.remap(view.inverse, *lines, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).ravel()[: len(z)]
    return np.where(inside, z * inverse, np.float32(np.nan))


def _in_lines(a: Float32[np.ndarray, " N"]) -> Float32[np.ndarray, "R 1024"]:
    """Padded and folded, for cv2.remap takes no line of 32767 or more."""
    return np.pad(a, (0, -len(a) % 1024)).reshape(-1, 1024)


def _merged(
    voxels: Voxels, found: list[tuple[Float32[np.ndarray, "_ 6"], int]], edge: float, cell: float, most: int
) -> tuple[Voxels, float]:
    """Points of several views, each with its row, added to the voxels; while there are more than `most`, cells grow by
    2^(1/3) (twice the volume)."""
    points = np.concatenate([*(points for points, _ in found), np.empty((0, 6), np.float32)])
    first = np.repeat([row for _, row in found], [len(points) for points, _ in found]).astype(np.int64)
    inside = (np.abs(points[:, :3]) < edge).all(1)
    points, first = points[inside], first[inside]
    keys = np.concatenate([voxels.keys, _keys(points, edge, cell)])
    sums, counts = np.concatenate([voxels.sums, points.T], 1), np.concatenate([voxels.counts, np.ones(len(points))])
    voxels = _summed(keys, sums, counts, np.concatenate([voxels.first, first]))
    while len(voxels.keys) > most:
        cell *= 2 ** (1 / 3)
        means = (voxels.sums / voxels.counts).T
        voxels = _summed(_keys(means, edge, cell), voxels.sums, voxels.counts, voxels.first)
    return voxels, cell


def _keys(points: Float[np.ndarray, "N 6"], edge: float, cell: float) -> Int[np.ndarray, " N"]:
    x, y, z = ((points[:, :3] + edge) / cell).astype(np.int64).clip(0, CELLS - 1).T
    return (x * CELLS + y) * CELLS + z


def _summed(keys: np.ndarray, sums: np.ndarray, counts: np.ndarray, first: np.ndarray) -> Voxels:
    unique, of = np.unique(keys, return_inverse=True)
    found = np.empty((len(sums), len(unique)))
    for row, column in zip(found, sums, strict=True):
        row[:] = np.bincount(of, column, len(unique))
    earliest = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(earliest, of, first)
    total = np.bincount(of, counts, len(unique)).astype(np.float64)  # integers where there is nothing to count
    return Voxels(unique, found, total, earliest)


# ---------------------------------------------------------------- what Open3D adds

# Debian and Ubuntu packages of the shared libraries that its wheel expects on the machine
PACKAGES = {
    "libusb-1.0": "libusb-1.0-0",
    "libgomp": "libgomp1",
    "libGL": "libgl1",
    "libEGL": "libegl1",
    "libX11": "libx11-6",
    "libudev": "libudev1",
    "libidn2": "libidn2-0",
}


def load_open3d() -> ModuleType:
    """Open3D. Raises UsageError that names the missing package or system library and the command that installs it."""
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise UsageError(_missing(error)) from error
    return open3d


def _missing(error: ImportError | OSError) -> str:
    library = re.search(r"(lib[\w.+-]+?)\.so[\w.]*", str(error))
    if library is None:
        return f"Open3D cannot be loaded ({error}); install it with: pip install open3d"
    package = PACKAGES.get(library[1], library[1])
    return f"Open3D needs the system library {library[0]}; install it with: sudo apt-get install -y {package}"


def _geometry(cloud: Cloud, o3d: ModuleType):
    return o3d.geometry.PointCloud(o3d.utility.Vector3dVector(cloud.points.astype(np.float64)))


def clean(cloud: Cloud, neighbours: int = 20, ratio: float = 2.0) -> Cloud:
    """Without points whose mean distance to their neighbours is `ratio` deviations above the cloud's mean (Open3D)."""
    if len(cloud.points) <= neighbours:
        return cloud
    _, kept = _geometry(cloud, load_open3d()).remove_statistical_outlier(neighbours, ratio)
    kept = np.asarray(kept)
    return Cloud(cloud.points[kept], cloud.colors[kept], None if cloud.normals is None else cloud.normals[kept])


def with_normals(cloud: Cloud, cameras: Float64[np.ndarray, "N 3"], neighbours: int = 30) -> Cloud:
    """With normals of planes fitted to the neighbours (Open3D), turned towards the nearest of the camera centres."""
    if not len(cloud.points):
        return Cloud(cloud.points, cloud.colors, np.empty((0, 3), np.float32))
    o3d = load_open3d()
    geometry = _geometry(cloud, o3d)
    geometry.estimate_normals(o3d.geometry.KDTreeSearchParamKNN(neighbours))
    normals = np.asarray(geometry.normals).astype(np.float32)
    tree = o3d.core.nns.NearestNeighborSearch(o3d.core.Tensor(cameras.astype(np.float32)))
    tree.knn_index()
    nearest = tree.knn_search(o3d.core.Tensor(cloud.points), 1)[0].numpy()[:, 0]
    away = ((cameras[nearest] - cloud.points) * normals).sum(1) < 0
    return Cloud(cloud.points, cloud.colors, np.where(away[:, None], -normals, normals))
