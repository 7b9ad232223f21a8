"""Inputs, options and places that try to break glvid, each through the command line, as one table.

`python tests/test_hostile.py > tests/hostile.md` writes the table with what glvid really says.
"""

import contextlib
import csv
import ctypes
import io
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest
import torch
from av.video.reformatter import Colorspace
from safetensors.torch import load_file, save_file
from test_video import film, oriented, sound

from glvid import cli, weights
from glvid.networks import CameraNet, DepthConfig, DepthNet

STRIP = (96, 24)  # small, and four times as wide as high: fewer pixels for the networks
LISTED = Path(__file__).with_name("hostile.md")
TINY = "tiny.safetensors"  # a depth network of few channels, in every case's folder
FAST = [
    "--quiet",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--depth-model",
    f"./{TINY}",
    "--intrinsics",
    "fov=60",
    "--keep",
    "depth",
]


class Case(NamedTuple):
    """One input: what is tried, and what must come of it."""

    name: str
    make: Callable[[], list[str]]  # makes files in the current folder; the words after `glvid infer`
    code: int = 0
    says: str = ""  # a pattern: in the line on stderr, or, where the run ends well, in a warning of run.json
    times: tuple[float, ...] = ()  # s, of the frames that must come out
    size: tuple[int, int] = STRIP  # of the stored maps
    lost: tuple[tuple[int, int], ...] = ()
    shell: dict[str, str] | None = None  # run as a program of its own, with these variables
    held: bool = False  # run without the right to pass over permissions, which root has


class Outcome(NamedTuple):
    """What came of it."""

    code: int
    said: list[str]  # lines on stderr
    added: set[str]  # names that the folder holds afterwards and did not before
    changed: set[str]  # names of files that are not as they were
    run: Path | None  # the run folder
    source: str  # INPUT as it was given
    grown: float  # MB that the process has taken at most, beyond what it had before


# ---------------------------------------------------------------- what is filmed


def strip(count: int = 3, size: tuple[int, int] = STRIP, seed: int = 0) -> list[np.ndarray]:
    """A window that slides over soft noise, two pixels a frame."""
    w, h = size
    noise = np.random.default_rng(seed).integers(0, 256, (h, w + 2 * count, 3), dtype=np.uint8)
    noise = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    return [np.ascontiguousarray(noise[:, 2 * k : 2 * k + w]) for k in range(count)]


def plain(count: int = 3, size: tuple[int, int] = STRIP) -> list[np.ndarray]:
    """Pictures of one grey each, in which nothing can be followed: solved at once."""
    return [np.full((size[1], size[0], 3), 60 + 6 * k, np.uint8) for k in range(count)]


def unlike(count: int) -> list[np.ndarray]:
    """Pictures that take room and have nothing in common: every one is a shot of its own, and solved at once."""
    return [strip(1, seed=seed)[0] for seed in range(count)]


def tenths(count: int, start: float = 0.0) -> tuple[float, ...]:
    return tuple(start + k / 10 for k in range(count))


@cache
def encoded(count: int = 3, flags: str = "faststart") -> bytes:
    """A small MP4 (H.264, 10 frames a second), index in front unless `flags` say otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        how = {"options": {"bf": "0"}, "container": {"movflags": flags} if flags else {}}
        return film(Path(folder) / "clip.mp4", plain(count), rate=10, **how).read_bytes()


def clip(
    name: str = "clip.mp4",
    pictures: list[np.ndarray] | None = None,
    codec: str = "libx264",
    pix: str = "yuv420p",
    **how: Any,
):
    """Films into `name`; `words` follow it on the command line."""
    words = how.pop("words", ())

    def make() -> list[str]:
        film(Path(name), pictures or plain(), codec, pix, **{"rate": 10, **how})
        return [name, *words]

    return make


def bytes_of(name: str | bytes, data: bytes | Callable[[], bytes]):
    """Writes a file."""

    def make() -> list[str]:
        path = Path(os.fsdecode(name))
        path.write_bytes(data if isinstance(data, bytes) else data())
        return [str(path)]

    return make


def named(name: str | bytes, *before: str):
    """A good clip of three frames under a name."""
    write = bytes_of(name, encoded)
    return lambda: [*before, *write()]


def with_words(make: Callable[[], list[str]], *words: str):
    return lambda: [*make(), *words]


def with_file(make: Callable[[], list[str]], beside: Callable[[], Any], *words: str):
    """Something beside the clip, and options that name it."""

    def both() -> list[str]:
        beside()
        return [*make(), *words]

    return both


def whole(make: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """With flow, masks, images, preview and cloud, too."""
    return with_words(make, "--keep", "depth,flow,mask,image")


GOOD = named("clip.mp4")


def picture(suffix: str = ".png", image: np.ndarray | None = None, *options: Any) -> bytes:
    done, data = cv2.imencode(suffix, strip(1)[0][..., ::-1] if image is None else image, *options)
    assert done
    return data.tobytes()


def folder(files: dict[str, bytes], name: str = "frames"):
    """A folder of files."""

    def make() -> list[str]:
        Path(name).mkdir()
        for file, data in files.items():
            Path(name, file).write_bytes(data)
        return [name]

    return make


def pictures(*names: str, **others: bytes) -> dict[str, bytes]:
    """Pictures of a pan, by name."""
    shots = plain(max(len(names), 1))
    return {
        name: picture(Path(name).suffix, shot[..., ::-1]) for name, shot in zip(names, shots, strict=False)
    } | others


def huge(suffix: str = ".png") -> bytes:
    """A PNG of 190 bytes or so that says it is 40000 x 40000."""
    data = picture(suffix, np.zeros((8, 8, 3), np.uint8))
    return data[:16] + (40000).to_bytes(4, "big") * 2 + data[24:]


# ---------------------------------------------------------------- damage


def cut(data: Callable[[], bytes], share: float) -> Callable[[], bytes]:
    return lambda: data()[: round(len(data()) * share)]


@cache
def film_bytes() -> bytes:
    """A fast-start MP4 of 8 frames that take room."""
    with tempfile.TemporaryDirectory() as folder:
        how = {"options": {"bf": "0", "g": "5"}, "container": {"movflags": "faststart"}}
        return film(Path(folder) / "x.mp4", unlike(8), rate=10, **how).read_bytes()


@cache
def matroska() -> bytes:
    """Ten frames, each a key frame of about the same size."""
    with tempfile.TemporaryDirectory() as folder:
        return film(Path(folder) / "x.mkv", unlike(10), "mjpeg", "yuvj420p", 10).read_bytes()


def damaged(change: Callable[[bytearray], None]) -> Callable[[], bytes]:
    """Ten frames in an MP4, every fifth a key frame; bytes of the sixth changed."""

    def data() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = film(
                Path(folder) / "x.mp4",
                unlike(10),
                "libx264",
                rate=10,
                options={"bf": "0", "g": "5", "sc_threshold": "0"},
            )
            with av.open(str(path)) as container:
                at = [(p.pos, p.size) for p in container.demux(video=0) if p.size][5]
            whole = bytearray(path.read_bytes())
        part = whole[at[0] : at[0] + at[1]]
        change(part)
        whole[at[0] : at[0] + at[1]] = part
        return bytes(whole)

    return data


def zeroed(part: bytearray) -> None:
    part[:] = bytes(len(part))


def flipped(part: bytearray) -> None:
    part[:40] = bytes(255 - b for b in part[:40])


@cache
def stream() -> bytes:
    """MPEG-TS, 8 frames, a key frame every fourth."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"g": "4", "bf": "0", "sc_threshold": "0"}
        return film(Path(folder) / "x.ts", unlike(8), rate=10, options=options).read_bytes()


