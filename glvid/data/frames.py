"""Real footage to learn from: every recording decoded once into a cache, windows of frames drawn from it.

A recording's frames lie in one file of raw bytes, read through the page cache (memory-mapped); beside it a JSON file,
written last, says what they are. Frames that hardly moved on from the one before are left out: a camera at rest teaches
nothing about depth (SfMLearner drops them by a list, we by flow).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Int, Shaped, UInt8

from glvid.data.pool import Random, jittered
from glvid.errors import InputError
from glvid.files import atomic_write, cannot_write
from glvid.types import Frame, Intrinsics, Recording

RATE = 15.0  # frames a second that are kept at most; more often things hardly move
MOVED = 1.0  # px at 384 px of width, median of the flow: a frame is kept once this has moved since the one kept before
HELD_BACK = 10  # every so many-th recording is for validation; of fewer than half as many, the last tenth of each
LEAST = 6  # frames held back of one, at least, but no more than half of it
LEFT_OUT = -1  # shot number of frames that are not to be used

Size = tuple[int, int]


@dataclass(frozen=True)
class Footage:
    """One recording's frames at training size, memory-mapped; `shot` numbers them, LEFT_OUT where not to be used."""

    path: Path
    images: Shaped[np.ndarray, "N H W 3"]
    shape: Size  # of the recording itself, (w, h)
    fps: float  # at which the frames were taken, before those that did not move were left out
    shot: Int[np.ndarray, " N"]
    camera: Intrinsics | None = None  # at the size of the frames; None: unknown
    index: Int[np.ndarray, " N"] | None = None  # number of every frame in its recording
    group: str = ""  # recordings of one drive, or sequence, see the same things

    @property
    def name(self) -> str:
        """Its name in a cache."""
        return name_of(self.path)


def name_of(path: Path) -> str:
    """The end of a path as a file name, and a digest of all of it: what tells recordings apart in a cache."""
    whole = str(path.absolute())
    return "-".join(path.absolute().parts[-3:])[-100:] + "-" + hashlib.sha1(whole.encode()).hexdigest()[:8]


