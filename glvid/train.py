"""Training: one straight loop over one stage. `flow` and `depth` (depth and camera) learn from rendered truth, depth
also from what geometry finds out about real clips (`lessons`); `joint` learns from real clips by the self-supervised
objective, with rendered truth replayed so that nothing is forgotten.

    python -m glvid.train --stage depth --out runs/depth --steps 20000 --textures FOLDER
    python -m glvid.train --stage depth --out runs/real --init runs/depth/weights --data CLIPS --exclude @patterns.txt
    python -m glvid.train --stage joint --out runs/joint --init runs/depth/weights --data CLIPS --exclude @patterns.txt

The output folder: `log.jsonl` (one object per step), `checkpoints/last.pt` (resume), `weights/<kind>-small.safetensors`
(running mean of the parameters), `pool/` (rendered pairs), `frames/` (decoded), `lessons/` (solved ones) and
`clips.txt` (what was learned from). Nothing is written elsewhere.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glvid import weights
from glvid.data import frames
from glvid.data.frames import Footage
from glvid.data.pool import Batch, Pool, draw, drawn, fill, filling
from glvid.errors import GlvidError, UsageError
from glvid.geometry import rigid_flow
from glvid.lessons import GUESS, taught
from glvid.losses import LossWeights, total, window_pairs
from glvid.networks import KINDS
from glvid.predict import as_tensor, working_size
from glvid.types import Intrinsics, Outputs
from glvid.warp import resize_flow

STAGES = {"flow": ("flow",), "depth": ("depth", "camera"), "camera": ("camera",), "joint": ("depth", "camera", "flow")}
REPLAY = 0.5  # share of rendered batches in stage `joint`
LESSONS = 0.4  # share of batches from real clips in stage `depth`, where there are some
WATCHED = 9  # every so many-th clip is not learned from but measured on
LEAST_SURE = 0.03  # share of depth that flow must determine in a clip
CAMERA_SHARE = 0.34  # of the steps of stage `depth` that train the camera too; it has far less to learn
CAP = 200.0  # m; truth beyond (sky above all) counts as this far
TRAIN_SEED, HELD_SEED = 100_000, 800_000  # worlds trained on, worlds watched; those from 900,000 are for evaluation


@dataclass(frozen=True)
class Options:
    """What a training run is told."""

    stage: str
    out: Path
    steps: int = 20000
    batch: int = 8
    size: tuple[int, int] = (384, 224)  # trained at; smaller first is a cheap start
    rendered: tuple[int, int] = (384, 224)
    data: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    textures: Path | None = None
    init: Path | None = None
    resume: bool = False
    rate: float = 4e-4
    seed: int = 0
    rows: int = 1500  # rendered pairs kept; 2 MB each
    held: int = 32  # rendered pairs watched, never trained on
    every: float = 240.0  # seconds between checkpoints
    render: bool = True  # keep rendering while training
    device: str = "cpu"
    precision: str = "bf16"
    threads: int = 0


def shapes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Picture sizes trained on: the given one, a driving strip, nearly square, portrait; multiples of 32."""
    w, h = size

    def near(x: float) -> int:
        return max(32, 32 * round(x / 32))

    return [(w, h), (w, near(w / 3)), (near(w * 0.83), near(w * 0.67)), (near(w * 0.67), near(w * 0.83))]


# --- supervised losses ------------------------------------------------------------------------------------------------


def depth_loss(disparities: list[Tensor], depth: Tensor, sure: Tensor) -> dict[str, Tensor]:
    """Log-depth against truth: L1 after the median offset is taken away, slopes over several steps, a little absolute.

    Scale-invariant because one picture does not show its scale (Eigen et al. 2014); gradients keep edges sharp
    (Li and Snavely 2018). The absolute part makes neighbouring frames agree on one scale. `sure` (0..1) weighs pixels;
    sky counts a third.
    """
    truth = depth.clamp(0.1, CAP).log()
    weight = sure * torch.where(depth < CAP, 1.0, 0.33)
    parts = {"value": depth.new_zeros(()), "slope": depth.new_zeros(()), "scale": depth.new_zeros(())}
    for k, disparity in enumerate(disparities):
        t, v = truth[..., :: 2**k, :: 2**k], weight[..., :: 2**k, :: 2**k]
        e = -disparity.log() - t
        offset = middle(e.detach(), v)
        e = e - offset
        share = 0.5**k / 1.875  # 1, 1/2, 1/4, 1/8, normalised
        parts["value"] = parts["value"] + share * (v * e.abs()).mean()
        parts["scale"] = parts["scale"] + share * (v * (e + offset)).flatten(1).mean(1).abs().mean()
        if k < 2:
            parts["slope"] = parts["slope"] + slopes(e, v) / 2
    return parts


