"""Images in, H.264 out."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from glvid.errors import OutputError
from glvid.video.pictures import Rgb

BT709 = 1  # ITU-T H.273 code point


def write_video(path: Path | str, images: Iterable[Rgb], fps: float) -> None:
    """H.264 (yuv420p, BT.709, fast start) at a constant rate; RGB images of one size, odd sides padded by their edge.

    Written beside `path` under a temporary name, then renamed: no half-written file is left under the final name.
    Raises OutputError when nothing was given to write or the file system refuses.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    rate = Fraction(fps).limit_denominator(1001)
    try:
        with _refusals(path):
            output = av.open(f"file:{part.absolute()}", "w", format="mp4", options={"movflags": "faststart"})
        stream = None
        for index, image in enumerate(images):
            with _refusals(path):
                stream = stream or _h264(output, image.shape, rate)
                output.mux(stream.encode(_yuv(image, index, stream)))
        if stream is None:
            raise OutputError(f"cannot write {path}: no frame was given for it")
        with _refusals(path):
            output.mux(stream.encode())
            output.close()
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What FFmpeg or the file system refuses while writing becomes an OutputError."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {path}: {reason}; free space or choose another place with --out") from error


def _h264(output: av.container.OutputContainer, shape: tuple[int, ...], rate: Fraction) -> av.VideoStream:
    """An H.264 stream for images of `shape` (H, W, 3), sides rounded up to even."""
    stream = output.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "ultrafast"})
    stream.height, stream.width = (n + n % 2 for n in shape[:2])
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = ColorRange.MPEG
    return stream


def _yuv(image: Rgb, index: int, stream: av.VideoStream) -> av.VideoFrame:
    """One picture of the stream, padded to its size by repeating the last row and column."""
    h, w = image.shape[:2]
    padded = np.pad(image, ((0, stream.height - h), (0, stream.width - w), (0, 0)), "edge")
    frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
    frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
    return frame
