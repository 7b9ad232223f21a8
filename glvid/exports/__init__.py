"""What can be made of a run folder, never of live objects."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glvid import results
from glvid.errors import UsageError
from glvid.exports import folder as folders
from glvid.exports.blender import write_blender
from glvid.exports.cloud import MAX_POINTS, chosen, clean, fuse, longest_shot, with_normals
from glvid.exports.colmap import write_colmap
from glvid.exports.glb import write_glb
from glvid.exports.maps import (
    meaning,
    write_depth_video,
    write_exr,
    write_flo,
    write_npy,
    write_npz,
    write_open3d,
    write_png16,
)
from glvid.exports.mesh import mesh as fused_mesh
from glvid.exports.nerfstudio import write_nerfstudio
from glvid.exports.options import ExportOptions
from glvid.exports.ply import Cloud, Mesh, write_ply
from glvid.exports.recording import load_rerun, write_rrd
from glvid.exports.trajectories import write_kitti, write_tum
from glvid.results import RunFolder


@dataclass(frozen=True)
class Format:
    """How a format is written, what it needs of a run, and what it takes."""

    write: Callable[[RunFolder, Path, ExportOptions], None]
    needs: tuple[str, ...] = ()  # maps that must be stored
    world: bool = False  # holds one world only, so the frames of one shot
    bytes_per_pixel: float = 0.0  # of a frame, on the safe side
    metres: bool = False  # its definition says metres
    cloud: bool = False  # points are among it


def write_scene(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`scene.ply`."""
    export_ply(run, folder / "scene.ply", cleaned=options.normals, max_points=options.max_points)


