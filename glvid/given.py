"""What a user may know about a clip: camera, lens distortion, masks; parsed and checked before any model is loaded."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8

from glvid.errors import UsageError
from glvid.formats import stated_size
from glvid.types import Clip, Intrinsics

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def intrinsics(spec: str, size: tuple[int, int]) -> Intrinsics:
    """The camera a `--intrinsics` SPEC describes, float64, in px of the upright source of `size`, centres at .5.

    `fx,fy,cx,cy`; `fov=DEG` (horizontal, square pixels, centred); or a JSON file with the fields of camera.json.
    Raises UsageError for anything else, and for a camera that does not fit the frame.
    """
    where = f"--intrinsics {spec}"
    if spec.startswith("fov="):
        degrees = _numbers(spec[4:], (1,), where)[0]
        if not 1 <= degrees <= 175:
            raise UsageError(f"{where}: a field of view of {degrees:g} degrees is impossible; give 1 to 175")
        f = size[0] / 2 / math.tan(math.radians(degrees) / 2)
        values = (f, f, size[0] / 2, size[1] / 2)
    elif spec.endswith(".json") or os.path.isfile(spec):
        values = _from_json(Path(spec), size)
    else:
        values = _numbers(spec, (4,), where)
    fx, fy, cx, cy = values
    if not (
        all(0.05 * max(size) < f < 100 * max(size) for f in (fx, fy))
        and -1 < cx / size[0] < 2
        and -1 < cy / size[1] < 2
    ):
        raise UsageError(
            f"{where}: does not fit frames of {size[0]}x{size[1]} px; give fx,fy,cx,cy in px of the source"
        )
    tensor = torch.tensor(values, dtype=torch.float64)
    return Intrinsics(tensor[:2], tensor[2:], size)


def _numbers(text: str, counts: tuple[int, ...], where: str) -> tuple[float, ...]:
    """Comma-separated finite numbers, as many as one of `counts`."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{where}: is not a list of numbers ({error}); see glvid infer --help") from error
    if len(values) not in counts:
        raise UsageError(f"{where}: needs {' or '.join(map(str, counts))} numbers, has {len(values)}")
    if not all(map(math.isfinite, values)):
        raise UsageError(f"{where}: holds what is no finite number; see glvid infer --help")
    return values