def between(last: int) -> Callable[[], bytes]:
    """The programme tables, then what comes behind the first key frame and before key frame `last` (2: the end)."""

    def data() -> bytes:
        packets = [stream()[k : k + 188] for k in range(0, len(stream()), 188)]
        keys = [k for k, p in enumerate(packets) if p[3] & 32 and p[4] and p[5] & 64] + [len(packets)]
        return b"".join(packets[: keys[0]] + packets[keys[0] + 3 : keys[last]])

    return data


def stamped(name: str, pts: list[int], dts: list[int], codec: str = "ffv1", base: Fraction = Fraction(1, 1000)):
    """Frames of an intra codec under any stamps."""

    def make() -> list[str]:
        with av.open(name, "w", options={"avoid_negative_ts": "disabled"}) as output:
            stream = output.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = *STRIP, {"ffv1": "yuv444p"}.get(codec, "yuvj420p")
            stream.time_base = base
            for image, shown, decoded in zip(plain(len(pts)), pts, dts, strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt)
                for packet in stream.encode(frame):
                    packet.pts, packet.dts, packet.time_base = shown, decoded, base
                    output.mux(packet)
        return [name]

    return make


def two_streams(name: str = "two.mkv"):
    """A small and a larger picture in one file."""

    def make() -> list[str]:
        with av.open(name, "w") as output:
            sides = [(48, 16), STRIP]
            streams = [output.add_stream("libx264", rate=10, options={"bf": "0"}) for _ in sides]
            for stream, size in zip(streams, sides, strict=True):
                stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for k in range(3):
                for stream, size in zip(streams, sides, strict=True):
                    frame = av.VideoFrame.from_ndarray(plain(3, size)[k], format="rgb24").reformat(format="yuv420p")
                    frame.pts, frame.time_base = k, Fraction(1, 10)
                    output.mux(stream.encode(frame))
            for stream in streams:
                output.mux(stream.encode())
        return [name]

    return make


def accompanied(name: str = "all.mov"):
    """Video with sound that outlasts it, and a track of time codes."""

    def make() -> list[str]:
        film(Path("only.mkv"), plain(), rate=10, options={"bf": "0"})
        sound(Path("only.mp3"))
        with av.open("only.mkv") as seen, av.open("only.mp3") as heard, av.open(name, "w") as output:
            output.metadata["timecode"] = "00:00:00:00"
            targets = [output.add_stream_from_template(part.streams[0]) for part in (seen, heard)]
            for part, target in zip((seen, heard), targets, strict=True):
                for packet in part.demux(0):
                    if packet.dts is not None:
                        packet.stream = target
                        output.mux(packet)
        for part in ("only.mkv", "only.mp3"):
            Path(part).unlink()
        return [name]

    return make


def joined(name: str = "joined.ts"):
    """Two recordings of different size end to end."""

    def make() -> list[str]:
        parts = [
            film(Path(f"{k}.ts"), plain(3, size), rate=10, options={"bf": "0"})
            for k, size in enumerate([STRIP, (48, 12)])
        ]
        Path(name).write_bytes(b"".join(part.read_bytes() for part in parts))
        for part in parts:
            part.unlink()
        return [name]

    return make


# ---------------------------------------------------------------- places, weights


def special(kind: str) -> Callable[[], list[str]]:
    """What is there, but is no file."""

    def make() -> list[str]:
        path = Path(f"{kind}.mp4")
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
        elif kind == "dangling":
            path.symlink_to("nowhere.mp4")
        elif kind == "loop":
            path.symlink_to(path.name)
        return [str(path)]

    return make


def locked(make: Callable[[], list[str]], path: str, mode: int) -> Callable[[], list[str]]:
    """Takes permissions of a path away, once everything is there."""

    def closed() -> list[str]:
        words = make()
        os.chmod(path, mode)
        return words

    return closed


def ran(*words: str, status: str = "complete", owner: int | None = None) -> Callable[[], list[str]]:
    """A run folder that is there already, of these options; `owner`: of the lock in it."""

    def make() -> list[str]:
        made = GOOD()
        done = cli.command(["infer", *FAST, "--keep", "depth", *made, "-o", "run"])
        assert done == 0
        info = json.loads(Path("run/run.json").read_text())
        Path("run/run.json").write_text(json.dumps(info | {"status": status}))
        if owner is not None:
            Path("run/.glvid-lock").write_text(f"{owner}\n")
        return [*made, "-o", "run", "--keep", "depth", *words]

    return make


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, ("code-has-run",))


def pickled(name: str) -> None:
    torch.save({"state": Code(), "info": {}}, name)


def rewritten(change: Callable[[dict[str, torch.Tensor]], Any], **head: Any) -> Callable[[], None]:
    """The tiny network with its tensors and its head changed, as x.safetensors."""

    def write() -> None:
        with weights.safe_open(TINY, "pt") as file:
            info = json.loads(file.metadata()["glvid"]) | head
        state = load_file(TINY)
        change(state)
        save_file(state, "x.safetensors", {"glvid": json.dumps(info)})

    return write


