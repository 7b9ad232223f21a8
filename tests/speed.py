"""Speed, measured: `python tests/speed.py train [DATA...]` or `worlds`. One JSON line per measurement on stdout.

train   samples a second of the training loop, stage by stage, and of the bare networks (forward, backward, step) on
        tensors that are there already: what drawing, decoding and logging cost. The pool is full, so rendering rests,
        as it does after the first minutes of a run; then the same of stage depth while its pool is being filled, and
        how many pairs a minute are rendered beside it
worlds  rendered pairs a minute, all cores
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from glvid.data.pool import Pool, fill, render
from glvid.train import Options, loop, sources, state, train

SEED = 700_000


def say(**facts) -> None:
    """One measurement."""
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in facts.items()}), flush=True)


def quiet(sentence: str) -> None:
    """Nothing is told here."""


def rates(out: Path, stage: str, first: int) -> list[tuple[str, float]]:
    """(kind, seconds) of every step of a stage after the first ones."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(x["kind"], x["seconds"]) for x in lines if x.get("stage") == stage and x["step"] >= first and "loss" in x]


def bare(options: Options, stage: str, draws: list[sources.Draw], footing: sources.Footing) -> float:
    """Mean seconds of forward, backward and step over these draws, which lie in memory."""
    team = loop.Crew(0, 1, torch.device("cpu"))
    teacher, camera = (sources.first_network(kind, "shipped").eval() for kind in ("depth", "camera"))
    teacher.requires_grad_(False)
    log_focal = torch.tensor([sources.first_focal(clip, camera) for clip in footing.learn])
    now = state.start(options, stage, "shipped", team.device, log_focal)
    learn = loop.learning(options, now, footing, teacher, team)
    seconds = []
    for draw in draws:
        began = time.perf_counter()
        loss, _ = learn(draw)
        now.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.parameters(now), 1.0)
        now.optimiser.step()
        state.average(now)
        seconds.append(time.perf_counter() - began)
    return float(np.mean(seconds[2:]))


def beside(plan: Options, bare_seconds: float) -> None:
    """Stage depth from an empty pool: the loop's rate while a second process renders, and the rate of that."""
    options = replace(plan, out=plan.out / "beside", rows=1500, data=())
    pool, made = sources.training_pool(options), []

    def watch(stage: str, number: int, total: int, facts: dict[str, float]) -> None:
        if "loss" in facts:
            made.append((time.perf_counter(), loop.pairs_ready(pool)))

    train(options, loop.Watcher(step=watch))
    (began, before), (ended, after) = made[2], made[-1]
    loop_seconds = float(np.mean([s for _, s in rates(options.out, "depth", 3)]))
    say(
        stage="depth, pool filling",
        loop_samples_per_second=options.batch / loop_seconds,
        bare_samples_per_second=options.batch / bare_seconds,
        share=bare_seconds / loop_seconds,
        rendered_pairs_per_minute=60 * (after - before) / (ended - began),
    )


def training(data: list[Path], steps: int) -> None:
    """The loop against the bare networks, for every stage with a full pool; then depth beside rendering."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        plan = Options("depth", out, tuple(data), steps=steps, rows=100, held=8)
        for name, rows, seed in (("train", plan.rows, SEED), ("held", plan.held, SEED + 1000)):
            fill(Pool(out / "pool" / f"{name}.bin", plan.rendered, rows), seed, None, count=rows)
        for stage in ("flow", "depth", "joint") if data else ("flow", "depth"):
            options = replace(plan, stage=stage, data=plan.data if stage == "joint" else (), resume=True)
            train(options)
            footing = sources.Footing()
            if stage == "joint":
                footing = sources.footing_of(sources.found_data(options, quiet), options, quiet)
            one = sources.drawing(options, stage, sources.training_pool(options), [], footing)
            draws = [one(k, range(options.batch), 64) for k in range(steps)]
            loop_seconds = float(np.mean([s for _, s in rates(out, stage, 2)]))
            bare_seconds = bare(options, stage, draws, footing)
            say(
                stage=stage,
                loop_samples_per_second=options.batch / loop_seconds,
                bare_samples_per_second=options.batch / bare_seconds,
                share=bare_seconds / loop_seconds,
            )
            if stage == "depth":
                beside(plan, bare_seconds)


def worlds(seconds: float, photos: Path | None) -> None:
    """Pairs that one process a core renders in some seconds."""
    with tempfile.TemporaryDirectory() as folder:
        pools = [Pool(Path(folder) / f"{k}.bin", (384, 224), 4000) for k in range(multiprocessing.cpu_count())]
        start = multiprocessing.get_context("spawn").Process
        workers = [
            start(target=render, args=(p, SEED + 2000 * k, photos, 0.0, "cpu"), daemon=True)
            for k, p in enumerate(pools)
        ]
        for worker in workers:
            worker.start()
        while any(int(p.open()[1][0]) < 8 for p in pools):  # the first ones paint their textures
            time.sleep(0.1)
        before, began = sum(int(p.open()[1][0]) for p in pools), time.perf_counter()
        time.sleep(seconds)
        made, took = sum(int(p.open()[1][0]) for p in pools) - before, time.perf_counter() - began
        for worker in workers:
            worker.terminate()
    say(worlds_per_minute=60 * made / took, processes=len(pools), size="384x224")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "worlds"])
    parser.add_argument("data", nargs="*", type=Path, help="footage for stage joint; photos for worlds")
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    if given.what == "train":
        training(given.data, given.steps)
    else:
        worlds(30.0, given.data[0] if given.data else None)
