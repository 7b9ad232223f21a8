"""The run folder (`glvid-run/1`): every file name of it, what stands in the files, and how to read it back.

run.json  camera.json  frames.csv  trajectory.txt  depth/  flow/  mask/  image/  preview.mp4  scene.ply

A run that has not ended also holds a lock (pid of the writer), a journal (the maps written so far, so that
--overwrite removes those and nothing else) and a folder of working files, from which --resume goes on. formats.py
has the formats of the maps, claim.py who may write here.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from glvid import formats
from glvid.errors import InputError, OutputError, UsageError
from glvid.files import atomic_write, cannot_write, free_space, volume
from glvid.formats import leads_inside, read_json, reading
from glvid.types import Intrinsics, Trajectory

SCHEMA = "glvid-run/1"
INFO, CAMERA, FRAMES, TRAJECTORY = "run.json", "camera.json", "frames.csv", "trajectory.txt"
PREVIEW, SCENE, REPORT = "preview.mp4", "scene.ply", "report.html"
STATUS = ("running", "complete", "partial")
KINDS = ("depth", "flow", "mask", "image")  # what --keep chooses from
LOCK, JOURNAL, WORK = ".glvid-lock", ".glvid-files", ".glvid-work"


# ---------------------------------------------------------------- what a run folder says


@dataclass(frozen=True)
class Row:
    """One kept frame: a row of frames.csv. Paths are relative to the run folder, empty where nothing is stored."""

    index: int  # index in the source
    time_s: float
    name: str = ""  # source file name of image folders
    depth: str = ""
    flow: str = ""
    mask: str = ""
    image: str = ""
    shot: int = 0

    @property
    def maps(self) -> tuple[str, ...]:
        """Paths of the maps that are stored."""
        return tuple(path for path in (self.depth, self.flow, self.mask, self.image) if path)


COLUMNS = tuple(Row.__dataclass_fields__)


def frame_row(
    number: int,
    index: int,
    time_s: float,
    shot: int,
    last: bool,
    name: str = "",
    keep: Sequence[str] = KINDS,
    flow_format: str = "png",
) -> Row:
    """The row of frame `number` (rows count from 0). `last` of its shot: no flow. `flow_format` is png or flo."""
    suffix = {"depth": "png", "flow": flow_format, "mask": "png", "image": "jpg"}
    kinds = [k for k in KINDS if k in keep and not (k == "flow" and last)]
    return Row(index, float(time_s), name, **{k: f"{k}/{number:06d}.{suffix[k]}" for k in kinds}, shot=shot)


def camera_record(
    stored: Intrinsics,
    source_size: tuple[int, int],
    source: str,
    fx_sigma: float | None,
    observable: bool,
    readout: float = 0.0,
) -> dict[str, Any]:
    """camera.json: `stored` is one camera (2,) at the size of the maps; float64 keeps a given K exact to 1e-12.

    `source` is predicted, solved or given; `fx_sigma` in px of the maps, 0 when given and fixed, None when unknown.
    `readout`: the time from the first to the last row, in times between frames; poses are those of the middle row.
    """
    stored = stored.to(torch.float64)
    original = stored.resized(source_size)
    (fx, fy), (cx, cy) = stored.focal.tolist(), stored.center.tolist()
    record = {"model": "PINHOLE", "fx": fx, "fy": fy, "cx": cx, "cy": cy}
    record |= dict(zip(("width", "height"), stored.size, strict=True))
    record |= {
        "pixel_center": 0.5,
        "source": source,
        "fx_sigma": fx_sigma,
        "observable": bool(observable),
        "readout": readout,
    }
    record |= dict(zip(("source_fx", "source_fy"), original.focal.tolist(), strict=True))
    record |= dict(zip(("source_cx", "source_cy"), original.center.tolist(), strict=True))
    return record | {"source_width": source_size[0], "source_height": source_size[1]}


def intrinsics_of(camera: dict[str, Any]) -> Intrinsics:
    """The camera (2,) of a camera.json record at the size of the maps, float64."""
    focal, center = [camera["fx"], camera["fy"]], [camera["cx"], camera["cy"]]
    size = (camera["width"], camera["height"])
    return Intrinsics(torch.tensor(focal, dtype=torch.float64), torch.tensor(center, dtype=torch.float64), size)


def depth_record(size: tuple[int, int], scale: float, unit: str, scale_source: str) -> dict[str, Any]:
    """The `depth` entry of run.json."""
    record = {"kind": "depth", "format": "png16", "width": size[0], "height": size[1]}
    return record | {"scale": scale, "unit": unit, "scale_source": scale_source}


def flow_record(size: tuple[int, int], flow_format: str) -> dict[str, Any]:
    """The `flow` entry of run.json."""
    return {"format": flow_format, "width": size[0], "height": size[1]}


# ---------------------------------------------------------------- writing


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """run.json. Once its status is not "running" any more the run has ended, and its journal goes."""
    write_json(folder / INFO, info)
    if info["status"] != "running":
        (folder / JOURNAL).unlink(missing_ok=True)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Indented JSON, flushed to disk. Raises ValueError for NaN and infinity, which JSON cannot hold."""
    atomic_write(path, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode(), sync=True)