def _from_json(path: Path, size: tuple[int, int]) -> tuple[float, ...]:
    """fx, fy, cx, cy in source px from a file with the fields of camera.json; its `pixel_center` is obeyed."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise ValueError("it is no regular file")
        record = json.loads(path.read_text(encoding="utf-8"))
        values = tuple(float(record[key]) for key in ("fx", "fy", "cx", "cy"))
        width, height = float(record.get("width", size[0])), float(record.get("height", size[1]))
        shift = 0.5 - float(record.get("pixel_center", 0.5))
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise ValueError(f"its size is {width:g}x{height:g}")
    except OSError as error:
        raise UsageError(f"--intrinsics {path}: cannot be read ({error.strerror}); give an existing file") from error
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UsageError(
            f"--intrinsics {path}: holds no fx, fy, cx, cy ({error}); give the fields of camera.json"
        ) from error
    if abs(width / height / (size[0] / size[1]) - 1) > 0.02:
        raise UsageError(
            f"--intrinsics {path}: is for {width:g}x{height:g} px, the frames are {size[0]}x{size[1]}; "
            "the aspect must agree"
        )
    scale = (size[0] / width, size[1] / height)
    return values[0] * scale[0], values[1] * scale[1], (values[2] + shift) * scale[0], (values[3] + shift) * scale[1]


@dataclass(frozen=True)
class Rectifier:
    """Resampling that removes a known lens distortion; the camera stays the same pinhole."""

    x: Float32[np.ndarray, "H W"]
    y: Float32[np.ndarray, "H W"]

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        return cv2.remap(image, self.x, self.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def rectifier(spec: str | None, camera: Intrinsics | None) -> Rectifier | None:
    """`--distortion` k1,k2,p1,p2[,k3] (OpenCV's model) as a resampling of frames of the camera's size, or None."""
    if spec is None:
        return None
    values = _distortion(spec)
    if camera is None:
        raise UsageError(f"--distortion {spec}: is meaningless without the camera; give --intrinsics too")
    K = integer_centers(camera)
    maps = cv2.initUndistortRectifyMap(K, values, np.eye(3), K, camera.size, cv2.CV_32FC1)
    if not all(np.isfinite(x).all() for x in maps):
        raise UsageError(f"--distortion {spec}: no lens distorts so much; give k1,k2,p1,p2[,k3] of OpenCV's model")
    return Rectifier(*maps)


def straightened(xy: Float64[np.ndarray, "2"], spec: str | None, camera: Intrinsics | None) -> Float64[np.ndarray, "2"]:
    """Where a place of a distorted frame lies in the rectified one; px of the camera's size, centres at .5."""
    if spec is None or camera is None:
        return xy
    K = integer_centers(camera)
    return cv2.undistortPoints((xy - 0.5)[None, None], K, _distortion(spec), P=K)[0, 0] + 0.5


def _distortion(spec: str) -> Float64[np.ndarray, " K"]:
    return np.array(_numbers(spec, (4, 5), f"--distortion {spec}"))


def integer_centers(camera: Intrinsics) -> Float64[np.ndarray, "3 3"]:
    """K where the top-left pixel has its centre at (0, 0), as in OpenCV, Open3D and KITTI's files; ours: (0.5, 0.5)."""
    K = camera.matrix.double().numpy().copy()
    K[:2, 2] -= 0.5
    return K


def mask_files(folder: Path | None, clip: Clip) -> dict[str, Path]:
    """`--masks DIR`: mask by the stem of the frame it belongs to; frames of a video are called by their number.

    Frames that --start, --end or --stride leave out need none: masks that lie evenly do for a part of the clip.
    Raises UsageError when the folder is missing, holds no picture, or none that belongs to a frame; when a frame
    between others has none; when there are masks behind the last frame of a video.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise UsageError(f"--masks {folder}: is no folder; give one with a mask per frame")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES}
    if clip.names:
        known = {Path(name).stem for name in clip.names}
        files = {stem: path for stem, path in files.items() if stem in known}
    else:
        files = {str(int(stem)): path for stem, path in files.items() if stem.isdecimal()}
    if not files:
        raise UsageError(f"--masks {folder}: no picture there has the name of a frame; name masks like the frames")
    _check_gaps(folder, files, clip)
    return files


def _check_gaps(folder: Path, files: dict[str, Path], clip: Clip) -> None:
    """Raises UsageError where masks are missing, or are of other frames."""
    place = {Path(name).stem: number for number, name in enumerate(clip.names)}
    numbers = sorted(place[stem] if place else int(stem) for stem in files)
    if not place and clip.frames and numbers[-1] >= clip.frames:
        mask = files[str(numbers[-1])].name
        raise UsageError(f"--masks {folder}: {mask} is of no frame, the clip has 0 to {clip.frames - 1}; remove it")
    step = min((b - a for a, b in pairwise(numbers)), default=1)
    hole = next((a + step for a, b in pairwise(numbers) if b - a > step), None)
    if hole is not None:
        frame = clip.names[hole] if place else f"frame {hole}"
        raise UsageError(f"--masks {folder}: has none for {frame}; give one for every frame")


def read_mask(
    path: Path, size: tuple[int, int], polarity: str, at: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W"]:
    """1 where the user wants pixels ignored, of frames of `size`; at that size, or another. Raises UsageError:
    unreadable, or another aspect than the frames'."""
    raw = None
    if stated_size(path) is not None:
        raw = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    if raw is None:
        raise UsageError(f"--masks: {path} is no picture; replace or remove it")
    h, w = raw.shape
    if abs(w / h / (size[0] / size[1]) - 1) > 0.02:
        raise UsageError(f"--masks: {path} is {w}x{h}, the frames are {size[0]}x{size[1]}; the aspect must agree")
    mask = cv2.resize(raw, at or size, interpolation=cv2.INTER_NEAREST) >= 128
    return (mask if polarity == "ignore" else ~mask).astype(np.uint8)


def mask_of(files: dict[str, Path], name: str, index: int) -> Path | None:
    """The mask of a frame, if there is one."""
    return files.get(Path(name).stem if name else str(index))


def checked_masks(files: dict[str, Path], size: tuple[int, int], polarity: str) -> Sequence[str]:
    """Reads masks up to the first that leaves something of its frame, so that a wrong folder is refused before work
    starts; returns the stems. Raises UsageError where all masks ignore everything."""
    if files and all(read_mask(path, size, polarity).all() for path in files.values()):
        folder = next(iter(files.values())).parent
        raise UsageError(f"--masks {folder}: they ignore everything; see --mask-polarity")
    return tuple(files)
