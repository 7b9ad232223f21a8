"""What training keeps: networks, their running mean, optimiser, step; on disk as checkpoints, a log, weight files."""

import json
import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glvid import __version__, weights
from glvid.data.frames import replaced
from glvid.errors import ModelError, UsageError
from glvid.files import cannot_write, published
from glvid.networks import KINDS
from glvid.train.joint import Lenses
from glvid.train.options import LISTS, SIZES, STAGES, Options, as_toml, differing, from_toml
from glvid.train.sources import first_network

KEPT = 2  # checkpoints of a stage, beside the best one


@dataclass
class State:
    """One stage as it stands. The only thing here that changes."""

    stage: str
    nets: nn.ModuleDict
    mean: nn.ModuleDict  # exponential running mean of their parameters
    optimiser: torch.optim.Optimizer
    step: int = 0  # to be done next
    pairs: int = 0  # of the pool, to draw from
    best: float = math.inf  # of the validation metric
    lenses: Lenses | None = None  # stage joint: focal lengths of the recordings


# Shares of the rate in stage joint, which changes trained networks: at the whole of 4e-4 flow's error doubled in 36
# steps. The camera network has most to learn from real footage, and flow to learn it from.
FINE = {"depth": 0.05, "camera": 1.0, "flow": 0.05}


PRETRAINED, SEEN = "encoder.", 0.3  # parameters that saw photos before, and their share of the rate


