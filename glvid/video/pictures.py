"""Image folders: which files belong, their sizes from the headers alone, their pixels. Knows nothing of video."""

import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import UInt8

from glvid.errors import InputError
from glvid.types import Clip

Rgb = UInt8[np.ndarray, "H W 3"]

MAX_PIXELS = 2**27  # larger pictures are refused: 134 Mpx, four times 8K
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def check_pixels(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        what = f"too large ({size[0]} x {size[1]}, at most {MAX_PIXELS / 1e6:.0f} Mpx)"
        raise InputError(f"cannot read {path}: {what}; give a smaller copy")


def check_size(folder: Path, name: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    if size != expected:
        what = f"{name} is {size[0]} x {size[1]}, those before it {expected[0]} x {expected[1]}"
        raise InputError(f"images of different sizes in {folder}: {what}; resize or remove it")


def picture_names(folder: Path) -> tuple[str, ...]:
    """Pictures in the folder by name, numbers in names counted as numbers; hidden files are none."""
    try:
        names = [f.name for f in folder.iterdir() if f.suffix.lower() in PICTURES and f.name[0] != "." and f.is_file()]
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror}; make it readable") from error
    if not names:
        kinds = " ".join(kind[1:] for kind in PICTURES)
        raise InputError(f"no picture in folder {folder}; give a folder of {kinds} files or a video file")
    return tuple(sorted(names, key=natural))


def natural(name: str) -> tuple[list[str | int], str]:
    """Sorting key by which frame2 comes before frame10."""
    return [int(part) if k % 2 else part.lower() for k, part in enumerate(re.split(r"(\d+)", name))], name


def probe_pictures(path: Path, names: tuple[str, ...], fps: float) -> Clip:
    """Sizes from the headers alone; broken pictures are left for `frames` to report."""
    folder = path if path.is_dir() else path.parent
    sizes = {name: size for name in names if (size := picture_size(folder / name))}
    if not sizes:
        raise InputError(f"cannot read {path}: none of {len(names)} picture(s) has a valid header; give intact ones")
    first, size = next(iter(sizes.items()))
    for name, other in sizes.items():
        check_pixels(folder / name, other)
        check_size(folder, name, other, size)
    codec = Path(first).suffix.lower()[1:]
    return Clip(path, *size, fps=fps, duration=len(names) / fps, frames=len(names), names=names, codec=codec)


def picture_size(path: Path) -> tuple[int, int] | None:
    """Upright size (w, h) from the header of a picture file; None when it is not one that can be read."""
    try:
        if not path.is_file():  # a pipe would be waited for without end
            return None
        with path.open("rb") as file:
            size = _header_size(file)
        return size if size is not None and min(size) > 0 else None
    except (OSError, struct.error, KeyError):  # not readable, or cut within its header
        return None


def is_animated(path: Path) -> bool:
    """Does a picture file hold several pictures: is it an animated PNG or WebP?"""
    try:
        with path.open("rb") as file:
            head = file.read(64)
            if head[8:16] == b"WEBPVP8X":
                return bool(head[20] & 2)
            position = 8
            while head.startswith(b"\x89PNG"):  # the chunk of the animation comes before that of the first picture
                file.seek(position)
                length, kind = struct.unpack(">I4s", file.read(8))
                if kind in (b"acTL", b"IDAT"):
                    return kind == b"acTL"
                position += 12 + length
    except (OSError, struct.error, IndexError):  # not readable, or cut within its header
        return False
    return False


def _header_size(file: BinaryIO) -> tuple[int, int] | None:
    head = file.read(32)
    if head.startswith(b"\x89PNG"):
        return struct.unpack(">II", head[16:24]) if _png_is_sound(file) else None
    if head.startswith(b"BM"):
        width, height = struct.unpack("<ii", head[18:26])
        return width, abs(height)  # negative: rows from the top
    if head.startswith((b"II*\0", b"MM\0*")):
        tags = _tiff_tags(file, 0)
        return _turned((tags[256], tags[257]), tags.get(274, 1))
    if head.startswith(b"\xff\xd8"):
        return _jpeg_size(file)
    if head.startswith((b"P5", b"P6")):  # PGM and PPM, which FlyingChairs is stored as
        numbers = re.match(rb"P[56]\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s", head + file.read(200))
        return (int(numbers[1]), int(numbers[2])) if numbers else None
    return _webp_size(head) if head[8:12] == b"WEBP" else None


def _png_is_sound(file: BinaryIO) -> bool:
    """No chunk says that it is far longer than the file, which may be cut: OpenCV makes room for what they say."""
    end, position = file.seek(0, os.SEEK_END), 8
    while position + 8 <= end:
        file.seek(position)
        position += 12 + struct.unpack(">I", file.read(4))[0]
    return position < end + 2**24


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Size after EXIF orientation (1 to 8); 5 and above swap the axes."""
    return size[::-1] if 5 <= orientation <= 8 else size


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Walks the segments up to the frame header; the EXIF block before it holds the orientation."""
    orientation, position = 1, 2
    while True:
        file.seek(position)
        marker, length = struct.unpack(">HH", file.read(4))
        if marker == 0xFFE1 and file.read(6) == b"Exif\0\0":
            orientation = _tiff_tags(file, position + 10).get(274, 1)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width = struct.unpack(">xHH", file.read(5))
            return _turned((width, height), orientation)
        if marker < 0xFF00 or marker == 0xFFDA:
            return None
        position += 2 + length


def _tiff_tags(file: BinaryIO, start: int) -> dict[int, int]:
    """Single numbers of the first directory of a TIFF block (a whole file, or EXIF inside a JPEG) at `start`."""
    file.seek(start)
    order = "<" if file.read(2) == b"II" else ">"
    file.seek(start + struct.unpack(order + "2xI", file.read(6))[0])
    tags = {}
    for _ in range(struct.unpack(order + "H", file.read(2))[0]):
        tag, kind, count, value = struct.unpack(order + "HHI4s", file.read(12))
        if count == 1 and kind in (3, 4):
            tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), value)[0]
    return tags


def _webp_size(head: bytes) -> tuple[int, int]:
    """Canvas of an extended WebP, else the size of its lossless or lossy bit stream (RFC 9649)."""
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def read_picture(path: Path, size: tuple[int, int]) -> Rgb | None:
    """RGB of a picture file, EXIF orientation applied, alpha dropped, 16 bit brought to 8; None if it is broken.

    Raises InputError if it is intact but not of upright `size`.
    """
    stated = picture_size(path)
    if stated is None or stated[0] * stated[1] > MAX_PIXELS:  # it must be known before it is decoded
        return None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # what is wrong with a picture, we say ourselves
    try:
        bgr = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    if bgr is None:
        return None
    check_size(path.parent, path.name, bgr.shape[1::-1], size)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
