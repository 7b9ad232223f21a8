"""The loop: one stage after another, one straight pass of steps each.

Several processes (`torchrun`) share a batch: each learns from its samples of it, gradients are averaged in one message.
That is what DistributedDataParallel does; with networks this small there is nothing to overlap, and calls of single
methods (`depth`, `look`) need no wrapper. Process 0 renders, validates, logs and saves.
"""

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from glvid import weights
from glvid.data.frames import replaced
from glvid.data.pool import filling
from glvid.errors import GlvidError, UsageError
from glvid.files import atomic_write, cannot_write
from glvid.predict import chosen_device
from glvid.results import check_space
from glvid.train import state as keeping
from glvid.train.joint import OBJECTIVES, joint_stage, together
from glvid.train.options import STAGES, Options, as_toml, checked
from glvid.train.pictures import pictures
from glvid.train.sources import (
    TAUGHT,
    TRAIN_SEED,
    WINDOW,
    Data,
    Draw,
    Footing,
    Note,
    Step,
    ahead,
    cameras_file,
    drawing,
    first_focal,
    first_network,
    footing_of,
    found_data,
    lesson_tables,
    no_step,
    run_bytes,
    training_pool,
    uses_films,
)
from glvid.train.state import State
from glvid.train.supervised import SUPERVISED, lesson_stage
from glvid.train.validate import METRIC, validated

FEWEST = 200  # rendered pairs to begin with, as far as the pool holds as many


@dataclass(frozen=True)
class Watcher:
    """What training tells while it works: sentences, and after every step its number, of how many, and facts."""

    note: Note = lambda sentence: None
    step: Step = no_step


@dataclass(frozen=True)
class Crew:
    """This process among those that share the work."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Process 0 does what is done once."""
        return self.rank == 0

    def samples(self, batch: int) -> range:
        """Which samples of a batch this process learns from."""
        share = batch // self.size
        return range(self.rank * share, (self.rank + 1) * share)