def model(name: str, write: Callable[[], Any]) -> Callable[[], list[str]]:
    return with_file(GOOD, write, "--depth-model", name)


def x_safetensors(data: bytes | Callable[[], bytes]) -> Callable[[], list[str]]:
    return model("x.safetensors", bytes_of("x.safetensors", data))


def camera_json(**record: Any) -> Callable[[], list[str]]:
    """A camera file; NaN as Python writes it."""
    write = bytes_of("camera.json", json.dumps(record).encode())
    return with_file(GOOD, write, "--intrinsics", "camera.json", "--fix-intrinsics")


def masked(*options: str, **files: np.ndarray | bytes) -> Callable[[], list[str]]:
    """Masks for the frames of a folder of four pictures, a to d."""
    data = {f"{k}.png": v if isinstance(v, bytes) else picture(".png", v) for k, v in files.items()}
    frames = folder(pictures("a.png", "b.png", "c.png", "d.png"))
    return with_file(frames, folder(data, "masks"), "--masks", "masks", *options)


def grey(value: int, size: tuple[int, int] = STRIP) -> np.ndarray:
    return np.full(size[::-1], value, np.uint8)


PQ = {"x265-params": "log-level=none:colorprim=9:transfer=16:colormatrix=9"}
HLG = {"x265-params": "log-level=none:colorprim=9:transfer=18:colormatrix=9"}
DEEP = {"codec": "libx265", "pix": "yuv420p10le"}
QUICK = {"deadline": "realtime", "cpu-used": "8"}

NO_VIDEO = [
    Case("a file of zero bytes", bytes_of("x.mp4", b""), 3, r"0 bytes"),
    Case("random bytes", bytes_of("x.mp4", np.random.default_rng(0).bytes(5000)), 3, "not a video"),
    Case("text called .mp4", bytes_of("x.mp4", b"hello\n" * 50), 3, "not a video"),
    Case("a web page called .mp4", bytes_of("x.mp4", b"<!DOCTYPE html><html></html>"), 3, "not a video"),
    Case("a path that is not there", lambda: ["nowhere.mp4"], 2, "no such file"),
    Case("an empty name, which is the current folder", lambda: [""], 3, "no picture in folder"),
    Case("a named pipe", special("fifo"), 3, "not a regular file"),
    Case("a socket", special("socket"), 3, "not a regular file"),
    Case("a device", lambda: ["/dev/zero"], 3, "not a regular file"),
    Case("a link to nowhere", special("dangling"), 2, "no such file"),
    Case("a link to itself", special("loop"), 2, "no such file"),
    Case("a file that may not be read", locked(GOOD, "clip.mp4", 0), 3, "permission denied", held=True),
    Case("sound alone", lambda: (sound(Path("x.mp3")), ["x.mp3"])[1], 3, r"no video stream \(1 audio\)"),
    Case(
        "an MP3 with a cover picture",
        lambda: (sound(Path("x.mp3"), strip(1)[0]), ["x.mp3"])[1],
        3,
        r"no video stream \(1 audio, 1 cover",
    ),
    Case("standard input", lambda: ["-"], 2, "no such file"),
]

FOLDERS = [
    Case("an empty folder", folder({}), 3, "no picture"),
    Case("a folder of text", folder({"a.txt": b"x", "b.md": b"y"}), 3, "no picture"),
    Case("a folder of videos", folder({"a.mp4": b"x"}), 3, "no picture"),
    Case("a folder that may not be read", locked(folder(pictures("1.png")), "frames", 0), 3, "", held=True),
    Case(
        "a folder with one broken picture",
        folder(pictures("1.png", "2.png", "3.png") | {"2.png": b"\x89PNG\r\n"}),
        7,
        "2.png cannot be decoded",
        (0, 0.2),
        lost=((1, 1),),
    ),
    Case(
        "a folder with one picture that may not be read",
        locked(folder(pictures("1.png", "2.png")), "frames/2.png", 0),
        7,
        "2.png cannot be decoded",
        (0,),
        lost=((1, 1),),
        held=True,
    ),
    Case(
        "a folder with half a JPEG",
        folder(pictures("1.png", "3.png") | {"2.jpg": picture(".jpg")[:700]}),
        7,
        "2.jpg cannot be decoded",
        (0, 0.2),
        lost=((1, 1),),
    ),
    Case("a folder of broken pictures", folder({"1.png": b"", "2.jpg": b"\xff\xd8\xff"}), 3, "none of 2 picture"),
    Case(
        "a folder of mixed sizes",
        folder(pictures("1.png", "2.png") | {"10.png": picture(".png", grey(9, (97, 24)))}),
        3,
        "10.png is 97 x 24",
    ),
    Case(
        "a folder with Thumbs.db and hidden files",
        folder(pictures("1.png", "2.png") | {"Thumbs.db": b"x", "._1.png": b"x", ".DS_Store": b"x"}),
        times=tenths(2),
    ),
    Case("a folder whose numbers have gaps", folder(pictures("im2.png", "im10.png", "im7.png")), times=tenths(3)),
    Case("a folder of one picture", folder(pictures("1.png")), times=(0,)),
    Case(
        "pictures under the wrong suffix", folder({"1.jpg": picture(".png"), "2.bmp": picture(".png")}), times=tenths(2)
    ),
    Case(
        "pictures of 16 bits",
        folder({f"{k}.png": picture(".png", grey(9).astype(np.uint16) * 999) for k in "12"}),
        times=tenths(2),
    ),
    Case(
        "pictures with alpha",
        folder({f"{k}.png": picture(".png", np.dstack([grey(v)] * 4)) for k, v in zip("12", (9, 99), strict=True)}),
        times=tenths(2),
    ),
    Case("a picture as INPUT", bytes_of("x.png", picture()), times=(0,)),
    Case("a TIFF as INPUT", bytes_of("x.tif", lambda: picture(".tif")), times=(0,)),
    Case("a PNG cut short as INPUT", bytes_of("x.png", picture()[:600]), 3, "x.png"),
    Case(
        "a picture file of 1 x 1 px",
        whole(bytes_of("x.png", picture(".png", grey(9, (1, 1))))),
        times=(0,),
        size=(1, 1),
    ),
    Case("a PNG that claims 40000 x 40000", bytes_of("x.png", huge()), 3, "too large"),
    Case(
        "a folder with a PNG that claims 40000 x 40000",
        folder(pictures("1.png") | {"2.png": huge()}),
        3,
        r"2\.png.*too large",
    ),
    Case("an animated PNG called .png", clip("x.png", codec="apng", pix="rgb24", format="apng"), times=tenths(3)),
    Case("an animated WebP", clip("x.webp", codec="libwebp_anim", pix="bgra"), 3, "animated WebP"),
    *(
        Case(
            f"EXIF orientation {k}",
            bytes_of("x.jpg", lambda k=k: oriented(strip(1)[0], k)),
            times=(0,),
            size=STRIP[::-1] if k > 4 else STRIP,
        )
        for k in range(1, 9)
    ),
]