def write_mesh(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`mesh.ply`."""
    write_ply(folder / "mesh.ply", fused_mesh(run))


FORMATS = {
    "tum": Format(write_tum, world=True),
    "kitti": Format(write_kitti, world=True, metres=True),
    "colmap": Format(write_colmap, ("depth", "image"), True, 0.6, cloud=True),
    "nerfstudio": Format(write_nerfstudio, ("image",), True, 2.6, metres=True, cloud=True),
    "open3d": Format(write_open3d, (), True, 2.4, metres=True),
    "ply": Format(write_scene, ("depth",), True, cloud=True),
    "mesh": Format(write_mesh, ("depth",), True, cloud=True),
    "glb": Format(write_glb, ("depth",), True, metres=True, cloud=True),
    "exr": Format(write_exr, ("depth",), bytes_per_pixel=4.1),
    "npy": Format(write_npy, ("depth",), bytes_per_pixel=4.0),
    "npz": Format(write_npz, bytes_per_pixel=12.0),
    "png16": Format(write_png16, ("depth",), bytes_per_pixel=2.0),
    "flo": Format(write_flo, ("flow",), bytes_per_pixel=8.0),
    "depth-video": Format(write_depth_video, ("depth",), bytes_per_pixel=2.0),
    "rrd": Format(write_rrd, (), True, 3.5, cloud=True),
    "blender": Format(write_blender, (), True, 0.4, cloud=True),
}
FILE_PER_FRAME = 400  # bytes that a frame takes beside its maps: its part of lists, ends of blocks on the disk
BYTES_PER_POINT = 30


def export(
    run: RunFolder,
    names: Iterable[str],
    out: Path,
    options: ExportOptions | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> dict[str, list[str]]:
    """Writes `out/<format>/` for every name; returns the files of each, paths from there.

    Everything is checked before anything is written or replaced: names, ranges, maps that are needed, folders, the room
    on the disk. Raises UsageError, OutputError; a format that fails leaves nothing behind, and what was there before.
    """
    options, out = options or ExportOptions(), Path(out)
    parts = {name: part(run, name, options, note) for name in known(names)}
    for name in parts:
        folders.replaceable(out / name, options.overwrite)
    results.check_space(out, sum(size_of(name, chosen_run, options) for name, chosen_run in parts.items()))
    return {name: write(chosen_run, name, out / name, options) for name, chosen_run in parts.items()}


def known(names: Iterable[str]) -> list[str]:
    """The same, each once, in their order. Raises UsageError for a name that is no format, or for none at all."""
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    wrong = [name for name in names if name not in FORMATS]
    if wrong or not names:
        said = f"knows no {wrong[0]}" if wrong else "names no format"
        raise UsageError(f"--to {','.join(names)}: {said}; choose from {','.join(FORMATS)}")
    if "rrd" in names:
        load_rerun()
    return names


def part(run: RunFolder, name: str, options: ExportOptions, note: Callable[[str], None]) -> RunFolder:
    """The rows of a run that a format gets. Raises UsageError where there are none, or what it needs is not stored."""
    form = FORMATS[name]
    rows = np.arange(len(run.rows))[sliced(options.frames, len(run.rows))][:: options.stride]
    shots = np.array([row.shot for row in run.rows])[rows]
    if options.shot is not None:
        rows = rows[shots == options.shot]
    elif form.world and len(np.unique(shots)) > 1:
        rows = rows[shots == np.bincount(shots).argmax()]
        span = f"rows {rows[0]} to {rows[-1]}"
        note(f"{name}: every shot has a world of its own; this is the longest, {span}; --shot takes another")
    if not len(rows):
        raise UsageError(f"{run.path}: no frame is left by --frames, --stride and --shot; it has {len(run.rows)} rows")
    chosen_run = run.only(rows.tolist())
    for kind in form.needs:
        if not any(getattr(row, kind) for row in run.rows):
            raise UsageError(f"{run.path}: --to {name} needs {kind}, which is not stored; run infer with it in --keep")
        if not any(getattr(row, kind) for row in chosen_run.rows):
            raise UsageError(f"{run.path}: --to {name}: none of the chosen frames has {kind}; choose more")
    if form.metres and run.info["depth"]["unit"] != "m":
        note(f"{name}: means metres; this run is in scene units of unknown size (--scale-from gives metres)")
    return chosen_run


def sliced(frames: str | None, count: int) -> slice:
    """Of `A:B`, either of which may be missing. Raises UsageError for anything else, or beyond `count` rows."""
    words = re.fullmatch(r"\s*([0-9]{0,9})\s*:\s*([0-9]{0,9})\s*", ":" if frames is None else frames)
    if words is None:
        raise UsageError(f"--frames {frames}: is not A:B, the first row and the one after the last, counted from 0")
    bounds = int(words[1] or 0), int(words[2] or count)
    if not 0 <= bounds[0] < bounds[1] <= count:
        raise UsageError(f"--frames {frames}: the run has rows 0 to {count - 1}")
    return slice(*bounds)


def size_of(name: str, run: RunFolder, options: ExportOptions) -> int:
    """Bytes that a format takes, on the safe side."""
    form, (w, h) = FORMATS[name], run.size
    points = BYTES_PER_POINT * min(options.max_points, len(run.rows) * w * h) if form.cloud else 0
    return int(len(run.rows) * (form.bytes_per_pixel * w * h + FILE_PER_FRAME)) + points


def write(run: RunFolder, name: str, folder: Path, options: ExportOptions) -> list[str]:
    """One format, whole or not at all; returns its files."""
    with folders.staged(folder, options.overwrite) as stage:
        FORMATS[name].write(run, stage, options)
        columns = [[number, row.index, row.time_s, row.name] for number, row in zip(run.numbers, run.rows, strict=True)]
        about = {"format": name, "run": run.path.name, **meaning(run), "rows": "number index time_s name".split()}
        return folders.finished(stage, about | {"frames": columns})


def export_ply(
    run: RunFolder, path: Path, as_mesh: bool = False, cleaned: bool = False, max_points: int = MAX_POINTS
) -> int:
    """The run's static scene as a PLY file, a cloud or a mesh; returns its number of points.

    `cleaned` drops outliers of a cloud and adds normals. Raises UsageError where Open3D is needed and cannot be loaded,
    OutputError when the file cannot be written.
    """
    scene = fused_mesh(run) if as_mesh else fuse(run, max_points)
    if cleaned and not isinstance(scene, Mesh):
        cameras = run.trajectory().world_T_cam[chosen(longest_shot(run)), :3, 3]
        scene = with_normals(clean(scene), cameras)
    write_ply(path, scene)
    return len(scene.vertices.points if isinstance(scene, Mesh) else scene.points)


__all__ = ["FORMATS", "Cloud", "ExportOptions", "Mesh", "export", "export_ply"]
