"""Reading: what a file is, and its frames.

Lazy, a few frames at a time, whatever the length: demux and decode, packet by packet, errors tolerated (`_Decoder`);
choose (`_selected`); bring to the stored size (`developer`).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import av
import cv2
from av.stream import Disposition

from glvid.errors import InputError, UsageError
from glvid.types import Clip, Frame
from glvid.video.develop import HLG, PQ, Raw, as_frame, developer, orientation, taken_for_hd
from glvid.video.pictures import (
    MAX_PIXELS,
    PICTURES,
    check_pixels,
    is_animated,
    picture_names,
    probe_pictures,
    read_picture,
)
from glvid.video.timeline import GAP, Lost, Note, Timeline

# Demuxers that read one file and nothing else; playlists (hls, concat, dash, sdp) open their neighbours and the network
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,vc1,flv,gif,apng,asf,"
    "ogg,mjpeg,mxf,nut,dv,rm,wtv,yuv4mpegpipe,mp3,wav,flac,aac"
)


def probe(path: Path | str, fps: float = 10.0) -> Clip:
    """What `path` (video file, image folder or one image file) holds; decodes one frame of a video, none of a folder.

    Width and height are upright and of square pixels; `rotation` is clockwise; `fps` is the rate of image folders;
    `frames` and `duration` are what the container declares. `warnings` are sentences about the first frame, which
    `frames` repeats as Notes. Raises UsageError for a missing path, InputError when no picture can be had from it.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise UsageError(f"no such file or folder: {path}; check the path")
    if fps <= 0:
        raise UsageError(f"a frame rate must be positive, not {fps:g}; give --fps a number above 0")
    if path.is_dir():
        return probe_pictures(path, picture_names(path), fps)
    if path.suffix.lower() in PICTURES and not is_animated(path):
        return probe_pictures(path, (path.name,), fps)
    return _probe_video(path)


def decoders() -> set[str]:
    """Names of the codecs that the FFmpeg at hand decodes, those of its libraries under the codec's own name."""
    found = set()
    for name in av.codecs_available:
        try:
            found.add(av.Codec(name, "r").canonical_name)
        except av.codec.codec.UnknownCodecError:  # an encoder only
            continue
    return found


