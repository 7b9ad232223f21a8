"""First pass over a clip: working images and the network's depth to disk, shot cuts, what was lost."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch

from glvid import given, video
from glvid.errors import InputError
from glvid.files import cannot_write
from glvid.inference.job import Clock, Decoded, Job
from glvid.networks.lite import settled
from glvid.predict import estimated, working_size
from glvid.types import Frame


def stored_frames(job: Job, after: int = -1) -> Iterator[tuple[Frame, np.ndarray] | video.Lost | video.Note]:
    """Frames behind index `after` with their stored image (H, W, 3) uint8, rectified; in both passes the same."""
    o = job.options
    for item in video.frames(job.clip, o.start, o.end, o.stride, o.max_size, after):
        if not isinstance(item, Frame):
            yield item
            continue
        yield item, job.undistort(item.pixels) if job.undistort else item.pixels


@dataclass
class Passed:
    """What is known of the frames that were passed so far, but for their maps."""

    indices: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    first: list[int] = field(default_factory=list)  # number of the first frame of every shot
    lost: list[list[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unsaid: int = 0  # pixels whose depth the network did not say
    ended: bool = False

    def last(self) -> int:
        """Index in the source up to which all is known."""
        return max([-1, *self.indices[-1:], *(self.lost[-1][1:] if self.lost else [])])


FILES = {"images": np.uint8, "ignored": np.uint8, "depth": np.float32, "sigma": np.float32}
BATCH = 8  # frames that the networks see at once
UNSAID = 2  # in `ignored`, where 1 is what the user wants left out: the depth network said nothing that can be


def decode(job: Job) -> Decoded:
    """First pass: working images and the network's depth to disk, shot cuts, what was lost."""
    job.report.stage("decode and predict", job.clip.frames)
    paths, passed = {name: job.work.folder / f"{name}.array" for name in FILES}, Passed(notes=list(job.clip.warnings))
    with ExitStack() as opened:
        kept = job.work.kept("decoded")
        with writing(job.work.folder):
            files = {name: opened.enter_context(open(path, "ab", buffering=0)) for name, path in paths.items()}
            if kept is not None and all(file.tell() >= kept["bytes"][name] for name, file in files.items()):
                passed = Passed(**kept["passed"])
            for name, file in files.items():
                file.truncate(kept["bytes"][name] if passed.times or passed.ended else 0)
                file.seek(0, os.SEEK_END)
        if not passed.ended:
            pass_frames(asking(job), passed, files)
    if not passed.times:
        raise InputError(f"{job.clip.path}: no frame could be decoded; the file is damaged")
    p, n, (w, h) = passed, len(passed.times), working_size(job.size)
    shapes = dict.fromkeys(FILES, (n, h, w)) | {"images": (n, h, w, 3)}
    maps = [
        job.work.read(path, shapes[name], FILES[name]) if path.stat().st_size else None for name, path in paths.items()
    ]
    return Decoded(p.indices, p.times, p.names, p.first, p.lost, p.notes, *maps, job.size, p.unsaid / (n * w * h))


def asking(job: Job) -> Job:
    """The job with a depth network that is only asked."""
    ready = settled(job.networks.depth, torch.bfloat16 if job.precision == "bf16" else torch.float32)
    return replace(job, networks=replace(job.networks, depth=ready))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses becomes an OutputError."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error, part=path if path.is_file() else None) from error


def append(file: BinaryIO, data: bytes) -> None:
    """All of it to an unbuffered file, which takes as much as the disk has room for."""
    with writing(Path(file.name)):
        while data:
            data = data[file.write(data) :]


