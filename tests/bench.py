"""How fast glvid is: `python tests/bench.py lengths` or `peers`. JSON lines on stdout, tables at the end.

lengths  whole `glvid infer` commands on the demo clip to and fro: --frames, --sizes and --refine are taken in all
         combinations. Seconds per stage, frames a second, memory, what is there first, and how time grows with frames
         and with pixels
peers    in turn, --times times: whole runs with --refine output against pycolmap (features, sequential matching,
         mapping; extra `colmap`) on KITTI drive 0052 and 7-Scenes' kitchen a of ../shared; our flow against OpenCV's
         DIS; our depth network against one of the shape of Depth-Anything-V2-Small (random weights; extra `hub`)
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from memory import RATE, film

from glvid.predict import chosen_precision, dis_flow, estimated, fine_dis_flow, net_flow
from glvid.weights import load

SIDES = ("640x360", "1280x720")
FRAMES = (60, 300, 1200)
MODES = ("none", "output", "params")
STAGES = ("decode", "predict", "solve", "refine", "write", "total")


def say(**facts) -> None:
    """One measurement."""
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}), flush=True)


def machine(device: str) -> dict:
    """What was measured on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    facts = {"processor": names[0] if names else platform.processor(), "cores": len(names), "torch": torch.__version__}
    facts |= {"precision": chosen_precision("auto", device), "python": platform.python_version()}
    return facts | ({"gpu": torch.cuda.get_device_name()} if device.startswith("cuda") else {})


# ---------------------------------------------------------------- lengths


def timed_run(clip: Path, out: Path, *options: str) -> dict:
    """Facts of one `glvid infer` as a command of its own: seconds from its start to its end, of its stages, to the
    network's depth of the first frames (a working file) and to the first depth map in its place; memory."""
    words = [sys.executable, "-m", "glvid", "infer", str(clip), "-o", str(out), "--overwrite", "--quiet", *options]
    there = {"first_depth": out / ".glvid-work" / "depth.array", "first_map": out / "depth" / "000000.png"}
    since, first = time.perf_counter(), {}
    with subprocess.Popen(words) as process:
        while process.poll() is None:
            for name in there.keys() - first.keys():
                if there[name].is_file() and there[name].stat().st_size:
                    first[name] = time.perf_counter() - since
            time.sleep(0.01)
    whole = time.perf_counter() - since
    if process.returncode:
        raise SystemExit(f"{words} ended with {process.returncode}")
    info = json.loads((out / "run.json").read_text())
    frames = info["input"]["frames"]
    facts = {"frames": frames, "command": whole, "per_second": frames / whole, "ms_per_frame": 1000 * whole / frames}
    return facts | first | {"peak_mb": info["peak_memory_mb"], "seconds": info["seconds"]}


def lengths(asked: argparse.Namespace) -> list[dict]:
    """All combinations, the longest ones last."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        clips = {
            size: film(Path(place) / f"{size}.mp4", max(asked.frames), int(size.split("x")[0])) for size in asked.sizes
        }
        for n, size, mode in product(sorted(asked.frames), asked.sizes, asked.refine):
            options = ("--refine", mode, "--device", asked.device, "--end", str(n / RATE))
            for _ in range(asked.times):
                facts = timed_run(clips[size], Path(place) / f"run-{len(found)}", *options)
                found.append({"size": size, "refine": mode} | facts)
                say(**found[-1])
    return found


def exponent(x: list[float], y: list[float]) -> float:
    """Of a power law through these points."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def pixels(size: str) -> int:
    """Of a frame."""
    w, h = map(int, size.split("x"))
    return w * h


def growth(found: list[dict]) -> Iterator[dict]:
    """How seconds grow with frames and with pixels; the rest held. `ahead` is what every command takes once."""
    for size, mode in sorted({(x["size"], x["refine"]) for x in found}):
        some = [x for x in found if (x["size"], x["refine"]) == (size, mode)]
        n, t = [x["frames"] for x in some], [x["command"] for x in some]
        if len(set(n)) > 1:
            slope, ahead = np.polyfit(n, t, 1, w=1 / np.array(t))
            line = {"ahead": float(ahead), "ms_per_further_frame": 1000 * float(slope)}
            yield {"size": size, "refine": mode, "exponent_of_frames": exponent(n, t)} | line
    for n, mode in sorted({(x["frames"], x["refine"]) for x in found}):
        some = [x for x in found if (x["frames"], x["refine"]) == (n, mode)]
        if len({x["size"] for x in some}) > 1:
            power = exponent([pixels(x["size"]) for x in some], [x["command"] for x in some])
            yield {"frames": n, "refine": mode, "exponent_of_pixels": power}


