"""The whole way of one clip: decode → predict → solve → refine → results.

The clip is decoded twice: once to working size, which is all that networks, solve and refinement see, and once more
while the maps are written at full size. So memory does not depend on the stored size, and nothing but working images
stays on disk in between.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from glvid import __version__, claim, formats, given, refine, results, video, weights
from glvid.errors import InputError, MemoryExhausted, UsageError
from glvid.exports.cloud import fuse, longest_shot
from glvid.exports.ply import write_ply
from glvid.predict import (
    FlowOf,
    as_tensor,
    dis_flow,
    fine_dis_flow,
    net_flow,
    predict_camera,
    predict_depth,
    working_size,
)
from glvid.solve import solve
from glvid.types import Clip, Frame, Intrinsics, Shot, Solution, Trajectory
from glvid.warp import guided_upsample, resize, resize_flow


@dataclass(frozen=True)
class InferOptions:
    """Options of `glvid infer`, by the names of the command line."""

    refine: str = "none"
    steps: int | None = None
    intrinsics: str | None = None
    fix_intrinsics: bool = False
    distortion: str | None = None
    depth_model: str | None = None
    flow: str = "dis"
    flow_format: str = "png"
    masks: Path | None = None
    mask_polarity: str = "ignore"
    keep: tuple[str, ...] = results.KINDS
    start: float | None = None
    end: float | None = None
    stride: int = 1
    fps: float = 10.0
    max_size: int = 1280
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    resume: bool = False
    overwrite: bool = False
    allow_partial: bool = False
    max_points: int = 2_000_000


@dataclass(frozen=True)
class Report:
    """Where progress goes; the default is nowhere."""

    stage: Callable[[str, int | None], None] = lambda name, total: None
    advance: Callable[[int], None] = lambda n: None
    note: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True)
class Networks:
    """The loaded networks and what run.json says of them."""

    depth: torch.nn.Module
    camera: torch.nn.Module
    flow: FlowOf
    facts: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Decoded:
    """What the first pass over a clip leaves: working images and depth (memory-mapped), and facts about each frame."""

    indices: list[int]
    times: list[float]
    names: list[str]
    first: list[int]  # number of the first frame of every shot
    lost: list[list[int]]
    notes: list[str]
    images: np.ndarray  # (N, h, w, 3) uint8
    depth: np.ndarray  # (N, h, w) float32
    ignored: np.ndarray  # (N, h, w) uint8: 1 = the user wants it left out
    size: tuple[int, int]  # stored size

    def bounds(self) -> list[tuple[int, int]]:
        """First and last + 1 frame of every shot."""
        return list(zip(self.first, [*self.first[1:], len(self.times)], strict=True))

    def shot(self, bounds: tuple[int, int]) -> Shot:
        """The frames of one shot."""
        part = slice(*bounds)
        return Shot(np.array(self.times[part]), self.images[part], self.depth[part], self.ignored[part])


@dataclass(frozen=True)
class Solved:
    """One shot, finished."""

    bounds: tuple[int, int]
    shot: Shot
    solution: Solution
    dense: refine.Dense
    progress: refine.Progress


@dataclass
class Clock:
    """Seconds spent per stage."""

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("decode", "predict", "solve", "refine", "write"), 0.0)
    )
    began: float = field(default_factory=time.perf_counter)

    def add(self, stage: str, since: float) -> float:
        """Count the time since `since` to a stage; returns now."""
        now = time.perf_counter()
        self.seconds[stage] += now - since
        return now


def run(source: Path, out: Path | None, options: InferOptions, report: Report | None = None) -> dict[str, Any]:
    """Everything glvid says about one clip, written to a run folder (`out`, or `<stem>.glvid` in the current folder).

    Returns run.json's content. Raises GlvidError children with the exit codes of the contract.
    """
    report, source = report or Report(), Path(source)
    out = Path(out) if out is not None else Path(f"{source.resolve().stem}.glvid")
    clip = video.probe(source, options.fps)
    size = video.stored_size((clip.width, clip.height), options.max_size)
    camera = given.intrinsics(options.intrinsics, (clip.width, clip.height)) if options.intrinsics else None
    if options.fix_intrinsics and camera is None:
        raise UsageError("--fix-intrinsics: there is nothing to fix; give --intrinsics too")
    undistort = given.rectifier(options.distortion, camera.resized(size) if camera else None)
    masks = given.mask_files(options.masks, clip)
    given.checked_masks(masks, size, options.mask_polarity)
    device = chosen_device(options.device)
    networks = load_networks(options, device)
    expected = results.estimate(clip.frames or 1, size, options.keep, options.flow_format, options.max_points)
    with claim.claimed(out, identity(clip, options, networks), options.resume, options.overwrite) as verdict:
        if verdict == "done":
            report.note(f"{out}: already done")
            return results.read_info(out)
        results.check_space(out, expected)
        job = Job(clip, out, options, report, networks, device, size, camera, undistort, masks, Clock())
        try:
            return job_done(job)
        except torch.OutOfMemoryError as error:
            raise MemoryExhausted(
                f"{source}: out of memory on {device}; use --device cpu or a smaller --max-size"
            ) from error


@dataclass(frozen=True)
class Job:
    """One clip on its way."""

    clip: Clip
    out: Path
    options: InferOptions
    report: Report
    networks: Networks
    device: str
    size: tuple[int, int]
    given: Intrinsics | None  # in source px
    undistort: Callable[[np.ndarray], np.ndarray] | None
    masks: dict[str, Path]
    clock: Clock


def job_done(job: Job) -> dict[str, Any]:
    """Decode, predict, solve, refine, write."""
    files = [job.out / f".glvid-{os.getpid()}-{name}" for name in ("images", "depth", "ignored")]
    try:
        decoded = decode(job, files)
        solved = solve_shots(job, decoded)
        return write(job, decoded, solved)
    finally:
        for path in files:
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------- before the work
def chosen_device(name: str) -> str:
    """auto, cpu, cuda, cuda:N or mps as a torch device that exists. Raises UsageError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": True, "mps": torch.backends.mps.is_available()}
    there |= {"cuda": torch.cuda.is_available()} | {f"cuda:{k}": True for k in range(torch.cuda.device_count())}
    if not there.get(name, False):
        raise UsageError(f"--device {name}: there is none on this machine; use --device auto")
    return name


