"""Second pass over a clip: every map at full size, then path, camera, preview, cloud, and run.json last."""

import hashlib
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from glvid import __version__, formats, metric, quality, refine, results, video
from glvid.colors import Range, color_range, preview_frame
from glvid.dense import adaptive_flow, full_depth
from glvid.errors import InputError, UsageError
from glvid.exports.cloud import fuse, longest_shot
from glvid.exports.ply import write_ply
from glvid.geometry import inverse, rigid_flow, rolled_flow
from glvid.inference.decode import UNSAID, stored_frames
from glvid.inference.job import Decoded, Job, Solved, command_line, fixed, identity
from glvid.networks import hub
from glvid.parallel import each
from glvid.predict import (
    as_tensor,
    dis_flow,
)
from glvid.types import GLOBAL_SHUTTER, Trajectory
from glvid.warp import guided_upsample, length, resize, resize_flow

UNSAID_MOST = 0.01  # share of pixels without depth from which a run counts as one with losses


def write(job: Job, decoded: Decoded, solved: list[Solved]) -> dict[str, Any]:
    """Second pass: every map at full size, then path, camera, preview, cloud, and run.json last."""
    since, o = time.perf_counter(), job.options
    chosen = solved[0].solution
    scale = formats.depth_scale(sampled_depth(solved))
    rows = []
    for s in solved:
        for n in range(*s.bounds):
            last, shot = n == s.bounds[1] - 1, solved.index(s)
            rows.append(
                results.frame_row(
                    n, decoded.indices[n], decoded.times[n], shot, last, decoded.names[n], o.keep, o.flow_format
                )
            )
    job.report.stage("write", len(rows))
    limits = preview_range(decoded, solved) if {"depth", "image"} <= set(o.keep) else None
    write_all_maps(job, decoded, solved, rows, scale, limits)
    K = chosen.intrinsics.to(torch.float64).resized(job.size)
    if job.given is not None and fixed(job):
        K = job.given.resized(job.size)
    sigma = None if chosen.focal_sigma is None else chosen.focal_sigma * float(K.focal[0])
    readout = max((s.solution for s in solved), key=lambda x: abs(x.readout)).readout  # shots that rest say 0
    verdict = (chosen.source, sigma, chosen.observable, round(readout, 4))
    camera = results.camera_record(K, (job.clip.width, job.clip.height), *verdict)
    path = np.concatenate([s.solution.world_T_cam.numpy() for s in solved])
    results.write_camera(job.out, camera)
    results.write_frames(job.out, rows)
    results.write_trajectory(job.out, Trajectory(np.array(decoded.times), path))
    info = record(job, decoded, solved, rows, camera, scale)
    results.write_info(job.out, info | {"status": "running"})
    run, doubts = sized(job, results.open_run(job.out, finished=False), solved)
    if run.info["depth"] != info["depth"]:
        info |= {"depth": run.info["depth"]}
        results.write_trajectory(job.out, run.trajectory())
        results.write_info(job.out, info | {"status": "running"})
        run = results.open_run(job.out, finished=False)
    warnings = [*info["warnings"], *doubts]
    if limits is not None:
        job.report.stage("point cloud", None)
        write_ply(job.out / results.SCENE, fuse(run, o.max_points))
        if len(longest_shot(run)) < len(rows):
            warnings.append(f"{len(solved)} shots: scene.ply shows the longest one")
    job.clock.add("write", since)
    seconds = {**job.clock.seconds, "total": time.perf_counter() - job.clock.began}
    info |= {
        "warnings": warnings,
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
        "peak_memory_mb": peak_memory(),
    }
    info |= {"result_sha256": result_print(job.out, job.work.array("prints", (len(rows), 32), np.uint8).tobytes())}
    results.write_info(job.out, info)
    return info


SAMPLED = 400  # frames at most: all maps of a long clip at once would be as much memory as they are


