"""A small room with exact truth, computed by hand: floor, two walls, a ball that moves; and a run folder made of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from glvid import claim, results
from glvid.colors import color_range, preview_frame
from glvid.exports.cloud import fuse
from glvid.exports.ply import write_ply
from glvid.formats import depth_scale
from glvid.types import Intrinsics, Trajectory
from glvid.video import write_video

PLANES = ((1, 1.2), (2, 8.0), (0, -3.0))  # axis and offset: floor y = 1.2, back wall z = 8, left wall x = -3
RADIUS = 0.7
IDENTITY = {
    "input": {"path": "clip.mp4", "bytes": 1234},
    "options": {"refine": "none", "seed": 0, "max_size": 1280, "max_points": 2_000_000},
    "models": {"depth": {"name": "truth", "sha256": "0" * 64, "licence": "Apache-2.0"}},
}


@dataclass(frozen=True)
class Room:
    """S frames: images (S, H, W, 3) uint8, depth and moving (S, H, W), flow (S-1, 2, H, W), poses (S, 4, 4)."""

    images: np.ndarray
    depth: np.ndarray
    moving: np.ndarray
    flow: np.ndarray
    world_T_cam: np.ndarray
    intrinsics: Intrinsics


def ball(frame: int) -> np.ndarray:
    """Centre of the ball; it comes nearer and moves to the right."""
    return np.array([-0.8 + 0.15 * frame, 0.3, 4.5 - 0.05 * frame])


def pose(frame: int) -> np.ndarray:
    """The camera goes right and forward and turns left; frame 0 is the world."""
    a = -0.02 * frame
    T = np.eye(4)
    T[:3, :3] = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
    T[:3, 3] = [0.12 * frame, -0.02 * frame, 0.08 * frame]
    return T


def room(frames: int = 6, size: tuple[int, int] = (160, 120)) -> Room:
    """Rendered by intersecting rays."""
    w, h = size
    K = Intrinsics(torch.tensor([0.9 * w] * 2).double(), torch.tensor([w / 2 + 1, h / 2 - 2]).double(), size)
    fx, cx, cy = 0.9 * w, w / 2 + 1, h / 2 - 2
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    rays = np.stack([(x - cx) / fx, (y - cy) / fx, np.ones_like(x)], -1)
    shots = [shoot(rays, k) for k in range(frames)]
    flows = []
    for k, (depth, moving, world, _) in enumerate(shots[:-1]):
        world = world + moving[..., None] * (ball(k + 1) - ball(k))
        local = (world - pose(k + 1)[:3, 3]) @ pose(k + 1)[:3, :3]
        target = local[..., :2] / local[..., 2:] * fx + [cx, cy]
        flows.append(np.stack([target[..., 0] - x, target[..., 1] - y]))
        assert (depth > 0).all()
    columns = list(zip(*shots, strict=True))
    poses = np.stack([pose(k) for k in range(frames)])
    flow = np.stack(flows) if flows else np.empty((0, 2, h, w))
    return Room(np.stack(columns[3]), np.stack(columns[0]), np.stack(columns[1]), flow, poses, K)


def shoot(rays: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Depth, moving, world points and picture of one frame."""
    T = pose(frame)
    d, o = rays @ T[:3, :3].T, T[:3, 3]
    depth = np.full(rays.shape[:2], np.inf)
    for axis, offset in PLANES:
        z = (offset - o[axis]) / np.where(d[..., axis] == 0, 1e-12, d[..., axis])
        depth = np.where((z > 0) & (z < depth), z, depth)
    m = o - ball(frame)
    a, b, c = (d * d).sum(-1), d @ m, m @ m - RADIUS**2
    hit = b * b - a * c > 0
    z = (-b - np.sqrt(np.where(hit, b * b - a * c, 0))) / a
    moving = hit & (z < depth)
    depth = np.where(moving, z, depth)
    world = o + depth[..., None] * d
    fixed = world - moving[..., None] * ball(frame)
    waves = np.sin(fixed @ np.array([[3, 1, 2], [-2, 4, 1], [1, -3, 3.5]]) * 2.2)
    color = 128 + 50 * waves + 40 * np.sin(fixed.sum(-1, keepdims=True) * 9)
    return depth, moving.astype(np.float64), world, color.clip(0, 255).astype(np.uint8)


def write_run(
    folder: Path,
    truth: Room,
    shots: tuple[int, ...] = (),
    keep: tuple[str, ...] = results.KINDS,
    flow_format: str = "png",
) -> results.RunFolder:
    """A complete run folder that holds the truth, written as `infer` does. `shots`: first row of every further shot."""
    claim.prepare(folder, IDENTITY)
    rows = make_rows(len(truth.depth), shots, keep, flow_format)
    scale = depth_scale(truth.depth)
    poses = truth.world_T_cam.copy()
    for k, row in enumerate(rows):
        first = max(s for s in (0, *shots) if s <= k)
        poses[k] = np.linalg.inv(truth.world_T_cam[first]) @ truth.world_T_cam[k]
        flow = truth.flow[k] if k < len(truth.flow) else None
        results.write_frame(folder, row, scale, truth.depth[k], flow, truth.moving[k], truth.images[k])
    size = truth.intrinsics.size
    camera = results.camera_record(truth.intrinsics, (2 * size[0], 2 * size[1]), "given", 0.0, True)
    results.write_camera(folder, camera)
    results.write_frames(folder, rows)
    results.write_trajectory(folder, Trajectory(np.array([row.time_s for row in rows]), poses, "m"))
    info = facts(rows, camera, size, scale, flow_format)
    results.write_info(folder, info | {"status": "running"})
    run = results.open_run(folder, finished=False)
    if {"depth", "image"} <= set(keep):
        limits = color_range(truth.depth, np.hypot(*truth.flow.transpose(1, 0, 2, 3)))
        panels = (preview_frame(run.image(row), run.depth(row), run.flow(row), limits) for row in run.rows)
        write_video(folder / results.PREVIEW, panels, 25.0)
    write_ply(folder / results.SCENE, fuse(run))
    results.write_info(folder, info)
    claim.release(folder)
    return results.open_run(folder)


def make_rows(frames: int, shots: tuple[int, ...], keep: tuple[str, ...], flow_format: str) -> list[results.Row]:
    """Rows at 30 Hz."""
    rows = []
    for k in range(frames):
        last = k + 1 == frames or k + 1 in shots
        shot = sum(s <= k for s in shots)
        rows.append(results.frame_row(k, k, k / 30, shot, last, keep=keep, flow_format=flow_format))
    return rows


def facts(rows: list[results.Row], camera: dict, size: tuple[int, int], scale: float, flow_format: str) -> dict:
    """run.json of the complete run."""
    source = {"width": camera["source_width"], "height": camera["source_height"], "rotation": 0, "fps": 30.0}
    source |= {"frames": len(rows), "lost": [], "duration_s": len(rows) / 30}
    return {
        "schema": results.SCHEMA,
        "status": "complete",
        "glvid": "0",
        "input": IDENTITY["input"] | source,
        "options": IDENTITY["options"],
        "device": "cpu",
        "precision": "fp32",
        "models": IDENTITY["models"],
        "refine": {"mode": "none", "steps": 0, "loss_first": None, "loss_last": None, "seconds": 0.0},
        "depth": results.depth_record(size, scale, "m", "truth"),
        "flow": results.flow_record(size, flow_format),
        "camera": camera,
        "frames": [row.__dict__ for row in rows],
        "seconds": dict.fromkeys(("decode", "predict", "solve", "refine", "write", "total"), 0.0),
        "peak_memory_mb": 100.0,
        "warnings": [],
    }
