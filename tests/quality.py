"""Quality, measured: `python tests/quality.py scenes`, `referee`, `consistency` or `clips`; names pick some.

scenes       six procedural worlds with exact truth, never used in training; all refinement modes, or those named
referee      KITTI drive 0052, 7-Scenes kitchen b and TUM fr3 cabinet by ../shared/check/referee.py, without and with
             refinement; names are depth networks
consistency  the demo and real clips: do depth, camera, path, flow and mask agree? (--refine output)
clips        infer on every clip of ../shared/data/wild and driving: exit code and run folder
Run folders go to .runs/quality/. One JSON line per measurement on stdout.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from run_folder import check

from glvid import results
from glvid.geometry import inverse, rigid_flow, umeyama
from glvid.synthetic import EVALUATION, SKY, scene
from glvid.types import Intrinsics
from glvid.warp import warp

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
RUNS = ROOT / ".runs" / "quality"
MODES = ("none", "params", "output")
KITTI = DATA / "driving/kitti_raw_0052_a/2011_09_26/2011_09_26_drive_0052_sync"
CONSISTENT = {
    "demo": ROOT / "assets/demo.mp4",
    "7scenes_kitchen_b": DATA / "rgbd/7scenes_kitchen_b/rgb",
    "kitti_odom_07_a": DATA / "driving/kitti_odom_07_a/sequences/07/image_0",
    **{
        name: DATA / f"wild/{name}.mp4"
        for name in ("lady_running", "plant_window", "golf_walkway", "tennis", "cockatoo", "blackswan")
    },
}


def infer(source: Path, folder: Path, *options: str) -> tuple[int, float]:
    """Exit code and seconds of `glvid infer`."""
    command = [
        sys.executable,
        "-m",
        "glvid",
        "infer",
        str(source),
        "-o",
        str(folder),
        "--overwrite",
        "--quiet",
        *options,
    ]
    since = time.perf_counter()
    return subprocess.run(command, check=False).returncode, time.perf_counter() - since


def say(**facts) -> None:
    """One measurement."""
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}), flush=True)


def referee(*arguments: str | Path) -> dict:
    """What the referee says of a run."""
    command = [sys.executable, str(SHARED / "check/referee.py"), *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def rendered(kind: str, seed: int, frames: int = 40, size: tuple[int, int] = (640, 360)):
    """Truth of an evaluation scene, and its frames as a folder of PNGs; cached."""
    folder = RUNS / "scenes" / f"{kind}_{seed}"
    truth_file = folder.with_suffix(".pt")
    if not truth_file.exists():
        truth = scene(seed, kind, frames=frames, size=size)
        folder.mkdir(parents=True, exist_ok=True)
        for k, image in enumerate(truth.images):
            bgr = (image.permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
            (folder / f"{k:04d}.png").write_bytes(cv2.imencode(".png", bgr)[1].tobytes())
        facts = {
            "depth": truth.depth,
            "world_T_cam": truth.world_T_cam,
            "focal": truth.intrinsics.focal,
            "moving": truth.moving,
        }
        torch.save(facts, truth_file)
    return folder, torch.load(truth_file, weights_only=True)


def scene_scores(run: results.RunFolder, truth: dict) -> dict[str, float]:
    """Abs Rel (median scaling per frame, no sky, 80 m), with one scale too, path and focal errors, mask overlap."""
    per, kept, inter, union = [], [], 0, 0
    for row, depth, moving in zip(run.rows, truth["depth"], truth["moving"], strict=True):
        p, g = run.depth(row), depth[0].numpy()
        ok = np.isfinite(p) & (g < min(80, SKY / 2))
        p, g = p[ok], g[ok]
        per.append(np.mean(np.abs(p * np.median(g) / np.median(p) - g) / g))
        kept.append((p, g))
        a, b = run.mask(row) > 0.5, moving[0].numpy() > 0.5
        inter, union = inter + (a & b).sum(), union + (a | b).sum()
    scale = np.median([np.median(g / p) for p, g in kept])
    one = np.mean([np.mean(np.abs(p * scale - g) / g) for p, g in kept])
    a = torch.from_numpy(run.trajectory().world_T_cam[:, :3, 3])
    b = truth["world_T_cam"].double()[:, :3, 3]
    s, R, t = umeyama(a, b)
    ate = (s * a @ R.T + t - b).norm(dim=1).square().mean().sqrt() / b.diff(dim=0).norm(dim=1).sum()
    focal = abs(run.camera["fx"] / float(truth["focal"][0]) - 1)
    return {
        "abs_rel": float(np.mean(per)),
        "abs_rel_one_scale": float(one),
        "ate_percent": 100 * float(ate),
        "focal_error_percent": 100 * focal,
        "observable": run.camera["observable"],
        "mask_iou": float(inter / union) if union else 1.0,
    }


def flow_error(run: results.RunFolder, truth: dict) -> float:
    """Mean end-point error (px) of the stored flow of what rests and stays in the picture."""
    size, errors = (truth["depth"].shape[3], truth["depth"].shape[2]), []
    K = Intrinsics(truth["focal"], torch.tensor(size) / 2, size)
    poses = truth["world_T_cam"].double()
    for n, row in enumerate(run.rows[:-1]):
        next_T_this = (inverse(poses[n + 1]) @ poses[n])[None].float()
        true, z = rigid_flow(truth["depth"][n : n + 1], K, next_T_this)
        rests = (truth["moving"][n : n + 1] < 0.5) & (z > 0.1) & (warp(true, true)[1] > 0)
        errors.append(float((torch.from_numpy(run.flow(row))[None] - true).norm(dim=1, keepdim=True)[rests].mean()))
    return float(np.mean(errors))


def scenes(names: list[str]) -> None:
    modes, seeds = ([n for n in names if (n in MODES) == is_mode] for is_mode in (True, False))
    for kind, seed in EVALUATION:
        if seeds and str(seed) not in seeds:
            continue
        source, truth = rendered(kind, seed)
        for mode in modes or MODES:
            folder = RUNS / f"{source.name}_{mode}"
            code, seconds = infer(source, folder, "--refine", mode)
            check(folder)
            run = results.open_run(folder)
            scores = scene_scores(run, truth) | {"flow_error_px": flow_error(run, truth)}
            say(scene=source.name, refine=mode, code=code, seconds=seconds, **scores)


def with_referee(names: list[str]) -> None:
    """Clips with truth, by the referee; `names` are depth networks."""
    rgbd = (("7scenes_kitchen_b", ("none", "output")), ("tum_fr3_cabinet_keyframes", ("none",)))
    for network in names or ["depth-small"]:
        chosen, tag = ("--depth-model", network), Path(network).stem
        for mode in ("none", "params", "output"):
            folder = RUNS / f"{tag}_kitti_0052_{mode}"
            code, seconds = infer(KITTI / "image_02/data", folder, "--refine", mode, *chosen)
            scores = referee("kitti", folder, "--fx", "721.5377", "--depth", KITTI / "proj_depth/groundtruth/image_02")
            say(network=tag, clip="kitti_raw_0052_a", refine=mode, code=code, seconds=seconds, **scores)
        for name, modes in rgbd:
            for mode in modes:
                folder, sequence = RUNS / f"{tag}_{name}_{mode}", DATA / "rgbd" / name
                code, seconds = infer(sequence / "rgb", folder, "--refine", mode, *chosen)
                scores = referee("rgbd", folder, "--seq", sequence)
                say(network=tag, clip=name, refine=mode, code=code, seconds=seconds, **scores)


def consistency(names: list[str]) -> None:
    for name, source in CONSISTENT.items():
        if names and name not in names:
            continue
        folder = RUNS / f"consistency_{name}"
        code, seconds = infer(source, folder, "--refine", "output")
        check(folder)
        say(clip=name, code=code, seconds=seconds, **referee("consistency", folder))


def clips(names: list[str]) -> None:
    sources = [*sorted((DATA / "wild").glob("*.mp4")), *sorted((DATA / "driving").rglob("*.mp4"))]
    five = [p.stem for p in sources[:27:6]] + [p.stem for p in sources[27:32]]
    for source in sources:
        for mode in ("none", "output") if source.stem in five else ("none",):
            if names and source.stem not in names:
                continue
            folder = RUNS / f"clip_{source.stem}_{mode}"
            code, seconds = infer(source, folder, "--refine", mode)
            check(folder)
            run = results.open_run(folder)
            frames, warnings = len(run.rows), run.info["warnings"]
            say(
                clip=source.stem,
                refine=mode,
                code=code,
                seconds=seconds,
                frames=frames,
                fx=run.camera["fx"],
                warnings=warnings,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = {"scenes": scenes, "referee": with_referee, "consistency": consistency, "clips": clips}
    parser.add_argument("what", choices=what)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    what[given.what](given.names)
