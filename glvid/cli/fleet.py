"""Many clips on many machines: Ray, an engine that exists, gives each a place and tries again where a machine dies.

A task is one clip, in a child process of the worker, as if it were the only input of a command with --resume: so a
worker that is killed loses the frames at hand, and no clip is done twice. `results.jsonl` beside the run folders has a
line for every clip that ended. Machines share the folders (NFS or the like), paths and the environment.
"""

import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from glvid import __version__
from glvid.cli.batch import Call, Outcome, in_child
from glvid.cli.ends import FINISHED_WITH_LOSSES
from glvid.cli.screen import say
from glvid.errors import UsageError
from glvid.files import atomic_write, cannot_write

TABLE = "results.jsonl"
AHEAD = 2  # tasks that wait, for every one that runs: there may be a million
HOW = (
    "inputs out overwrite resume allow_partial quiet json_ debug engine clip_cpus clip_gpus retries".split()
)  # not what
FACTS = ("status", "device", "precision", "seconds", "peak_memory_mb", "result_sha256", "warnings")


@dataclass(frozen=True)
class Share:
    """What one clip is given of a machine, and how often it is begun again after a worker's death."""

    cpus: float = 2
    gpus: float = 0
    retries: int = 3


@dataclass(frozen=True)
class Clip:
    """One input, its run folder, what is to be done, and what tells this from anything else that could be done."""

    source: Path
    folder: Path
    call: Call
    asked: str


def expanded(inputs: Sequence[Path]) -> list[Path]:
    """Every clip that is meant, once: those of a list (`.txt`, a path a line, from where the list lies), the videos
    below a folder of videos, everything else as it is. Raises UsageError where a list cannot be read or says nothing.
    """
    return list(dict.fromkeys(path for source in inputs for path in meant(source)))


def meant(source: Path) -> Iterator[Path]:
    """`expanded`, of one input."""
    from glvid.data.layouts import VIDEOS
    from glvid.video.pictures import natural

    if source.is_dir():
        below = [p for p in source.rglob("*") if p.suffix.lower() in VIDEOS and p.is_file() and not hidden(p, source)]
        yield from sorted(below, key=lambda path: natural(str(path))) or [source]
    elif source.suffix.lower() == ".txt":
        lines = [line.strip() for line in listed(source).splitlines()]
        paths = [source.parent / line for line in lines if line and not line.startswith("#")]
        if not paths:
            raise UsageError(f"{source}: names no clip; a list has one path a line")
        yield from paths
    else:
        yield source


def hidden(path: Path, top: Path) -> bool:
    """Does a name on the way down begin with a dot, or belong to a run folder?"""
    return any(part.startswith(".") or part.endswith(".glvid") for part in path.relative_to(top).parts)


def listed(path: Path) -> str:
    """Text of a list of clips."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a list of clips ({error}); it has one path a line") from error


def asked(source: Path, params: dict[str, Any]) -> str:
    """What tells one task from others: the clip, as its file is dated, and all that is asked of it."""
    facts = source.stat() if source.exists() else None
    dated = None if facts is None else (facts.st_size, facts.st_mtime_ns)
    stated = {k: str(v) for k, v in params.items() if k not in HOW}
    return hashlib.sha256(repr((__version__, str(source), dated, sorted(stated.items()))).encode()).hexdigest()[:16]


def on_ray(address: str, clips: Sequence[Clip], share: Share, table: Path, quiet: bool, debug: bool) -> list[Outcome]:
    """The outcome of every clip, by a running Ray (`address`) or one of this machine's cores (no address).

    Clips whose end `table` tells, and whose run folder says so too, are not begun again. Raises UsageError where there
    is no Ray, GlvidError where it stops.
    """
    ray = imported_ray()
    outcomes = {n: found for n, found in enumerate(map(partial(finished, read_table(table)), clips)) if found}
    left = [n for n in range(len(clips)) if n not in outcomes]
    say(f"{len(clips)} clips, {len(outcomes)} of them done before", quiet)
    if left:
        try:
            ours = {} if address else {"include_dashboard": False}
            ray.init(address or None, log_to_driver=False, logging_level=logging.ERROR, **ours)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"--engine ray:{address}: no Ray answers there ({brief(error)})") from error
        try:
            told = tasks(ray, [clips[n] for n in left], share, debug)
            for count, (k, outcome, facts) in enumerate(told, len(outcomes) + 1):
                n = left[k]
                outcomes[n] = outcome
                append(table, line_of(clips[n], outcome, facts))
                words = outcome.reason or f"{outcome.document['status']}, {facts['seconds']:.0f} s"
                say(f"{count} of {len(clips)}: {clips[n].source}: {words} ({facts['host']})", quiet)
        finally:
            ray.shutdown()
    rewritten(table)
    return [outcomes[n] for n in range(len(clips))]


def imported_ray() -> Any:
    """The engine. Raises UsageError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray: Ray is not installed; pip install 'glvid[ray]'") from error
    return ray