def train(options: Options, watcher: Watcher = Watcher()) -> Path:  # noqa: B008 (frozen)
    """Train the stages asked for to their end; returns the folder of the exported weights.

    Raises UsageError, InputError, ModelError, OutputError before the first step where anything can be known then;
    GlvidError at a value that is not finite.
    """
    options = checked(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    allow_many_files()
    with crew(options) as team:
        watcher = watcher if team.leads else Watcher()  # one process speaks for all
        prepared(options, team, watcher)
        with leader_first(team):  # it decodes, the others find that done
            needed = options.data or set(options.stages) != {"camera"}
            data = found_data(options, watcher.note, watcher.step) if needed else Data()
            footing = footing_of(data, options, watcher.note) if uses_films(options) else Footing()
        for stage in options.stages:
            run_stage(options, stage, data, footing, team, watcher)
    return options.out / "weights"


def allow_many_files() -> None:
    """Every recording of the cache is an open file; the usual limit is 1024, which a process may raise for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def start_of(options: Options, stage: str) -> str | Path:
    """Where a stage starts from: what `--init` says, completed by what earlier stages of this run have learned.

    Kept in `start/<stage>`, so that a stage that goes on later knows what it was started from. Raises OutputError.
    """
    if options.stages.index(stage) == 0:
        return options.init
    folder = options.out / "start" / stage
    if not folder.is_dir():
        part = folder.with_name(f"{stage}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            for kind, name in weights.DEFAULTS.items():
                learned = options.out / "weights" / f"{name}.safetensors"
                if learned.exists():
                    atomic_write(part / learned.name, learned.read_bytes())
                else:
                    weights.save(first_network(kind, options.init), part / learned.name)
            os.replace(part, folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def prepared(options: Options, team: Crew, watcher: Watcher) -> None:
    """Everything that can go wrong is looked at before the first step; the options are said and written down."""
    if options.batch % team.size:
        raise UsageError(f"--batch {options.batch} cannot be shared by {team.size} processes: make it a multiple")
    if "joint" in options.stages and options.batch % (WINDOW * team.size):
        raise UsageError(f"--batch {options.batch}: stage joint takes multiples of {WINDOW * team.size}")
    solving = {"depth", "camera"} if uses_films(options) else set()
    for kind in solving.union(*(STAGES[stage] for stage in options.stages)):
        first_network(kind, options.init)
    if not team.leads:
        return
    earlier = any((options.out / "checkpoints").glob("*.pt"))
    if earlier and not options.resume:
        raise UsageError(f"{options.out}: holds a training run; --resume goes on with it, another -o starts a new one")
    check_space(options.out, run_bytes(options))
    try:
        replaced(options.out / "options.toml", as_toml(options))
    except OSError as error:
        raise cannot_write(options.out, error) from error
    watcher.note(as_toml(options).strip())
    if options.data and not uses_films(options):
        watcher.note(f"stage {options.stage} does not learn from films: of --data only pairs with flow are used")


@contextmanager
def crew(options: Options) -> Iterator[Crew]:
    """This process's place, from what torchrun says; alone without it."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = device_of(options.device, int(os.environ.get("LOCAL_RANK", 0)))
    if size == 1:
        yield Crew(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    patience = timedelta(hours=24)  # others wait while process 0 decodes and solves
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    try:
        yield Crew(rank, size, device)
    finally:
        dist.destroy_process_group()


def device_of(name: str, local_rank: int) -> torch.device:
    """auto: this process's GPU where there is one, else the CPU. Raises UsageError for a device that is not there."""
    found = chosen_device(name)
    return torch.device("cuda", local_rank) if found == "cuda" else torch.device(found)


# --- a stage ----------------------------------------------------------------------------------------------------------


def run_stage(options: Options, stage: str, data: Data, footing: Footing, team: Crew, watcher: Watcher) -> None:
    """One stage from where it stands to its end."""
    with leader_first(team):
        init = start_of(options, stage)
    camera_net = first_network("camera", init).eval() if stage == "joint" else None
    log_focal = torch.tensor([first_focal(clip, camera_net) for clip in footing.learn]) if camera_net else None
    now = keeping.start(options, stage, init, team.device, log_focal)
    if options.resume and keeping.restore(now, options):
        watcher.note(f"stage {stage}: going on at step {now.step} of {options.steps}")
    if now.step >= options.steps:
        later = options.stages[options.stages.index(stage) + 1 :]
        if team.leads and not any(keeping.checkpoints(options, name) for name in later):
            figures = keeping.last_metrics(options, stage)
            keeping.export(now, options, figures)  # a crash may have come before it
            finish(options, now, figures, sources_of(stage, data, footing, options), footing)
        return
    lessons, watched, teacher = [], [], None
    with leader_first(team):
        if stage in TAUGHT and footing.learn:
            lessons, watched = lesson_tables(footing, options, init, watcher.note, watcher.step)
    if stage == "camera":  # it learns nothing else from them
        lessons = [rows for rows in lessons if rows["known"].any()]
    if stage == "joint":
        teacher = first_network("depth", init).eval().requires_grad_(False).to(team.device)
    pool = training_pool(options)
    with ExitStack() as stack:
        if team.leads:
            pool.hold(now.pairs)
            if options.render:
                least = max(now.pairs, min(FEWEST, options.rows))
                seed = TRAIN_SEED + options.seed
                rendering = filling(
                    pool, seed, options.textures, least=least, device=str(team.device), assets=options.assets
                )
                stack.enter_context(rendering)
        now.pairs = agreed(now.pairs or pairs_ready(pool), team)
        log, board = None, None
        if team.leads:
            log = stack.enter_context(keeping.open_log(options.out / "log.jsonl", stage, now.step))
            board = stack.enter_context(tensorboard(options.out / "tensorboard" / stage, now.step))
        draw = drawing(options, stage, pool, lessons, footing, data.pairs)
        learn = learning(options, now, footing, teacher, team)
        check = partial(validated, now.mean, stage, options, team.device, watched, footing)
        show = partial(pictures, now.mean, stage, options, team.device, footing)
        while now.step < options.steps:
            steps(options, now, team, draw, learn, log, board, watcher)
            now.pairs = agreed(pairs_ready(pool), team)  # to draw from until the next checkpoint, and if resumed there
            if team.leads:
                figures = checkpoint(options, now, check, watcher)
                pool.hold(now.pairs)
                if board is not None:
                    for name, value in figures.items():
                        board.add_scalar(f"held/{name}", value, now.step)
                    for name, picture in show().items():
                        board.add_image(name, picture, now.step, dataformats="HWC")
    if team.leads:
        finish(options, now, figures, sources_of(stage, data, footing, options), footing)


def finish(options: Options, now: State, figures: dict[str, float], learned_from: list[str], footing: Footing) -> None:
    """What a stage leaves at its end: a card for each of its networks, and the cameras that it learned."""
    try:
        for kind in now.mean:
            text = keeping.card(kind, now, options, figures, learned_from)
            replaced(options.out / "weights" / f"{kind}-small.md", text)
        if now.stage == "joint":
            cameras_file(options, footing, now.lenses.log_focal.detach().cpu())
    except OSError as error:
        raise cannot_write(options.out / "weights", error) from error


def sources_of(stage: str, data: Data, footing: Footing, options: Options) -> list[str]:
    """What a stage learns from, beside rendered worlds, for the cards of its weights."""
    if stage == "flow":
        return [f"{pair.kind} {pair.name}" for pair in data.pairs]
    if stage in TAUGHT and footing.learn:
        return (options.out / "clips.txt").read_text().splitlines()
    return [str(clip.path) for clip in footing.learn] if stage == "joint" else []


@contextmanager
def leader_first(team: Crew) -> Iterator[None]:
    """Process 0 goes through the block before the others do."""
    if team.size > 1 and not team.leads:
        dist.barrier()
    yield
    if team.size > 1 and team.leads:
        dist.barrier()


def pairs_ready(pool) -> int:
    """Pairs that have been rendered so far."""
    return int(pool.open()[1][0])


def agreed(number: int, team: Crew) -> int:
    """Process 0's number, for all."""
    if team.size == 1:
        return number
    shared = torch.tensor([number], device=team.device)
    dist.broadcast(shared, 0)
    return int(shared[0])


def learning(
    options: Options, now: State, footing: Footing, teacher: nn.Module | None, team: Crew
) -> Callable[[Draw], tuple[Tensor, dict[str, Tensor]]]:
    """The function a draw -> loss and its parts."""
    half = options.precision != "fp32"  # bf16 autocast, 2.5 times faster on CPUs that know it
    shape = torch.tensor([c.shape for c in footing.learn], dtype=torch.float32, device=team.device)

    def lens(found: Draw):
        size = (found.windows.shape[-1], found.windows.shape[-2])
        learned = now.lenses(found.clips, shape[found.clips], size)  # of all, so that every process has gradients
        known = [k for k, camera in enumerate(found.cameras) if camera is not None]
        if not known:
            return learned
        given = together([found.cameras[k].to(team.device) for k in known])
        at = torch.tensor(known, device=team.device)
        focal, center = (getattr(learned, n).index_copy(0, at, getattr(given, n)) for n in ("focal", "center"))
        return type(learned)(focal, center, size)

    def learn(found: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(team.device.type, torch.bfloat16, enabled=half):
            if found.kind == "joint":
                return joint_stage(now.nets, found.windows, lens(found), teacher, OBJECTIVES[options.objective])
            if found.kind == "lesson":
                return lesson_stage(now.nets, found.batch, found.with_camera)
            return SUPERVISED[found.kind](now.nets, found.batch, with_camera=found.with_camera)

    return learn


def steps(
    options: Options, now: State, team: Crew, draw: Callable, learn: Callable, log: Any, board: Any, watcher: Watcher
) -> None:
    """Steps until it is time for a checkpoint, or the end."""
    began, samples, upto = time.monotonic(), team.samples(options.batch), now.pairs
    since = began
    for step, found in ahead(lambda k: draw(k, samples, upto), now.step, options.steps):
        waited = time.monotonic() - since
        for group in now.optimiser.param_groups:
            group["lr"] = group["rate"] * keeping.schedule(step, options.steps)
        loss, parts = learn(found.to(team.device))
        now.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        share_gradients(keeping.parameters(now), team)
        norm = nn.utils.clip_grad_norm_(keeping.parameters(now), 1.0)
        if not torch.isfinite(norm):
            good = keeping.checkpoints(options, now.stage)
            advice = f"the last good state is {good[-1]}; with a lower rate, start another run from its weights"
            advice = advice if good else "lower the rate"
            raise GlvidError(f"training is not finite at step {step} of stage {now.stage}: {advice}")
        now.optimiser.step()
        keeping.average(now)
        now.step = step + 1
        values = {"loss": shared_mean(loss.detach(), team), "norm": norm} | parts
        numbers = torch.stack([x.detach().float() for x in values.values()]).tolist()  # a GPU is waited for once
        facts = dict(zip(values, numbers, strict=True)) | {"seconds": time.monotonic() - since, "waited": waited}
        since = time.monotonic()
        if log is not None:
            entry = {"stage": now.stage, "step": step, "kind": found.kind}
            log(entry | {k: round(v, 6) for k, v in facts.items()})
            if board is not None:
                for name, value in facts.items():
                    board.add_scalar(name, value, step)
        watcher.step(now.stage, step, options.steps, facts)
        due = step == 0 or time.monotonic() - began > options.every
        if agreed(int(due), team):
            return


def share_gradients(learned: list[nn.Parameter], team: Crew) -> None:
    """Mean of the gradients of all processes, in one message. What this step does not use, none of them uses."""
    used = [p for p in learned if p.grad is not None]
    if team.size == 1 or not used:
        return
    flat = torch.cat([p.grad.reshape(-1) for p in used])
    dist.all_reduce(flat)
    flat /= team.size
    for p, part in zip(used, flat.split([p.numel() for p in used]), strict=True):
        p.grad.copy_(part.view_as(p))


def shared_mean(value: Tensor, team: Crew) -> Tensor:
    """Mean of a number over the processes."""
    if team.size > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value / team.size


def checkpoint(options: Options, now: State, check: Callable, watcher: Watcher) -> dict[str, float]:
    """Validate, save, and return the figures, also for `validation.jsonl`. Raises OutputError."""
    figures = check()
    metric = figures.get(METRIC[now.stage], float("inf"))
    better = metric < now.best
    now.best = min(metric, now.best)
    try:
        path = keeping.save(now, options, figures, better)
        with keeping.open_log(options.out / "validation.jsonl", now.stage, now.step) as log:
            log({"stage": now.stage, "step": now.step, **figures})
    except OSError as error:
        raise cannot_write(options.out / "checkpoints", error) from error
    said = ", ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[:4])
    watcher.note(f"stage {now.stage}, step {now.step}: {said or 'nothing to validate on'}; {path.name}")
    return figures


@contextmanager
def tensorboard(folder: Path, begin: int) -> Iterator:
    """A writer for TensorBoard where it is installed (extra `train`), else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield None
        return
    with SummaryWriter(str(folder), purge_step=begin) as writer:
        yield writer
