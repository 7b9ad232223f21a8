"""A recording for Rerun's viewer: path, camera, pictures, depth, what moves, and the cloud, along time.

Readable by the same version of Rerun or the next: a way to look at a run, not to keep it.
"""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from glvid.errors import UsageError
from glvid.exports.cloud import fuse
from glvid.exports.maps import counted, meaning
from glvid.exports.options import ExportOptions
from glvid.files import published
from glvid.formats import printable
from glvid.results import Row, RunFolder


def load_rerun() -> ModuleType:
    """Rerun's SDK. Raises UsageError that says how it is installed."""
    try:
        import rerun
    except ImportError as error:
        raise UsageError(
            f"--to rrd: needs Rerun's SDK ({error}); install it with: pip install 'glvid[rerun]'"
        ) from error
    return rerun


def write_rrd(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`run.rrd`. Time lines `frame` (row) and `video` (s). Depth is in the run's unit: Rerun calls a unit a metre.

    Raises UsageError without the SDK, OutputError when the disk refuses.
    """
    rr = load_rerun()
    with published(folder / "run.rrd") as temporary, open(temporary, "wb") as file, _pipe_into(file) as pipe:
        _record(rr, run, pipe, options)


@contextmanager
def _pipe_into(file: BinaryIO) -> Iterator[Path]:
    """A named pipe that ends in a file: on a disk that is full, the SDK's own writing waits for ever."""
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(1, "glvid-rrd") as worker:
        pipe = Path(place) / "run.rrd"
        os.mkfifo(pipe)
        with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb", 0) as source:
            end = os.open(pipe, os.O_WRONLY)  # while it is open, the pipe has no end
            os.set_blocking(source.fileno(), True)
            pouring = worker.submit(_pour, source, file)
            try:
                yield pipe
            finally:
                os.close(end)
                pouring.result()


def _pour(source: RawIOBase, file: BinaryIO) -> None:
    """Everything, read to its end even where the file takes no more, as somebody waits at the other side."""
    trouble = None
    while part := source.read(1 << 16):
        try:
            if trouble is None:
                file.write(part)
        except OSError as error:
            trouble = error
    if trouble is not None:
        raise trouble


def _record(rr: ModuleType, run: RunFolder, path: Path, options: ExportOptions) -> None:
    with rr.RecordingStream("glvid", recording_id=printable(run.path.name)) as stream:
        stream.save(str(path))
        try:
            stream.log("world", rr.ViewCoordinates.RIGHT_HAND_Y_DOWN, static=True)
            stream.log("about", rr.TextDocument(_about(run)), static=True)
            _log_scene(rr, stream, run, options.max_points)
            poses = run.trajectory().world_T_cam
            for number, row, pose in zip(run.numbers, run.rows, poses, strict=True):
                stream.set_time("frame", sequence=number)
                stream.set_time("video", duration=row.time_s)
                _log_frame(rr, stream, run, row, pose)
        finally:
            stream.flush()
            stream.disconnect()


def _about(run: RunFolder) -> str:
    return "\n".join(f"{key}: {value}" for key, value in {"run": printable(run.path.name), **meaning(run)}.items())


def _log_scene(rr: ModuleType, stream, run: RunFolder, max_points: int) -> None:
    centers = run.trajectory().world_T_cam[:, :3, 3]
    stream.log("world/path", rr.LineStrips3D([centers]), static=True)
    if all(row.depth for row in run.rows):
        cloud = fuse(run, max_points)
        stream.log("world/scene", rr.Points3D(cloud.points, colors=cloud.colors), static=True)


def _log_frame(rr: ModuleType, stream, run: RunFolder, row: Row, pose: np.ndarray) -> None:
    K, (w, h) = run.intrinsics.matrix.numpy(), run.size
    stream.log("world/camera", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
    lens = rr.Pinhole(image_from_camera=K, resolution=[w, h], camera_xyz=rr.ViewCoordinates.RDF)
    stream.log("world/camera/image", lens)
    if row.image:
        picture = rr.EncodedImage(contents=run.bytes_of(row, "image"), media_type="image/jpeg")
        stream.log("world/camera/image/rgb", picture)
    if row.depth:
        scale = run.info["depth"]["scale"]
        depth = rr.DepthImage(counted(run.depth(row), scale), meter=1 / scale)
        stream.log("world/camera/image/depth", depth)
    if row.mask:
        moves = (run.mask(row) >= 0.5).astype(np.uint8)
        stream.log("world/camera/image/moving", rr.SegmentationImage(moves))