def sampled_depth(solved: list[Solved]) -> np.ndarray:
    """Depths spread over the clip."""
    every = -(-sum(len(s.dense.depth) for s in solved) // SAMPLED)
    return np.concatenate([s.dense.depth[::every, ::4, ::4].ravel() for s in solved])


def result_print(out: Path, maps: bytes) -> str:
    """SHA-256 of all that a run comes to but run.json, its maps by their prints: the same for the same input, options
    and weights on the same kind of machine."""
    found = hashlib.sha256(maps)
    for name in (results.CAMERA, results.FRAMES, results.TRAJECTORY, results.PREVIEW, results.SCENE):
        path = out / name
        found.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"-")
    return found.hexdigest()


def sized(job: Job, run: results.RunFolder, solved: list[Solved]) -> tuple[results.RunFolder, list[str]]:
    """The run in metres, where something says how large its world is, and what there is to warn of."""
    if job.known is not None:
        try:
            return run.scaled((found := metric.metres_per_unit(run, job.known))[0], "m", found[1]), []
        except UsageError as error:  # the maps are worth keeping all the same
            return run, [f"Not in metres: {error}"]
    if isinstance(job.networks.depth, hub.HubDepth) and not job.networks.depth.relative:
        scale = float(np.median(np.concatenate([s.solution.depth_scale.numpy() for s in solved])))
        return run.scaled(1 / scale, "m", "depth network {name}, metric".format(**job.networks.facts["depth"])), []
    return run, []


SEGMENT = 32  # frames whose maps and piece of the preview are done together


def write_all_maps(
    job: Job, decoded: Decoded, solved: list[Solved], rows: list[results.Row], scale: float, limits: Range | None
) -> None:
    """Maps of every frame, and the preview if there are `limits` for its colours, segment by segment: a run that goes
    on begins with the first one that is not whole."""
    n, rate = len(rows), frame_rate(decoded.times)
    done, prints = job.work.done("written", n), job.work.array("prints", (n, 32), np.uint8)
    pieces = {first: job.work.folder / f"preview-{first:06d}.mp4" for first in range(0, n, SEGMENT)}

    def whole(first: int) -> bool:
        piece = limits is None or (pieces[first].is_file() and pieces[first].stat().st_size > 0)  # 0 after a power cut
        frames = range(first, min(first + SEGMENT, n))
        return bool(done[first]) and piece and all(prints[k].tobytes() == print_of(job, rows[k]) for k in frames)

    start = next((first for first in pieces if not whole(first)), n)
    job.report.advance(start)
    to_write = partial(write_maps, job, decoded, rows, scale, limits)
    panels = each(to_write, in_turn(job, decoded, solved, start))
    for first in range(start, n, SEGMENT):
        frames = range(first, min(first + SEGMENT, n))
        pictures = noted(job, prints, zip(frames, panels, strict=False))
        if limits is None:
            for _ in pictures:
                pass
        else:
            video.write_video(pieces[first], pictures, rate)
        done[first] = True
    if limits is not None:
        video.join(job.out / results.PREVIEW, list(pieces.values()))


def noted(
    job: Job, prints: np.ndarray, frames: Iterable[tuple[int, tuple[bytes, np.ndarray | None]]]
) -> Iterator[np.ndarray | None]:
    """Pictures of the preview; the prints that come with them are noted, and that they come is counted."""
    for n, (found, picture) in frames:
        prints[n] = np.frombuffer(found, np.uint8)
        job.report.advance(1)
        yield picture


def print_of(job: Job, row: results.Row) -> bytes:
    """SHA-256 of a frame's maps, all together; of nothing where one is missing."""
    found = hashlib.sha256()
    for name in row.maps:
        path = job.out / name
        if not path.is_file():
            return bytes(32)
        found.update(path.read_bytes())
    return found.digest()


def in_turn(
    job: Job, decoded: Decoded, solved: list[Solved], start: int
) -> Iterator[tuple[Solved, int, np.ndarray, np.ndarray | None]]:
    """From frame `start` on every frame's shot, number, stored image, and that of the frame after it."""
    before = decoded.indices[start - 1] if start else -1
    images = (item[1] for item in stored_frames(job, before) if isinstance(item, tuple))
    here = next(images, None)
    for s in solved:
        for n in range(max(start, s.bounds[0]), s.bounds[1]):
            if here is None:
                raise InputError(f"{job.clip.path}: has changed since this run began; use --overwrite to start again")
            after = next(images, None)
            yield s, n, here, after
            here = after