def pass_frames(job: Job, passed: Passed, files: dict[str, BinaryIO]) -> None:
    """Reads on from where `passed` ends, and keeps how far it is; frames that made no whole batch are passed again."""
    small, batch, new = working_size(job.size), [], Passed()
    before = last_image(Path(files["images"].name), small) if passed.times else None
    job.report.advance(len(passed.times))
    for item in timed(stored_frames(job, passed.last()), job.clock, "decode"):
        if isinstance(item, video.Lost):
            new.lost.append([item.first, item.last])
            new.notes.append(f"frames {item.first} to {item.last} lost: {item.reason}")
            continue
        if isinstance(item, video.Note):
            new.notes += [item.text] if item.text not in passed.notes else []
            continue
        frame, image = item
        now = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        if before is None or video.is_cut(before, now):
            new.first.append(len(passed.times) + len(batch))
        before = now
        new.indices.append(frame.index), new.times.append(frame.time), new.names.append(frame.name)
        batch.append((now, user_mask(job, frame, small)))
        if len(batch) == BATCH:
            write_batch(job, batch, passed, new, files)
            job.work.keep("decoded", lambda: facts_of(passed, files), files.values())
            batch, new = [], Passed()
        job.report.advance(1)
    write_batch(job, batch, passed, new, files)
    passed.ended = True
    job.work.keep("decoded", lambda: facts_of(passed, files), files.values(), last=True)


def facts_of(passed: Passed, files: dict[str, BinaryIO]) -> dict[str, Any]:
    """What the first pass keeps: what it knows, and how long its files are."""
    return {"passed": asdict(passed), "bytes": {name: file.tell() for name, file in files.items()}}


def last_image(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The last working image of a file."""
    return np.memmap(path, np.uint8, "r").reshape(-1, size[1], size[0], 3)[-1].copy()


def write_batch(
    job: Job, batch: list[tuple[np.ndarray, np.ndarray]], passed: Passed, new: Passed, files: dict[str, BinaryIO]
) -> None:
    """Predicts depth of a batch of working images, writes all of it, and adds what is known of it to `passed`."""
    if batch:
        images, ignored = (np.stack(x) for x in zip(*batch, strict=True))
        depth, sigma = predict_depth(job, images)
        bad = ~(np.isfinite(depth) & (depth > 0))
        if bad.any():
            depth, ignored = repaired(depth, bad), np.where(bad, UNSAID, ignored)
            sigma = None if sigma is None else np.where(np.isfinite(sigma), sigma, 1.0)
        new.unsaid = int(bad.sum())
        maps = {"images": images, "ignored": ignored, "depth": depth, "sigma": sigma}
        for name, values in maps.items():
            if values is not None:
                append(files[name], values.astype(FILES[name]).tobytes())
    for name in ("indices", "times", "names", "first", "lost", "notes"):
        getattr(passed, name).extend(getattr(new, name))
    passed.unsaid += new.unsaid


def repaired(depth: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Depth with the median of what is said of a frame, or of all, or 1, where it is `bad`: there to be ignored."""
    out, all_ = depth.copy(), np.median(depth[~bad]) if (~bad).any() else 1.0
    for frame, wrong in zip(out, bad, strict=True):
        frame[wrong] = np.median(frame[~wrong]) if (~wrong).any() else all_
    return out


def timed(items: Iterator, clock: Clock, stage: str) -> Iterator:
    """The same items; the time they take to come is counted to a stage."""
    while True:
        since = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            clock.add(stage, since)
        yield item


def predict_depth(job: Job, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Depth of a batch of working images, and how far off it may be where the network says so."""
    since = time.perf_counter()
    with torch.autocast(job.device.split(":")[0], torch.bfloat16, enabled=job.precision == "bf16"):
        found = estimated(job.networks.depth, images, job.device)
    job.clock.add("predict", since)
    return found


def user_mask(job: Job, frame: Frame, size: tuple[int, int]) -> np.ndarray:
    """1 where `--masks` says so."""
    path = given.mask_of(job.masks, frame.name, frame.index)
    return given.read_mask(path, job.size, job.options.mask_polarity, size) if path else np.zeros(size[::-1], np.uint8)
