"""One clip on its way: the options, the networks, where it goes, what is known after each pass."""

import hashlib
import os
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from glvid import __version__, metric, refine, results, weights
from glvid.dense import Dense
from glvid.inference.work import Work
from glvid.networks import hub
from glvid.parallel import cores
from glvid.predict import (
    FlowOf,
    Flows,
    fine_dis_flow,
    net_flow,
)
from glvid.quality import Quality
from glvid.types import Clip, Intrinsics, Shot, Solution


@dataclass(frozen=True)
class InferOptions:
    """Options of `glvid infer`, by the names of the command line."""

    refine: str = "none"
    steps: int | None = None
    temporal_filter: bool = False
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
    scale_from: str | None = None


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
    """What the first pass over a clip leaves: maps of working images (memory-mapped) and facts about each frame."""

    indices: list[int]
    times: list[float]
    names: list[str]
    first: list[int]  # number of the first frame of every shot
    lost: list[list[int]]
    notes: list[str]
    images: np.ndarray  # (N, h, w, 3) uint8
    ignored: (
        np.ndarray
    )  # (N, h, w) uint8: 0 = not left out, 1 = the user wants it so, 2 = nothing is known of its depth
    depth: np.ndarray  # (N, h, w) float32
    sigma: np.ndarray | None  # (N, h, w) float32: how far off log depth may be, where the network says so
    size: tuple[int, int]  # stored size
    unsaid: float = 0.0  # share of pixels of whose depth nothing is known

    def bounds(self) -> list[tuple[int, int]]:
        """First and last + 1 frame of every shot."""
        return list(zip(self.first, [*self.first[1:], len(self.times)], strict=True))

    def shot(self, bounds: tuple[int, int]) -> Shot:
        """The frames of one shot."""
        part = slice(*bounds)
        sigma = None if self.sigma is None else self.sigma[part]
        return Shot(np.array(self.times[part]), self.images[part], self.depth[part], self.ignored[part], sigma)


@dataclass(frozen=True)
class Solved:
    """One shot, finished."""

    bounds: tuple[int, int]
    shot: Shot
    flows: Flows
    solution: Solution
    dense: Dense
    progress: refine.Progress
    quality: Quality = Quality()


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


@dataclass(frozen=True)
class Job:
    """One clip on its way."""

    clip: Clip
    out: Path
    options: InferOptions
    report: Report
    networks: Networks
    device: str
    precision: str  # of the networks: fp32 or bf16
    size: tuple[int, int]
    given: Intrinsics | None  # in source px
    undistort: Callable[[np.ndarray], np.ndarray] | None
    masks: dict[str, Path]
    known: metric.Known | None  # what turns scene units into metres
    clock: Clock
    work: Work


def selected(clip: Clip, options: InferOptions) -> int | None:
    """Frames that --start, --end and --stride leave of a clip; None when the file does not say how many it has."""
    total = clip.frames or round(clip.duration * clip.fps)
    if not total:
        return None
    first = round((options.start or 0) * clip.fps)
    last = total if options.end is None else min(total, round(options.end * clip.fps))
    return max(0, -(-(last - first) // options.stride))


def fixed(job: Job) -> bool:
    """Does the given camera stay as it is? With --fix-intrinsics, and without refinement."""
    return job.given is not None and (job.options.fix_intrinsics or job.options.refine == "none")


def load_networks(options: InferOptions, device: str, precision: str) -> Networks:
    """Depth, camera and, if asked for, flow network."""
    names = weights.together(options.depth_model, device)
    if hub.named(names["depth"]):
        depth, depth_facts = hub.load(names["depth"], device)
    else:
        depth, depth_facts = weights.load(names["depth"], "depth", device)
    camera, camera_facts = weights.load(names["camera"], "camera", device)
    facts = {"depth": depth_facts, "camera": camera_facts}
    flow = fine_dis_flow
    if options.flow == "net":
        net, facts["flow"] = weights.load(names["flow"], "flow", device)
        flow = net_flow(net, device)
    if precision == "bf16":
        depth, camera = depth.to(memory_format=torch.channels_last), camera.to(memory_format=torch.channels_last)
    return Networks(
        depth, camera, flow, {k: {n: f[n] for n in ("name", "sha256", "licence")} for k, f in facts.items()}
    )


def identity(clip: Clip, options: InferOptions, networks: Networks, masks: dict[str, Path]) -> dict[str, Any]:
    """What makes two runs the same run: the input, the options that matter, the files they name, the models."""
    facts = clip.path.stat()
    stated = {
        "path": str(clip.path),
        "width": clip.width,
        "height": clip.height,
        "rotation": clip.rotation,
        "fps": clip.fps,
    }
    stated |= {"bytes": facts.st_size, "modified": facts.st_mtime}
    folder = clip.path if clip.path.is_dir() else clip.path.parent
    pictures = [folder / name for name in clip.names]
    stated |= {"sha256_of_ends": of_listing(pictures) if clip.path.is_dir() else of_ends(clip.path)}
    named = [Path(x) for x in (options.intrinsics, (options.scale_from or "").partition("=")[2]) if x]
    given = {str(path): of_ends(path) for path in named if is_file(path)}
    given |= {str(options.masks): of_listing(masks.values())} if options.masks else {}
    return {"input": stated, "options": stated_options(options), "given": given, "models": networks.facts}


ENDS = 1 << 20  # bytes at either end of a file that tell it from others


def of_ends(path: Path) -> str:
    """SHA-256 of a file's length, its beginning and its end."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        found = hashlib.sha256(str(size).encode())
        for start in (0, max(0, size - ENDS)):
            file.seek(start)
            found.update(file.read(ENDS))
    return found.hexdigest()


def of_listing(paths: Iterable[Path]) -> str:
    """SHA-256 of names, lengths and dates of files."""
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(paths) if path.exists()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def is_file(path: Path) -> bool:
    """False also for what is too long for a path, or no text for one."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def made_by(device: str, precision: str) -> dict[str, Any]:
    """What two machines must share for the same bits."""
    packages = {p.__name__: p.__version__ for p in (torch, np, cv2)}
    packages |= {"av": metadata.version("av"), "glvid": __version__}
    cpu = {"processor": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(), "cores": cores()}
    return {**packages, **cpu, "device": device, "precision": precision}


def stated_options(options: InferOptions) -> dict[str, Any]:
    """Options as run.json states them; how a folder was to be treated is not one of them."""
    stated = {k: v for k, v in asdict(options).items() if k not in ("resume", "overwrite", "allow_partial")}
    return stated | {"masks": str(options.masks) if options.masks else None, "keep": list(options.keep)}


def command_line(source: Path, options: InferOptions) -> str:
    """The `glvid infer` that does this, for a shell, wherever the result is put; options at their defaults are left
    out."""
    words = ["glvid", "infer", positional(source)]
    for option in fields(InferOptions):
        value = getattr(options, option.name)
        if value != option.default and option.name not in ("resume", "overwrite"):
            words += said("--" + option.name.replace("_", "-"), value)
    return shlex.join(words)


def said(name: str, value: Any) -> list[str]:
    """An option and its value as words of a command line; one word where the value would look like an option."""
    if value is True:
        return [name]
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    if not text.startswith("-"):
        return [name, text]
    return [f"{name}={text}" if name.startswith("--") else name + text]


def positional(path: Path) -> str:
    """A path that no command line takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