def write_maps(
    job: Job,
    decoded: Decoded,
    rows: list[results.Row],
    scale: float,
    limits: Range | None,
    item: tuple[Solved, int, np.ndarray, np.ndarray | None],
) -> tuple[bytes, np.ndarray | None]:
    """Depth, flow, mask and image of one frame; returns their print and, if there are limits for it, its picture of
    the preview."""
    s, n, here, after = item
    depth, moving = stored_maps(s, decoded, n, here)
    flow = None if n == s.bounds[1] - 1 else stored_flow(job, s, n, here, after)
    if flow is not None and job.options.refine != "none":
        flow = refined_flow(s, n, flow, (here, after), depth, moving)
    results.write_frame(job.out, rows[n], scale, depth, flow, moving, here)
    return print_of(job, rows[n]), None if limits is None else preview_frame(here, depth, flow, limits)


def preview_range(decoded: Decoded, solved: list[Solved]) -> Range:
    """One range of colours for the whole clip, from about 30 depth maps and 10 pairs of frames."""
    depth = np.concatenate([s.dense.depth[:: max(1, len(decoded.times) // 30), ::4, ::4].ravel() for s in solved])
    inside = np.array([n for first, last in decoded.bounds() for n in range(first, last - 1)], int)
    speed = np.ones(1)
    if len(inside):
        some = inside[:: max(1, len(inside) // 10)]
        flow = dis_flow(decoded.images[some], decoded.images[some + 1])[:, :, ::4, ::4]
        speed = length(flow).numpy() * decoded.size[0] / decoded.images.shape[2]
    return color_range(depth, speed)


def stored_maps(s: Solved, decoded: Decoded, n: int, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) and moving probability (H, W) of frame n at stored size."""
    k, guide = n - s.bounds[0], grey(image)
    depth = full_depth(s.shot, s.solution, s.dense, k, guide)
    moving = torch.from_numpy(s.dense.moving[k])[None, None]
    moving = guided_upsample(moving, guide).clamp_(0, 1) if moving.any() else torch.zeros_like(guide)
    size, ignored = (image.shape[1], image.shape[0]), np.array(decoded.ignored[n])
    depth = depth[0, 0].numpy()
    if ignored.any():
        moving = torch.maximum(moving, resize(torch.from_numpy(ignored > 0).float()[None, None], size))
        depth[cv2.resize(ignored, size, interpolation=cv2.INTER_NEAREST) == UNSAID] = np.nan
    return depth, moving[0, 0].numpy()


def grey(image: np.ndarray) -> torch.Tensor:
    """Mean of the colours (1, 1, H, W), 0..1, of an image (H, W, 3)."""
    return torch.from_numpy(cv2.transform(image.astype(np.float32), np.full((1, 3), 1 / 765, np.float32)))[None, None]


def stored_flow(job: Job, s: Solved, n: int, here: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Flow (2, H, W) between the stored images of frame n and the next.

    DIS ends at half resolution: where that is less than working size, what it found there, down to whole pixels, is the
    finer one. Small pictures are enlarged to working size, which adds nothing and misleads it.
    """
    if job.options.flow == "dis":
        if all(0.5 < a / b <= 1 for a, b in zip(s.shot.size, job.size, strict=True)):
            return resize_flow(s.flows.onward(n - s.bounds[0]), job.size)[0].numpy()
        return dis_flow(here[None], after[None])[0].numpy()
    size = tuple(max(32, 32 * round(side / 32)) for side in job.size)  # what the network takes
    fitting = [cv2.resize(x, size, interpolation=cv2.INTER_AREA)[None] for x in (here, after)]
    return resize_flow(job.networks.flow(*fitting)[:, :2], job.size)[0].numpy()


def refined_flow(
    s: Solved, n: int, flow: np.ndarray, images: tuple[np.ndarray, np.ndarray], depth: np.ndarray, moving: np.ndarray
) -> np.ndarray:
    """Flow (2, H, W) of frame n to the next, improved by what refined depth and camera say."""
    here, there = (as_tensor(image[None]) for image in images)
    camera = s.solution.intrinsics.resized((here.shape[3], here.shape[2]))
    k = n - s.bounds[0]
    next_T_this = inverse(s.solution.world_T_cam[k + 1]) @ s.solution.world_T_cam[k]
    depth, moving = torch.from_numpy(depth)[None, None], torch.from_numpy(moving)[None, None]
    rigid, _ = rigid_flow(depth, camera, next_T_this[None].float())
    if abs(s.solution.readout) > GLOBAL_SHUTTER:
        poses, size = inverse(s.solution.world_T_cam), (here.shape[3] // 2, here.shape[2] // 2)  # smooth: half will do
        half = 1 / resize(1 / depth, size)[0]
        rolled = rolled_flow(half, camera.resized(size), poses, k, [k + 1], s.solution.readout)
        rigid = rigid + resize_flow(rolled, camera.size)
    return adaptive_flow(torch.from_numpy(flow)[None], rigid, here, there, moving)[0].numpy()


def frame_rate(times: list[float]) -> float:
    """Average rate of the kept frames, for the preview."""
    return min(240.0, max(1.0, (len(times) - 1) / (times[-1] - times[0]))) if len(times) > 1 else 10.0


def peak_memory() -> float:
    """Resident peak of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def gaps(decoded: Decoded, stride: int) -> list[int]:
    """Rows before which frames were lost: what leads there from the row before is longer than a step."""
    steps = np.diff(decoded.indices)
    return [n + 1 for n, step in enumerate(steps.tolist()) if step > stride]


def folder_options(job: Job) -> dict[str, Any]:
    """Options that do not change what is found, as run.json states them."""
    o = job.options
    return {"out": str(job.out), "resume": o.resume, "overwrite": o.overwrite, "allow_partial": o.allow_partial}


def number(value: float) -> float | None:
    """The value, or None where it is not finite, which JSON cannot hold."""
    return float(value) if np.isfinite(value) else None


def record(
    job: Job, decoded: Decoded, solved: list[Solved], rows: list[results.Row], camera: dict[str, Any], scale: float
) -> dict[str, Any]:
    """run.json, but for what only the end knows."""
    stated = identity(job.clip, job.options, job.networks, job.masks)
    done = [s.progress for s in solved if s.progress.first is not None]
    first, last = (number(np.mean([getattr(p, k) for p in done])) if done else None for k in ("first", "last"))
    steps = (job.options.steps or refine.STEPS[job.options.refine]) if job.options.refine != "none" else 0
    said = [w for s in solved for w in (*s.solution.warnings, *s.progress.warnings)]
    if decoded.unsaid:
        said.append(f"the depth network said nothing of {100 * decoded.unsaid:.2g} % of the pixels: left out")
    refined = {"mode": job.options.refine, "steps": steps, "loss_first": first, "loss_last": last}
    refined |= {"curve": [number(x) for x in np.mean([p.curve for p in done], axis=0)] if done else []}
    return {
        "schema": results.SCHEMA,
        "status": "partial" if decoded.lost or decoded.unsaid > UNSAID_MOST else "complete",
        "glvid": __version__,
        "command": command_line(job.clip.path, job.options),
        "input": stated["input"]
        | {"frames": len(decoded.times), "lost": decoded.lost, "duration_s": job.clip.duration},
        "options": stated["options"] | folder_options(job),
        "given": stated["given"],
        "device": job.device,
        "precision": job.precision,
        "models": stated["models"],
        "refine": refined | {"seconds": round(job.clock.seconds["refine"], 3) if steps else 0.0},
        "depth": results.depth_record(job.size, scale, "scene", "none: depth and path share one unknown scale"),
        "flow": results.flow_record(job.size, job.options.flow_format),
        "camera": camera,
        "frames": [asdict(row) for row in rows],
        "gaps": gaps(decoded, job.options.stride),
        "quality": quality.stated([s.quality for s in solved]),
        "seconds": {},
        "peak_memory_mb": 0.0,
        "warnings": list(dict.fromkeys([*decoded.notes, *said])),
    }