def load_networks(options: InferOptions, device: str) -> Networks:
    """Depth, camera and, if asked for, flow network."""
    depth, depth_facts = weights.load(options.depth_model or "depth-small", "depth", device)
    camera, camera_facts = weights.load("camera-small", "camera", device)
    facts = {"depth": depth_facts, "camera": camera_facts}
    flow = dis_flow if options.refine == "none" else fine_dis_flow
    if options.flow == "net":
        net, facts["flow"] = weights.load("flow-small", "flow", device)
        flow = net_flow(net, device)
    if options.precision == "bf16" or (options.precision == "auto" and device.startswith("cuda")):
        depth, camera = depth.to(memory_format=torch.channels_last), camera.to(memory_format=torch.channels_last)
    return Networks(
        depth, camera, flow, {k: {n: f[n] for n in ("name", "sha256", "licence")} for k, f in facts.items()}
    )


def identity(clip: Clip, options: InferOptions, networks: Networks) -> dict[str, Any]:
    """What makes two runs the same run: the input, the options that matter, the models."""
    facts = clip.path.stat()
    stated = {
        "path": str(clip.path),
        "width": clip.width,
        "height": clip.height,
        "rotation": clip.rotation,
        "fps": clip.fps,
    }
    stated |= {"bytes": facts.st_size, "modified": facts.st_mtime}
    return {"input": stated, "options": stated_options(options), "models": networks.facts}


def stated_options(options: InferOptions) -> dict[str, Any]:
    """Options as run.json states them; how a folder was to be treated is not one of them."""
    stated = {k: v for k, v in asdict(options).items() if k not in ("resume", "overwrite", "allow_partial")}
    return stated | {"masks": str(options.masks) if options.masks else None, "keep": list(options.keep)}