def expected_bytes(recordings: Iterable[tuple[int, float, Size]], size_of: Callable[[Size], Size]) -> int:
    """Bytes the frames of recordings (frames, fps, size) take in the cache, at most."""
    total = 0
    for frames, fps, size in recordings:
        w, h = size_of(size)
        total += -(-frames // stride_of(fps)) * w * h * 3
    return total


def stride_of(fps: float) -> int:
    """Every so many-th frame is looked at."""
    return max(1, round(fps / RATE))


def stored(recording: Recording, cache: Path, size_of: Callable[[Size], Size]) -> Footage:
    """The recording at the size (w, h) that `size_of` makes of its own, out of `cache`; decoded into it on first use.

    Raises InputError where it cannot be read, OutputError where the cache cannot be written. An interrupted recording
    is decoded anew.
    """
    from glvid import video  # PyAV: only for those who decode

    name = name_of(recording.path)
    facts, part = cache / f"{name}.json", cache / f"{name}.part"
    if not facts.exists():
        clip = video.probe(recording.path)
        size = size_of((clip.width, clip.height))
        cache.mkdir(parents=True, exist_ok=True)
        try:
            shots, index = _decode(clip, part, size)
            os.replace(part, cache / f"{name}.rgb")
        except OSError as error:
            raise cannot_write(cache / f"{name}.rgb", error, part=part) from error
        finally:
            part.unlink(missing_ok=True)
        record = {"path": str(recording.path), "group": recording.name.split("/")[0], "fps": clip.fps}
        record |= {"shape": [clip.width, clip.height], "size": size}
        if recording.camera is not None:
            camera = recording.camera.resized(size)
            record |= {"focal": camera.focal.tolist(), "center": camera.center.tolist()}
        replaced(facts, json.dumps(record | {"shot": shots, "index": index}))
    return opened(facts)


def opened(facts: Path) -> Footage:
    """A recording of the cache, by its JSON file. Raises InputError where the cache is damaged."""
    try:
        return _opened(facts, _record(facts))
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{facts}: is damaged ({reason}); remove it, and it is made anew") from error


def _record(file: Path) -> Any:
    """What a JSON file of the cache holds. Raises OSError, ValueError, RecursionError."""
    if file.exists() and not file.is_file():  # a pipe would be waited for without end
        raise OSError("no regular file")
    return json.loads(file.read_text(encoding="utf-8"))


def _opened(facts: Path, record: dict[str, Any]) -> Footage:
    size, shot = tuple(map(int, record["size"])), np.array(record["shot"], np.int64)
    if len(size) != 2 or min(size) < 1 or shot.ndim != 1 or not 0 < float(record["fps"]) < np.inf:
        raise ValueError("no size, shots or rate of a recording")
    if len(shot) and not facts.with_suffix(".rgb").is_file():
        raise OSError("its frames are missing")
    shape = (len(shot), size[1], size[0], 3)
    images = (
        np.memmap(facts.with_suffix(".rgb"), np.uint8, "r", shape=shape) if len(shot) else np.zeros(shape, np.uint8)
    )
    camera = None
    if "focal" in record:
        camera = Intrinsics(torch.tensor(record["focal"]), torch.tensor(record["center"]), size)
        if not (camera.focal.shape == camera.center.shape == (2,) and (camera.focal > 0).all()):
            raise ValueError("no camera")
    index = np.array(record["index"], np.int64)
    shape = tuple(map(int, record["shape"]))
    if index.shape != shot.shape or len(shape) != 2 or not isinstance(record["group"], str):
        raise ValueError("frames and their numbers do not agree")
    return Footage(Path(record["path"]), images, shape, record["fps"], shot, camera, index, record["group"])


def _decode(clip, target: Path, size: Size) -> tuple[list[int], list[int]]:
    """Write the frames that moved on; returns the shot and the number of each."""
    from glvid import video

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    shots, index, before, enough = [], [], None, MOVED * max(size) / 384
    with open(target, "wb") as file:
        for item in video.frames(clip, stride=stride_of(clip.fps), max_size=2 * max(size)):
            if not isinstance(item, Frame):
                continue  # lost frames leave a gap, as frames do that did not move
            image = np.ascontiguousarray(cv2.resize(item.pixels, size, interpolation=cv2.INTER_AREA))
            cut = before is not None and video.is_cut(before, image)
            if before is not None and not cut and _moved(dis, before, image) < enough:
                continue
            file.write(image.tobytes())
            shots.append((shots[-1] if shots else 0) + int(cut))
            index.append(item.index)
            before = image
    return shots, index


def _moved(dis: cv2.DISOpticalFlow, a: UInt8[np.ndarray, "H W 3"], b: UInt8[np.ndarray, "H W 3"]) -> float:
    """Median length of the flow between two frames, px."""
    flow = dis.calc(*(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b)), None)
    return float(np.median(np.hypot(flow[..., 0], flow[..., 1])))


def replaced(file: Path, text: str) -> None:
    """Write a text, complete or not at all; not where it says so already, so that processes need not take turns.

    Raises OutputError.
    """
    if file.exists() and file.read_bytes() == text.encode():
        return
    atomic_write(file, text.encode())