def write_camera(folder: Path, camera: dict[str, Any]) -> None:
    """camera.json, from `camera_record`."""
    write_json(folder / CAMERA, camera)


def write_frames(folder: Path, rows: Sequence[Row]) -> None:
    """frames.csv; times with 9 decimals, as in trajectory.txt; what is no UTF-8 in a name as question marks."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows((asdict(row) | {"time_s": f"{row.time_s:.9f}"}).values() for row in rows)
    atomic_write(folder / FRAMES, formats.printable(text.getvalue()).encode())


def write_trajectory(folder: Path, trajectory: Trajectory) -> None:
    """trajectory.txt, one pose per row."""
    formats.write_trajectory(folder / TRAJECTORY, trajectory)


def write_frame(folder: Path, row: Row, scale: float, depth=None, flow=None, moving=None, image=None) -> None:
    """The maps that `row` names: depth (H, W) in the run's unit, flow (2, H, W), moving (H, W), image (H, W, 3) uint8.

    The journal hears of them first, so that --overwrite of an interrupted run finds every one. Raises OutputError.
    """
    try:
        with open(folder / JOURNAL, "a", encoding="utf-8", opener=_no_link) as journal:
            journal.writelines("\n" + path for path in row.maps)  # so that one cut by a full disk spoils no other
    except OSError as error:
        raise cannot_write(folder / JOURNAL, error) from error
    if row.depth:
        formats.write_depth(folder / row.depth, depth, scale)
    if row.flow:
        formats.write_flow(folder / row.flow, flow)
    if row.mask:
        formats.write_mask(folder / row.mask, moving)
    if row.image:
        formats.write_image(folder / row.image, image)


def _no_link(path: str, flags: int) -> int:
    """An `opener` that fails where a link would lead elsewhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class RunFolder:
    """A run folder, or some rows of one, opened for reading; maps are read when asked for.

    A missing or damaged file is an InputError.
    """

    path: Path
    info: dict[str, Any]
    camera: dict[str, Any]
    rows: tuple[Row, ...]
    numbers: tuple[int, ...]  # of `rows` in frames.csv; maps are named by them
    stretch: float = 1.0  # the path on disk times this is in the unit that `info` states

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of every stored map."""
        return self.camera["width"], self.camera["height"]

    @property
    def intrinsics(self) -> Intrinsics:
        """The clip's camera (2,) at the stored size, float64."""
        return intrinsics_of(self.camera)

    def only(self, chosen: Sequence[int]) -> "RunFolder":
        """Some of the rows, by their place in `rows`. Flow still leads to the next row of the whole run."""
        rows, numbers = (tuple(all_[k] for k in chosen) for all_ in (self.rows, self.numbers))
        return replace(self, rows=rows, numbers=numbers)

    def scaled(self, factor: float, unit: str, source: str) -> "RunFolder":
        """Depth and path times `factor`, in another unit; `source` says where that comes from (`scale_source`)."""
        depth = self.info["depth"] | {"unit": unit, "scale_source": source}
        depth["scale"] = depth["scale"] * factor
        return replace(self, info=self.info | {"depth": depth}, stretch=self.stretch * factor)

    def depth(self, row: Row) -> Float32[np.ndarray, "H W"]:
        """z-depth in the run's unit, NaN where nothing is said."""
        return self._checked(row, "depth", formats.read_depth(self._stored(row, "depth"), self.info["depth"]["scale"]))

    def flow(self, row: Row) -> Float32[np.ndarray, "2 H W"] | None:
        """Flow to the next row's frame in px, NaN where unknown; None where none is stored (last row of a shot)."""
        return self._checked(row, "flow", formats.read_flow(self._stored(row, "flow"))) if row.flow else None

    def mask(self, row: Row) -> Float32[np.ndarray, "H W"]:
        """Probability of moving on its own, 0..1."""
        return self._checked(row, "mask", formats.read_mask(self._stored(row, "mask")))

    def image(self, row: Row) -> UInt8[np.ndarray, "H W 3"]:
        """RGB at the size of the maps."""
        return self._checked(row, "image", formats.read_image(self._stored(row, "image")))

    def bytes_of(self, row: Row, kind: str) -> bytes:
        """A stored map's file as it is."""
        path = self._stored(row, kind)
        with reading(path):
            return path.read_bytes()

    def trajectory(self) -> Trajectory:
        """Camera path, one pose per row."""
        path = formats.read_trajectory(self.path / TRAJECTORY, self.info["depth"]["unit"])
        if len(path.times) != len(self.info["frames"]):
            counts = f"{len(path.times)} poses for {len(self.info['frames'])} frames"
            raise InputError(f"{self.path / TRAJECTORY}: holds {counts}; run infer again")
        poses = path.world_T_cam[list(self.numbers)]
        poses[:, :3, 3] *= self.stretch
        return replace(path, times=path.times[list(self.numbers)], world_T_cam=poses)

    def _stored(self, row: Row, kind: str) -> Path:
        if not getattr(row, kind):
            raise UsageError(f"{self.path}: holds no {kind} of frame {row.index}; run infer with {kind} in --keep")
        path = _inside(self.path, getattr(row, kind))
        if path.suffix != ".flo" and (size := formats.stated_size(path)) is not None:
            self._check_size(path, size)  # before it is decoded: a small file may claim gigabytes
        return path

    def _check_size(self, path: Path, size: tuple[int, int]) -> None:
        if size != self.size:
            found, stated = (f"{w}x{h}" for w, h in (size, self.size))
            raise InputError(f"{path}: is {found}, {CAMERA} says {stated}; run infer again")

    def _checked(self, row: Row, kind: str, array: np.ndarray) -> np.ndarray:
        h, w = array.shape[:2] if kind == "image" else array.shape[-2:]
        self._check_size(self.path / getattr(row, kind), (w, h))
        return array