# ---------------------------------------------------------------- first pass
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
    with open(files[0], "wb") as images, open(files[1], "wb") as depths, open(files[2], "wb") as ignored:
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
            if before is None or video.cut_score(before, now) > video.CUT:
                first.append(len(times))
            before = now
            indices.append(frame.index), times.append(frame.time), names.append(frame.name)
            images.write(now.tobytes())
            ignored.write(user_mask(job, frame, small).tobytes())
            batch.append(now)
            if len(batch) == 8:
                depths.write(predicted(job, batch).tobytes())
                batch = []
            job.report.advance(1)
        if batch:
            depths.write(predicted(job, batch).tobytes())
    if not times:
        raise InputError(f"{job.clip.path}: no frame could be decoded; the file is damaged")
    n, (w, h) = len(times), small
    maps = [
        np.memmap(f, t, "r", shape=s)
        for f, t, s in zip(files, "Bfb", ((n, h, w, 3), (n, h, w), (n, h, w)), strict=True)
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


def predicted(job: Job, batch: list[np.ndarray]) -> np.ndarray:
    """Depth of a batch of working images."""
    since = time.perf_counter()
    bf16 = job.options.precision == "bf16" or (job.options.precision == "auto" and job.device.startswith("cuda"))
    with torch.autocast(job.device.split(":")[0], torch.bfloat16, enabled=bf16):
        depth = predict_depth(job.networks.depth, np.stack(batch), job.device)
    job.clock.add("predict", since)
    return depth.astype(np.float32)


def user_mask(job: Job, frame: Frame, size: tuple[int, int]) -> np.ndarray:
    """1 where `--masks` says so."""
    path = given.mask_of(job.masks, frame.name, frame.index)
    return given.read_mask(path, size, job.options.mask_polarity) if path else np.zeros(size[::-1], np.uint8)


# ---------------------------------------------------------------- camera and refinement
def solve_shots(job: Job, decoded: Decoded) -> list[Solved]:
    """Every shot solved and refined; one camera for the clip: the first one found observable, longest shots first."""
    full = job.options.refine != "none"
    shots = sorted(decoded.bounds(), key=lambda b: b[0] - b[1])
    since = time.perf_counter()
    job.report.stage("camera", sum((3 + full) * (b - a) for a, b in shots))
    start = starting_camera(job, decoded)
    solutions: dict[tuple[int, int], Solution] = {}
    for bounds in shots[:3]:
        solution = solve(
            decoded.shot(bounds), job.networks.flow, start, job.given is not None, fixed(job), full, job.report.advance
        )
        solutions[bounds] = solution
        if solution.observable or fixed(job):
            break
    chosen = next((s for s in solutions.values() if s.observable), solutions[shots[0]])
    for bounds in shots:
        if solutions.get(bounds) is not chosen:
            again = solve(
                decoded.shot(bounds), job.networks.flow, chosen.intrinsics, True, True, full, job.report.advance
            )
            solutions[bounds] = replace(
                again, source=chosen.source, focal_sigma=chosen.focal_sigma, observable=chosen.observable
            )
    since = job.clock.add("solve", since)
    steps = job.options.steps or refine.STEPS[job.options.refine]
    job.report.stage("refine" if full else "moving objects", refine.work(decoded.bounds(), job.options.refine, steps))
    solved = []
    for bounds in decoded.bounds():
        shot, dense, solution, progress = refine.refine(
            decoded.shot(bounds), solutions[bounds], job.networks.flow, job.networks.depth,
            refine.Plan(job.options.refine, steps, job.device), job.report.advance,
        )  # fmt: skip
        solved.append(Solved(bounds, shot, solution, dense, progress))
    job.clock.add("refine", since)
    return solved


def fixed(job: Job) -> bool:
    """Does the given camera stay as it is? With --fix-intrinsics, and without refinement."""
    return job.given is not None and (job.options.fix_intrinsics or job.options.refine == "none")


def starting_camera(job: Job, decoded: Decoded) -> Intrinsics:
    """The given camera, or the camera network's median over pairs spread over the clip, at working size."""
    small = working_size(job.size)
    if job.given is not None:
        return job.given.resized(small).to(torch.float32)
    inside = [n for a, b in decoded.bounds() for n in range(a, b - 1)]
    pairs = np.array(inside or [0])[:: max(1, len(inside) // 16)]
    after = np.minimum(pairs + 1, len(decoded.times) - 1)
    return predict_camera(job.networks.camera, decoded.images[pairs], decoded.images[after], job.size, job.device)


# ---------------------------------------------------------------- second pass
def write(job: Job, decoded: Decoded, solved: list[Solved]) -> dict[str, Any]:
    """Second pass: every map at full size, then path, camera, preview, cloud, and run.json last."""
    since, o = time.perf_counter(), job.options
    chosen = solved[0].solution
    scale = formats.depth_scale(np.concatenate([s.dense.depth[:, ::4, ::4].ravel() for s in solved]))
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
    images = (item[1] for item in stored_frames(job) if isinstance(item, tuple))
    here = next(images)
    for s in solved:
        for n in range(*s.bounds):
            after = next(images, None)
            flow = None if n == s.bounds[1] - 1 else stored_flow(job, here, after)
            depth, moving = stored_maps(s, decoded, n, here)
            results.write_frame(job.out, rows[n], scale, depth, flow, moving, here)
            here = after
            job.report.advance(1)
    K = chosen.intrinsics.to(torch.float64).resized(job.size)
    if job.given is not None and fixed(job):
        K = job.given.resized(job.size)
    sigma = None if chosen.focal_sigma is None else chosen.focal_sigma * float(K.focal[0])
    camera = results.camera_record(K, (job.clip.width, job.clip.height), chosen.source, sigma, chosen.observable)
    path = np.concatenate([s.solution.world_T_cam.numpy() for s in solved])
    results.write_camera(job.out, camera)
    results.write_frames(job.out, rows)
    results.write_trajectory(job.out, Trajectory(np.array(decoded.times), path))
    info = record(job, decoded, solved, rows, camera, scale)
    results.write_info(job.out, info | {"status": "running"})
    run = results.open_run(job.out, finished=False)
    warnings = list(info["warnings"])
    if {"depth", "image"} <= set(o.keep):
        job.report.stage("preview", None)
        results.write_preview(run, frame_rate(decoded.times))
    if {"depth", "image"} <= set(o.keep) and len(rows) > 0:
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
    results.write_info(job.out, info)
    return info


def stored_maps(s: Solved, decoded: Decoded, n: int, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) and moving probability (H, W) of frame n at stored size.

    Depth is the network's, which is sharp, times the refinement's correction, which is smooth: the log ratio of the
    two is upsampled along image edges.
    """
    k = n - s.bounds[0]
    guide = as_tensor(image[None])
    sharp = float(s.solution.depth_scale[k]) * torch.from_numpy(np.array(s.shot.depth[k]))[None, None]
    low = 1 / resize(1 / sharp, (s.dense.depth.shape[2], s.dense.depth.shape[1]))
    ratio = (torch.from_numpy(s.dense.depth[k])[None, None] / low).log()
    depth = guided_upsample(sharp.log(), guide, radius=1) + guided_upsample(ratio, guide)
    moving = guided_upsample(torch.from_numpy(s.dense.moving[k])[None, None], guide).clamp(0, 1)
    asked = resize(torch.from_numpy(np.array(decoded.ignored[n])).float()[None, None], (image.shape[1], image.shape[0]))
    return depth.exp()[0, 0].numpy(), torch.maximum(moving, asked)[0, 0].numpy()


def stored_flow(job: Job, here: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Flow (2, H, W) between two stored images; the network's is computed at working size."""
    if job.options.flow == "dis":
        return dis_flow(here[None], after[None])[0].numpy()
    small = [cv2.resize(x, working_size(job.size), interpolation=cv2.INTER_AREA)[None] for x in (here, after)]
    return resize_flow(job.networks.flow(*small), job.size)[0].numpy()


def frame_rate(times: list[float]) -> float:
    """Average rate of the kept frames, for the preview."""
    return min(240.0, max(1.0, (len(times) - 1) / (times[-1] - times[0]))) if len(times) > 1 else 10.0


def peak_memory() -> float:
    """Resident peak of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def record(
    job: Job, decoded: Decoded, solved: list[Solved], rows: list[results.Row], camera: dict[str, Any], scale: float
) -> dict[str, Any]:
    """run.json, but for what only the end knows."""
    stated = identity(job.clip, job.options, job.networks)
    done = [s.progress for s in solved if s.progress.first is not None]
    first, last = (float(np.mean([getattr(p, k) for p in done])) if done else None for k in ("first", "last"))
    steps = (job.options.steps or refine.STEPS[job.options.refine]) if job.options.refine != "none" else 0
    said = [w for s in solved for w in (*s.solution.warnings, *s.progress.warnings)]
    refined = {"mode": job.options.refine, "steps": steps, "loss_first": first, "loss_last": last}
    return {
        "schema": results.SCHEMA,
        "status": "partial" if decoded.lost else "complete",
        "glvid": __version__,
        "input": stated["input"]
        | {"frames": len(decoded.times), "lost": decoded.lost, "duration_s": job.clip.duration},
        "options": stated["options"],
        "device": job.device,
        "precision": job.options.precision,
        "models": stated["models"],
        "refine": refined | {"seconds": round(job.clock.seconds["refine"], 3) if steps else 0.0},
        "depth": results.depth_record(job.size, scale, "scene", "none: depth and path share one unknown scale"),
        "flow": results.flow_record(job.size, job.options.flow_format),
        "camera": camera,
        "frames": [asdict(row) for row in rows],
        "seconds": {},
        "peak_memory_mb": 0.0,
        "warnings": list(dict.fromkeys([*decoded.notes, *said])),
    }
