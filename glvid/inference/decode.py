"""First pass over a clip: working images and the network's depth to disk, shot cuts, what was lost."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import torch

from glvid import given, video
from glvid.errors import InputError
from glvid.inference.job import Clock, Decoded, Job
from glvid.predict import estimated, working_size
from glvid.types import Frame


def stored_frames(job: Job) -> Iterator[tuple[Frame, np.ndarray] | video.Lost | video.Note]:
    """Frames with their stored image (H, W, 3) uint8, rectified; in both passes the same."""
    o = job.options
    for item in video.frames(job.clip, o.start, o.end, o.stride, o.max_size):
        if not isinstance(item, Frame):
            yield item
            continue
        image = np.ascontiguousarray((item.image * 255).round().byte().permute(1, 2, 0).numpy())
        yield item, job.undistort(image) if job.undistort else image


def decode(job: Job, files: list[Path]) -> Decoded:
    """First pass: working images and the network's depth to disk, shot cuts, what was lost."""
    job.report.stage("decode and predict", job.clip.frames)
    small, batch, before = working_size(job.size), [], None
    indices, times, names, first, lost, notes = [], [], [], [], [], list(job.clip.warnings)
    with ExitStack() as opened:
        images, ignored, depths, sigmas = (opened.enter_context(open(path, "wb")) for path in files)
        for item in timed(stored_frames(job), job.clock, "decode"):
            if isinstance(item, video.Lost):
                lost.append([item.first, item.last])
                notes.append(f"frames {item.first} to {item.last} lost: {item.reason}")
                continue
            if isinstance(item, video.Note):
                notes.append(item.text)
                continue
            frame, image = item
            now = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            if before is None or video.is_cut(before, now):
                first.append(len(times))
            before = now
            indices.append(frame.index), times.append(frame.time), names.append(frame.name)
            images.write(now.tobytes())
            ignored.write(user_mask(job, frame, small).tobytes())
            batch.append(now)
            if len(batch) == 8:
                write_depth(job, batch, depths, sigmas)
                batch = []
            job.report.advance(1)
        if batch:
            write_depth(job, batch, depths, sigmas)
    if not times:
        raise InputError(f"{job.clip.path}: no frame could be decoded; the file is damaged")
    n, (w, h) = len(times), small
    shapes = ((n, h, w, 3), (n, h, w), (n, h, w), (n, h, w))
    maps = [
        job.maps.kept(np.memmap(f, t, "r", shape=s)) if os.path.getsize(f) else None
        for f, t, s in zip(files, "Bbff", shapes, strict=True)
    ]
    return Decoded(indices, times, names, first, lost, notes, *maps, job.size)


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


def write_depth(job: Job, batch: list[np.ndarray], depths: BinaryIO, sigmas: BinaryIO) -> None:
    """Predicts and writes depth of a batch of working images, and how far off it may be where the network says so."""
    since = time.perf_counter()
    with torch.autocast(job.device.split(":")[0], torch.bfloat16, enabled=job.precision == "bf16"):
        depth, sigma = estimated(job.networks.depth, np.stack(batch), job.device)
    job.clock.add("predict", since)
    depths.write(depth.astype(np.float32).tobytes())
    if sigma is not None:
        sigmas.write(sigma.astype(np.float32).tobytes())


def user_mask(job: Job, frame: Frame, size: tuple[int, int]) -> np.ndarray:
    """1 where `--masks` says so."""
    path = given.mask_of(job.masks, frame.name, frame.index)
    return given.read_mask(path, job.size, job.options.mask_polarity, size) if path else np.zeros(size[::-1], np.uint8)