def table(found: list[dict]) -> str:
    """As Markdown."""
    rows = [f"| size | refine | frames | frames/s | ms/frame | first depth, map (s) | {' | '.join(STAGES)} | MB |"]
    rows.append("|---" * (7 + len(STAGES)) + "|")
    for x in found:
        stages = " | ".join(f"{x['seconds'][s]:.1f}" for s in STAGES)
        first = ", ".join(f"{x[k]:.1f}" if k in x else "-" for k in ("first_depth", "first_map"))
        said = f"{x['per_second']:.1f} | {x['ms_per_frame']:.0f} | {first} | {stages} | {x['peak_mb']:.0f}"
        rows.append(f"| {x['size']} | {x['refine']} | {x['frames']} | {said} |")
    return "\n".join(rows)


# ---------------------------------------------------------------- peers


def camera_peers(times: int) -> None:
    """Whole runs and pycolmap, in turn."""
    from camera import in_order, mapped
    from quality import KITTI

    clips = {
        "kitti_raw_0052_a": sorted((KITTI / "image_02" / "data").iterdir()),
        "7scenes_kitchen_a": in_order("7scenes_kitchen_a"),
    }
    for name, paths in clips.items():
        ours, theirs = [], []
        for _ in range(times):
            with tempfile.TemporaryDirectory() as place:
                facts = timed_run(paths[0].parent, Path(place) / "run", "--refine", "output")
                ours.append(facts["command"])
                models, seconds = mapped(paths, Path(place))
                theirs.append(seconds)
                placed = max((m.num_reg_images() for m in models.values()), default=0)
            say(clip=name, glvid=ours[-1], stages=facts["seconds"], pycolmap=theirs[-1], placed=placed, of=len(paths))
        mine, other = float(np.median(ours)), float(np.median(theirs))
        say(clip=name, glvid=mine, pycolmap=other, ratio=mine / other)


def rate(work: Callable[[], object], seconds: float = 4.0) -> float:
    """Median seconds that `work` takes, after one time that does not count."""
    work()
    taken, began = [], time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - began < seconds:
        since = time.perf_counter()
        work()
        taken.append(time.perf_counter() - since)
    return float(np.median(taken))


def demo(count: int, size: tuple[int, int]) -> np.ndarray:
    """Frames of the demo clip."""
    reader = cv2.VideoCapture(str(Path(__file__).parents[1] / "assets/demo.mp4"))
    frames = [cv2.cvtColor(reader.read()[1], cv2.COLOR_BGR2RGB) for _ in range(count)]
    return np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in frames])


def flow_peers(times: int) -> None:
    """Milliseconds a pair at the working size; pairs are matched side by side."""
    images, net = demo(17, (384, 224)), load("flow-small", "flow", "cpu")[0]
    ways = {"dis": dis_flow, "fine_dis": fine_dis_flow, "net": net_flow(net)}
    for _ in range(times):
        say(
            size="384x224",
            **{name: 1000 * rate(lambda f=f: f(images[:-1], images[1:])) / 16 for name, f in ways.items()},
        )


def small_vit() -> torch.nn.Module:
    """Depth-Anything-V2-Small's shape (ViT-S/14 and its DPT head), with random weights."""
    import transformers

    backbone = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14,
        out_indices=[3, 6, 9, 12], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=384, patch_size=14, neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64, head_hidden_size=32,
    )  # fmt: skip
    return transformers.DepthAnythingForDepthEstimation(config).eval()


def depth_peers(times: int) -> None:
    """Milliseconds a frame; the transformer takes multiples of 14 px, so time per pixel is compared."""
    precision, other = chosen_precision("auto", "cpu"), small_vit()
    sizes = {"ours": (384, 224), "vit": (392, 224)}
    nets = {name: load(name, "depth", "cpu")[0] for name in ("depth-small", "depth-base")}
    if precision == "bf16":
        nets = {name: net.to(memory_format=torch.channels_last) for name, net in nets.items()}
    images, there = demo(8, sizes["ours"]), torch.from_numpy(demo(8, sizes["vit"])).permute(0, 3, 1, 2).float() / 255
    for _ in range(times):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found = {name: 1000 * rate(lambda n=net: estimated(n, images)) / 8 for name, net in nets.items()}
            vit = 1000 * rate(lambda: other(pixel_values=there)) / 8
        per_pixel = vit * (sizes["ours"][0] * sizes["ours"][1]) / (sizes["vit"][0] * sizes["vit"][1])
        say(precision=precision, vit_small=vit, **found, times_as_fast=per_pixel / found["depth-small"])


def peers(asked: argparse.Namespace) -> None:
    """All of them, or those named."""
    what = {"depth": depth_peers, "flow": flow_peers, "camera": camera_peers}
    for name in asked.names or what:
        what[name](asked.times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lengths", "peers"])
    parser.add_argument("names", nargs="*", help="of peers: camera, flow, depth")
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    parser.add_argument("--sizes", nargs="+", default=SIDES)
    parser.add_argument("--refine", nargs="+", default=MODES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--times", type=int, default=1)
    given = parser.parse_args()
    say(**machine(given.device))
    if given.what == "peers":
        peers(given)
    else:
        measured = lengths(given)
        for line in growth(measured):
            say(**line)
        print(table(measured))
