"""Maps of every frame, in files that other programs open: EXR, NPY, NPZ, 16-bit PNG, .flo, a lossless depth video;
and RGB-D folders for Open3D. One frame is held at a time."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt16

from glvid import formats, video
from glvid.exports.options import ExportOptions
from glvid.exports.trajectories import open3d_intrinsic, open3d_json, open3d_log
from glvid.files import atomic_write, published, system_error
from glvid.formats import printable
from glvid.parallel import each
from glvid.results import Row, RunFolder

MILLIMETRE = 0.001  # what ROS, Open3D and nerfstudio take a count of a depth PNG for


def every(run: RunFolder, write: Callable[[int, Row], None]) -> None:
    """`write(number, row)` of every row, several at once."""
    for _ in each(lambda item: write(*item), zip(run.numbers, run.rows, strict=True)):
        pass


def meaning(run: RunFolder) -> dict[str, Any]:
    """What the numbers of a depth map mean: the part of run.json that has to travel with it. Depths of `clamped_at`
    are at least that far: what 16 bits hold."""
    depth = run.info["depth"]
    said = {key: printable(str(depth[key])) for key in ("kind", "unit", "scale_source")}
    return said | {"clamped_at": 65535 * depth["scale"]}


# ---------------------------------------------------------------- floating point


def write_exr(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`depth/000000.exr`: scan lines, float32, ZIP; 0 where nothing is known. Unit, K and time are in the header.

    `options.exr_channel` Z is depth's usual name; programs that show it black take R or Y. Every file is read
    back and compared.
    """
    K, facts = run.intrinsics.matrix.numpy().astype(np.float32), meaning(run)

    def write(number: int, row: Row) -> None:
        about = facts | {"K": K, "pixelCenter": 0.5, "time": row.time_s, "frame": row.index, "invalid": "0"}
        depth = np.nan_to_num(run.depth(row))
        with published(folder / "depth" / f"{number:06d}.exr") as temporary:
            _write_exr(temporary, depth, options.exr_channel, about)

    every(run, write)


def _write_exr(path: Path, depth: Float32[np.ndarray, "H W"], channel: str, about: dict[str, Any]) -> None:
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage, **about}
    try:
        OpenEXR.File(header, {channel: depth}).write(str(path))
        with OpenEXR.File(str(path)) as file:
            same = np.array_equal(file.channels()[channel].pixels, depth)
    except RuntimeError as error:  # all that its C++ raises
        raise system_error(error) from error
    if not same:
        raise OSError(0, "reads back otherwise than it was written")


