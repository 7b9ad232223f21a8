"""The camera benchmark: `python tests/camera.py paths` (or what else is below), then names of clips to pick some.

paths    ../shared/data, --refine output, unknown camera: path, focal length, depth and seconds, by the referee
crops    the four clips that turn, cut to an odd aspect ratio: focal length, sigma, verdict
unknown  clips that cannot tell the focal length: a frozen one, one that only moves sideways
prior    depth that starts from a corrupted prior, before and after: 7-Scenes and six rendered scenes
movers   mask overlap and depth on moving objects, without and with refinement, of six rendered scenes: the first ones
         from seed 920,001 on, all kinds in turn, where at least 2 % of all pixels move (names: seeds to try instead)
jumps    every clip of wild and driving, --refine output: steps of the path far longer than those around them, and more
         so than the picture's motion is; `jumps quick` takes --refine none, and looks again at what jumps there
long     a rendered room seen to and fro until it has 10,000 frames, --refine none (names: another number or mode):
         seconds, memory, path error over the path's extent, and the scale of every pass against the first
rolling  rendered worlds by cameras whose rows take no, 0.3 and 0.6 of the time between frames: readout, path, focal
colmap   pycolmap (extra `colmap`), self-calibrating, on the clips of `paths`; `colmap cut`: on those of `crops`
Run folders go to .runs/camera/. One JSON line per measurement on stdout.
"""

import argparse
import importlib.util
import itertools
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from quality import DATA, ROOT, SHARED, infer, referee, rendered, say

from glvid import results
from glvid.dense import full_depth
from glvid.geometry import inverse, se3_exp, se3_log, umeyama
from glvid.predict import Flows, as_tensor, fine_dis_flow, predict_camera, predict_depth, working_size
from glvid.refine import STEPS, Plan, refine
from glvid.solve import solve
from glvid.synthetic import EVALUATION, KINDS, SKY, render, scene, world
from glvid.types import Shot
from glvid.video import write_video
from glvid.weights import DEFAULTS, load

RUNS = ROOT / ".runs" / "camera"
ODOMETRY = {  # sequence, focal length, width
    "kitti_odom_00_a": ("00", 718.856, 1241),
    "kitti_odom_06_a": ("06", 707.0912, 1226),
    "kitti_odom_07_a": ("07", 707.0912, 1226),
}
POSED = {"7scenes_kitchen_a": 585.0, "7scenes_kitchen_b": 585.0, "tsukuba_synthetic": 615.0}
CROPS = {  # width and height of a cut around the centre
    "kitti_odom_07_a": (840, 370), "7scenes_kitchen_a": (420, 480), "7scenes_kitchen_b": (640, 300),
    "tsukuba_synthetic": (500, 440),
}  # fmt: skip


def pictures(name: str) -> Path:
    """The folder of a clip's pictures."""
    if name in ODOMETRY:
        return DATA / "driving" / name / "sequences" / ODOMETRY[name][0] / "image_0"
    return DATA / "rgbd" / name / "rgb"


def in_order(name: str) -> list[Path]:
    """Its files in the order they were taken: 9.9.jpg comes before 10.0.jpg."""
    return sorted(pictures(name).iterdir(), key=lambda path: float(path.stem))


def focal(name: str) -> float:
    """True focal length, px."""
    return ODOMETRY[name][1] if name in ODOMETRY else POSED[name]


def judged(name: str, folder: Path) -> dict:
    """What the referee says of a run: depth, path and focal length in one dict."""
    if name in ODOMETRY:
        number, fx, width = ODOMETRY[name]
        truth = DATA / "driving" / name / "poses" / f"{number}.txt"
        return referee("odometry", folder, "--poses", truth, "--fx", str(fx), "--width", str(width))
    found = referee("rgbd", folder, "--seq", DATA / "rgbd" / name)
    depth = {k: found["depth"][k] for k in ("abs_rel", "abs_rel_one_scale")} if "depth" in found else {}
    return depth | found["path"] | found["camera"]


KEPT = (
    "ate_percent",
    "blind_ate_percent",
    "ate5",
    "rpe_rot_deg",
    "focal_error_percent",
    "abs_rel",
    "abs_rel_one_scale",
)