def _probe_video(path: Path) -> Clip:
    with _opened(path) as (container, stream):
        decoder, notes, first = _Decoder(container, stream), [], None
        for event in decoder.events():
            if isinstance(event, Raw):
                first = event.picture
                break
            notes += [event.text] if isinstance(event, Note) else []
        if first is None:
            why = (decoder.begun and decoder.timeline.error) or "no whole key frame"
            raise InputError(f"cannot read {path}: no frame could be decoded ({why}); give a complete video file")
        aspect = float(stream.sample_aspect_ratio or 1)
        size = max(1, round(first.width * aspect)), first.height
        transposed, _, step_y = orientation(first)
        return Clip(
            path=path,
            width=size[1] if transposed else size[0],
            height=size[0] if transposed else size[1],
            fps=1 / decoder.timeline.interval,
            duration=_duration(container, stream),
            frames=stream.frames or None,
            rotation={(False, 1): 0, (True, 1): 90, (False, -1): 180, (True, -1): 270}[transposed, step_y],
            codec=stream.codec_context.codec.canonical_name,
            pixel_aspect=aspect,
            warnings=tuple(notes),
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its main video stream; whatever is wrong with the file becomes an InputError."""
    if not path.is_file():  # a FIFO or a device would hang or never end
        raise InputError(f"cannot read {path}: not a regular file; give a video file or an image folder")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    try:
        container = av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"cannot read {path}: {_why_unreadable(path, error)}") from error
    with container:
        yield container, _main_stream(path, container)


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "permission denied; make the file readable"
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[8:] == b"WEBP":
            return "an animated WebP, which FFmpeg does not decode; make a GIF or a video of it"
        if head[4:8] == b"ftyp":
            return f"the recording was not finished ({size} bytes, index missing); repair it or copy it again"
    return f"not a video that FFmpeg knows ({size} bytes); give a video file or an image folder"


def _main_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The largest video stream that is not a cover picture and has a decoder."""
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic and s.codec_context]
    if not moving:
        kinds = [f"{len(found)} {kind}" for kind in ("audio", "video") if (found := getattr(container.streams, kind))]
        held = ", ".join(kinds).replace("video", "cover picture or unknown codec") or "nothing"
        raise InputError(f"cannot read {path}: no video stream ({held}); give a file with a video in it")
    stream = max(moving, key=lambda s: s.width * s.height)
    check_pixels(path, (stream.width, stream.height))
    return stream


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds from the first stamp to the end that the container declares for the stream; 0 when it does not.

    Matroska has a tag for it. The duration of the whole file counts only where no sound can outlast the video.
    """
    if stream.duration:
        return max(0.0, float(stream.duration * stream.time_base))
    start = float((stream.start_time or 0) * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        return max(0.0, 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3]) - start)
    alone = len(container.streams) == 1
    return max(0.0, container.duration / av.time_base - start) if container.duration and alone else 0.0


def stored_size(size: tuple[int, int], max_size: int) -> tuple[int, int]:
    """Size (w, h) at which frames of an upright `size` are kept: long side at most `max_size`, both sides rounded."""
    scale = min(1.0, max_size / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def frames(
    clip: Clip,
    start: float | None = None,
    end: float | None = None,
    stride: int = 1,
    max_size: int = 1280,
    after: int = -1,
) -> Iterator[Frame | Lost | Note]:
    """Upright frames of square pixels at `stored_size`, in presentation order, with what was lost and what to know.

    `start` (inclusive) and `end` (exclusive) are seconds from the first frame, as a player shows them; every
    `stride`-th frame from there on is kept. `Frame.index` counts all frames of the source, skipped and lost ones too;
    `Frame.time` is the presentation stamp, made strictly increasing. A Lost stands where its frames would. Frames of
    another size than the first are resampled to the first one's, with a Note. Frames and losses up to the index
    `after` are passed over, which takes a fraction of the time.
    Raises UsageError for an empty or impossible selection, InputError as `probe` does.
    """
    if stride < 1 or max_size < 1:
        raise UsageError(f"stride {stride} and size {max_size} must be at least 1; correct --stride or --max-size")
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise UsageError(f"cannot read from {start or 0:g} s to {end or 0:g} s; correct --start and --end")
    size = stored_size((clip.width, clip.height), max_size)
    source = _listed(clip) if clip.names else _decoded(clip)
    develop = _picture_reader(clip, size) if clip.names else developer(size)
    return _selected(clip, source, develop, (start or 0.0, end, stride), after)


def _selected(
    clip: Clip,
    source: Iterator[Raw | Lost | Note],
    develop: Callable[[Raw], Frame | Lost],
    selection: tuple[float, float | None, int],
    after: int,
) -> Iterator[Frame | Lost | Note]:
    """Frames between start and end, every stride-th of them, from behind `after` on; only those are developed."""
    start, end, stride = selection
    origin, first, missed = None, None, None
    with closing(source):
        for event in source:
            if isinstance(event, Raw):
                origin = event.time if origin is None else origin
                elapsed = event.time - origin
                if end is not None and elapsed >= end - 1e-6:
                    break
                if elapsed < start - 1e-6:
                    continue
                if first is None and missed and elapsed > start + GAP / clip.fps and missed.last > after:
                    yield missed
                first = event.index if first is None else first
                if (event.index - first) % stride == 0 and event.index > after:
                    yield develop(event)
            elif isinstance(event, Note) or first is not None or start == 0:
                if isinstance(event, Note) or event.last > after:
                    yield event
            else:
                missed = event  # before the selection, or across its start
    if first is None:
        until = "the end" if end is None else f"{end:g} s"
        raise UsageError(f"no frame of {clip.path} lies between {start:g} s and {until}; correct --start and --end")


def _decoded(clip: Clip) -> Iterator[Raw | Lost | Note]:
    """All frames of a video file."""
    with _opened(clip.path) as (container, stream):
        yield from _Decoder(container, stream).events()


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet | av.FFmpegError]:
    """Packets in file order, the flushing one last; a reading error is handed on and reading goes on behind it."""
    failures, demuxed = 0, container.demux(stream)
    while failures < 100:  # a medium that fails for good
        try:
            packet = next(demuxed, None)
        except av.FFmpegError as error:
            failures, demuxed = failures + 1, container.demux(stream)
            yield error
            continue
        except IndexError:  # PyAV wants the last packet of a stream too that turned up on the way; ours comes before
            return
        if packet is None:
            return
        yield packet


class _Decoder:
    """One pass over a stream: packets in; frames, losses and notes out."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        rates = [stream.average_rate, stream.guessed_rate, stream.codec_context.framerate, 25]
        if stream.start_time is None:  # an elementary stream: its average rate is FFmpeg's default, not the coded one
            rates = rates[1:]
        self.timeline = Timeline(float(stream.time_base), float(1 / next(rate for rate in rates if rate)))
        self.container, self.stream = container, stream
        self.unsorted = container.format.name == "avi"  # its stamps are those of decoding: right as a set only
        self.begun = False  # a key frame was seen
        self.headless = False  # packets came before it
        self.packets = 0
        self.dts: int | None = None  # of the last packet
        self.held: set[int] | None = None  # promises of a new count, while frames of the old one are still to come
        self.size: tuple[int, int] | None = None
        self.said: set[str] = set()

    def events(self) -> Iterator[Raw | Lost | Note]:
        """Everything the stream holds, in presentation order; a Lost stands where its frames would."""
        line = self.timeline
        for packet in _packets(self.container, self.stream):
            for picture in self._decode(packet):
                if self.unsorted and line.promised:
                    picture.pts = min(line.promised)
                time, remark = line.time_of(picture.pts)
                yield from self._new([*self._remarks(picture), remark])
                if self.held is not None and picture.pts not in line.promised:
                    yield from line.recount(self.held)
                    self.held = None
                yield from line.missing_before(picture.pts, time)
                yield Raw(line.index, time, picture)
                line.advance(time, picture.duration * line.base)
        start = (self.stream.start_time or 0) * line.base
        duration = _duration(self.container, self.stream)
        yield from line.missing_after(start + duration if duration else 0.0)

    def _decode(self, packet: av.Packet | av.FFmpegError) -> list[av.VideoFrame]:
        line = self.timeline
        if isinstance(packet, av.FFmpegError):
            line.error = packet.strerror
            return []
        if packet.is_keyframe and not self.begun:  # errors before it are no loss: there was nothing to start from
            self.begun, self.headless, line.error = True, self.packets > 0 and line.time is None, ""
        self.packets += 1
        if packet.dts is not None:
            if self.dts is not None and packet.dts < self.dts and self.held is None:
                self.held = set()  # files put end to end
            self.dts = packet.dts
        if self.begun and packet.pts is not None and not packet.is_discard:
            (line.promised if self.held is None else self.held).add(packet.pts)
        line.error = "damaged packet" if packet.is_corrupt else line.error
        try:
            return packet.decode()
        except av.FFmpegError as error:
            line.error = error.strerror
            if self.unsorted:
                line.promised.discard(packet.pts)
            return []

    def _remarks(self, picture: av.VideoFrame) -> Iterator[str]:
        size = (picture.width, picture.height)
        self.size = self.size or size
        if size != self.size:
            yield "the picture size changes within the clip: frames were resampled to the first one's"
        if self.headless:
            yield "the recording starts between key frames: what comes before the first one cannot be decoded"
        if picture.interlaced_frame:
            yield "the video is interlaced: each frame was made from one of its fields"
        if picture.color_trc in (PQ, HLG):
            yield "the video is HDR: its colours were mapped to BT.709"
        elif taken_for_hd(picture):
            yield "the colours of this HD video are not tagged: BT.709 assumed"

    def _new(self, remarks: Iterable[str]) -> Iterator[Note]:
        """Each remark once."""
        for text in remarks:
            if text and text not in self.said:
                self.said.add(text)
                yield Note(text)


def _listed(clip: Clip) -> Iterator[Raw]:
    """The pictures of a folder in order, unopened."""
    for index, name in enumerate(clip.names):
        yield Raw(index, index / clip.fps, name)


def _picture_reader(clip: Clip, size: tuple[int, int]) -> Callable[[Raw], Frame | Lost]:
    """Picture files to upright RGB of `size`; what cannot be decoded becomes a Lost."""
    folder = clip.path if clip.path.is_dir() else clip.path.parent

    def develop(raw: Raw) -> Frame | Lost:
        rgb = read_picture(folder / raw.picture, (clip.width, clip.height))
        if rgb is None:
            return Lost(raw.index, raw.index, f"{raw.picture} cannot be decoded")
        shrunk = size != (clip.width, clip.height)
        return as_frame(raw, cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if shrunk else rgb)

    return develop
