"""File formats of maps and paths, each writer beside its reader; nothing here knows the run folder.

Arrays here are numpy: depth (H, W) float, flow (2, H, W) float, moving (H, W) 0..1, image (H, W, 3) uint8 RGB.
NaN means "nothing can be said" in both directions. Files appear under their final name only when they are whole.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8

from glvid.errors import InputError, OutputError
from glvid.files import atomic_write
from glvid.geometry import quaternion, rotation
from glvid.types import Trajectory

FLO_TAG = 202021.25  # Middlebury .flo: float32 tag, int32 width and height, then u v interleaved
FLO_UNKNOWN = 1e10  # anything above 1e9 is unknown
FLOW_RANGE = 512  # px, what the KITTI flow PNG can hold


# ---------------------------------------------------------------- names, and damaged files


def printable(name: str) -> str:
    """A file name as text that every file can hold: bytes of it that are no UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever a missing or damaged file raises into an InputError that names it."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise ValueError("no regular file")
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: is missing; make it again with `glvid infer`") from error
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError, cv2.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: is damaged ({reason}); make it again with `glvid infer`") from error


def leads_inside(folder: Path, name: str) -> bool:
    """Does folder / name, a name that a file gave us, lie in the folder, links followed?"""
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links that go round in a circle
        return False


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises InputError where it is missing or damaged, or holds NaN or infinity."""
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


# ---------------------------------------------------------------- pictures


def png_of(array: Shaped[np.ndarray, "H W *c"]) -> bytes:
    """A grey (H, W) or RGB (H, W, 3) picture of 8 or 16 bits as a PNG (W3C, third edition).

    Every row less the one above it (filter Up), by ISA-L's DEFLATE: three times as fast as libpng at its fastest; maps
    are a tenth larger at most.
    """
    from isal import isal_zlib  # is not everywhere where one trains

    (h, w), color, depth = array.shape[:2], 2 if array.ndim == 3 else 0, 8 * array.itemsize
    rows = np.ascontiguousarray(array.astype(array.dtype.newbyteorder(">"))).view(np.uint8).reshape(h, -1)
    filtered = np.full((h, 1 + rows.shape[1]), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", w, h, depth, color, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", isal_zlib.compress(filtered, 1)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def stated_size(path: Path) -> tuple[int, int] | None:
    """Width and height by the header, None where it is none, or claims more than can be borne: a small file may claim
    gigabytes, which a decoder would take."""
    from glvid.video.pictures import MAX_PIXELS, picture_size  # brings PyAV, which is not everywhere where one trains

    size = picture_size(path)
    return size if size is not None and size[0] * size[1] <= MAX_PIXELS else None


def _decode(path: Path, kind: str, dtype: type, channels: int) -> np.ndarray:
    """The picture, or InputError unless it has this dtype and number of channels, and a size that can be borne."""
    with reading(path):
        data, sound = path.read_bytes(), stated_size(path) is not None
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if sound else None
        if array is None or array.dtype != dtype or (1 if array.ndim == 2 else array.shape[2]) != channels:
            raise ValueError(f"not {kind}")
    return array


def depth_scale(sample: Shaped[np.ndarray, "..."]) -> float:
    """Depth units per step of the 16-bit PNG: one number for a run, from depths sampled over the whole clip.

    Resolution matters near and the far end may clamp. With p the percentiles of the sample, the largest storable depth
    is 1.2 p99.9, but at most 655 p1 (rounding then costs at most 0.5 % of the depth at p1), yet at least 10 medians
    where those lie below 1.2 p99.9. Raises ValueError when nothing in the sample is finite and positive.
    """
    depth = sample[np.isfinite(sample) & (sample > 0)]
    if depth.size == 0:
        raise ValueError("no finite positive depth to choose a scale from")
    near, middle, far = np.percentile(depth, [1, 50, 99.9])
    return float(min(1.2 * far, max(655 * near, 10 * middle)) / 65535)


def write_depth(path: Path, depth: Float[np.ndarray, "H W"], scale: float) -> None:
    """16-bit PNG, z = value * scale. NaN and depths <= 0 become 0; any other stays within 1..65535 (+inf is far)."""
    bounded = np.clip(depth, scale, 65535 * scale)  # OpenCV rounds and bounds as well, but no infinity
    atomic_write(path, png_of(cv2.multiply(bounded, 1 / scale, dtype=cv2.CV_16U) * (depth > 0)))


def read_depth(path: Path, scale: float) -> Float32[np.ndarray, "H W"]:
    """Inverse of `write_depth` to half a step; NaN where the PNG says 0. Clamped pixels read 65535 * scale."""
    raw = _decode(path, "a 16-bit grey PNG", np.uint16, 1)
    depth = cv2.multiply(raw, scale, dtype=cv2.CV_32F)  # four times as fast as numpy, and the same to the last bit
    depth[raw == 0] = np.nan
    return depth


def write_flow(path: Path, flow: Float[np.ndarray, "2 H W"]) -> None:
    """By suffix: `.png` KITTI 16-bit (R = 64 u + 2^15, G = 64 v + 2^15, B = valid) or `.flo` Middlebury float32.

    The PNG is valid where |u|, |v| <= 512 px (KITTI devkit); both say "unknown" where flow is not finite.
    """
    if path.suffix == ".flo":
        known = np.where(np.isfinite(flow).all(0), flow, FLO_UNKNOWN).astype("<f4")
        head = np.array([FLO_TAG], "<f4").tobytes() + np.array([flow.shape[2], flow.shape[1]], "<i4").tobytes()
        return atomic_write(path, head + np.ascontiguousarray(known.transpose(1, 2, 0)).tobytes())
    valid = (np.abs(flow) <= FLOW_RANGE).all(0)
    u, v = (cv2.addWeighted(x, 64, x, 0, 32768, dtype=cv2.CV_16U) * valid for x in flow)
    atomic_write(path, png_of(cv2.merge([u, v, valid.astype(np.uint16)])))


def read_flow(path: Path) -> Float32[np.ndarray, "2 H W"]:
    """Inverse of `write_flow` (PNG: to 1/128 px); NaN where unknown."""
    if path.suffix == ".flo":
        return _read_flo(path)
    raw = _decode(path, "a 16-bit RGB flow PNG", np.uint16, 3)
    blue, green, red = cv2.split(raw)
    flow = np.stack([red, green]).astype(np.float32)
    flow -= 32768
    flow /= 64
    flow[:, blue == 0] = np.nan
    return flow


def _read_flo(path: Path) -> Float32[np.ndarray, "2 H W"]:
    with reading(path):
        data = path.read_bytes()
        tag, (w, h) = np.frombuffer(data, "<f4", 1)[0], np.frombuffer(data, "<i4", 2, 4)
        if tag != np.float32(FLO_TAG) or min(w, h) < 1 or len(data) != 12 + 8 * int(w) * int(h):
            raise ValueError("not a .flo file of the size it states")
    flow = np.frombuffer(data, "<f4", offset=12).reshape(h, w, 2).transpose(2, 0, 1)
    return np.where((np.abs(flow) > 1e9).any(0), np.float32(np.nan), flow)


def write_mask(path: Path, moving: Float[np.ndarray, "H W"]) -> None:
    """8-bit PNG of the probability of moving: 255 moves, 0 static; what is not finite counts as moving."""
    value = np.rint(np.where(np.isfinite(moving), moving, 1).clip(0, 1) * 255)
    atomic_write(path, png_of(value.astype(np.uint8)))


def read_mask(path: Path) -> Float32[np.ndarray, "H W"]:
    """Inverse of `write_mask` to 1/510."""
    return _decode(path, "an 8-bit grey PNG", np.uint8, 1).astype(np.float32) / 255


def write_image(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """RGB as JPEG, quality 92."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not ok:
        raise OutputError(f"{path}: OpenCV cannot encode a picture of shape {image.shape}; choose a smaller --max-size")
    atomic_write(path, data.tobytes())


