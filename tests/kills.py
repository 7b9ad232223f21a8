"""Kill a run at random moments, go on with --resume, and compare every byte with a run that was left alone.

python tests/kills.py [--kills 50] [--seed 0] [--clip assets/demo.mp4] [--twice] [-- options of glvid infer]

Without options of its own it takes `--refine both` and `output` in turn on six frames of the clip. Every run is a
process of its own, forked from one in which everything is imported, which is most of what a short run takes otherwise.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

MODES = ["--refine", "output"], ["--refine", "both", "--steps", "3"]
SMALL = ["--end", "0.25", "--max-size", "160", "--max-points", "20000"]
OF_A_PROCESS = ("seconds", "peak_memory_mb")  # of run.json, beside refine.seconds and the options below
OF_A_FOLDER = ("resume", "overwrite", "out")


def prints(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a run folder; of run.json without what may differ."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = (
                said(path) if path.name == "run.json" and b'"running"' not in path.read_bytes() else path.read_bytes()
            )
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def said(path: Path) -> bytes:
    """run.json but for timings, memory and how the folder was treated."""
    info = json.loads(path.read_text())
    for key in OF_A_PROCESS:
        info.pop(key)
    info["refine"].pop("seconds")
    for key in OF_A_FOLDER:
        info["options"].pop(key)
    return json.dumps(info).encode()


def command(clip: Path, folder: Path, options: list[str]) -> list[str]:
    return ["infer", str(clip), "-o", str(folder), "--quiet", *options]


def carry_out(words: list[str]) -> None:
    """What the process of a run does."""
    from glvid.cli import command, settle

    settle()
    sys.exit(command(words))


def run(words: list[str], seconds: float | None = None) -> int | None:
    """Exit code of a run; None where it lived so many seconds, and was killed (SIGKILL) then."""
    process = multiprocessing.get_context("forkserver").Process(target=carry_out, args=(words,))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def trial(clip: Path, options: list[str], expected: dict[str, str], moments: list[float], place: Path) -> list[str]:
    """What differs after kills at these seconds after each start, and a run to the end."""
    folder = place / "run"
    for number, seconds in enumerate(moments):
        run(command(clip, folder, options + (["--resume"] if number else [])), seconds)
    code = run(command(clip, folder, [*options, "--resume"]))
    if code:
        return [f"--resume ended with {code}"]
    found = prints(folder)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clip", type=Path, default=Path("assets/demo.mp4"))
    parser.add_argument("--twice", action="store_true", help="kill the resumed run, too")
    parser.add_argument("options", nargs="*")
    asked = parser.parse_args()
    every = [asked.options] if asked.options else [SMALL + mode for mode in MODES]
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the command has it, before torch is loaded
    multiprocessing.set_forkserver_preload(["glvid.cli", "glvid.bench", "glvid.page", "open3d"])
    chance, wrong = random.Random(asked.seed), 0
    with tempfile.TemporaryDirectory() as place:
        whole, seconds = [], []
        for number, options in enumerate(every):
            since, folder = time.monotonic(), Path(place) / f"whole-{number}"
            if run(command(asked.clip, folder, options)):
                return 1
            whole, seconds = [*whole, prints(folder)], [*seconds, time.monotonic() - since]
        for number in range(asked.kills):
            mode = number % len(every)
            moments = [chance.uniform(0, seconds[mode]) for _ in range(2 if asked.twice else 1)]
            with tempfile.TemporaryDirectory(dir=place) as inner:
                differing = trial(asked.clip, every[mode], whole[mode], moments, Path(inner))
            wrong += bool(differing)
            at = ", ".join(f"{moment:.2f}" for moment in moments)
            print(f"{number + 1}: killed at {at} of {seconds[mode]:.2f} s: {differing or 'same bytes'}", flush=True)
    print(f"{asked.kills - wrong} of {asked.kills} byte-identical")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