def middle(e: Tensor, weight: Tensor) -> Tensor:
    """Median (B, 1, 1, 1) of every image's pixels that weigh at least half of what its average pixel does."""
    usual = weight.mean((1, 2, 3), keepdim=True) / 2
    return torch.where(weight > usual, e, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0)[:, None, None, None]


def slopes(e: Tensor, weight: Tensor, scales: int = 4) -> Tensor:
    """Mean |difference| of e over steps of 1, 2, 4, 8 px; beyond 1 it counts no more (an edge a pixel off)."""
    mean = e.new_zeros(())
    for k in range(scales):
        s, v = e[..., :: 2**k, :: 2**k], weight[..., :: 2**k, :: 2**k]
        for dim in (-1, -2):
            if s.shape[dim] > 1:
                mean = mean + (v.narrow(dim, 1, v.shape[dim] - 1) * torch.tanh(s.diff(dim=dim).abs())).mean()
    return mean


def camera_loss(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Motion both ways against truth (0.2 m weigh like 0.02 rad), where it sends the true points, lens, matches.

    The points (in 1 % of the width, logarithmic) weigh rotation and translation as the picture does, but pull on hardly
    anything while the motion is still far off; the plain difference does that. Without the matches nothing is learned
    for long: motions of either sign are equally likely, so the best blind answer is none.
    """
    shift, seen = net.look(batch.a, batch.b)
    b_T_a, a_T_b, lens = net.answer(seen, batch.intrinsics.size)
    flow = F.avg_pool2d(batch.flow, 4)
    near = (flow.abs().amax(1, keepdim=True) < 4 * net.config.radius) * F.avg_pool2d(batch.visible, 4)
    depth, K = F.max_pool2d(batch.depth.clamp(0.3, CAP), 8), batch.intrinsics
    K = K.resized((depth.shape[-1], depth.shape[-2]))
    error = torch.cat([b_T_a - batch.b_T_a, a_T_b - torch.linalg.inv(batch.b_T_a)])[:, :3].abs()
    want, z = rigid_flow(depth, K, batch.b_T_a)
    have, y = rigid_flow(depth, K, b_T_a)
    apart = (100 / K.size[0]) * (have - want).norm(dim=1, keepdim=True).clamp_max(K.size[0])
    return {
        "motion": (((z > 0.2) & (y > 0.2)) * torch.log1p(apart)).mean(),
        "pose": (error[..., 3] / 0.2).mean() + (error[..., :3] / 0.02).mean(),
        "match": (near * (shift[: len(flow)] - flow).abs()).mean(),
        "focal": (lens.focal.log() - batch.intrinsics.focal.log()).abs().mean(),
        "center": (lens.center - batch.intrinsics.center).abs().mean() / lens.size[0],
    }


def flow_loss(flows: list[Tensor], truth: Tensor) -> Tensor:
    """Robust end-point error over all levels; hidden pixels count too (their truth is known).

    A level of 1 / s of the size counts its px as sqrt(s) px: as px of full size, the coarsest would rule.
    """
    full = flows[0].shape[-1]
    loss = truth.new_zeros(())
    for k, flow in enumerate(flows):
        size = (flow.shape[-1], flow.shape[-2])
        error = (flow - resize_flow(truth, size)).norm(dim=1) * (full / size[0]) ** 0.5
        loss = loss + 0.8**k * ((error + 0.01).pow(0.7)).mean()
    return loss


# --- stages: networks and a batch to a loss and its parts -------------------------------------------------------------

DEPTH_WEIGHTS = {"value": 1.0, "slope": 0.5, "scale": 0.1}
CAMERA_WEIGHTS = {"motion": 0.05, "pose": 0.05, "match": 0.05, "focal": 0.05, "center": 0.05}


def weighted(parts: dict[str, Tensor]) -> Tensor:
    """The loss that parts add up to."""
    return sum((DEPTH_WEIGHTS | CAMERA_WEIGHTS)[k] * v for k, v in parts.items())


def depth_stage(nets: nn.ModuleDict, batch: Batch, with_camera: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Depth, and camera, from rendered truth."""
    parts = depth_loss(nets["depth"](batch.a), batch.depth, batch.sure)
    if with_camera:
        parts |= camera_loss(nets["camera"], batch)
    return weighted(parts), parts


def flow_stage(nets: nn.ModuleDict, batch: Batch, with_camera: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Flow from rendered truth; vectors longer than half the picture are cut (they leave it anyway)."""
    bound = batch.flow.shape[-1] / 2
    truth = batch.flow.clamp(-bound, bound)
    flows = nets["flow"](batch.a, batch.b)
    loss = flow_loss(flows, truth)
    return loss, {"loss_flow": loss, "epe": (flows[0] - truth).norm(dim=1).mean()}


def camera_stage(nets: nn.ModuleDict, batch: Batch, with_camera: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Camera alone, from rendered truth."""
    parts = camera_loss(nets["camera"], batch)
    return weighted(parts), parts


def lesson_stage(nets: nn.ModuleDict, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Depth from what geometry found out about real clips; their scale is a guess, so it is not learned."""
    parts = depth_loss(nets["depth"](batch.a), batch.depth, batch.sure)
    return weighted({k: parts[k] for k in ("value", "slope")}), {f"real_{k}": v for k, v in parts.items()}


SUPERVISED = {"depth": depth_stage, "camera": camera_stage, "flow": flow_stage}

# Unlike refinement: the camera network's motion is rough, so geometry counts less and the shape of the start more.
JOINT = LossWeights(structure=0.1, epipolar=0.005, prior_depth=0.2, prior_gradient=0.4)


def predicted(nets: nn.ModuleDict, images: Tensor) -> Outputs:
    """All three networks on windows of real frames (B, S, 3, H, W)."""
    windows, steps = images.shape[0], images.shape[1] - 1
    a, b = images[:, :-1].flatten(0, 1), images[:, 1:].flatten(0, 1)
    depth = nets["depth"].depth(images.flatten(0, 1)).unflatten(0, (windows, steps + 1))
    flow, back = nets["flow"](torch.cat([a, b]), torch.cat([b, a]))[0].unflatten(0, (2, windows, steps))
    motion, _, lens = nets["camera"](a, b)
    one = Intrinsics(*(x.unflatten(0, (windows, steps)).mean(1) for x in (lens.focal, lens.center)), lens.size)
    motion = motion.unflatten(0, (windows, steps))
    moving = disagreement(depth[:, :-1], flow, motion, one)
    return Outputs(depth, flow, back, motion, torch.cat([moving, moving[:, -1:]], 1), one)


@torch.no_grad()
def disagreement(depth: Tensor, flow: Tensor, motion: Tensor, lens: Intrinsics) -> Tensor:
    """Probability (B, S - 1, 1, H, W) that a pixel moves on its own: rigid and seen flow differ more than most."""
    each = Intrinsics(lens.focal[:, None], lens.center[:, None], lens.size)
    rigid, _ = rigid_flow(depth, each, motion)
    gap = (rigid - flow).norm(dim=2, keepdim=True) / (1 + 0.2 * flow.norm(dim=2, keepdim=True))
    usual = gap.flatten(2).median(2).values[..., None, None, None]
    return torch.sigmoid(2 * (gap / usual.clamp_min(0.5) - 3))


def joint_stage(nets: nn.ModuleDict, images: Tensor, teacher: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """The self-supervised objective on windows of three real frames; depth is held near the shape the start gave it."""
    outputs = predicted(nets, images)
    pairs, lens = window_pairs(outputs)
    with torch.no_grad():
        initial = teacher.depth(images.flatten(0, 1))
    flat = [x.flatten(0, 1) for x in (images, outputs.depth, outputs.moving)]
    return total(flat[0], flat[1], pairs, lens, flat[2], JOINT, initial_depth=initial)


# --- the loop ---------------------------------------------------------------------------------------------------------


def train(options: Options) -> Path:
    """Train one stage to its end; returns the folder of exported weights. Raises UsageError, ModelError, GlvidError."""
    if options.stage not in STAGES:
        raise UsageError(f"no training stage '{options.stage}': choose {', '.join(STAGES)}")
    if options.stage == "joint" and not options.init:
        raise UsageError("stage joint needs trained networks to start from: give --init FOLDER")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    nets, mean, optimiser = start(options)
    last = options.out / "checkpoints" / "last.pt"
    begin = resumed(last, nets, mean, optimiser, options) if options.resume else 0
    lessons, watched = lesson_tables(options) if options.stage == "depth" and options.data else ([], [])
    with ExitStack() as stack:
        loss_of = stack.enter_context(source(options, lessons))
        log = stack.enter_context(open_log(options.out / "log.jsonl", begin))
        saved = time.monotonic()
        for step in range(begin, options.steps):
            rng, began = np.random.default_rng([options.seed, step]), time.monotonic()
            for group in optimiser.param_groups:
                group["lr"] = options.rate * schedule(step, options.steps)
            loss, parts = loss_of(nets, rng)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
            if not torch.isfinite(norm):
                raise GlvidError(f"training is not finite at step {step}: the last good state is {last}; --resume")
            optimiser.step()
            average(mean, nets, step)
            facts = {"loss": loss.detach(), "norm": norm, "seconds": time.monotonic() - began}
            facts |= {k: v.detach() for k, v in parts.items()}
            log.write(json.dumps({"step": step} | {k: round(float(v), 5) for k, v in facts.items()}) + "\n")
            if step in (0, options.steps - 1) or time.monotonic() - saved > options.every:
                save(last, step + 1, nets, mean, optimiser, options)
                log.write(json.dumps({"step": step, "held": held(mean, options, watched)}) + "\n")
                saved = time.monotonic()
    return options.out / "weights"


def start(options: Options) -> tuple[nn.ModuleDict, nn.ModuleDict, torch.optim.Optimizer]:
    """Networks, a copy that will hold their running mean, and the optimiser."""
    nets = nn.ModuleDict({kind: KINDS[kind][0]() for kind in STAGES[options.stage]})
    if options.init:
        for kind in nets:
            path = options.init / f"{kind}-small.safetensors" if options.init.is_dir() else options.init
            nets[kind] = weights.load(path, kind)[0].train()
    nets = nets.to(options.device, memory_format=torch.channels_last)
    mean = nn.ModuleDict({kind: KINDS[kind][0](nets[kind].config) for kind in nets}).to(options.device)
    mean = mean.to(memory_format=torch.channels_last).requires_grad_(False)
    mean.load_state_dict(nets.state_dict())
    return (
        nets,
        mean,
        torch.optim.AdamW(nets.parameters(), options.rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True),
    )


def schedule(step: int, steps: int, warm: int = 300) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to 2 %."""
    warm = min(warm, steps // 10 + 1)
    done = max(0, step - warm) / max(1, steps - warm)
    return min(1.0, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def average(mean: nn.ModuleDict, nets: nn.ModuleDict, step: int) -> None:
    """Exponential running mean of the parameters over about 1,000 steps, faster at first."""
    keep = min(0.999, (step + 1) / (step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(list(mean.parameters()), list(nets.parameters()), 1 - keep)


@contextmanager
def source(options: Options, lessons: list[np.ndarray]) -> Iterator:
    """A function (networks, random numbers) -> (loss, parts) for the stage; the pool fills up while it is in use."""
    pool = training_pool(options)
    precision = torch.autocast(options.device.split(":")[0], torch.bfloat16, enabled=options.precision == "bf16")
    sizes, odds = shapes(options.size), np.array([0.4, 0.3, 0.15, 0.15])

    def rendered(nets: nn.ModuleDict, rng: np.random.Generator, stage: str) -> tuple[Tensor, dict[str, Tensor]]:
        batch = draw(pool, rng, options.batch, sizes[rng.choice(len(sizes), p=odds)], options.device)
        with precision:
            return SUPERVISED[stage](nets, batch, with_camera=rng.random() < CAMERA_SHARE)

    with ExitStack() as stack:
        if options.render:
            stack.enter_context(filling(pool, TRAIN_SEED + options.seed, options.textures))
        if lessons:

            def depth(nets: nn.ModuleDict, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
                if rng.random() > LESSONS:
                    return rendered(nets, rng, "depth")
                batch = drawn(lessons, rng, options.batch, sizes[rng.choice(len(sizes), p=odds)], options.device)
                with precision:
                    return lesson_stage(nets, batch)

            yield depth
            return
        if options.stage != "joint":
            yield lambda nets, rng: rendered(nets, rng, options.stage)
            return
        clips, teacher = real_clips(options), start(options)[0]["depth"].eval()

        def joint(nets: nn.ModuleDict, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            if rng.random() < REPLAY:
                return rendered(nets, rng, "depth" if rng.random() < 0.7 else "flow")
            drawn = frames.windows(clips, rng, max(1, options.batch // 4)).images
            images = as_tensor(drawn.reshape(-1, *drawn.shape[2:]), options.device)
            with precision:
                return joint_stage(nets, images.unflatten(0, (-1, 3)), teacher)

        yield joint


def real_clips(options: Options) -> list[Footage]:
    """All footage below `data` but what is excluded, decoded; what was found is written to `clips.txt`."""
    from glvid.data.layouts import read_patterns, survey  # PyAV: only for those who decode

    found = survey(options.data, read_patterns(options.exclude))
    if not found.recordings:
        raise UsageError(f"no film left below {', '.join(map(str, options.data))}: correct --data or --exclude")
    size_of, cache = partial(working_size, long_side=options.size[0]), options.out / "frames" / str(options.size[0])
    clips = [frames.stored(recording, cache, size_of) for recording in found.recordings]
    (options.out / "clips.txt").write_text("".join(f"{clip.path}\n" for clip in clips))
    return [clip for clip in clips if frames.starts(clip, 1).size]


def lesson_tables(options: Options) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of all real clips that teach something: to learn from, and to watch.

    Solved with the networks training starts from (else the shipped ones); what became of every clip is in `clips.txt`.
    """
    where = options.init if options.init and options.init.is_dir() else None
    nets = [
        weights.load(where / f"{k}-small.safetensors" if where else f"{k}-small", k)[0] for k in ("depth", "camera")
    ]
    tables, told = [], []
    for clip in real_clips(options):
        rows, said = taught(clip, options.out / "lessons", *nets)
        told += said
        if len(rows) and rows["sure"].mean() > 255 * (GUESS + LEAST_SURE):
            tables.append(rows)
    (options.out / "clips.txt").write_text("\n".join(told) + "\n")
    watched = tables[WATCHED - 1 :: WATCHED]
    return [t for k, t in enumerate(tables) if k % WATCHED != WATCHED - 1] or tables, watched


def training_pool(options: Options) -> Pool:
    """Rendered pairs to train on."""
    return Pool(options.out / "pool" / "train.bin", options.rendered, options.rows)


def held(mean: nn.ModuleDict, options: Options, watched: list[np.ndarray]) -> dict[str, float]:
    """Mean loss parts of the averaged networks on worlds never trained on, and Abs Rel after median scaling (depth); of
    `watched` rows of real clips too."""
    pool = Pool(options.out / "pool" / "held.bin", options.rendered, options.held)
    if options.render:
        fill(pool, HELD_SEED, options.textures, count=options.held)
    _, counter = pool.open()
    if not counter[0]:
        return {}
    batch = draw(pool, np.random.default_rng(0), options.held, options.size, options.device)
    with torch.inference_mode():
        out = {}
        for stage in STAGES[options.stage]:
            out |= SUPERVISED[stage](mean, batch, with_camera=False)[1]
        if "depth" in mean:
            out["abs_rel"] = abs_rel(mean["depth"], batch)
        if options.stage == "depth":
            real = [drawn([t], np.random.default_rng(0), 8, options.size, options.device) for t in watched]
            if real:
                out["abs_rel_real"] = float(np.mean([abs_rel(mean["depth"], b) for b in real]))
    return {k: round(float(v), 4) for k, v in out.items()}


def abs_rel(net: nn.Module, batch: Batch) -> float:
    """Mean |D - D*| / D* of sure depths below 80 m, each picture scaled by its median."""
    depth, near, errors = net.depth(batch.a), (batch.depth < 80) & (batch.sure > 0.5), []
    for d, t, ok in zip(depth, batch.depth, near, strict=True):
        if ok.any():
            d, t = d[ok], t[ok]
            errors.append(float(((d * (t.median() / d.median()) - t).abs() / t).mean()))
    return float(np.mean(errors))


def save(path: Path, step: int, nets: nn.ModuleDict, mean: nn.ModuleDict, optimiser, options: Options) -> None:
    """Checkpoint to resume from, and the averaged networks as weight files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "nets": nets.state_dict(), "mean": mean.state_dict(), "optimiser": optimiser.state_dict()}
    weights.save_checkpoint(state, path)
    for kind, net in mean.items():
        trained = {"stage": options.stage, "steps": step, "batch": options.batch, "size": list(options.size)}
        weights.save(net, options.out / "weights" / f"{kind}-small.safetensors", {"trained": trained})


def resumed(path: Path, nets: nn.ModuleDict, mean: nn.ModuleDict, optimiser, options: Options) -> int:
    """Put a checkpoint's state in place; returns the step to go on with (0 where there is no checkpoint yet)."""
    if not path.exists():
        return 0
    state = weights.load_checkpoint(path, options.device)
    nets.load_state_dict(state["nets"])
    mean.load_state_dict(state["mean"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]


@contextmanager
def open_log(path: Path, begin: int) -> Iterator:
    """The log, cut back to what was written before step `begin`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines(True) if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] < begin]
    with open(path, "w", buffering=1) as log:
        log.writelines(kept)
        yield log


def as_size(text: str) -> tuple[int, int]:
    """ "384x224" to (384, 224)."""
    w, h = text.split("x")
    return int(w), int(h)


def parsed(arguments: list[str]) -> Options:
    """Command line to options."""
    p = argparse.ArgumentParser(prog="python -m glvid.train", description="Train one stage.")
    p.add_argument("--stage", required=True, choices=list(STAGES))
    p.add_argument("--out", "-o", type=Path, required=True)
    for name in ("size", "rendered"):
        p.add_argument(f"--{name}", type=as_size, default=getattr(Options, name), metavar="WxH")
    p.add_argument("--data", type=Path, action="append", default=[], help="folder of clips; repeatable")
    p.add_argument("--exclude", action="append", default=[], help="pattern, or @FILE of patterns; repeatable")
    p.add_argument("--textures", type=Path, help="folder of photos for rendered surfaces")
    p.add_argument("--init", type=Path, help="folder of weights to start from, or one weight file")
    p.add_argument("--resume", action="store_true")
    for name, kind in (("steps", int), ("batch", int), ("rate", float), ("seed", int), ("rows", int), ("threads", int)):
        p.add_argument(f"--{name}", type=kind, default=getattr(Options, name))
    p.add_argument("--no-render", dest="render", action="store_false", help="train on the pool as it is")
    p.add_argument("--every", type=float, default=Options.every, help="seconds between checkpoints")
    p.add_argument("--device", default=Options.device)
    p.add_argument("--precision", choices=["fp32", "bf16"], default=Options.precision)
    values = vars(p.parse_args(arguments))
    return Options(**{**values, "data": tuple(values["data"]), "exclude": tuple(values["exclude"])})


if __name__ == "__main__":
    try:
        train(parsed(sys.argv[1:]))
    except GlvidError as error:
        sys.exit(f"error: {error}")
