"""Rendered clips with truth, written as the data sets that `data.layouts` knows: `glvid synth`."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from glvid.errors import UsageError
from glvid.files import atomic_write
from glvid.formats import FLO_TAG, write_flow
from glvid.geometry import quaternion
from glvid.synthetic import KINDS, SKY, Truth, degrade, scene
from glvid.synthetic.scenes import RESERVED

RATE = 10.0  # frames a second that the stamps say
FARTHEST = 80.0  # m, of LiDAR and depth cameras
SCANNER = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # camera axes of x forward, y left, z up
BACK = np.array([0.0, -0.08, -0.27])  # m: where the scanner's origin lies in the camera, about as on KITTI's car


def synth(
    out: Path,
    count: int,
    layout: str = "kitti-raw",
    kind: str | None = None,
    frames: int = 24,
    size: tuple[int, int] = (640, 192),
    seed: int = 0,
    textures: Tensor | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Write `count` clips of worlds seed, seed + 1, ... into `out` in a layout.

    kitti-raw (pictures, calibration, LiDAR, projected depth), kitti-odometry (poses), tum (depth, poses), sintel (flow,
    depth, cameras), frames (pictures alone); of two frames: kitti-flow, chairs, middlebury. Raises UsageError for an
    unknown layout or kind, for seeds kept for evaluation and where `out` holds files.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"no layout '{layout}': choose {', '.join(LAYOUTS)}")
    if kind is not None and kind not in KINDS:
        raise UsageError(f"no kind of world '{kind}': choose {', '.join(KINDS)}")
    if seed < 0 or seed + count > RESERVED:
        raise UsageError(f"--seed {seed}: worlds from {RESERVED} on are for evaluation; take a lower one")
    if layout == "kitti-odometry" and count > 100:
        raise UsageError("kitti-odometry numbers its sequences 00 to 99: write at most 100")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is not empty; give a new folder")
    frames = 2 if layout in PAIRS else frames
    for k in range(count):
        truth = scene(seed + k, kind, frames, size, textures=textures)
        shown = degrade(truth.images, torch.Generator().manual_seed(seed + k))
        LAYOUTS[layout](out, k, truth, pictures(shown))
        note(f"{k + 1} of {count}")


def pictures(images: Tensor) -> list[np.ndarray]:
    """Frames as 8-bit BGR."""
    return [
        np.ascontiguousarray(x) for x in (images.permute(0, 2, 3, 1).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    ]


def picture(path: Path, image: np.ndarray) -> None:
    """One PNG."""
    atomic_write(path, cv2.imencode(".png", image)[1].tobytes())


def words(path: Path, text: str) -> None:
    """One text file."""
    atomic_write(path, text.encode())


def projection(truth: Truth) -> str:
    """KITTI's 3x4 matrix in a line: pixel centres at integers."""
    (fx, fy), (cx, cy) = truth.intrinsics.focal.tolist(), truth.intrinsics.center.tolist()
    return numbers([fx, 0, cx - 0.5, 0, 0, fy, cy - 0.5, 0, 0, 0, 1, 0])


def numbers(values) -> str:
    """In a line."""
    return " ".join(f"{float(x):.9g}" for x in values)


def near_depth(truth: Truth, k: int) -> np.ndarray:
    """Depth (H, W) of frame k in metres, 0 beyond what sensors see."""
    depth = truth.depth[k, 0].numpy()
    return np.where(depth < min(FARTHEST, SKY / 2), depth, 0)


def kitti_raw(out: Path, number: int, truth: Truth, shown: list[np.ndarray]) -> None:
    """A drive, on a day of its own since calibration is by the day; every picture has a scan and a depth map."""
    day = f"{date(2031, 1, 1) + timedelta(number):%Y_%m_%d}"
    drive = out / day / f"{day}_drive_0001_sync"
    w, h = truth.intrinsics.size
    words(out / day / "calib_cam_to_cam.txt", f"S_rect_02: {w} {h}\nR_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: {projection(truth)}\n")  # fmt: skip # noqa: E501
    words(out / day / "calib_velo_to_cam.txt", f"R: {numbers(SCANNER.ravel())}\nT: {numbers(BACK)}\n")
    for k, image in enumerate(shown):
        picture(drive / f"image_02/data/{k:010d}.png", image)
        depth = near_depth(truth, k)
        picture(drive / f"proj_depth/groundtruth/image_02/{k:010d}.png", (depth * 256).round().astype(np.uint16))
        file = drive / f"velodyne_points/data/{k:010d}.bin"
        atomic_write(file, scan(truth, depth).tobytes())
    stamps = "".join(f"2031-01-01 00:00:{k / RATE:012.9f}\n" for k in range(len(shown)))
    words(drive / "image_02/timestamps.txt", stamps)


def scan(truth: Truth, depth: np.ndarray, every: int = 3) -> np.ndarray:
    """LiDAR (N, 4) float32 x y z reflectance, in the scanner's axes: every third pixel of every third row."""
    y, x = np.mgrid[1 : depth.shape[0] : every, 1 : depth.shape[1] : every]
    z = depth[y, x].ravel().astype(np.float64)
    uv = np.stack([x.ravel() + 0.5, y.ravel() + 0.5], 1)
    ray = (uv - truth.intrinsics.center.numpy()) / truth.intrinsics.focal.numpy()
    points = np.column_stack([ray * z[:, None], z])[z > 0]
    return np.column_stack([(points - BACK) @ SCANNER, np.full(len(points), 0.5)]).astype(np.float32)


