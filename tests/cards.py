"""What the cards in models/ show: `python tests/cards.py sheet|calibration|fit|curves|raw|focal|scores`;
names pick weights.

sheet        raw depth of a middle frame of every clip of ../shared/data/wild and driving -> models/NAME.jpg
calibration  what depth and flow networks say of their own error against what it is, on held rendered worlds
             (seeds from 800,000) and, flow, on the pairs of ../shared/data/flow -> models/NAME-calibration.png
fit          a flow network's `calibration` on other rendered worlds (seeds from 810,000); writes the weights anew
curves       models/NAME-validation.jsonl, the lines that training left of that run -> models/NAME-curves.png
raw          raw depth of clips of ../shared/data that have truth: Abs Rel after each picture's median scale, and how
             far those scales are spread (standard deviation of their logs)
focal        focal length by the camera network alone, % off, on clips of ../shared/data with known cameras
scores       `glvid eval --refine none` on the clips of ../shared/data that have truth
One JSON line per measurement on stdout.
"""

import argparse
import json
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from quality import DATA, ROOT, say

from glvid import formats, weights
from glvid.colors import color_range, depth_colors
from glvid.data.layouts import survey
from glvid.errors import ModelError
from glvid.evaluate.metrics import garg_crop
from glvid.evaluate.truth import measured_depth
from glvid.predict import as_tensor, first_guess, full_dis_flow, predict_camera, predict_depth, working_size
from glvid.synthetic import scene
from glvid.train.sources import HELD_SEED
from glvid.train.supervised import CAP, middle
from glvid.types import Frame, Recording
from glvid.video import frames, probe
from glvid.warp import resize, resize_flow

RUNS = ROOT / ".runs" / "cards"
WIDTH, ACROSS = 192, 4  # px of a picture; pictures with their depth beside each other
WORLDS, SIZE = 32, (384, 224)
BINS = 12  # of as many pixels each
PROTOCOLS = {  # by kind of network: protocol, and the folder of ../shared/data that has what it needs
    "depth": {"kitti-eigen": "driving", "kitti-improved": "driving", "video-depth": "rgbd", "tum": "rgbd"},
    "flow": {"flow": "flow", "sintel-flow": "flow"},
}


def network(name: str) -> tuple[torch.nn.Module, str]:
    """Shipped weights by name, or a weight file, whatever kind of network it holds; and that kind."""
    for kind in PROTOCOLS:
        with suppress(ModelError):
            return weights.load(name, kind)[0], kind
    raise SystemExit(f"{name}: no weights of a depth or flow network")