def write_npy(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`depth/000000.npy`, (H, W) float32, NaN where nothing is known; `poses.npy` (N, 4, 4), `times.npy`, `K.npy`."""
    path = run.trajectory()
    every(run, lambda number, row: atomic_write(folder / "depth" / f"{number:06d}.npy", as_npy(run.depth(row))))
    for name, array in (("poses", path.world_T_cam), ("times", path.times), ("K", run.intrinsics.matrix.numpy())):
        atomic_write(folder / f"{name}.npy", as_npy(array))


def write_npz(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`000000.npz`: all that is known of a frame: depth, flow, moving, K, world_T_cam, time, index; compressed."""
    poses, K = run.trajectory().world_T_cam, run.intrinsics.matrix.numpy()
    at = dict(zip(run.numbers, poses, strict=True))

    def write(number: int, row: Row) -> None:
        arrays = {"K": K, "world_T_cam": at[number], "time": np.float64(row.time_s), "index": np.int64(row.index)}
        arrays |= {name: read(row) for name, read in _readers(run) if getattr(row, name)}
        if "mask" in arrays:
            arrays["moving"] = arrays.pop("mask")
        atomic_write(folder / f"{number:06d}.npz", as_npz(arrays))

    every(run, write)


def _readers(run: RunFolder) -> tuple[tuple[str, Callable], ...]:
    return ("depth", run.depth), ("flow", run.flow), ("mask", run.mask)


def as_npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def as_npz(arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a .npz file. numpy's own writer compresses six times as long for a tenth less."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", as_npy(np.asarray(array)))
    return file.getvalue()


# ---------------------------------------------------------------- 16 bits


def step_of(run: RunFolder, step: float | None = None) -> float:
    """Depth of one count of a 16-bit file: `step` if given, a millimetre of metric runs, else the run's own."""
    return step or (MILLIMETRE if run.info["depth"]["unit"] == "m" else run.info["depth"]["scale"])


def counted(depth: Float32[np.ndarray, "H W"], step: float) -> UInt16[np.ndarray, "H W"]:
    """Depth in counts of `step`; 0 is unknown, and so is what 16 bits cannot hold. Very near things stay 1."""
    value = np.rint(np.nan_to_num(depth).astype(np.float64) / step)
    return np.where(value > 65535, 0, np.where(depth > 0, np.maximum(value, 1), 0)).astype(np.uint16)


def write_png16(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`depth/000000.png`, 16-bit grey, and `depth.json`: depth = value * scale, 0 unknown or too far.

    The same stands in a tEXt chunk of every file. In metres a count is 1 mm unless `options.png_step` says
    otherwise (KITTI 1/256, TUM 1/5000).
    """
    about = meaning(run) | {
        "scale": step_of(run, options.png_step),
        "K": run.intrinsics.matrix.tolist(),
        "pixel_center": 0.5,
    }
    text = json.dumps(about)

    def write(number: int, row: Row) -> None:
        data = with_text(formats.png_of(counted(run.depth(row), about["scale"])), "glvid", text)
        atomic_write(folder / "depth" / f"{number:06d}.png", data)

    every(run, write)
    atomic_write(folder / "depth.json", (json.dumps(about, indent=1) + "\n").encode())


def with_text(png: bytes, keyword: str, text: str) -> bytes:
    """A PNG with a tEXt chunk behind its header (PNG specification, 11.3.3.2)."""
    chunk = b"tEXt" + keyword.encode("latin-1") + b"\0" + text.encode("latin-1", "backslashreplace")
    head = 8 + 25  # signature, IHDR
    return png[:head] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[head:]


def write_flo(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`000000.flo`, Middlebury, to the next row's frame; none for the last row of a shot."""
    every(run, lambda number, row: row.flow and formats.write_flow(folder / f"{number:06d}.flo", run.flow(row)))


def write_depth_video(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`depth.mkv`: FFV1, 16-bit grey, lossless; depth = value * scale, 0 unknown; scale and unit are in the metadata.

    Without `options.png_step` the counts are the run's own. Raises OutputError when the file holds other
    than so many frames.
    """
    scale = options.png_step or run.info["depth"]["scale"]
    K = json.dumps(run.intrinsics.matrix.tolist())
    tags = {key.upper(): str(value) for key, value in (meaning(run) | {"scale": repr(scale), "K": K}).items()}
    maps = each(lambda row: (row.time_s, counted(run.depth(row), scale)), run.rows)
    video.write_gray16(folder / "depth.mkv", maps, tags)


# ---------------------------------------------------------------- pictures and RGB-D


def copied(run: RunFolder, row: Row, path: Path) -> None:
    """The stored picture, byte by byte."""
    atomic_write(path, run.bytes_of(row, "image"))


def rests(run: RunFolder, row: Row) -> np.ndarray:
    """A mask of 255 where the frame rests, 0 where it moves on its own: what COLMAP and nerfstudio expect."""
    return np.where(run.mask(row) < 0.5, 255, 0).astype(np.uint8)


def write_open3d(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """Open3D: `trajectory.log`, `trajectory.json`, `intrinsic.json`, and RGB-D in `color/` and `depth/`.

    `depth_scale` (counts a unit, Open3D's name for it) is in `rgbd.json`; 1000 for metric runs, which is its default.
    """
    poses, step = run.trajectory().world_T_cam, step_of(run)
    atomic_write(folder / "trajectory.log", open3d_log(poses))
    atomic_write(folder / "trajectory.json", open3d_json(poses, run.intrinsics))
    atomic_write(folder / "intrinsic.json", (json.dumps(open3d_intrinsic(run.intrinsics), indent=1) + "\n").encode())
    about = meaning(run) | {"depth_scale": 1 / step, "depth_trunc": 65535 * step}
    atomic_write(folder / "rgbd.json", (json.dumps(about, indent=1) + "\n").encode())

    def write(number: int, row: Row) -> None:
        if row.image:
            copied(run, row, folder / "color" / f"{number:06d}.jpg")
        if row.depth:
            atomic_write(folder / "depth" / f"{number:06d}.png", formats.png_of(counted(run.depth(row), step)))

    every(run, write)