def paths(names: list[str]) -> None:
    for name in (*ODOMETRY, *POSED):
        if names and name not in names:
            continue
        folder = RUNS / name
        code, seconds = infer(pictures(name), folder, "--refine", "output")
        scores, camera = judged(name, folder), results.open_run(folder).camera
        facts = {k: scores[k] for k in KEPT if k in scores}
        sigma = 100 * (camera["fx_sigma"] or 0) / camera["fx"]
        say(clip=name, code=code, seconds=seconds, **facts, sigma_percent=sigma, observable=camera["observable"])


def crops(names: list[str]) -> None:
    for name, (w, h) in CROPS.items():
        if names and name not in names:
            continue
        folder = RUNS / f"crop_{name}"
        code, seconds = infer(cropped(name), folder, "--refine", "output")
        told(f"{name} {w}x{h}", folder, code, seconds, focal(name))


def cropped(name: str) -> Path:
    """A folder of the pictures of a clip, cut as CROPS says."""
    (w, h), folder = CROPS[name], RUNS / "crops" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in in_order(name):
        image = cv2.imread(str(path))
        y, x = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
        cv2.imwrite(str(folder / f"{path.stem}.png"), image[y : y + h, x : x + w])
    return folder


def told(clip: str, folder: Path, code: int, seconds: float, fx: float) -> None:
    """What a run says of its focal length, against the truth."""
    camera = results.open_run(folder).camera
    error, sigma = 100 * (camera["fx"] / fx - 1), 100 * (camera["fx_sigma"] or 0) / camera["fx"]
    verdict = {"focal_error_percent": error, "sigma_percent": sigma, "observable": camera["observable"]}
    say(clip=clip, code=code, seconds=seconds, **verdict)


def unknown(names: list[str]) -> None:
    for name, build in {"frozen": frozen, "sideways": sideways}.items():
        if names and name not in names:
            continue
        source = RUNS / name
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        fx = build(source)
        code, seconds = infer(source, RUNS / f"run_{name}", "--refine", "output")
        told(name, RUNS / f"run_{name}", code, seconds, fx)


def frozen(folder: Path) -> float:
    """30 times the same picture."""
    first = in_order("7scenes_kitchen_a")[0]
    for k in range(30):
        shutil.copyfile(first, folder / f"{k:04d}{first.suffix}")
    return focal("7scenes_kitchen_a")


def sideways(folder: Path) -> float:
    """A rendered room (evaluation scene 900001) seen by a camera that only moves to its right."""
    here = world(900_001, "handheld", frames=40, size=(640, 360))
    path = here.world_T_cam[:1].repeat(40, 1, 1)
    path[:, :3, 3] += 0.02 * torch.arange(40)[:, None] * path[:, :3, 0]
    for k, image in enumerate(render(replace(here, world_T_cam=path)).images):
        cv2.imwrite(str(folder / f"{k:04d}.png"), (image.permute(1, 2, 0).numpy()[..., ::-1] * 255).round())
    return float(here.intrinsics.focal[0])


# --- depth priors ----------------------------------------------------------------------------------------------------