DAMAGE = [
    Case("an MP4 without its index", bytes_of("x.mp4", lambda: encoded(20, "")[:900]), 3, "was not finished"),
    Case("a fast-start MP4 cut in its index", bytes_of("x.mp4", cut(encoded, 0.05)), 3, "no video stream"),
    Case(
        "a fast-start MP4 cut behind its index",
        bytes_of("x.mp4", lambda: encoded()[: encoded().find(b"mdat") + 4]),
        3,
        "",
    ),
    Case(
        "a fast-start MP4 cut in its pictures",
        bytes_of("x.mp4", lambda: film_bytes()[: -len(film_bytes()) // 3]),
        7,
        "lost",
        tenths(4),
        lost=((4, 7),),
    ),
    Case(
        "half a Matroska file",
        bytes_of("x.mkv", cut(matroska, 0.5)),
        7,
        "before its declared duration",
        tenths(3),
        lost=((3, 9),),
    ),
    Case("half an MPEG-TS", bytes_of("x.ts", cut(stream, 0.5)), times=tenths(4)),
    Case(
        "an MPEG-TS that starts between key frames",
        bytes_of("x.ts", between(2)),
        0,
        "between key frames",
        tenths(4, 0.4),
    ),
    Case("an MPEG-TS without a key frame", bytes_of("x.ts", between(1)), 3, "no whole key frame"),
    Case(
        "zeroed bytes in the pictures",
        bytes_of("x.mp4", damaged(zeroed)),
        7,
        "lost",
        (0, 0.1, 0.2, 0.3, 0.4, 0.9),
        lost=((5, 8),),
    ),
    Case(
        "flipped bytes in the pictures",
        bytes_of("x.mp4", damaged(flipped)),
        7,
        "lost",
        (0, 0.1, 0.2, 0.3, 0.4, 0.9),
        lost=((5, 8),),
    ),
]

PICTURES = [
    Case("one frame", whole(clip(pictures=strip(1))), times=(0,)),
    Case("two equal frames", whole(clip(pictures=strip(1) * 2)), times=tenths(2)),
    Case("a frozen video", whole(clip(pictures=strip(1) * 5)), times=tenths(5)),
    Case("a black video", whole(clip(pictures=[np.zeros((24, 96, 3), np.uint8)] * 3)), times=tenths(3)),
    Case("a white video", whole(clip(pictures=[np.full((24, 96, 3), 255, np.uint8)] * 3)), times=tenths(3)),
    Case("a hard cut", whole(clip(pictures=strip(2) + strip(2, seed=5))), 0, "2 shots", tenths(4)),
    *(
        Case(
            f"a picture of {w} x {h} px",
            whole(clip("x.y4m", strip(3, (w, h)), "rawvideo", "yuv444p", words=("--intrinsics", "fov=20"))),
            times=tenths(3),
            size=(w, h),
        )
        for w, h in ((1, 24), (96, 1), (1, 1), (128, 8))
    ),
    Case("a picture 97 x 25", clip("x.mkv", strip(3, (97, 25)), "ffv1", pix="yuv444p"), times=tenths(3), size=(97, 25)),
    Case("a portrait video", clip(pictures=strip(3, (24, 96))), times=tenths(3), size=(24, 96)),
    Case(
        "8K",
        clip(pictures=[np.zeros((1080, 7680, 3), np.uint8)] * 2, options={"preset": "ultrafast"}),
        times=tenths(2),
        size=(1280, 180),
    ),
    Case(
        "a video that claims 40000 x 40000",
        bytes_of("x.y4m", b"YUV4MPEG2 W40000 H40000 F25:1\nFRAME\n" + bytes(999)),
        3,
        "not a video",
    ),
    Case(
        "a GIF that claims 65535 x 65535",
        bytes_of("x.gif", b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;"),
        3,
        "no frame could be decoded",
    ),
    *(
        Case(f"turned by {d} degrees", clip(rotate=(d,)), times=tenths(3), size=STRIP[:: -1 if d % 180 else 1])
        for d in (90, 180, 270)
    ),
    Case("mirrored left to right", clip(rotate=(0, True, False)), times=tenths(3)),
    Case("mirrored upside down", clip(rotate=(0, False, True)), times=tenths(3)),
    Case("turned and mirrored", clip(rotate=(90, True, False)), times=tenths(3), size=STRIP[::-1]),
    Case("pixels wider than high", clip(sar=Fraction(64, 45)), times=tenths(3), size=(137, 24)),
    Case("the size changes within the clip", joined(), 0, "size changes", (0, 0.1, 0.2, 0.21, 0.22, 0.23)),
    Case(
        "10 bits",
        clip(**DEEP, pictures=strip(3, (128, 32)), options={"x265-params": "log-level=none"}),
        times=tenths(3),
        size=(128, 32),
    ),
    Case(
        "HDR, PQ",
        clip("x.mkv", strip(3, (128, 32)), space=Colorspace.BT2020, tags=(9, 16, 9), options=PQ, **DEEP),
        0,
        "HDR",
        tenths(3),
        (128, 32),
    ),
    Case(
        "HDR, HLG",
        clip("x.mkv", strip(3, (128, 32)), space=Colorspace.BT2020, tags=(9, 18, 9), options=HLG, **DEEP),
        0,
        "HDR",
        tenths(3),
        (128, 32),
    ),
    Case(
        "HD without tags of its colours",
        clip(pictures=strip(2, (2880, 720)), options={"preset": "ultrafast"}),
        0,
        "BT.709 assumed",
        tenths(2),
        (1280, 320),
    ),
    Case(
        "interlaced",
        clip("x.ts", strip(3, (128, 32)), "mpeg2video", rate=25, options={"flags": "+ilme+ildct", "bf": "0"}),
        0,
        "interlaced",
        (0.04, 0.08, 0.12),
        (128, 32),
    ),
    Case("ProRes 4444 with alpha", clip("x.mov", codec="prores_ks", pix="yuva444p10le"), times=tenths(3)),
    Case("VP9 with alpha", clip("x.webm", codec="libvpx-vp9", pix="yuva420p", options=QUICK), times=tenths(3)),
    Case("8-bit grey", clip("x.mkv", codec="ffv1", pix="gray"), times=tenths(3)),
    Case("16-bit grey", clip("x.mkv", codec="ffv1", pix="gray16le"), times=tenths(3)),
    Case("16-bit RGB", clip("x.mkv", codec="ffv1", pix="rgb48le"), times=tenths(3)),
]

CONTAINERS = [
    Case("GIF", clip("x.gif", codec="gif", pix="rgb8"), times=tenths(3)),
    Case("APNG", clip("x.apng", codec="apng", pix="rgb24"), times=tenths(3)),
    Case("AV1", clip(pictures=strip(3, (256, 64)), codec="libsvtav1"), times=tenths(3), size=(256, 64)),
    Case("VP8", clip("x.webm", codec="libvpx", options=QUICK), times=tenths(3)),
    Case("VP9", clip("x.webm", codec="libvpx-vp9", options=QUICK), times=tenths(3)),
    Case(
        "HEVC",
        clip(pictures=strip(3, (128, 32)), codec="libx265", options={"x265-params": "log-level=none"}),
        times=tenths(3),
        size=(128, 32),
    ),
    Case("ProRes", clip("x.mov", codec="prores_ks", pix="yuv422p10le"), times=tenths(3)),
    Case("FFV1", clip("x.mkv", codec="ffv1"), times=tenths(3)),
    Case("MPEG-2", clip("x.mpg", codec="mpeg2video", rate=25, options={"bf": "0"}), times=(0.54, 0.58, 0.62)),
    Case("MPEG-4 in AVI", clip("x.avi", codec="mpeg4"), times=tenths(3)),
    Case("Motion JPEG in AVI", clip("x.avi", codec="mjpeg", pix="yuvj420p"), times=tenths(3)),
    Case("H.264 in FLV", clip("x.flv", options={"bf": "0"}), times=tenths(3)),
    Case("raw H.264", clip("x.h264", rate=10), 0, "10 frames per second assumed", tenths(3)),
    Case("raw MPEG-4", clip("x.m4v", codec="mpeg4", rate=10), times=tenths(3)),
    Case("raw pictures (y4m)", clip("x.y4m", codec="rawvideo", rate=10), times=tenths(3)),
    Case(
        "variable frame rate",
        clip(pictures=strip(4), pts=[0, 160, 480, 8480], base=Fraction(1, 16000), rate=16000),
        times=(0, 0.01, 0.03, 0.53),
    ),
    Case("B-frames", clip(pictures=strip(6), options={"bf": "2"}), times=tenths(6)),
    Case("stamps that start late", clip(pts=[5, 6, 7]), times=tenths(3, 0.5)),
    Case(
        "stamps that start before zero",
        stamped("x.mkv", [-200, -100, 0, 100], [-200, -100, 0, 100]),
        times=tenths(4, -0.2),
    ),
    Case(
        "stamps that repeat",
        stamped("x.mkv", [20, 120, 120, 220], [0, 1, 2, 3]),
        0,
        "repeat or run backwards",
        (0.02, 0.12, 0.13, 0.22),
    ),
    Case(
        "stamps that run backwards",
        stamped("x.mkv", [200, 100, 300, 250], [0, 1, 2, 3]),
        0,
        "repeat or run backwards",
        (0.2, 0.21, 0.3, 0.31),
    ),
    Case("an edit list that cuts the beginning", clip(pictures=strip(5), pts=[-2, -1, 0, 1, 2]), times=tenths(3)),
    Case("two video streams", two_streams(), times=tenths(3)),
    Case("sound and time codes beside the video", accompanied(), times=tenths(3)),
]

LONG = "x" * 251 + ".mp4"
NAMES = [
    *(
        Case(f"called {name!r}", named(name, *(["--"] if name[0] == "-" else [])), times=tenths(3))
        for name in (
            "a b.mp4",
            "é中🎬.mp4",
            "a\nb.mp4",
            "-x.mp4",
            "http:x.mp4",
            "clip:1,2.mp4",
            "%03d.mp4",
            "#1",
            "'\"`$(x)*?[].mp4",
            ".mp4",
        )
    ),
    Case("a name of 255 bytes", named(LONG), times=tenths(3)),
    Case("a name that is no UTF-8", named(b"\xff\xfe.mp4"), times=tenths(3)),
    Case("a folder called %03d", folder(pictures("%d.png", "[1].png"), "%03d"), times=tenths(2)),
    Case(
        "pictures whose names are no UTF-8",
        folder({os.fsdecode(b"\xff1.png"): picture(), 'a,\n"b".png': picture()}),
        times=tenths(2),
    ),
    Case("a name too long for any file", lambda: ["x" * 300], 2, "no such file"),
    Case("a name with a zero byte", lambda: ["a\0b"], 2, "null byte"),
]

DISGUISED = [
    Case(
        "a concat list called .mp4",
        with_file(bytes_of("x.mp4", b"ffconcat version 1.0\nfile clip.mp4\n"), GOOD),
        3,
        "not a video",
    ),
    Case(
        "an HLS playlist called .mp4",
        with_file(bytes_of("x.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n"), GOOD),
        3,
        "not a video",
    ),
    Case(
        "an HLS playlist of a web address",
        bytes_of("x.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
        3,
        "not a video",
    ),
    Case(
        "a DASH manifest",
        bytes_of("x.mpd", b'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>'),
        3,
        "not a video",
    ),
    Case(
        "an SDP file called .mp4",
        bytes_of("x.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"),
        3,
        "not a video",
    ),
    Case(
        "subtitles called .mp4", bytes_of("x.mp4", b"[Script Info]\nScriptType: v4.00+\n[Events]\n"), 3, "not a video"
    ),
    Case("a web address as INPUT", lambda: ["http://127.0.0.1:9/x.mp4"], 2, "no such file"),
    Case("FFmpeg's concat: as INPUT", with_file(lambda: ["concat:clip.mp4|clip.mp4"], GOOD), 2, "no such file"),
]

SAID = [
    Case(
        "a camera file of another aspect",
        camera_json(fx=50, fy=50, cx=32, cy=24, width=64, height=48),
        2,
        r"64x48.*96x24",
    ),
    Case("a camera file with NaN", camera_json(fx=float("nan"), fy=50, cx=48, cy=12), 2, "fit|finite"),
    Case(
        "a camera file with a width of zero",
        camera_json(fx=50, fy=50, cx=48, cy=12, width=0, height=0),
        2,
        "camera.json",
    ),
    Case("a negative focal length", camera_json(fx=-50, fy=50, cx=48, cy=12), 2, "does not fit"),
    Case("a huge focal length", camera_json(fx=1e9, fy=1e9, cx=48, cy=12), 2, "does not fit"),
    Case(
        "a camera file that is no JSON",
        with_file(GOOD, bytes_of("camera.json", b"\xff{"), "--intrinsics", "camera.json"),
        2,
        "camera.json",
    ),
    Case(
        "a camera file that holds a list",
        with_file(GOOD, bytes_of("camera.json", b"[1, 2]"), "--intrinsics", "camera.json"),
        2,
        "camera.json",
    ),
    Case("a camera file that is not there", with_words(GOOD, "--intrinsics", "nowhere.json"), 2, "nowhere.json"),
    Case("a camera of three numbers", with_words(GOOD, "--intrinsics", "50,50,48"), 2, "needs 4"),
    Case("a camera of words", with_words(GOOD, "--intrinsics", "a,b,c,d"), 2, "not a list of numbers"),
    Case("a camera with NaN", with_words(GOOD, "--intrinsics", "nan,50,48,12"), 2, "finite"),
    Case("a field of view of 0 degrees", with_words(GOOD, "--intrinsics", "fov=0"), 2, "impossible"),
    Case("a distortion of NaN", with_words(GOOD, "--distortion", "nan,0,0,0"), 2, "finite"),
    Case("a distortion of two numbers", with_words(GOOD, "--distortion", "0,0"), 2, "4 or 5"),
    Case("masks that are not there", with_words(GOOD, "--masks", "nowhere"), 2, "is no folder"),
    Case("masks of an empty folder", with_file(GOOD, folder({}, "masks"), "--masks", "masks"), 2, "no picture"),
    Case("masks of other frames", masked(x=grey(0)), 2, "name of a frame"),
    Case("masks of another aspect", masked(a=grey(0, (48, 48)), b=grey(0), c=grey(0)), 2, "aspect"),
    Case("masks, the last of another aspect", masked(a=grey(0), b=grey(0), c=grey(0, (48, 48))), 2, "aspect"),
    Case("masks, one of them broken", masked(a=grey(0), b=b"\x89PNG", c=grey(0)), 2, "b.png"),
    Case("masks, one of them missing", masked(a=grey(0), b=grey(0), d=grey(0)), 2, "none for c.png"),
    Case(
        "masks for a video, one too many",
        with_file(GOOD, folder({f"{k}.png": picture(".png", grey(0)) for k in range(4)}, "masks"), "--masks", "masks"),
        2,
        "3.png",
    ),
    Case("masks that ignore everything", masked(a=grey(255), b=grey(255), c=grey(255)), 2, "everything"),
    Case(
        "masks that keep nothing", masked("--mask-polarity", "keep", a=grey(0), b=grey(0), c=grey(0)), 2, "everything"
    ),
    Case("masks that ignore nothing", masked(a=grey(0), b=grey(0), c=grey(0), d=grey(0)), times=tenths(4)),
    Case(
        "masks, one of them of everything", whole(masked(a=grey(0), b=grey(255), c=grey(0), d=grey(0))), times=tenths(4)
    ),
    Case("--start behind the end", with_words(GOOD, "--start", "99"), 2, "no frame"),
    Case("--start behind the end of a folder", with_words(folder(pictures("1.png")), "--start", "99"), 2, "no frame"),
    Case("--start below zero", with_words(GOOD, "--start=-1"), 2, "--start"),
    Case("--start NaN", with_words(GOOD, "--start", "nan"), 2, "start"),
    Case("--end before --start", with_words(GOOD, "--start", "2", "--end", "1"), 2, "--end"),
    Case("--stride 0", with_words(GOOD, "--stride", "0"), 2, "--stride"),
    Case("--stride below zero", with_words(GOOD, "--stride=-2"), 2, "--stride"),
    Case("--stride far beyond the end", with_words(GOOD, "--stride", "999999999"), times=(0,)),
    Case("--fps 0", with_words(folder(pictures("1.png")), "--fps", "0"), 2, "--fps"),
    Case("--fps below zero", with_words(folder(pictures("1.png")), "--fps=-5"), 2, "--fps"),
    Case("--fps NaN", with_words(folder(pictures("1.png")), "--fps", "nan"), 2, "fps"),
    Case("--max-size 1", with_words(GOOD, "--max-size", "1"), 2, "--max-size"),
    Case("--max-size 32", with_words(GOOD, "--max-size", "32"), times=tenths(3), size=(32, 8)),
    Case("--steps 0", with_words(GOOD, "--steps", "0"), 2, "--steps"),
    Case("an option that is none", with_words(GOOD, "--nonsense"), 2, "--nonsense"),
    Case(
        "a GPU that is not there",
        lambda: [*GOOD(), "--device", "cuda:99"],
        2,
        "--device auto",
    ),
    Case("a device that is none", with_words(GOOD, "--device", "toaster"), 2, "--device auto"),
]

MODELS = [
    *(
        Case(
            f"a pickle with code called {suffix}",
            model(f"x{suffix}", lambda s=suffix: pickled(f"x{s}")),
            4,
            "pickle.*safetensors",
        )
        for suffix in (".pth", ".pt", ".PTH", ".safetensors", ".weights")
    ),
    Case("a web page as weights", x_safetensors(b"<!DOCTYPE html><html>"), 4, "web page"),
    Case(
        "a Git LFS pointer as weights",
        x_safetensors(b"version https://git-lfs.github.com/spec/v1\n"),
        4,
        "git lfs pull",
    ),
    Case("weights of zero bytes", x_safetensors(b""), 4, "cannot read"),
    Case(
        "half a weight file",
        model("x.safetensors", lambda: Path("x.safetensors").write_bytes(Path(TINY).read_bytes()[:20000])),
        4,
        "cut short",
    ),
    Case(
        "weights whose head claims 2^60 bytes", x_safetensors((2**60).to_bytes(8, "little") + b"{}"), 4, "cannot read"
    ),
    Case(
        "weights with NaN",
        model("x.safetensors", rewritten(lambda s: s["stem.bias"].fill_(float("nan")))),
        4,
        "not finite: stem.bias",
    ),
    Case(
        "weights with keys missing",
        model("x.safetensors", rewritten(lambda s: [s.pop(k) for k in sorted(s)[:4]])),
        4,
        r"lacks 4 tensors: (\S+, ){2}\S+:",
    ),
    Case(
        "weights of whole numbers",
        model("x.safetensors", rewritten(lambda s: s.update({"stem.bias": s["stem.bias"].int()}))),
        4,
        "another type: stem.bias",
    ),
    Case(
        "weights of another network",
        model("x.safetensors", lambda: weights.save(CameraNet(), Path("x.safetensors"))),
        4,
        "holds a camera network",
    ),
    Case(
        "weights without a head",
        model("x.safetensors", lambda: save_file({"x": torch.zeros(1)}, "x.safetensors")),
        4,
        "not written by glvid",
    ),
    Case(
        "weights whose head is a list",
        model("x.safetensors", lambda: save_file({"x": torch.zeros(1)}, "x.safetensors", {"glvid": "[]"})),
        4,
        "its head is not what glvid writes",
    ),
    Case(
        "weights whose head speaks of no network",
        model("x.safetensors", rewritten(lambda s: None, config={"channels": [-3] * 5})),
        4,
        "does not know",
    ),
    Case("weights that are not there", with_words(GOOD, "--depth-model", "nowhere.safetensors"), 4, "no weight file"),
    Case("weights of an unknown name", with_words(GOOD, "--depth-model", "depth-giant"), 4, "no model called"),
]

PLACES = [
    Case("output where nothing can be made", with_words(GOOD, "-o", "/proc/x"), 5, "/proc/x"),
    Case("output below a device", with_words(GOOD, "-o", "/dev/null/x"), 5, "/dev/null/x"),
    Case(
        "output in a folder that is read-only",
        with_file(GOOD, lambda: Path("closed").mkdir(0o555), "-o", "closed/run"),
        5,
        "closed/run",
        held=True,
    ),
    Case(
        "output into a folder that is read-only",
        with_file(GOOD, lambda: Path("run").mkdir(0o555), "-o", "run"),
        5,
        "run",
        held=True,
    ),
    Case("output is a file", with_file(GOOD, bytes_of("run", b"mine"), "-o", "run"), 2, "no folder"),
    Case("output below a file", with_file(GOOD, bytes_of("run", b"mine"), "-o", "run/x"), 5, "run/x"),
    Case(
        "output is a link to nowhere",
        with_file(GOOD, lambda: Path("run").symlink_to("nowhere"), "-o", "run"),
        2,
        "no folder",
    ),
    Case(
        "output is a link to itself",
        with_file(GOOD, lambda: Path("run").symlink_to("run"), "-o", "run"),
        2,
        "no folder",
    ),
    Case(
        "output holds something else",
        with_file(GOOD, folder({"me.jpg": b"x"}, "run"), "-o", "run", "--overwrite"),
        2,
        "me.jpg",
    ),
    Case(
        "output holds a run.json of something else",
        with_file(GOOD, folder({"run.json": b"[]"}, "run"), "-o", "run", "--overwrite"),
        2,
        "run.json",
    ),
    Case("output is the input", with_words(folder(pictures("1.png")), "-o", "frames"), 2, "1.png"),
    Case("output is empty", with_file(GOOD, folder({}, "run"), "-o", "run"), times=tenths(3)),
    Case("output below folders that are not there", with_words(GOOD, "-o", "a/b/run"), times=tenths(3)),
    Case("output with a strange name", with_words(GOOD, "-o", "%03d #é\n中.x"), times=tenths(3)),
    Case("output with a name too long", with_words(GOOD, "-o", "x" * 256), 5, "too long"),
    Case("output of the same run", ran(), times=tenths(3)),
    Case("output of a run with another option", ran("--seed", "1"), 2, "another run.*--overwrite"),
    Case("output of a run that was interrupted", ran(status="running"), 2, "--resume"),
    Case("output that a living process writes", ran("--overwrite", owner=os.getppid()), 5, f"process {os.getppid()}"),
    Case("a bad clip after output was begun", with_words(GOOD, "-o", "a/b", "--start", "9"), 2, "no frame"),
]

DUMB = {"TERM": "dumb", "NO_COLOR": "1", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
SHELL = [
    Case(
        "LANG=C, TERM=dumb, NO_COLOR, and a name in Unicode", bytes_of("é中.mp4", b"text"), 3, "not a video", shell=DUMB
    ),
    Case("standard output closed early", with_words(bytes_of("é.png", picture()), "--json"), times=(0,), shell=DUMB),
]

CASES = [*NO_VIDEO, *FOLDERS, *DAMAGE, *PICTURES, *CONTAINERS, *NAMES, *DISGUISED, *SAID, *MODELS, *PLACES, *SHELL]


# ---------------------------------------------------------------- carrying out


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def written_to(path: Path) -> Iterator[None]:
    """What Python and the libraries write to stderr goes to a file."""
    kept = os.dup(2)
    with open(path, "w") as file:
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stderr(io.TextIOWrapper(file.buffer, write_through=True)) as said:
                yield
                said.detach()
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def without_privilege() -> Iterator[None]:
    """This thread, and those that it starts, as bound by permissions as everybody (Linux, capabilities(7))."""
    system = ctypes.CDLL(None, use_errno=True)
    head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert system.capget(head, sets) == 0
    before = sets[0]
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert system.capset(head, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        assert system.capset(head, sets) == 0


def peak_memory() -> float:
    """Resident, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def inventory(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns if path.is_file() else 0)
        for path in sorted(folder.rglob("*"))
    }


def carried_out(case: Case, place: Path, tiny: bytes) -> Outcome:
    """Makes what the case wants in `place`, and runs the command there."""
    work, errors = place / "work", place / "stderr"
    work.mkdir()
    with inside(work):
        Path(TINY).write_bytes(tiny)
        words = ["infer", *FAST, *case.make()]
        before, peak = inventory(work), peak_memory()
        if case.shell is not None:
            code = program(words, errors, case.shell)
        else:
            with written_to(errors), without_privilege() if case.held else contextlib.nullcontext():
                code = cli.command(words)
        for path in work.rglob("*"):  # so that it can be looked at, and removed
            if case.held and not path.is_symlink():
                path.chmod(0o755)
        after = inventory(work)
    added = after.keys() - before.keys()
    runs = sorted({Path(name).parent for name in after if Path(name).name == "run.json"})
    changed = {name for name in before if after.get(name) != before[name]}
    said = errors.read_text(errors="replace").splitlines()
    source = next((word for word in words[1 + len(FAST) :] if word != "--"), "")
    return Outcome(code, said, added, changed, work / runs[0] if runs else None, source, peak_memory() - peak)


def program(words: list[str], errors: Path, variables: dict[str, str]) -> int:
    """`glvid` in a process of its own, whose standard output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    paths = {"PYTHONPATH": str(Path(weights.__file__).parents[1])}
    with open(errors, "w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "glvid", *words], env=os.environ | paths | variables, stdout=writer, stderr=file
        )
    os.close(writer)
    return done.returncode


@pytest.fixture(scope="module", autouse=True)
def alone():
    """One thread each: the pictures are too small to share."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1), cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before[0]), cv2.setNumThreads(before[1])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> bytes:
    """A depth network that takes no time."""
    return tiny_network(tmp_path_factory.mktemp("weights"))


def tiny_network(folder: Path) -> bytes:
    torch.manual_seed(0)
    weights.save(DepthNet(DepthConfig(channels=(8, 8, 8, 8, 8))), folder / TINY)
    return (folder / TINY).read_bytes()


def parameter(case: Case) -> Any:
    """A case with a plain identifier."""
    return pytest.param(case, id=re.sub(r"[^\w.,:%#=+-]+", "_", case.name, flags=re.ASCII).strip("_"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="makes files and takes rights away as Linux does")
@pytest.mark.parametrize("case", [parameter(case) for case in CASES])
def test_hostile(case, tmp_path, tiny):
    got = carried_out(case, tmp_path, tiny)
    said = "\n".join(got.said)
    assert got.code == case.code, said
    assert not (tmp_path / "work/code-has-run").exists()
    assert got.changed == set()
    if case.code not in (0, 7):
        assert len(got.said) == 1 and said.startswith("glvid: ") and re.search(case.says, said), said
        assert got.added == set()
        assert case.code != 3 or case.shell or (got.source in said and got.grown < 300)
        return
    assert said == ""
    run = got.run
    assert {name for name in got.added if (tmp_path / "work" / name).resolve().is_relative_to(run)} | {
        str(parent) for parent in run.relative_to(tmp_path / "work").parents
    } >= got.added
    assert not [path for path in run.rglob("*") if path.name.startswith(".glvid-")]
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == ("partial" if case.code == 7 else "complete")
    assert not case.says or re.search(case.says, "\n".join(info["warnings"])), info["warnings"]
    assert info["input"]["lost"] == [list(pair) for pair in case.lost]
    rows = list(csv.DictReader((run / "frames.csv").open(newline="")))
    after = {last + 1 for _, last in case.lost}
    assert info["gaps"] == [n for n, row in enumerate(rows) if n and int(row["index"]) in after]
    path = np.loadtxt(run / "trajectory.txt", ndmin=2)
    assert [float(row["time_s"]) for row in rows] == pytest.approx(case.times, abs=6e-4)
    assert path.shape == (len(rows), 8) and np.isfinite(path).all() and len(rows) == info["input"]["frames"]
    assert path[:, 0] == pytest.approx(case.times, abs=6e-4)
    for row in rows:
        depth = cv2.imdecode(np.fromfile(run / row["depth"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert depth.shape[::-1] == case.size == (info["depth"]["width"], info["depth"]["height"])
        assert depth.min() > 0


# ---------------------------------------------------------------- the list


def told(name: str) -> str:
    """As text of one line in a table; long names are cut."""
    return re.sub("x{50,}", "xx...xx", name).replace("|", "\\|").replace("\n", "\\n")


def described(case: Case, got: Outcome) -> str:
    """What glvid said, or, where it ended well, what is in the run."""
    if got.run is None or got.code not in (0, 7):
        return " ".join(got.said).removeprefix("glvid: ")
    info = json.loads((got.run / "run.json").read_text())
    size = "{width} x {height}".format(**info["depth"])
    count = len(info["frames"])
    lost = "".join(f", {a} to {b} lost" for a, b in info["input"]["lost"])
    return "; ".join([f"{count} frame{'s' * (count > 1)} of {size}{lost}", *info["warnings"]])


def rows_listed() -> dict[str, int]:
    """Names and exit codes in the list that is kept beside this file."""
    rows = [line.split(" | ") for line in LISTED.read_text(encoding="utf-8").splitlines() if " | " in line]
    return {name.removeprefix("| "): int(code) for name, code, *_ in rows if code.isdigit()}


def test_the_list_is_of_these_cases():
    assert rows_listed() == {told(case.name): case.code for case in CASES}
    assert len(CASES) == len({case.name for case in CASES})


def main() -> None:
    """Writes the list to standard output."""
    print(f"# {len(CASES)} inputs that try to break glvid\n")
    print("Written by `python tests/test_hostile.py > tests/hostile.md`.\n")
    print("| input | exit | what glvid says or does |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        tiny = tiny_network(Path(folder))
        for number, case in enumerate(CASES):
            place = Path(folder, str(number))
            place.mkdir()
            got = carried_out(case, place, tiny)
            said = told(described(case, got)).replace(f"{place}/work/", "").replace(str(os.getppid()), "1234")
            print(f"| {told(case.name)} | {got.code} | {said} |", flush=True)


if __name__ == "__main__":
    main()
