"""Decoded pictures to upright RGB: deinterlacing, colours, sample aspect, scale, rotation."""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from glvid.types import Frame
from glvid.video.pictures import Rgb
from glvid.video.timeline import Lost

UNTAGGED, PQ, HLG = 2, 16, 18  # ITU-T H.273 code points


class Raw(NamedTuple):
    """A frame before it is brought to its stored size: a decoded picture, or the name of a picture file."""

    index: int
    time: float  # s
    picture: av.VideoFrame | str


def _graph(picture: av.VideoFrame, filters: list[tuple[str, str]]) -> av.filter.Graph:
    """A chain of FFmpeg filters (name, arguments) for pictures that look like this one."""
    graph = av.filter.Graph()
    size = {"width": picture.width, "height": picture.height}
    source = graph.add_buffer(**size, format=picture.format, time_base=picture.time_base or Fraction(1, 90000))
    graph.link_nodes(source, *(graph.add(*spec) for spec in filters), graph.add("buffersink")).configure()
    return graph


def _look(picture: av.VideoFrame) -> tuple:
    """What a filter graph must be rebuilt for."""
    shape = picture.width, picture.height, picture.format.name, picture.interlaced_frame, picture.rotation
    return *shape, picture.colorspace, picture.color_range, picture.color_trc, picture.color_primaries


def taken_for_hd(picture: av.VideoFrame) -> bool:
    """Untagged YUV of 720 lines or more is BT.709, as players have it; FFmpeg would take it for BT.601."""
    return picture.colorspace == UNTAGGED and picture.height >= 720 and not picture.format.is_rgb


def orientation(picture: av.VideoFrame) -> tuple[bool, int, int]:
    """The display matrix as (transpose, step x, step y): swap the axes if transpose, then `[::step y, ::step x]`.

    Asking for it ties the picture into a reference cycle (PyAV's side data): not for every picture of a clip.
    """
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    transpose = abs(b) > abs(a)
    return transpose, -1 if (c if transpose else a) < 0 else 1, -1 if (b if transpose else d) < 0 else 1


def developer(size: tuple[int, int]) -> Callable[[Raw], Frame | Lost]:
    """Decoded pictures to upright RGB of `size`, in one resampling: sample aspect, scale, colours together.

    A picture that FFmpeg cannot convert (colours of a damaged stream that contradict each other) is a Lost.
    """
    graph, look, turn = None, None, None

    def develop(raw: Raw) -> Frame | Lost:
        nonlocal graph, look, turn
        picture = raw.picture
        if look != (look := _look(picture)):
            graph, turn = None, orientation(picture)
        transpose, step_x, step_y = turn
        if graph is None or picture.interlaced_frame:
            graph = _graph(picture, _filters(picture, size[::-1] if transpose else size))
        try:
            graph.push(picture)
            if picture.interlaced_frame:
                graph.push(None)  # the deinterlacer holds its picture back until the end
            rgb = graph.vpull().to_ndarray()
        except av.FFmpegError as error:
            graph = None
            return Lost(raw.index, raw.index, f"its colours cannot be converted: {error.strerror}")
        rgb = rgb.swapaxes(0, 1) if transpose else rgb
        return as_frame(raw, rgb[::step_y, ::step_x])

    return develop


def _filters(picture: av.VideoFrame, size: tuple[int, int]) -> list[tuple[str, str]]:
    """FFmpeg filters: one field made whole within the picture (no neighbours needed, so any stride will do), then
    scaling, by area average where both sides shrink, else bicubic, with colours brought to full-range BT.709 RGB."""
    shrink = size[0] <= picture.width and size[1] <= picture.height
    scale = f"{size[0]}:{size[1]}:flags={'area' if shrink else 'bicubic'}+accurate_rnd+full_chroma_int"
    if picture.color_trc in (PQ, HLG):
        scale += ":out_transfer=bt709:out_primaries=bt709"
    elif taken_for_hd(picture):
        scale += ":in_color_matrix=bt709"
    whole = [("estdif", "mode=frame:deint=all")] if picture.interlaced_frame else []
    return [*whole, ("scale", scale), ("format", "rgb24")]


def as_frame(raw: Raw, rgb: Rgb) -> Frame:
    name = raw.picture if isinstance(raw.picture, str) else ""
    return Frame(raw.index, raw.time, np.ascontiguousarray(rgb), name)