def open_run(folder: Path | str, finished: bool = True) -> RunFolder:
    """Opens a run folder. Raises UsageError for what is none and, if `finished`, for an interrupted run."""
    folder = Path(folder)
    info = read_info(folder)
    if info is None:
        raise UsageError(f"{folder}: is no run folder ({SCHEMA}); give the folder that `glvid infer` wrote")
    if finished and info.get("status") not in ("complete", "partial"):
        raise UsageError(f"{folder}: holds an interrupted run; finish it with `glvid infer ... --resume`")
    with reading(folder / INFO):
        check_form(info, FINISHED if finished else RUNNING)
        for name, values in info.get("quality", {}).items():
            if len(values) != len(info["frames"]):
                raise ValueError(f"quality.{name} has {len(values)} values")
    rows = read_frames(folder)
    if finished and len(rows) != len(info["frames"]):
        counts = f"{len(rows)} rows for the {len(info['frames'])} frames of {INFO}"
        raise InputError(f"{folder / FRAMES}: is damaged ({counts}); make it again with `glvid infer`")
    return RunFolder(folder, info, read_camera(folder), rows, tuple(range(len(rows))))


NUMBER, LARGEST = (int, float), 1e18  # finite, and its square too
CAMERA_FORM = {
    **dict.fromkeys(("fx", "fy", "source_fx", "source_fy"), "positive"),
    **dict.fromkeys(("width", "height", "source_width", "source_height"), "side"),
    **dict.fromkeys(("cx", "cy", "source_cx", "source_cy"), NUMBER),
    **{"source": str, "fx_sigma": (*NUMBER, type(None)), "observable": bool, "readout?": NUMBER},
}
DEPTH_FORM = {"kind": str, "scale": "positive", "unit": ("m", "scene"), "scale_source": str}
RUNNING = {"depth": DEPTH_FORM, "quality?": {"*": [(*NUMBER, type(None))]}}
FINISHED = RUNNING | {
    "glvid": str,
    "input": {"path": str, "width": NUMBER, "height": NUMBER, "fps": NUMBER, "duration_s": NUMBER, "lost?": list},
    "options": {"distortion?": (str, type(None)), "intrinsics?": (str, type(None))},
    "device": str,
    "precision": str,
    "models": {"*": {"name?": str, "sha256?": str, "licence?": str}},
    "refine": {
        **{"mode": str, "steps": NUMBER, "curve?": [(*NUMBER, type(None))]},
        **dict.fromkeys(("loss_first?", "loss_last?"), (*NUMBER, type(None))),
    },
    "camera": CAMERA_FORM,
    "frames": list,
    "seconds": {"*": NUMBER},
    "peak_memory_mb?": NUMBER,
    "warnings": [str],
    "command?": str,
}