def kitti_odometry(out: Path, number: int, truth: Truth, shown: list[np.ndarray]) -> None:
    """A sequence; numbers are of two digits, as there."""
    folder = out / "sequences" / f"{number:02d}"
    for k, image in enumerate(shown):
        picture(folder / f"image_2/{k:06d}.png", image)
    words(folder / "calib.txt", "".join(f"P{k}: {projection(truth)}\n" for k in range(4)))
    words(folder / "times.txt", "".join(f"{k / RATE:.6e}\n" for k in range(len(shown))))
    poses = "".join(f"{numbers(pose[:3].flatten())}\n" for pose in truth.world_T_cam)
    words(out / "poses" / f"{number:02d}.txt", poses)


def tum(out: Path, number: int, truth: Truth, shown: list[np.ndarray]) -> None:
    """A sequence, stamps in seconds, depth in 1/5000 m up to 13 m."""
    folder = out / f"clip_{number:04d}"
    lists = {"rgb": "# color images\n", "depth": "# depth maps\n", "groundtruth": "# timestamp tx ty tz qx qy qz qw\n"}
    for k, image in enumerate(shown):
        stamp = f"{k / RATE:.6f}"
        picture(folder / f"rgb/{stamp}.png", image)
        depth = near_depth(truth, k)
        picture(folder / f"depth/{stamp}.png", np.where(depth < 13, depth * 5000, 0).round().astype(np.uint16))
        pose = truth.world_T_cam[k].double()
        lists["rgb"] += f"{stamp} rgb/{stamp}.png\n"
        lists["depth"] += f"{stamp} depth/{stamp}.png\n"
        lists["groundtruth"] += f"{stamp} {numbers(pose[:3, 3])} {numbers(quaternion(pose[:3, :3]))}\n"
    for name, text in lists.items():
        words(folder / f"{name}.txt", text)
    (fx, fy), (cx, cy) = truth.intrinsics.focal.tolist(), truth.intrinsics.center.tolist()
    words(folder / "calibration.txt", f"fx {fx:.6f}\nfy {fy:.6f}\ncx {cx - 0.5:.6f}\ncy {cy - 0.5:.6f}\ndepth_factor 5000\n")  # fmt: skip # noqa: E501


def kitti_flow(out: Path, number: int, truth: Truth, shown: list[np.ndarray]) -> None:
    """A pair with flow of all pixels, and of those visible in both."""
    for k, image in enumerate(shown[:2]):
        picture(out / f"training/image_2/{number:06d}_1{k}.png", image)
    flow = truth.flow[0].numpy()
    visible = truth.visible[0, 0].numpy() > 0.5
    for name, kept in (("flow_occ", np.ones_like(visible)), ("flow_noc", visible)):
        (out / "training" / name).mkdir(parents=True, exist_ok=True)
        write_flow(out / f"training/{name}/{number:06d}_10.png", np.where(kept, flow, np.nan).astype(np.float32))


def sintel(out: Path, number: int, truth: Truth, shown: list[np.ndarray]) -> None:
    """A scene of MPI Sintel: flow, depth and cameras of every frame; `final` has blur and noise, `clean` has none."""
    scene, root = f"world_{number:04d}", out / "training"
    tag = np.array([FLO_TAG], "<f4").tobytes()
    h, w = truth.depth.shape[2:]
    (fx, fy), (cx, cy) = truth.intrinsics.focal.tolist(), truth.intrinsics.center.tolist()
    K = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    for k, (final, clean) in enumerate(zip(shown, pictures(truth.images), strict=True)):
        name = f"{scene}/frame_{k + 1:04d}"
        picture(root / f"final/{name}.png", final)
        picture(root / f"clean/{name}.png", clean)
        size, depth = np.array([w, h], "<i4").tobytes(), truth.depth[k, 0].numpy().astype("<f4").tobytes()
        cam_T_world = np.linalg.inv(truth.world_T_cam[k].double().numpy())[:3]
        held(root / f"depth/{name}.dpt", tag + size + depth)
        held(root / f"camdata_left/{name}.cam", tag + np.r_[K.ravel(), cam_T_world.ravel()].astype("<f8").tobytes())
        if k + 1 < len(shown):
            flow_file(root / f"flow/{name}.flo", truth, k)


def held(path: Path, data: bytes) -> None:
    """One file of bytes."""
    atomic_write(path, data)


def flow_file(path: Path, truth: Truth, k: int) -> None:
    """Flow of frame k to the next."""
    write_flow(path, truth.flow[k].numpy().astype(np.float32))


def chairs(out: Path, number: int, truth: Truth, shown: list[np.ndarray]) -> None:
    """A pair of FlyingChairs, counted from 1."""
    for k, image in enumerate(shown[:2]):
        held(out / f"data/{number + 1:05d}_img{k + 1}.ppm", cv2.imencode(".ppm", image)[1].tobytes())
    flow_file(out / f"data/{number + 1:05d}_flow.flo", truth, 0)


def middlebury(out: Path, number: int, truth: Truth, shown: list[np.ndarray]) -> None:
    """A scene of Middlebury's flow benchmark."""
    for k, image in enumerate(shown[:2]):
        picture(out / f"other-data/World{number:04d}/frame{10 + k}.png", image)
    flow_file(out / f"other-gt-flow/World{number:04d}/flow10.flo", truth, 0)


def folders(out: Path, number: int, truth: Truth, shown: list[np.ndarray]) -> None:
    """A folder of pictures and nothing else, as people have them."""
    for k, image in enumerate(shown):
        picture(out / f"clip_{number:04d}/{k:06d}.png", image)


LAYOUTS = {
    "kitti-raw": kitti_raw, "kitti-odometry": kitti_odometry, "tum": tum, "sintel": sintel, "frames": folders,
    "kitti-flow": kitti_flow, "chairs": chairs, "middlebury": middlebury,
}  # fmt: skip
PAIRS = ("kitti-flow", "chairs", "middlebury")  # layouts of two frames