def start(options: Options, stage: str, init: str | Path, device: torch.device, log_focal: Tensor | None) -> State:
    """Networks from `init` (shipped, none or a folder of weights), a copy for their mean, and the optimiser.

    Raises ModelError for weights that do not fit.
    """
    torch.manual_seed(options.seed)
    nets = nn.ModuleDict({kind: first_network(kind, init) for kind in STAGES[stage]})
    nets = nets.to(device, memory_format=torch.channels_last)
    mean = nn.ModuleDict({kind: KINDS[kind][0](nets[kind].config) for kind in nets}).to(device)
    mean = mean.to(memory_format=torch.channels_last).requires_grad_(False).eval()
    mean.load_state_dict(nets.state_dict())
    groups = []
    for kind, net in nets.items():
        rate = options.rate * (FINE[kind] if stage == "joint" else 1.0)
        seen = [p for name, p in net.named_parameters() if name.startswith(PRETRAINED)]
        rest = [p for name, p in net.named_parameters() if not name.startswith(PRETRAINED)]
        groups.append({"params": rest, "rate": rate})
        if seen:
            groups.append({"params": seen, "rate": SEEN * rate, "weight_decay": 0.0})
    lenses = None
    if stage == "joint":
        lenses = Lenses(len(log_focal), log_focal).to(device)
        groups.append({"params": list(lenses.parameters()), "rate": options.rate * 5, "weight_decay": 0.0})
    optimiser = torch.optim.AdamW(groups, options.rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    return State(stage, nets, mean, optimiser, lenses=lenses)


def parameters(state: State) -> list[nn.Parameter]:
    """All that is learned."""
    return [p for group in state.optimiser.param_groups for p in group["params"]]


def schedule(step: int, steps: int, warm: int = 300) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to 2 %."""
    warm = min(warm, steps // 10 + 1)
    done = max(0, step - warm) / max(1, steps - warm)
    return min(1.0, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def average(state: State) -> None:
    """Exponential running mean of the parameters over about 1,000 steps, faster at first."""
    keep = min(0.999, (state.step + 1) / (state.step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.mean.parameters()), list(state.nets.parameters()), 1 - keep)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def checkpoints(options: Options, stage: str) -> list[Path]:
    """Checkpoints of a stage, oldest first; the best one is not among them."""
    return sorted((options.out / "checkpoints").glob(f"{stage}-[0-9]*.pt"))


def save(state: State, options: Options, metrics: dict[str, float], better: bool) -> Path:
    """A checkpoint, and the mean networks as weight files; keeps the last two and the best. Raises OutputError."""
    folder = options.out / "checkpoints"
    path = folder / f"{state.stage}-{state.step:07d}.pt"
    content = {name: getattr(state, name).state_dict() for name in ("nets", "mean", "optimiser")}
    content |= {name: getattr(state, name) for name in ("stage", "step", "pairs", "best")}
    content |= {"lenses": state.lenses.state_dict() if state.lenses else None, "options": as_toml(options)}
    content |= {"metrics": metrics}
    weights.save_checkpoint(content, path)
    if better:
        with published(folder / f"{state.stage}-best.pt", path.stat().st_size) as part:
            shutil.copyfile(path, part)
    for old in checkpoints(options, state.stage)[:-KEPT]:
        old.unlink()
    export(state, options, metrics)
    return path


def export(state: State, options: Options, metrics: dict[str, float]) -> None:
    """The mean networks as weight files."""
    facts = {"stage": state.stage, "steps": state.step, "batch": options.batch, "size": list(options.size)}
    for kind, net in state.mean.items():
        weights.save(net, options.out / "weights" / f"{kind}-small.safetensors", {"trained": facts | metrics})


def last_metrics(options: Options, stage: str) -> dict[str, float]:
    """What the newest checkpoint of a stage scored. Raises ModelError where there is none."""
    found = checkpoints(options, stage)
    if not found:
        raise ModelError(f"{options.out / 'checkpoints'}: there is no checkpoint of stage {stage}: start anew")
    return weights.load_checkpoint(found[-1]).get("metrics", {})


def restore(state: State, options: Options) -> bool:
    """Puts the newest checkpoint of the stage in place; False where there is none.

    Raises ModelError for one that is cut short, not finite or of another architecture, naming the last good one;
    UsageError where options differ that would make it another run.
    """
    found = checkpoints(options, state.stage)
    if not found:
        return False
    try:
        fill(state, found[-1], options)
    except ModelError as error:
        good = next((str(p) for p in reversed(found[:-1]) if _is_good(state, p)), None)
        advice = f"the last good one is {good}: remove {found[-1].name} to go on from it" if good else "start anew"
        raise ModelError(f"{error}; {advice}") from error
    return True


def _is_good(state: State, path: Path) -> bool:
    try:
        _checked(state, path)
    except ModelError:
        return False
    return True


def fill(state: State, path: Path, options: Options) -> None:
    """A checkpoint's values into a state of the same architecture. Raises ModelError, and changes nothing then."""
    content = _checked(state, path)
    try:
        before = from_toml(content["options"])
    except UsageError as error:
        raise ModelError(f"{path}: {error}") from error
    if other := differing(before, options):
        raise UsageError(f"{path.parent.parent}: this run began with another {other}; give the same, or another -o")
    state.nets.load_state_dict(content["nets"])
    state.mean.load_state_dict(content["mean"])
    if state.lenses is not None:
        state.lenses.load_state_dict(content["lenses"])
    state.optimiser.load_state_dict(content["optimiser"])
    state.step, state.pairs, state.best = content["step"], content["pairs"], content["best"]


def _checked(state: State, path: Path) -> dict[str, Any]:
    """What a checkpoint holds, once it is known to fit."""
    content = weights.load_checkpoint(path)
    parts = {"nets": state.nets, "mean": state.mean} | ({"lenses": state.lenses} if state.lenses is not None else {})
    if not isinstance(content, dict) or not {*parts, "optimiser", "step", "pairs", "best", "options"} <= content.keys():
        raise ModelError(f"{path} is no checkpoint of glvid train")
    if content.get("stage") != state.stage:
        raise ModelError(f"{path} is of stage {content.get('stage')}, not {state.stage}")
    for name, module in parts.items():
        wanted, there = module.state_dict(), content[name] or {}
        if not isinstance(there, dict) or not all(map(torch.is_tensor, there.values())):
            raise ModelError(f"{path} holds no tensors of {name}")
        if wanted.keys() != there.keys() or any(wanted[k].shape != there[k].shape for k in wanted):
            raise ModelError(f"{path} holds another architecture than {name} to be trained")
        if not all(torch.isfinite(v).all() for v in there.values()):
            raise ModelError(f"{path} holds values that are not finite")
    counts = [content[name] for name in ("step", "pairs")]
    if not all(type(n) is int and n >= 0 for n in counts) or not isinstance(content["best"], float | int):
        raise ModelError(f"{path} does not say how far training was")
    if not isinstance(content["options"], str) or not _is_optimiser(content["optimiser"], state.optimiser):
        raise ModelError(f"{path} holds another optimiser, or none")
    kept = [v for values in content["optimiser"]["state"].values() for v in values.values() if torch.is_tensor(v)]
    if not all(torch.isfinite(v).all() for v in kept):
        raise ModelError(f"{path} holds values of the optimiser that are not finite")
    return content


def _is_optimiser(content: Any, optimiser: torch.optim.Optimizer) -> bool:
    """Is it the state of such an optimiser: as many parameters in every group, moments of their shapes?"""
    try:
        groups = [list(group["params"]) for group in content["param_groups"]]
        moments = {k: {name: v.shape for name, v in values.items() if v.ndim} for k, values in content["state"].items()}
    except (TypeError, KeyError, AttributeError):
        return False
    if groups != [group["params"] for group in optimiser.state_dict()["param_groups"]]:
        return False
    shapes = {k: p.shape for k, p in enumerate(p for group in optimiser.param_groups for p in group["params"])}
    return all(shape == shapes.get(k) for k, known in moments.items() for shape in known.values())


# --- the log, and what a finished stage leaves ------------------------------------------------------------------------


@contextmanager
def open_log(path: Path, stage: str, begin: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that adds an object, as a line, to a log that is cut back to before step `begin` of the stage.

    Lines are there whole or not at all. Raises OutputError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise OSError(0, "no regular file")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(True) if path.exists() else []
    except OSError as error:
        raise cannot_write(path, error) from error
    kept = [x for x in lines if (y := _read(x)) and (y["stage"] != stage or y["step"] < begin)]
    replaced(path, "".join(kept))
    try:
        log = open(path, "ab", buffering=0)  # noqa: SIM115 (closed below; what a buffer keeps would fail there again)
    except OSError as error:
        raise cannot_write(path, error) from error
    with log:

        def write(entry: dict[str, Any]) -> None:
            line, size = (json.dumps(entry) + "\n").encode(), log.seek(0, os.SEEK_END)
            try:
                done = log.write(line)
                if done < len(line):  # the system says why when it is asked again
                    log.write(line[done:])
            except OSError as error:
                log.truncate(size)
                raise cannot_write(path, error, size + len(line)) from error

        yield write


def _read(line: str) -> dict[str, Any] | None:
    """One entry of the log; None where a crash cut it, or something else did harm."""
    try:
        entry = json.loads(line)
        return entry if type(entry["step"]) is int and isinstance(entry["stage"], str) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def card(kind: str, state: State, options: Options, metrics: dict[str, float], learned_from: list[str]) -> str:
    """What people should know of weights: their data, command, code and figures, in Markdown."""
    path = options.out / "weights" / f"{kind}-small.safetensors"
    figures = "\n".join(f"| {name} | {value:.4g} |" for name, value in metrics.items())
    films = "\n".join(f"- {name}" for name in learned_from) or "- rendered worlds only"
    kept_out = "nothing"
    if options.exclude:
        from glvid.data.layouts import read_patterns  # it needs PyAV, which is not everywhere where one trains

        kept_out = ", ".join(f"`{pattern}`" for pattern in read_patterns(options.exclude))
    return f"""# {path.stem}

A {kind} network of glvid {__version__}{commit()}, stage `{state.stage}`, {state.step} steps of {options.batch}
samples at {options.size[0]}x{options.size[1]} px. sha256 `{weights.sha256(path)}`.

The terms of the footage it learned from bind it too: look them up before you pass it on.

## Validation

| metric | value |
|---|---|
{figures}

## Learned from

Rendered worlds from seed {options.seed + 100_000} on, and

{films}

Kept out: {kept_out}.

## Command

```
{command(options)}
```

All options, as `--config` takes them:

```toml
{as_toml(options).strip()}
```
"""


def command(options: Options) -> str:
    """The command line that trains so; what it has no option for stands in the configuration alone."""
    words = ["glvid", "train"]
    for field in fields(Options):
        value = getattr(options, field.name)
        if value == field.default or field.name == "resume":
            continue
        many = value if field.name in LISTS else [f"{value[0]}x{value[1]}" if field.name in SIZES else value]
        for one in many:
            words += [f"--{field.name}", str(one)]
    return shlex.join(words)


def commit() -> str:
    """The commit of a checkout, in words; empty for an installed package."""
    here = Path(__file__).parent.parent
    if not (here.parent / ".git").exists():
        return ""
    found = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return f" (commit {found.stdout.strip()})" if found.returncode == 0 else ""