def check_form(value: Any, form: Any, name: str = "") -> None:
    """Raises ValueError where JSON is not of the form its readers rely on: a dict says so of its entries (`name?`: may
    lack; `*`: all others), a list of its elements; else a type, several, or words to choose from; numbers are bounded.
    """
    if isinstance(form, dict):
        fits = isinstance(value, dict)
        for key, inner in form.items() if fits else ():
            chosen = [k for k in value if k not in form] if key == "*" else [key.removesuffix("?")]
            for k in chosen:
                if k in value:
                    check_form(value[k], inner, f"{name}.{k}".lstrip("."))
                elif not key.endswith("?"):
                    raise ValueError(f"its entry {f'{name}.{k}'.lstrip('.')} is missing")
    elif isinstance(form, list):
        fits = isinstance(value, list)
        for k, element in enumerate(value if fits else ()):
            check_form(element, form[0], f"{name}[{k}]")
    elif form == "positive":
        fits = type(value) in NUMBER and 1 / LARGEST < value < LARGEST
    elif form == "side":
        fits = type(value) is int and 0 < value < 1 << 16
    elif isinstance(form, tuple) and isinstance(form[0], str):
        fits = value in form
    else:
        fits = isinstance(value, form) and (type(value) not in NUMBER or abs(value) < LARGEST)
    if not fits:
        raise ValueError(f"its entry {name} is not what it should be")


def read_info(folder: Path) -> dict[str, Any] | None:
    """run.json, or None when the folder holds none of ours."""
    try:
        info = read_json(folder / INFO)
    except InputError:
        return None
    ours = isinstance(info, dict) and info.get("schema") == SCHEMA and info.get("status") in STATUS
    return info if ours else None


def read_camera(folder: Path) -> dict[str, Any]:
    """camera.json. Raises InputError when missing or damaged."""
    camera = read_json(folder / CAMERA)
    with reading(folder / CAMERA):
        check_form(camera, CAMERA_FORM)
    return camera


def read_frames(folder: Path) -> tuple[Row, ...]:
    """frames.csv. Raises InputError when missing or damaged."""
    with reading(folder / FRAMES), open(folder / FRAMES, newline="", encoding="utf-8") as file:
        try:
            header, *lines = csv.reader(file)
        except csv.Error as error:
            raise ValueError(str(error)) from error
        if tuple(header) != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
            raise ValueError(f"header and lines are not {','.join(COLUMNS)}")
        cast = {"index": int, "time_s": float, "shot": int}
        named = [dict(zip(COLUMNS, line, strict=True)) for line in lines]
        rows = tuple(Row(**{k: cast.get(k, str)(v) for k, v in line.items()}) for line in named)
        if not all(0 <= row.index < LARGEST and abs(row.time_s) < LARGEST for row in rows):
            raise ValueError("an index or a time is none")
        if any(b - a not in (0, 1) for a, b in pairwise([0, *(row.shot for row in rows)])):
            raise ValueError("shots do not count up from 0")
        return rows


def _inside(folder: Path, name: str) -> Path:
    """folder / name, for a name that a file gave us; InputError when it leads out of the folder."""
    if not leads_inside(folder, name):
        raise InputError(f"{folder}: {FRAMES} names a file outside the run folder ({name[:200]!r}); run infer again")
    return folder / name


# ---------------------------------------------------------------- disk


WORKING = 52  # bytes a pixel: images 4, depths 8, flow of ten pairs 14, maps of every stage of `refine` 26


def estimate(
    frames: int,
    size: tuple[int, int],
    keep: Sequence[str] = KINDS,
    flow_format: str = "png",
    max_points: int = 2_000_000,
    working: tuple[int, int] = (0, 0),
) -> int:
    """Bytes a run of so many frames will take: maps, preview and cloud, on the safe side of what was measured; and
    while it lasts, images, depth, flow and maps at `working` size."""
    per_pixel = {"depth": 1.3, "flow": 1.3 if flow_format == "png" else 8.0, "mask": 0.15, "image": 0.35}
    maps = sum(per_pixel[kind] for kind in keep) * size[0] * size[1]
    preview = 0.15 * 3 * min(size[0], 640) ** 2 * size[1] / size[0]
    cloud = 15 * min(max_points, frames * size[0] * size[1])
    return int(frames * (maps + preview + WORKING * working[0] * working[1])) + cloud


def check_space(folder: Path, needed: int) -> None:
    """Raises OutputError when the disk that (will) hold the folder has less than `needed` bytes free."""
    free = free_space(folder)
    if free < needed:
        raise OutputError(
            f"{folder}: needs about {volume(needed)}, the disk has {volume(free)} free; "
            "free some space, or store less with --keep, --max-size or --stride"
        )
