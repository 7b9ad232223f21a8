"""What is made of runs, measured: `python tests/exports.py memory [FORMAT...]`, `view`, `metres` or `pictures RUN...`.
One JSON line per measurement.

memory   peak memory (MB, of a process of its own) and seconds of every format, of 60 and of 300 frames at 1280x720 of a
         rendered room; the run folder is made once, in .runs (600 MB)
view     seconds in which the viewer shows the first frame and the path, and the cloud, of 300 frames at 1280x720, in a
         headless Chromium without a graphics card, from asking a server on that has just started
pictures of the viewer and the report of runs, for the README, into assets/
metres   how far `--scale-from camera-height=1.65` is off the scale of the true path on KITTI odometry (../shared)
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import chromium
import cv2
import numpy as np
import room as rooms
import torch

from glvid import exports, metric, page, results
from glvid.types import Intrinsics, Trajectory
from glvid.viewer import open_server

ROOT = Path(__file__).parent.parent
RUNS, KITTI = ROOT / ".runs", ROOT.parent / "shared/data/driving"
SIZE, FRAMES, SLOWER = (1280, 720), (60, 300), 0.1


def say(**facts) -> None:
    """One measurement."""
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in facts.items()}), flush=True)


def long_room(frames: int) -> results.RunFolder:
    """A run that holds the truth of the tests' room, large, its camera ten times as slow."""
    folder = RUNS / f"room-{frames}.glvid"
    if (folder / "run.json").exists():
        return results.open_run(folder)
    w, h = SIZE
    K = Intrinsics(torch.tensor([0.9 * w] * 2).double(), torch.tensor([w / 2, h / 2]).double(), SIZE)
    rows, poses = rooms.make_rows(frames, (), results.KINDS, "png"), [rooms.pose(SLOWER * k) for k in range(frames)]
    scale = 12 / 65535
    folder.mkdir(parents=True, exist_ok=True)
    for k, row in enumerate(rows):
        results.write_frame(folder, row, scale, *maps(k, K))
    camera = results.camera_record(K, SIZE, "given", 0.0, True)
    results.write_camera(folder, camera)
    results.write_frames(folder, rows)
    results.write_trajectory(folder, Trajectory(np.array([row.time_s for row in rows]), np.stack(poses), "m"))
    results.write_info(folder, rooms.facts(rows, camera, SIZE, scale, "png"))
    return results.open_run(folder)


def maps(k: int, K: Intrinsics) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Depth, flow to the next frame, what moves, and the picture of one frame."""
    (w, h), f = SIZE, float(K.focal[0])
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    rays = np.stack([(x - w / 2) / f, (y - h / 2) / f, np.ones_like(x)], -1)
    now, after = SLOWER * k, SLOWER * (k + 1)
    depth, moving, world, image = rooms.shoot(rays, now)
    world = world + moving[..., None] * (rooms.ball(after) - rooms.ball(now))
    local = (world - rooms.pose(after)[:3, 3]) @ rooms.pose(after)[:3, :3]
    flow = (local[..., :2] / local[..., 2:] - rays[..., :2]) * f
    return depth, flow.transpose(2, 0, 1), moving, image


def memory(names: list[str]) -> None:
    """Every format in a process of its own."""
    for frames in FRAMES:
        long_room(frames)
    for name in names or exports.FORMATS:
        for frames in FRAMES:
            out = RUNS / "exports" / str(time.time_ns())
            subprocess.run([sys.executable, __file__, "one", name, str(frames), str(out)], check=True)


def peak() -> float:
    """Resident peak of this program in MB (getrusage counts what its parent had too)."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def one(name: str, frames: int, out: Path) -> None:
    """One format; what it wrote is taken away again."""
    run, began = long_room(frames), time.perf_counter()
    before = peak()
    exports.export(run, [name], out)
    seconds = time.perf_counter() - began
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    said = exports.size_of(name, run, exports.ExportOptions())
    exports.folder.removed(out / name, exports.folder.found(out / name))
    say(
        format=name,
        frames=frames,
        peak_mb=peak(),
        before_mb=before,
        seconds=seconds,
        mb=written / 1e6,
        said_mb=said / 1e6,
    )


def view() -> None:
    """Three times; a shared machine has its moods."""
    run = long_room(300)
    for _ in range(3):
        with chromium.page(1280, 800) as (tab, trouble), open_server(run, port=0) as viewer:
            tab.goto(viewer.url)
            chromium.until(tab, "window.glvid?.ready && glvid.cloudReady", 60)
            first, cloud = tab.evaluate("[glvid.readyAfter / 1000, glvid.cloudAfter / 1000]")
        say(frames=300, first_frame_s=first, cloud_s=cloud, trouble=trouble)


def pictures(folders: list[str]) -> None:
    """`assets/view-STEM.jpg` (the camera followed, in the middle of the clip) and `assets/report-STEM.jpg`."""
    for folder in folders:
        run = results.open_run(folder)
        with chromium.page(1280, 800) as (tab, trouble), open_server(run, port=0) as viewer:
            tab.goto(viewer.url)
            chromium.until(tab, "window.glvid?.ready && glvid.cloudReady", 60)
            tab.click("#follow")
            tab.evaluate(f"glvid.go({len(run.rows) // 2})")
            tab.wait_for_timeout(3000)
            save(ROOT / f"assets/view-{Path(folder).stem}.jpg", tab.screenshot())
        page.write_page(run, RUNS / "report.html")
        with chromium.page(1280, 1000) as (tab, more):
            tab.goto((RUNS / "report.html").as_uri())
            tab.wait_for_timeout(1500)
            top = tab.locator("#camera").bounding_box()["y"]
            tab.set_viewport_size({"width": 1280, "height": int(top)})
            save(ROOT / f"assets/report-{Path(folder).stem}.jpg", tab.screenshot())
        say(run=folder, trouble=len(trouble) + len(more))


def save(path: Path, png: bytes) -> None:
    """A screenshot as JPEG."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 85])


def metres() -> None:
    """Needs runs of the clips: made with `--refine output` in .runs, once."""
    for clip in ("00", "06", "07"):
        source = KITTI / f"kitti_odom_{clip}_a"
        folder = RUNS / f"metres-{clip}.glvid"
        if not (folder / "run.json").exists():
            pictures = source / f"sequences/{clip}/image_0"
            command = [sys.executable, "-m", "glvid", "infer", "-q", str(pictures), "--refine", "output"]
            subprocess.run([*command, "-o", str(folder)], check=True)
        run = results.open_run(folder)
        truth = metric.metres_per_unit(run, metric.parsed(f"path={source / f'poses/{clip}.txt'}"))[0]
        ours, source_said = metric.metres_per_unit(run, metric.parsed("camera-height=1.65"))
        say(clip=clip, off_percent=100 * (ours / truth - 1), said=source_said)


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or [""]
    if what == "one":
        one(rest[0], int(rest[1]), Path(rest[2]))
    elif what == "memory":
        memory(rest)
    elif what == "view":
        view()
    elif what == "pictures":
        pictures(rest)
    elif what == "metres":
        metres()
    else:
        sys.exit(__doc__)
