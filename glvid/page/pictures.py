"""Pictures and films of a run as data: URIs: strips of its maps, legends of their colours, the preview."""

import math
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from glvid import video
from glvid.colors import Range, color_range, depth_colors, flow_colors
from glvid.errors import InputError
from glvid.formats import reading
from glvid.page.plots import number
from glvid.results import PREVIEW, Row, RunFolder
from glvid.types import Frame
from glvid.video import write_video

SHOWN = 8  # frames of a strip
WIDTH = 240  # px, of a picture in it
QUALITY = 82  # of JPEG
LARGEST = 12_000_000  # bytes of film in a page
SHRINK = 3.0  # a film of half the width and height takes about so much less
SLOWEST = 8.0  # frames a second of a film that had to be shortened
MOVING = np.array([255, 122, 26], np.float32)  # what moves on its own is tinted so


@dataclass(frozen=True)
class Column:
    """One frame of the strips: its number, and its pictures by kind; None where nothing is stored."""

    number: int
    row: Row
    pictures: dict[str, str | None]


@dataclass(frozen=True)
class Film:
    """The preview as a page shows it."""

    uri: str
    poster: str  # its first picture
    step: int = 1  # every so manieth frame
    faster: float = 1.0  # than it was
    smaller: bool = False


def data_uri(kind: str, data: bytes) -> str:
    """`data:` URI of a file's content; kind is its media type."""
    return f"data:{kind};base64,{b64encode(data).decode()}"


def jpeg(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    """An RGB picture as a data: URI."""
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data_uri("image/jpeg", data.tobytes())


def thumbnail(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    """WIDTH px wide, or as it is if it is smaller."""
    h, w = picture.shape[:2]
    size = (WIDTH, max(1, round(h * WIDTH / w))) if w > WIDTH else (w, h)
    return jpeg(cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA))


# ---------------------------------------------------------------- strips


def spread(count: int, shown: int = SHOWN) -> list[int]:
    """Numbers of at most `shown` of `count` frames, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(shown, count)).round().astype(int)).tolist()


def color_limits(run: RunFolder) -> Range:
    """One range of depth and flow for the clip, from the frames that are shown."""
    rows = [run.rows[k] for k in spread(len(run.rows))]
    depth = [run.depth(row)[::4, ::4].ravel() for row in rows if row.depth]
    flow = [np.hypot(*run.flow(row)[:, ::4, ::4]).ravel() for row in rows if row.flow]
    empty = np.zeros(0, np.float32)
    return color_range(np.concatenate([empty, *depth]), np.concatenate([empty, *flow]))


def columns(run: RunFolder, limits: Range) -> Iterator[Column]:
    """The frames of the strips, one after the other."""
    for k in spread(len(run.rows)):
        row = run.rows[k]
        yield Column(k, row, {kind: picture(run, row, kind, limits) for kind in ("image", "depth", "flow", "mask")})


def picture(run: RunFolder, row: Row, kind: str, limits: Range) -> str | None:
    """One map of a frame in its colours."""
    if not getattr(row, kind):
        return None
    if kind == "image":
        return thumbnail(run.image(row))
    if kind == "depth":
        return thumbnail(depth_colors(run.depth(row), limits.near, limits.far))
    if kind == "flow":
        return thumbnail(flow_colors(run.flow(row), limits.flow))
    return thumbnail(mask_colors(run.mask(row), run.image(row) if row.image else None))


def mask_colors(
    moving: Float[np.ndarray, "H W"], image: UInt8[np.ndarray, "H W 3"] | None
) -> UInt8[np.ndarray, "H W 3"]:
    """What moves on its own in orange over the dimmed grey frame, or over black."""
    grey = np.zeros(moving.shape, np.float32) if image is None else image.mean(-1).astype(np.float32)
    share = moving[..., None].astype(np.float32)
    return ((1 - share) * 0.5 * grey[..., None] + share * (0.3 * grey[..., None] + 0.7 * MOVING)).astype(np.uint8)


# ---------------------------------------------------------------- legends


def depth_ramp(limits: Range, steps: int = 256) -> str:
    """The colours of depth from near to far, even in 1 / depth, one pixel high."""
    inverse = np.linspace(1 / limits.near, 1 / limits.far, steps)
    return jpeg(np.repeat(depth_colors(1 / inverse[None], limits.near, limits.far), 8, 0))


def depth_marks(limits: Range, count: int = 5) -> list[str]:
    """Depths at even distances along the ramp."""
    return [number(1 / x, 3) for x in np.linspace(1 / limits.near, 1 / limits.far, count).tolist()]


def flow_wheel(side: int = 96) -> str:
    """The colour of every direction; the rim is as long as colours go."""
    at = (np.arange(side) + 0.5) / side * 2 - 1
    vectors = np.stack(np.broadcast_arrays(at[None], at[:, None]))
    return jpeg(flow_colors(vectors / np.maximum(1, np.hypot(*vectors)), 1.0))


# ---------------------------------------------------------------- the preview


def film(run: RunFolder, largest: int = LARGEST) -> Film | None:
    """The preview, smaller and with fewer frames where it is too large; None where there is none, or it stays so."""
    path = run.path / PREVIEW
    if not path.is_file():
        return None
    if path.stat().st_size <= largest:
        with reading(path):
            return Film(data_uri("video/mp4", path.read_bytes()), poster(path))
    size, frames = path.stat().st_size, max(1, len(run.rows))
    step = max(1, math.ceil(size / SHRINK / largest))
    while step < frames:
        data, faster = shortened(path, step)
        if len(data) <= largest:
            return Film(data_uri("video/mp4", data), poster(path), step, faster, True)
        step = max(step + 1, math.ceil(1.2 * step * len(data) / largest))
    return None


def poster(path: Path) -> str:
    """The first picture of a film: browsers show none before it is asked for, and paper never does."""
    frames = video.frames(video.probe(path), max_size=4 * WIDTH)
    first = next((frame.pixels for frame in frames if isinstance(frame, Frame)), None)
    if first is None:
        raise InputError(f"{path}: holds no picture; make it again with `glvid infer`")
    return jpeg(first)


def shortened(path: Path, step: int) -> tuple[bytes, float]:
    """A film at half its size, every step-th frame of it, and how much faster it shows things than they were."""
    clip = video.probe(path)
    rate = max(clip.fps / step, min(clip.fps, SLOWEST))
    frames = video.frames(clip, stride=step, max_size=max(32, max(clip.width, clip.height) // 2))
    pictures = (frame.pixels for frame in frames if isinstance(frame, Frame))
    with tempfile.TemporaryDirectory() as folder:
        write_video(Path(folder) / PREVIEW, pictures, rate)
        return (Path(folder) / PREVIEW).read_bytes(), rate * step / clip.fps
