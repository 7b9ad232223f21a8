"""One clip on its way: the options, the networks, where it goes, what is known after each pass."""

import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glvid import metric, refine, results, weights
from glvid.dense import Dense
from glvid.inference.maps import Maps
from glvid.networks import hub
from glvid.predict import (
    FlowOf,
    dis_flow,
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
    ignored: np.ndarray  # (N, h, w) uint8: 1 = the user wants it left out
    depth: np.ndarray  # (N, h, w) float32
    sigma: np.ndarray | None  # (N, h, w) float32: how far off log depth may be, where the network says so
    size: tuple[int, int]  # stored size

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
    maps: Maps


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
    flow = dis_flow if options.refine == "none" else fine_dis_flow
    if options.flow == "net":
        net, facts["flow"] = weights.load(names["flow"], "flow", device)
        flow = net_flow(net, device)
    if precision == "bf16":
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


def command_line(source: Path, out: Path, options: InferOptions) -> str:
    """The `glvid infer` that does this, for a shell; options at their defaults are left out."""
    words = ["glvid", "infer", positional(source)]
    for option in fields(InferOptions):
        value = getattr(options, option.name)
        if value != option.default:
            words += said("--" + option.name.replace("_", "-"), value)
    return shlex.join(words + said("-o", out))


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