def split(footage: Sequence[Footage], file: Path) -> tuple[list[Footage], list[Footage]]:
    """Footage to learn from and to validate on; what is kept in `file` stays, so a longer list changes no side.

    Every HELD_BACK-th group of recordings validates, or the last tenth of each recording where there are few. Frames of
    the other side are LEFT_OUT.
    """
    kept = _kept(file) if file.exists() else {}
    groups = list(dict.fromkeys(clip.group or clip.name for clip in footage))
    few = len(groups) <= HELD_BACK // 2
    for clip in footage:
        k = groups.index(clip.group or clip.name)
        tail = max(1 / HELD_BACK, min(0.5, LEAST / max(1, len(clip.shot))))
        first = 1 - tail if few else float(k % HELD_BACK != HELD_BACK // 2)
        kept.setdefault(clip.name, first)
    replaced(file, json.dumps(kept, indent=1))
    sides = [], []
    for clip in footage:
        validates = np.arange(len(clip.shot)) >= round(kept[clip.name] * len(clip.shot))
        for side, left_out in zip(sides, (validates, ~validates), strict=True):
            side.append(replace(clip, shot=np.where(left_out, LEFT_OUT, clip.shot)))
    return tuple([clip for clip in side if starts(clip, 1).size] for side in sides)


def _kept(file: Path) -> dict[str, float]:
    """Where every recording is parted, as `split` kept it. Raises InputError."""
    try:
        kept = _record(file)
        if all(0 <= float(share) <= 1 for share in kept.values()):
            return kept
        reason = "a share is none"
    except (OSError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    raise InputError(f"{file}: is damaged ({reason}); give another --out, or remove it to part the recordings anew")


NEARBY = 4  # frames that a listed one is learned from together with, before and after


def limited(clip: Footage, kept: set[int] | None) -> Footage:
    """Only frames near those `kept`, by their numbers in the recording; the rest is LEFT_OUT. None: all."""
    if kept is None or clip.index is None:
        return clip
    listed = np.array(sorted(kept) or [np.inf], float)
    near = np.abs(clip.index[:, None] - listed).min(1) <= NEARBY
    return replace(clip, shot=np.where(near, clip.shot, LEFT_OUT))


def starts(clip: Footage, gap: int, length: int = 3) -> Int[np.ndarray, " n"]:
    """First frames of all windows of `length` frames, `gap` apart, that lie within one shot."""
    last = len(clip.shot) - (length - 1) * gap
    if last <= 0:
        return np.zeros(0, np.int64)
    first, end = clip.shot[:last], clip.shot[(length - 1) * gap :]
    return np.flatnonzero((first == end) & (first != LEFT_OUT))


@dataclass(frozen=True)
class Windows:
    """B windows of three frames of one size, and what is known of their cameras."""

    images: UInt8[np.ndarray, "B 3 H W 3"]
    clips: tuple[int, ...]  # which recording each is of
    cameras: tuple[Intrinsics | None, ...]  # at the size of the frames; None: unknown
    mirrored: tuple[bool, ...]


def windows(footage: Sequence[Footage], rngs: Sequence[Random], chooser: Random) -> Windows:
    """One window of neighbouring frames for each generator, of recordings of one size; mirrored and recoloured.

    Neighbours only: of frames up to four apart, the camera network, whose matches reach 16 px, cannot see how far they
    moved, and learned to say larger motions everywhere (on rendered KITTI drives, held recordings warped by its motions
    became 30 % less like their neighbours; with neighbours 4 % more).

    `chooser` takes the first recording, and with it the size. One of four times the length is drawn twice as often.
    """
    odds = np.sqrt([len(clip.shot) for clip in footage])
    first = int(chooser.choice(len(footage), p=odds / odds.sum()))
    alike = [k for k, c in enumerate(footage) if c.images.shape[1:] == footage[first].images.shape[1:]]
    share = odds[alike] / odds[alike].sum()
    drawn = [(k := int(rng.choice(alike, p=share)), *_window(footage[k], rng)) for rng in rngs]
    chosen, images, cameras, mirrors = zip(*drawn, strict=True)
    return Windows(np.stack(images), chosen, cameras, mirrors)


def _window(clip: Footage, rng: Random) -> tuple[np.ndarray, Intrinsics | None, bool]:
    start, mirror = int(rng.choice(starts(clip, 1))), bool(rng.random() < 0.5)
    frames = [np.asarray(clip.images[start + k]) for k in range(3)]
    frames = jittered(rng, [f[:, ::-1] for f in frames] if mirror else frames)
    return np.stack(frames), mirrored(clip.camera) if mirror and clip.camera is not None else clip.camera, mirror


def mirrored(camera: Intrinsics) -> Intrinsics:
    """The camera of pictures whose left and right were exchanged; its own inverse."""
    width = camera.center.new_tensor([camera.size[0], 0])
    return replace(camera, center=torch.where(width > 0, width - camera.center, camera.center))


def in_order(footage: Sequence[Footage], gap: int = 1, every: int = 8) -> Iterator[tuple[Footage, int]]:
    """(recording, first frame) of windows spread evenly, the same ones each time: for validation."""
    for clip in footage:
        places = starts(clip, gap)
        for start in places[:: max(1, len(places) // every)][:every]:
            yield clip, int(start)