def corrupted(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Depth (H, W) whose inverse is stretched and shifted by up to 20 %, bent smoothly as much, and noisy (2 %)."""
    near = 1 / depth
    bend = torch.from_numpy(rng.uniform(-0.2, 0.2, (1, 1, 3, 4)))
    bend = F.interpolate(bend, depth.shape, mode="bicubic", align_corners=True)[0, 0].numpy()
    near = near * rng.uniform(0.8, 1.2) + np.median(near) * rng.uniform(-0.2, 0.2)
    near = near * (1 + bend) * (1 + 0.02 * rng.standard_normal(depth.shape))
    return (1 / np.maximum(near, 0.02 * np.median(near))).astype(np.float32)


def filled(depth: np.ndarray) -> np.ndarray:
    """Unknown depth (0) takes that of the nearest known pixel."""
    known = (depth > 0).astype(np.uint8)
    labels = cv2.distanceTransformWithLabels(1 - known, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    value = np.zeros(labels.max() + 1, np.float32)
    value[labels[known > 0]] = depth[known > 0]
    return value[labels]


def known_clips(names: list[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, images (N, H, W, 3) and true depth (N, H, W), 0 = unknown, of clips with dense truth."""
    for name in ("7scenes_kitchen_a", "7scenes_kitchen_b"):
        if not names or name in names:
            folder = DATA / "rgbd" / name
            rows = [
                [r.split()[1] for r in (folder / f).read_text().splitlines() if r[0] != "#"]
                for f in ("rgb.txt", "depth.txt")
            ]
            images = [cv2.imread(str(folder / a))[..., ::-1] for a in rows[0]]
            yield name, np.stack(images), np.stack([cv2.imread(str(folder / b), -1) / 1000.0 for b in rows[1]])
    for kind, seed in EVALUATION:
        if not names or str(seed) in names:
            folder, truth = rendered(kind, seed)
            images = [cv2.imread(str(p))[..., ::-1] for p in sorted(folder.iterdir())]
            depth = truth["depth"][:, 0].numpy()
            yield folder.name, np.stack(images), np.where(depth < SKY / 2, depth, 0)


def off(depth: np.ndarray, truth: np.ndarray) -> float:
    """Abs Rel after median scaling, of known depths to 80 m."""
    ok = (truth > 0.1) & (truth < 80)
    p, g = depth[ok], truth[ok]
    return float(np.mean(np.abs(p * np.median(g) / np.median(p) - g) / g))


def prior(names: list[str]) -> None:
    camera_net = load(DEFAULTS["camera"], "camera")[0].eval()
    depth_net = load(DEFAULTS["depth"], "depth")[0].eval()  # only `params` would use it
    for name, images, truth in known_clips(names):
        shape = images.shape[2], images.shape[1]
        size, rng = working_size(shape), np.random.default_rng(1)
        small = np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in images])
        true = np.stack([cv2.resize(x, size, interpolation=cv2.INTER_NEAREST) for x in truth])
        start = np.stack([corrupted(filled(np.where(t > 80, 80, t)), rng) for t in true.astype(np.float32)])
        shot = Shot(np.arange(len(small)) / 15, small, start)
        at, since = np.arange(0, len(small) - 1, 5), time.perf_counter()
        lens = predict_camera(camera_net, small[at], small[at + 1], shape)
        flows = Flows(shot, fine_dis_flow)
        solved = solve(shot, flows, lens)
        shot, dense, solved, done = refine(
            shot, solved, flows, depth_net, Plan("output", STEPS["output"]), lambda n: None
        )
        after = [
            full_depth(shot, solved, dense, n, as_tensor(shot.images[n : n + 1]))[0, 0].numpy()
            for n in range(len(shot))
        ]
        before = np.mean([off(d, t) for d, t in zip(start, true, strict=True)])
        error = np.mean([off(d, t) for d, t in zip(after, true, strict=True)])
        seconds = time.perf_counter() - since
        say(
            clip=name,
            before=float(before),
            after=float(error),
            ratio=float(error / before),
            seconds=seconds,
            said=done.warnings,
        )


# --- moving objects --------------------------------------------------------------------------------------------------


FIRST, LEAST = 920_001, 0.02  # seed to begin with; share of all pixels that must move


def moving_worlds(names: list[str]) -> list[tuple[str, int]]:
    """(kind, seed) of six worlds with movers; looked for at small size. names: seeds to look at instead."""
    found = []
    for seed in map(int, names) if names else itertools.count(FIRST):
        kind = KINDS[seed % len(KINDS)]
        if names or float(scene(seed, kind, frames=40, size=(160, 96)).moving.mean()) >= LEAST:
            found.append((kind, seed))
        if len(found) == 6:
            break
    return found


def movers(names: list[str]) -> None:
    for kind, seed in moving_worlds(names):
        source, truth = rendered(kind, seed)
        for mode in ("none", "output"):
            folder = RUNS / f"{source.name}_{mode}"
            code, seconds = infer(source, folder, "--refine", mode)
            say(
                scene=source.name, refine=mode, code=code, seconds=seconds, **on_movers(results.open_run(folder), truth)
            )