def sheet(names: list[str]) -> None:
    """Frames and their raw depth, all clips on one picture."""
    for name in names or [weights.DEFAULTS["depth"]]:
        net = weights.load(name, "depth")[0]
        rows = [np.vstack([shown(net, path) for path in part]) for part in columns()]
        tall = max(len(r) for r in rows)
        whole = np.hstack([np.pad(r, ((0, tall - len(r)), (0, 4), (0, 0)), constant_values=255) for r in rows])
        picture = card_of(name, ".jpg")
        picture.write_bytes(cv2.imencode(".jpg", whole[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
        say(picture=picture.name, size=whole.shape[1::-1])


def columns() -> list[list[Path]]:
    """Clips, dealt to the columns of the sheet."""
    clips = [*sorted((DATA / "wild").glob("*.mp4")), *sorted((DATA / "driving").rglob("*.mp4"))]
    return [clips[k::ACROSS] for k in range(ACROSS)]


def shown(net: torch.nn.Module, path: Path) -> np.ndarray:
    """The middle frame of a clip beside its raw depth, each WIDTH px wide, with the clip's name."""
    clip = probe(path)
    found = next(x for x in frames(clip, start=clip.duration / 2) if isinstance(x, Frame))
    size = working_size((clip.width, clip.height))
    image = (255 * resize(found.image[None], size)[0]).round().byte().permute(1, 2, 0).numpy()
    depth = predict_depth(net, image[None])[0]
    limits = color_range(depth, np.zeros((2, 1, 1), np.float32))
    pair = [image, depth_colors(depth, limits.near, limits.far)]
    height = round(size[1] * WIDTH / size[0])
    both = np.hstack([cv2.resize(np.ascontiguousarray(x), (WIDTH, height), interpolation=cv2.INTER_AREA) for x in pair])
    cv2.putText(both, path.stem, (4, height - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 1, cv2.LINE_AA)
    return both


def calibration(names: list[str]) -> None:
    """Errors that are said against those that are, in bins; a plot for every network, and figures."""
    for name in names or [weights.DEFAULTS["depth"], weights.DEFAULTS["flow"]]:
        net, kind = network(name)
        if kind == "depth" and not net.config.spread:
            say(weights=name, says="nothing of its error")
            continue
        sets = {"rendered": rendered_errors(net, kind)} | ({"pairs": pair_errors(net)} if kind == "flow" else {})
        plot(card_of(name, "-calibration.png"), kind, sets)
        for where, (said, off) in sets.items():
            said_of, off_of = binned(said, off)
            apart = float(np.mean(np.abs(np.log(off_of / said_of))))
            say(weights=name, errors=where, mean_said=float(said.mean()), mean=float(off.mean()), log_apart=apart)


def fit(names: list[str]) -> None:
    """Which share of what is said, less how many px, is the mean error, with the least deviation of logs over bins."""
    for name in names or [weights.DEFAULTS["flow"]]:
        net, facts = weights.load(name, "flow")
        net.config = replace(net.config, calibration=(1.0, 0.0))
        said, off = binned(*rendered_errors(net, "flow", HELD_SEED + 10_000))
        apart = {}
        for less in np.linspace(0, 0.99 * said.min(), 100):
            ratio = np.log(off / (said - less))
            apart[float(ratio.std())] = round(float(np.exp(ratio.mean())), 3), round(float(less), 3)
        net.config = replace(net.config, calibration=apart[min(apart)])
        kept = {key: facts[key] for key in ("licence", "trained")}
        weights.save(net, weights.folder() / f"{name}.safetensors", kept)
        weights.write_index(weights.folder())
        say(weights=name, calibration=net.config.calibration)


def rendered_errors(net: torch.nn.Module, kind: str, first: int = HELD_SEED) -> tuple[np.ndarray, np.ndarray]:
    """What the network says of its error and what it is, of pixels of held rendered worlds: px of flow where the same
    point is seen in both frames, or log depth after the picture's median scale is taken away."""
    said, off = [], []
    for seed in range(first, first + WORLDS):
        truth = scene(seed, frames=2, size=SIZE)
        with torch.inference_mode():
            if kind == "flow":
                a, b = truth.images[:1], truth.images[1:2]
                found = net(a, b, first_guess(a, b))
                error = (found.flow - truth.flow).norm(dim=1, keepdim=True)
                known, spread = truth.visible > 0.5, found.log_spread
            else:
                disparities, spread = net.look(truth.images[:1])
                away = -disparities[0].log() - truth.depth[:1].clamp(0.1, CAP).log()
                known = truth.depth[:1] < CAP
                error = (away - middle(away, known.float())).abs()
        said.append(spread.exp()[known][::7].numpy())
        off.append(error[known][::7].numpy())
    return np.concatenate(said), np.concatenate(off)


def pair_errors(net: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The same, of the pairs of ../shared/data/flow at sizes that are multiples of 32."""
    said, off = [], []
    for pair in survey([DATA / "flow"]).pairs:
        truth = formats.read_flow(pair.flow)
        known = np.isfinite(truth).all(0)
        if pair.invalid is not None:
            known &= cv2.imread(str(pair.invalid), cv2.IMREAD_GRAYSCALE) == 0
        a, b = (formats.read_image(x)[None] for x in (pair.first, pair.second))
        h, w = known.shape
        size = tuple(max(32, 32 * round(side / 32)) for side in (w, h))
        with torch.inference_mode():
            found = net(*(resize(as_tensor(x), size) for x in (a, b)), resize_flow(full_dis_flow(a, b), size))
        flow = resize_flow(found.flow.float(), (w, h))[0].numpy()
        spread = resize(found.log_spread, (w, h))[0, 0].exp().numpy() * (w * h / (size[0] * size[1])) ** 0.5
        said.append(spread[known][::7])
        off.append(np.linalg.norm(flow - np.nan_to_num(truth), axis=0)[known][::7])
    return np.concatenate(said), np.concatenate(off)


def binned(said: np.ndarray, off: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of what is said and of what is, in BINS of as many pixels, by what is said."""
    parts = np.array_split(np.argsort(said), BINS)
    return np.array([said[p].mean() for p in parts]), np.array([off[p].mean() for p in parts])


def plot(path: Path, kind: str, sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """`binned` errors of every set, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4, 4), dpi=90)
    for where, (said, off) in sets.items():
        axes.loglog(*binned(said, off), "o-", label=where)
    low, high = axes.get_xlim()
    axes.loglog([low, high], [low, high], "k:", label="as it should be")
    unit = "px" if kind == "flow" else "log depth"
    axes.set(xlabel=f"error that is said, {unit}", ylabel=f"mean error, {unit}", title=path.stem)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


CURVES = {"depth": ("abs_rel", "abs_rel_real"), "flow": ("epe", "epe_start"), "camera": ("focal", "center")}


def curves(names: list[str]) -> None:
    """Validation figures of the runs that made the shipped weights, over their steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for path in sorted(weights.folder().glob("*-validation.jsonl")):
        name = path.stem.removesuffix("-validation")
        if names and name not in names:
            continue
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        figure, axes = pyplot.subplots(figsize=(5, 3), dpi=90)
        for figure_of in CURVES[name.split("-")[0]]:
            seen = [(line["step"], line[figure_of]) for line in lines if figure_of in line]
            if seen:
                axes.plot(*zip(*seen, strict=True), "o-", markersize=3, label=figure_of)
        axes.set(xlabel="step", title=name, ylim=(0, None))
        axes.legend()
        figure.tight_layout()
        figure.savefig(path.with_name(f"{name}-curves.png"))
        pyplot.close(figure)
        say(curves=name, last=lines[-1])


def pictures(recording: Recording, every: int = 1) -> np.ndarray:
    """Pictures of a recording at the size networks look at, (N, h, w, 3)."""
    found = [cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1] for path in recording.pictures[::every]]
    size = working_size((found[0].shape[1], found[0].shape[0]))
    return np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in found])


def raw(names: list[str]) -> None:
    """Depth of the network alone against truth, picture by picture."""
    for name in names or [weights.DEFAULTS["depth"]]:
        net = weights.load(name, "depth")[0]
        for recording in survey([DATA / "driving" / "kitti_raw_0052_a", DATA / "rgbd"]).recordings:
            if not any(recording.depth):
                continue
            every = 1 if len(recording.pictures) < 30 else 4
            driving, scales, off = "kitti" in recording.kind.lower(), [], []
            for k, said in enumerate(predict_depth(net, pictures(recording, every))):
                true = measured_depth(recording, every * k)
                if true is None:
                    continue
                known = (true > 1e-3) & (true < (80 if driving else 10))
                if driving:
                    known &= garg_crop(true.shape)
                said = cv2.resize(np.asarray(said), true.shape[::-1])[known]
                scale = float(np.median(true[known]) / np.median(said))
                scales.append(np.log(scale))
                off.append(float((np.abs(said * scale - true[known]) / true[known]).mean()))
            spread = float(np.std(scales))
            say(weights=name, clip=recording.name, pictures=len(off), abs_rel=float(np.mean(off)), scale_spread=spread)


def focal(names: list[str]) -> None:
    """Focal length by the camera network, on its own and weighed against what is usual, in % of the true one."""
    where = ("driving/kitti_raw_0052_a", "driving/kitti_odom_07_a", "rgbd")
    for name in names or [weights.DEFAULTS["camera"]]:
        net, off = weights.load(name, "camera")[0], []
        for recording in survey([DATA / x for x in where]).recordings:
            w, h = recording.camera.size
            true, images = float(recording.camera.focal[0]) / w, pictures(recording)
            first = np.unique(np.linspace(0, len(images) - 2, 12).astype(int))
            a, b = images[first], images[first + 1]
            with torch.inference_mode():
                said = net(as_tensor(a), as_tensor(b))[2].focal[:, 0].log().median().exp() / a.shape[2]
            weighed = predict_camera(net, a, b, (w, h)).focal[0] / a.shape[2]
            off.append([100 * (float(x) / true - 1) for x in (said, weighed)])
            say(weights=name, clip=recording.name, alone=off[-1][0], weighed=off[-1][1])
        alone, weighed = np.median(np.abs(off), axis=0)
        say(weights=name, clips=len(off), median_alone=float(alone), median_weighed=float(weighed))


def scores(names: list[str]) -> None:
    """Every protocol of a network's kind, measured anew."""
    for name in names or [weights.DEFAULTS["depth"], weights.DEFAULTS["flow"]]:
        kind = network(name)[1]
        if kind == "flow" and name != weights.DEFAULTS["flow"]:
            raise SystemExit("glvid eval takes the shipped flow network alone: install these weights first")
        chosen = ["--flow", "net"] if kind == "flow" else ["--depth-model", name]
        for protocol, where in PROTOCOLS[kind].items():
            out = RUNS / f"{Path(name).name}_{protocol}"
            shutil.rmtree(out, ignore_errors=True)  # of other weights, or of older code
            command = [sys.executable, "-m", "glvid", "eval", protocol, "--data", str(DATA / where), "-o", str(out)]
            subprocess.run([*command, *chosen, "--refine", "none", "--quiet"], check=True)
            say(weights=name, **json.loads((out / "summary.json").read_text()))


def card_of(name: str, ending: str) -> Path:
    """Where a picture of a card goes: beside the card, or to .runs/cards for weights that are not shipped."""
    if name in weights.index():
        return weights.folder() / f"{name}{ending}"
    RUNS.mkdir(parents=True, exist_ok=True)
    return RUNS / f"{Path(name).name}{ending}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = {
        "sheet": sheet,
        "fit": fit,
        "calibration": calibration,
        "scores": scores,
        "curves": curves,
        "raw": raw,
        "focal": focal,
    }
    parser.add_argument("what", choices=what)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    what[given.what](given.names)