def tasks(ray: Any, clips: Sequence[Clip], share: Share, debug: bool) -> Iterator[tuple[int, Outcome, dict[str, Any]]]:
    """Number, outcome and facts of every clip as they end; a few are handed in ahead of those that run."""
    options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_retries": share.retries}
    remote = ray.remote(**options)(carried_out_there)
    wide = max(1, int(ray.cluster_resources().get("CPU", 1) / max(share.cpus, 0.1))) * (1 + AHEAD)
    waiting: dict[Any, int] = {}
    handed = iter(enumerate(clips))
    while True:
        for n, clip in handed:
            waiting[remote.remote(str(Path.cwd()), clip.source, clip.call, share.cpus, debug)] = n
            if len(waiting) >= wide:
                break
        if not waiting:
            return
        (ended,), _ = ray.wait(list(waiting), num_returns=1)
        n = waiting.pop(ended)
        try:
            found = ray.get(ended)
            yield n, Outcome(**found["outcome"]), found["facts"]
        except ray.exceptions.RayError as error:
            reason = f"{clips[n].source}: its workers died, {1 + share.retries} times ({brief(error)})"
            yield n, Outcome(None, 1, reason), {"seconds": 0.0, "host": "?"}


def brief(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def carried_out_there(folder: str, source: Path, call: Call, cpus: float, debug: bool) -> dict[str, Any]:
    """What a worker does: a clip in a child process, which dies with it; the worker's folder is that of the command."""
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(cpus)))  # of the child, which reads it when it loads torch
    since = time.time()
    (outcome,) = in_child([source], [call], debug, [], [])
    facts = {"host": socket.gethostname(), "began": round(since, 3), "seconds": round(time.time() - since, 3)}
    return {"outcome": asdict(outcome), "facts": facts}


# ---------------------------------------------------------------- the table


def line_of(clip: Clip, outcome: Outcome, facts: dict[str, Any]) -> dict[str, Any]:
    """What the table says of a clip that ended."""
    document = outcome.document or {"status": "failed"}
    code = outcome.code or (FINISHED_WITH_LOSSES if document["status"] == "partial" else 0)
    stated = {"input": str(clip.source), "folder": str(clip.folder), "asked": clip.asked, "exit_code": code}
    stated |= {"error": outcome.reason or None, "frames": len(document.get("frames", []))}
    camera = document.get("camera", {})
    stated |= {key: document.get(key) for key in FACTS} | {key: camera.get(key) for key in ("fx", "fy", "observable")}
    return stated | {"task": facts}


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of every run folder; a last line that was cut off is passed over."""
    lines: dict[str, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            lines[line["folder"]] = line
        except (ValueError, KeyError, TypeError):
            continue
    return lines


def finished(lines: dict[str, dict[str, Any]], clip: Clip) -> Outcome | None:
    """The outcome of a clip that the table and its own run folder know to be done, as it is asked for now."""
    from glvid.results import read_info

    line = lines.get(str(clip.folder))
    if line is None or line.get("asked") != clip.asked or line.get("exit_code") not in (0, FINISHED_WITH_LOSSES):
        return None
    document = read_info(clip.folder)
    return None if document is None or document["status"] == "running" else Outcome(document, 0)


def append(path: Path, line: dict[str, Any]) -> None:
    """One more line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def rewritten(path: Path) -> None:
    """The table with one line for every run folder, in the order of their names."""
    lines = read_table(path)
    if lines:
        atomic_write(path, "".join(json.dumps(lines[name]) + "\n" for name in sorted(lines)).encode())
