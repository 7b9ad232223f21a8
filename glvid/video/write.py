"""Images in, H.264 out; 16-bit maps in, lossless FFV1 out."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt16

from glvid.errors import OutputError
from glvid.files import cannot_write
from glvid.video.pictures import Rgb

BT709 = 1  # ITU-T H.273 code point


def write_video(path: Path | str, images: Iterable[Rgb], fps: float) -> None:
    """H.264 (yuv420p, BT.709, fast start) at a constant rate; RGB images of one size, odd sides padded by their edge.

    Written beside `path` under a temporary name, then renamed: no half-written file is left under the final name.
    Raises OutputError when nothing was given to write or the file system refuses.
    """
    rate = Fraction(fps).limit_denominator(1001)
    with _written(Path(path), "mp4", {"movflags": "faststart"}) as output:
        stream = None
        for index, image in enumerate(images):
            with _refusals(path):
                stream = stream or _h264(output, image.shape, rate)
                output.mux(stream.encode(_yuv(image, index, stream)))
        _ended(path, output, stream)


def join(path: Path | str, parts: Sequence[Path]) -> None:
    """Videos that `write_video` wrote, of one size and rate, one after another as one, without coding them again.

    Raises OutputError as `write_video` does, also where a part cannot be read.
    """
    with _written(Path(path), "mp4", {"movflags": "faststart"}) as output, _refusals(path):
        stream, start = None, 0
        for part in parts:
            with av.open(f"file:{Path(part).absolute()}", options={"format_whitelist": "mov,mp4"}) as container:
                source = container.streams.video[0]
                stream = stream or output.add_stream_from_template(source)
                end = start
                for packet in container.demux(source):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + start, packet.dts + start, stream
                        end = packet.pts + packet.duration
                        output.mux(packet)
                start = end
        output.close()


MATROSKA_TICK = Fraction(1, 1000)  # s, the finest that its times are usually written in


def write_gray16(
    path: Path | str, maps: Iterable[tuple[float, UInt16[np.ndarray, "H W"]]], tags: dict[str, str]
) -> None:
    """FFV1, lossless 16-bit grey, in Matroska: pairs of a time (s, to 1 ms) and a map; `tags` become its metadata.

    As `write_video` otherwise. Raises OutputError too when the file does not hold as many frames as were written.
    """
    with _refusals(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with _written(Path(path), "matroska", {}) as output:
        stream, count = None, 0
        output.metadata.update(tags)
        for time, values in maps:
            with _refusals(path):
                stream = stream or _ffv1(output, values.shape)
                frame = av.VideoFrame.from_ndarray(values, format="gray16le")
                frame.pts, frame.time_base = round(time / MATROSKA_TICK), MATROSKA_TICK
                output.mux(stream.encode(frame))
            count += 1
        _ended(path, output, stream)
        _counted(path, _part(Path(path)), count)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


@contextmanager
def _written(path: Path, container: str, options: dict[str, str]) -> Iterator[av.container.OutputContainer]:
    """An output that comes under its name when all went well."""
    part = _part(path)
    try:
        with _refusals(path):
            output = av.open(f"file:{part.absolute()}", "w", format=container, options=options)
        yield output
        with _refusals(path):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _ended(path: Path, output: av.container.OutputContainer, stream: av.VideoStream | None) -> None:
    if stream is None:
        raise OutputError(f"cannot write {path}: no frame was given for it")
    with _refusals(path):
        output.mux(stream.encode())
        output.close()


def _counted(path: Path, part: Path, count: int) -> None:
    """Raises OutputError unless the file holds `count` packets: a full disk may go unnoticed while it is written."""
    with _refusals(path), av.open(f"file:{part.absolute()}") as written:
        found = sum(packet.size > 0 for packet in written.demux(video=0))
    if found != count:
        raise OutputError(f"{path}: holds {found} of {count} frames after writing; free space and export again")


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What FFmpeg or the file system refuses while writing becomes an OutputError."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise cannot_write(Path(path), error, part=_part(Path(path))) from error


def _h264(output: av.container.OutputContainer, shape: tuple[int, ...], rate: Fraction) -> av.VideoStream:
    """An H.264 stream for images of `shape` (H, W, 3), sides rounded up to even."""
    stream = output.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "ultrafast"})
    stream.height, stream.width = (n + n % 2 for n in shape[:2])
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = ColorRange.MPEG
    return stream


def _ffv1(output: av.container.OutputContainer, shape: tuple[int, int]) -> av.VideoStream:
    """An FFV1 stream of version 3, whose slices carry check sums and are coded side by side."""
    options = {"level": "3", "slices": "4", "slicecrc": "1", "threads": "2"}
    stream = output.add_stream("ffv1", rate=1000, options=options)
    stream.height, stream.width, stream.pix_fmt = *shape, "gray16le"
    stream.time_base = stream.codec_context.time_base = MATROSKA_TICK
    return stream


def _yuv(image: Rgb, index: int, stream: av.VideoStream) -> av.VideoFrame:
    """One picture of the stream, padded to its size by repeating the last row and column."""
    h, w = image.shape[:2]
    missing = stream.height - h, stream.width - w
    padded = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), "edge") if any(missing) else image
    frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
    frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
    return frame