def on_movers(run: results.RunFolder, truth: dict) -> dict[str, float]:
    """Overlap of the masks with the truth, its share of the picture, and Abs Rel on true movers (scaled by the median
    of the whole picture)."""
    both = either = there = 0
    errors = []
    for row, depth, moving in zip(run.rows, truth["depth"], truth["moving"], strict=True):
        p, g, m, said = run.depth(row), depth[0].numpy(), moving[0].numpy() > 0.5, run.mask(row) > 0.5
        both, either, there = both + (m & said).sum(), either + (m | said).sum(), there + m.mean() / len(run.rows)
        ok = np.isfinite(p) & (g < min(80, SKY / 2))
        if (ok & m).sum() > 50:
            scale = np.median(g[ok]) / np.median(p[ok])
            errors.append(np.mean(np.abs(p * scale - g)[ok & m] / g[ok & m]))
    overlap = float(both / either) if either else 1.0
    return {"mask_iou": overlap, "share": float(there), "abs_rel_movers": float(np.mean(errors)) if errors else 0.0}


# --- paths that jump -------------------------------------------------------------------------------------------------

AROUND = 4  # steps before and after that say how fast the camera goes
JUMP = 5.0  # times as long as the median of these, and
SEEN = 0.05  # as long as this share of the median depth: a resting camera trembles by more than twice nothing
TWIST = 5.0  # degrees by which a step turns more than the steps around it
UNSEEN = 2.5  # times as much, for what the picture moves, as in the steps around it: a whip pan is no jump
REST = 2.0  # px that a picture moves at least, to compare motions with