def read_image(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Inverse of `write_image`, JPEG loss apart."""
    return cv2.cvtColor(_decode(path, "a colour picture", np.uint8, 3), cv2.COLOR_BGR2RGB)


# ---------------------------------------------------------------- paths


def write_trajectory(path: Path, trajectory: Trajectory) -> None:
    """TUM: `time tx ty tz qx qy qz qw`, camera to world, single spaces, unit quaternions of continuous sign.

    Time has 9 decimals, the rest 12 significant digits. Raises ValueError when a pose is not finite.
    """
    if not np.isfinite(trajectory.world_T_cam).all():
        raise ValueError("a pose of the trajectory is not finite")
    q = quaternion(torch.from_numpy(trajectory.world_T_cam[:, :3, :3])).numpy()
    if len(q):  # q and -q are one rotation; start with w >= 0 and never jump between them
        turns = np.concatenate([[1 if q[0, 3] >= 0 else -1], np.where((q[1:] * q[:-1]).sum(1) < 0, -1, 1)])
        q = q * np.cumprod(turns)[:, None]
    values = np.concatenate([trajectory.world_T_cam[:, :3, 3], q], 1) + 0.0  # + 0.0 turns -0 into 0
    lines = [f"{t:.9f} " + " ".join(f"{x:.12g}" for x in v) for t, v in zip(trajectory.times, values, strict=True)]
    atomic_write(path, "".join(line + "\n" for line in lines).encode())


def read_trajectory(path: Path, unit: str = "scene") -> Trajectory:
    """Inverse of `write_trajectory`; lines that start with # are skipped."""
    with reading(path):
        lines = [s.split() for s in path.read_text(encoding="utf-8").splitlines() if s and s[0] != "#"]
        rows = np.array(lines, np.float64).reshape(len(lines), 8)
        if not np.isfinite(rows).all() or (np.linalg.norm(rows[:, 4:], axis=1) < 0.5).any():
            raise ValueError("a pose is not finite or has no rotation")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = rotation(torch.from_numpy(rows[:, 4:])).numpy()
    poses[:, :3, 3] = rows[:, 1:4]
    return Trajectory(rows[:, 0], poses, unit)
