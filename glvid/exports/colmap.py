"""COLMAP's sparse model, with tracks: `sparse/0/*.bin`, `sparse_txt/*.txt`, `images/`, `masks/`.

Pixel centres lie at .5 there as here. Poses are world to camera, quaternions have w first, numbers count from 1. Names
of images hold no spaces, at which readers break.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32

from glvid import formats
from glvid.exports.maps import copied, every, rests
from glvid.exports.options import ExportOptions
from glvid.exports.tracks import Tracks, tracks
from glvid.files import atomic_stream, atomic_write
from glvid.geometry import quaternion
from glvid.results import Row, RunFolder

PINHOLE = 1  # COLMAP's number of the model with parameters fx fy cx cy


@dataclass(frozen=True)
class Model:
    """All that a sparse model says."""

    size: tuple[int, int]
    lens: tuple[float, float, float, float]  # fx fy cx cy
    names: tuple[str, ...]
    rotations: Float64[np.ndarray, "N 4"]  # w x y z, world to camera
    translations: Float64[np.ndarray, "N 3"]
    tracks: Tracks

    def observations(self) -> Iterator[tuple[Float32[np.ndarray, "_ 2"], Int32[np.ndarray, " _"]]]:
        """Of every image: places, and numbers of their points from 1."""
        edges = np.searchsorted(self.tracks.frame, np.arange(len(self.names) + 1))
        for first, last in zip(edges, edges[1:], strict=False):
            yield self.tracks.xy[first:last], self.tracks.point[first:last] + np.int32(1)

    def seen_by(self) -> Iterator[Int32[np.ndarray, "_ 2"]]:
        """Of every point: numbers of images (from 1) and of the observation in each (from 0)."""
        t = self.tracks
        begins = np.searchsorted(t.frame, np.arange(len(self.names)))
        order = np.argsort(t.point, kind="stable")
        edges = np.searchsorted(t.point, np.arange(len(t.points) + 1), sorter=order)
        for first, last in zip(edges, edges[1:], strict=False):
            these = order[first:last]
            frames = t.frame[these]
            yield np.stack([frames + 1, these - begins[frames]], 1).astype(np.int32)


def write_colmap(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """The model in binary and as text, the stored pictures, and masks where they are stored (0 = ignored, moves)."""
    model = sparse_model(run)
    for name, parts in {"cameras": cameras_bin, "images": images_bin, "points3D": points_bin}.items():
        atomic_stream(folder / "sparse" / "0" / f"{name}.bin", parts(model))
    for name, parts in {"cameras": cameras_txt, "images": images_txt, "points3D": points_txt}.items():
        atomic_stream(folder / "sparse_txt" / f"{name}.txt", (line.encode() for line in parts(model)))

    def write(number: int, row: Row) -> None:
        if row.image:
            copied(run, row, folder / "images" / f"{number:06d}.jpg")
        if row.mask:
            atomic_write(folder / "masks" / f"{number:06d}.jpg.png", formats.png_of(rests(run, row)))

    every(run, write)


def sparse_model(run: RunFolder) -> Model:
    """Of the rows of one shot."""
    cam_T_world = np.linalg.inv(run.trajectory().world_T_cam)
    q = quaternion(torch.from_numpy(cam_T_world[:, :3, :3])).numpy()[:, [3, 0, 1, 2]]
    q *= np.where(q[:, :1] < 0, -1, 1)
    lens = (*run.intrinsics.focal.tolist(), *run.intrinsics.center.tolist())
    names = tuple(f"{number:06d}.jpg" for number in run.numbers)
    return Model(run.size, lens, names, q, cam_T_world[:, :3, 3], tracks(run))


# ---------------------------------------------------------------- binary, little endian


def cameras_bin(model: Model) -> Iterator[bytes]:
    """The one camera."""
    yield struct.pack("<QiiQQ4d", 1, 1, PINHOLE, *model.size, *model.lens)


def images_bin(model: Model) -> Iterator[bytes]:
    """Pose, camera, name, and the places of points."""
    yield struct.pack("<Q", len(model.names))
    for k, (xy, points) in enumerate(model.observations()):
        head = struct.pack("<i7di", k + 1, *model.rotations[k], *model.translations[k], 1)
        places = np.empty(len(xy), [("xy", "<f8", 2), ("point", "<u8")])
        places["xy"], places["point"] = xy, points
        yield head + model.names[k].encode() + b"\0" + struct.pack("<Q", len(xy)) + places.tobytes()


def points_bin(model: Model) -> Iterator[bytes]:
    """Place, colour, error and track."""
    t = model.tracks
    yield struct.pack("<Q", len(t.points))
    for k, pairs in enumerate(model.seen_by()):
        head = struct.pack("<Q3d3BdQ", k + 1, *t.points[k], *t.colors[k], t.errors[k], len(pairs))
        yield head + pairs.astype("<i4").tobytes()


# ---------------------------------------------------------------- text, numbers in full precision


def cameras_txt(model: Model) -> Iterator[str]:
    """The one camera."""
    w, h = model.size
    yield "# CAMERA_ID MODEL WIDTH HEIGHT PARAMS\n"
    yield f"1 PINHOLE {w} {h} {_row(model.lens)}\n"


def images_txt(model: Model) -> Iterator[str]:
    """Two lines each, the second one never empty where points are seen."""
    yield "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of its points\n"
    for k, (xy, points) in enumerate(model.observations()):
        pose = _row((*model.rotations[k], *model.translations[k]))
        places = " ".join(f"{x:.4f} {y:.4f} {p}" for (x, y), p in zip(xy.tolist(), points.tolist(), strict=True))
        yield f"{k + 1} {pose} 1 {model.names[k]}\n{places}\n"


def points_txt(model: Model) -> Iterator[str]:
    """One line each."""
    t = model.tracks
    yield "# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of its track\n"
    for k, pairs in enumerate(model.seen_by()):
        color, seen = " ".join(map(str, t.colors[k])), " ".join(map(str, pairs.ravel().tolist()))
        yield f"{k + 1} {_row(t.points[k])} {color} {t.errors[k]:.6f} {seen}\n"


def _row(values: Iterable[float]) -> str:
    return " ".join(f"{x:.17g}" for x in values)