def outliers(world_T_cam: np.ndarray, depth: float, focal: float, seen: np.ndarray) -> list[int]:
    """Numbers of the steps of a path (N, 4, 4) that are far longer, or turn far more, than those around them, while
    the picture does not move so much more; seen: median length of its flow, px."""
    step = np.linalg.inv(world_T_cam[:-1]) @ world_T_cam[1:]
    speed = np.linalg.norm(step[:, :3, 3], axis=1)
    turn = np.degrees(np.arccos(np.clip((np.trace(step[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)))
    said = focal * (np.radians(turn) + speed / depth) / (seen + REST)
    found = []
    for k in range(len(step)):
        near = [n for n in range(max(0, k - AROUND), min(len(step), k + AROUND + 1)) if n != k]
        usual, usual_turn, usual_said = (np.median(x[near]) if near else 0.0 for x in (speed, turn, said))
        longer = speed[k] > max(JUMP * usual, SEEN * depth) or turn[k] > usual_turn + TWIST
        if longer and said[k] > UNSEEN * usual_said:
            found.append(k)
    return found


def jumps(names: list[str]) -> None:
    quick, names = "quick" in names, [name for name in names if name != "quick"]
    videos = [*sorted((DATA / "wild").glob("*.mp4")), *sorted((DATA / "driving").rglob("*.mp4"))]
    for source in [*videos, *folders_of(DATA / "driving")]:
        name = source.stem if source.is_file() else source.relative_to(DATA / "driving").parts[0]
        if names and name not in names:
            continue
        for mode in ("none", "output") if quick else ("output",):
            folder = RUNS / f"{mode}_{name}"
            code, seconds = infer(source, folder, "--refine", mode)
            found = jumps_of(results.open_run(folder))
            say(clip=name, refine=mode, code=code, seconds=seconds, jumps=found)
            if not found:
                break


def folders_of(root: Path) -> list[Path]:
    """Folders of pictures that follow one another."""
    found = [path for name in ("image_0", "image_02/data", "snippet_*") for path in sorted(root.rglob(name))]
    return [path for path in found if path.is_dir()]


def jumps_of(run: results.RunFolder) -> list[int]:
    """Numbers of the frames after which the path of a run jumps."""
    rows, path = run.rows, run.trajectory().world_T_cam
    depth = float(np.median([np.nanmedian(run.depth(row)) for row in rows[:: max(1, len(rows) // 8)]]))
    seen = np.array([np.median(np.hypot(*run.flow(row))) if row.flow else 0.0 for row in rows])
    found = []
    for shot in dict.fromkeys(row.shot for row in rows):
        at = [k for k, row in enumerate(rows) if row.shot == shot]
        found += [at[k] for k in outliers(path[at], depth, float(run.intrinsics.focal[0]), seen[at[:-1]])]
    return found


# --- rolling shutters ------------------------------------------------------------------------------------------------

BANDS, FRAMES = 12, 30  # rows taken at a time; frames
SIZE = (320, 184)


def rolled(seed: int, kind: str, readout: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Images (N, H, W, 3), the path of the middle rows (N, 4, 4), focal length: bands of rows rendered one by one."""
    here = world(seed, kind, frames=FRAMES + 2, size=SIZE)
    step = se3_log(inverse(here.world_T_cam[:-1]) @ here.world_T_cam[1:])
    images = torch.zeros(FRAMES, 3, SIZE[1], SIZE[0])
    edges = np.linspace(0, SIZE[1], BANDS + 1).astype(int)
    for top, end in itertools.pairwise(edges):
        at = [1 + k + readout * ((top + end) / 2 / SIZE[1] - 0.5) for k in range(FRAMES)]
        first = [math.floor(t) for t in at]
        part = torch.tensor([t - f for t, f in zip(at, first, strict=True)], dtype=step.dtype)
        path = here.world_T_cam[first] @ se3_exp(step[first] * part[:, None])
        groups = here.world_T_group[:, 1 : FRAMES + 1]  # what moves on its own moves with the frames
        now = render(replace(here, world_T_cam=path, world_T_group=groups, times=here.times[:FRAMES])).images
        images[:, :, top:end] = now[:, :, top:end]
    shown = (images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return shown, here.world_T_cam[1 : FRAMES + 1].double().numpy(), float(here.intrinsics.focal[0])


def rolling(names: list[str]) -> None:
    camera_net = load(DEFAULTS["camera"], "camera")[0].eval()
    depth_net = load(DEFAULTS["depth"], "depth")[0].eval()
    for kind, seed in (("handheld", 900_001), ("walk", 900_006)):
        if names and str(seed) not in names:
            continue
        for readout in (0.0, 0.3, 0.6):
            images, path, fx = rolled(seed, kind, readout)
            size = working_size(SIZE)
            small = np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in images])
            shot = Shot(np.arange(FRAMES) / 15, small, predict_depth(depth_net, small))
            lens = predict_camera(camera_net, small[:-1:5], small[1::5], SIZE)
            solved = solve(shot, Flows(shot, fine_dis_flow), lens)
            scores = referee_module().path_scores(solved.world_T_cam.numpy(), path, blind=False)
            error = 100 * (float(solved.intrinsics.focal[0]) * SIZE[0] / size[0] / fx - 1)
            facts = {k: scores[k] for k in ("ate_percent", "rpe_rot_deg")}
            say(scene=f"{kind}_{seed}", readout=readout, found=solved.readout, focal_error_percent=error, **facts)


# --- long clips ------------------------------------------------------------------------------------------------------


LONG, PASS = ("handheld", 920_202), 626  # the world, and the frames of one pass through it


def long(names: list[str]) -> None:
    """A clip that goes to and fro sees everything again: what drifts is not where it was."""
    mode = next((n for n in names if not n.isdigit()), "none")
    count = next((int(n) for n in names if n.isdigit()), 10_000)
    film, path, focal_x = to_and_fro(count)
    folder = RUNS / f"long_{count}_{mode}"
    code, seconds = infer(film, folder, "--refine", mode, "--max-size", "384")
    run = results.open_run(folder)
    found, true = (torch.from_numpy(x[:, :3, 3]).double() for x in (run.trajectory().world_T_cam, path[:count]))
    s, R, t = umeyama(found, true)
    extent = float((true - true.mean(0)).norm(dim=1).square().mean().sqrt())
    off = float((s * found @ R.T + t - true).norm(dim=1).square().mean().sqrt()) / extent
    passes = [slice(k, k + PASS) for k in range(0, count - PASS + 1, PASS - 1)] or [slice(0, count)]
    scales = np.array([float(umeyama(found[part], true[part])[0]) for part in passes])
    say(
        frames=count,
        mode=mode,
        code=code,
        seconds=seconds,
        peak_memory_mb=run.info["peak_memory_mb"],
        off_percent_of_extent=100 * off,
        scales=[round(float(x), 4) for x in scales / scales[0]],
        focal_error_percent=100 * (run.camera["fx"] / focal_x - 1),
        warnings=run.info["warnings"],
    )


def to_and_fro(count: int) -> tuple[Path, np.ndarray, float]:
    """The film (made once), camera to world (N, 4, 4) of its frames, and its focal length."""
    kind, seed = LONG
    film, poses = RUNS / f"long_{count}.mp4", RUNS / f"long_{PASS}.npz"
    at = np.arange(count) % (2 * PASS - 2)
    at = np.minimum(at, 2 * PASS - 2 - at)
    if not (film.exists() and poses.exists()):
        truth = scene(seed, kind, frames=PASS, size=(384, 224))
        images = (truth.images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
        film.parent.mkdir(parents=True, exist_ok=True)
        write_video(film, (images[k] for k in at), 15)
        np.savez(poses, path=truth.world_T_cam.double().numpy(), focal=truth.intrinsics.focal.numpy())
    known = np.load(poses)
    return film, known["path"][at], float(known["focal"][0])


# --- COLMAP ----------------------------------------------------------------------------------------------------------


def referee_module() -> ModuleType:
    """The referee's functions."""
    spec = importlib.util.spec_from_file_location("referee", SHARED / "check/referee.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def colmap(names: list[str]) -> None:
    cut, names = "cut" in names, [name for name in names if name != "cut"]
    for name in CROPS if cut else (*ODOMETRY, *POSED):
        if names and name not in names:
            continue
        paths = in_order(name)
        if cut:
            source = cropped(name)
            paths = [source / f"{path.stem}.png" for path in paths]
        with tempfile.TemporaryDirectory() as folder:
            models, seconds = mapped(paths, Path(folder))
        if not models:
            say(clip=name, cut=cut, by="pycolmap", seconds=seconds, frames=0)
            continue
        best = max(models.values(), key=lambda m: m.num_reg_images())
        placed = {im.name: im.cam_from_world().inverse().matrix() for im in best.images.values() if im.has_pose}
        fx = float(next(iter(best.cameras.values())).focal_length)
        truth = true_path(name)
        facts = {"frames": len(placed), "of": len(truth), "focal_error_percent": 100 * abs(fx / focal(name) - 1)}
        at = sorted(int(Path(n).stem) for n in placed)
        est = np.stack([np.vstack([placed[n], [0, 0, 0, 1]]) for n in sorted(placed)])
        scores = referee_module().path_scores(est, truth[at], blind=False)
        say(
            clip=name,
            cut=cut,
            by="pycolmap",
            seconds=seconds,
            **facts,
            **{k: scores[k] for k in ("ate_percent", "rpe_rot_deg")},
        )


def mapped(paths: list[Path], folder: Path) -> tuple[dict, float]:
    """What pycolmap makes of pictures in this order, self-calibrating, and the seconds of it: features, sequential
    matching, mapping."""
    import pycolmap

    pycolmap.logging.minloglevel = 2
    images, database = folder / "images", folder / "database.db"  # named so that the order of names is that of time
    images.mkdir()
    for k, path in enumerate(paths):
        shutil.copyfile(path, images / f"{k:05d}{path.suffix}")
    since = time.perf_counter()
    reading = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
    pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reading)
    pycolmap.match_sequential(database)
    models = pycolmap.incremental_mapping(database, images, folder)
    return models, time.perf_counter() - since


def true_path(name: str) -> np.ndarray:
    """Camera-to-world (N, 4, 4) of every picture of a clip."""
    if name in ODOMETRY:
        rows = np.loadtxt(DATA / "driving" / name / "poses" / f"{ODOMETRY[name][0]}.txt").reshape(-1, 3, 4)
        return np.concatenate([rows, np.tile([[[0, 0, 0, 1.0]]], (len(rows), 1, 1))], 1)
    rows = [r.split() for r in (DATA / "rgbd" / name / "groundtruth.txt").read_text().splitlines() if r[0] != "#"]
    values = np.array(rows, float)
    times = np.array([float(p.stem) for p in in_order(name)])
    nearest = np.abs(values[:, 0][None] - times[:, None]).argmin(1)
    return np.stack([referee_module().pose(v[1:4], v[4:8]) for v in values[nearest]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = {"paths": paths, "crops": crops, "unknown": unknown, "prior": prior, "movers": movers}
    what |= {"jumps": jumps, "long": long, "rolling": rolling, "colmap": colmap}
    parser.add_argument("what", choices=what)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    what[given.what](given.names)
