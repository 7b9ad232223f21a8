"""nerfstudio's folder: `transforms.json`, `images/`, `depth/`, `masks/`, `sparse_pc.ply`.

Camera axes are OpenGL's, the world's z is up; `applied_transform` says how it was turned, and the cloud is turned too.
A ray goes through pixel + 0.5, as here.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from glvid import formats
from glvid.exports.cloud import fuse
from glvid.exports.maps import MILLIMETRE, copied, counted, every, meaning, rests
from glvid.exports.options import ExportOptions
from glvid.exports.ply import Cloud, write_ply
from glvid.exports.trajectories import CAM_T_OPENGL, ZUP_T_WORLD
from glvid.files import atomic_write
from glvid.results import Row, RunFolder

DEPTH_STEP = MILLIMETRE  # depth_unit_scale_factor's default, whatever the unit: depth and poses share it


def write_nerfstudio(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """Depth is a thousandth of the run's unit a count (mm in metric runs), 0 unknown or beyond 65.5; masks are black
    where a pixel is to be ignored, because it moves."""
    atomic_write(folder / "transforms.json", (json.dumps(transforms(run), indent=1) + "\n").encode())
    if all(row.depth for row in run.rows):
        cloud = fuse(run, options.max_points)
        turned = (cloud.points.astype(np.float64) @ ZUP_T_WORLD[:3, :3].T).astype(np.float32)
        write_ply(folder / "sparse_pc.ply", Cloud(turned, cloud.colors))

    def write(number: int, row: Row) -> None:
        if row.image:
            copied(run, row, folder / "images" / f"{number:06d}.jpg")
        if row.depth:
            atomic_write(folder / "depth" / f"{number:06d}.png", formats.png_of(counted(run.depth(row), DEPTH_STEP)))
        if row.mask:
            atomic_write(folder / "masks" / f"{number:06d}.png", formats.png_of(rests(run, row)))

    every(run, write)


def transforms(run: RunFolder) -> dict[str, Any]:
    """transforms.json. A field that one frame has, all have, because every kind of map is stored for all or none."""
    (fx, fy), (cx, cy), (w, h) = run.intrinsics.focal.tolist(), run.intrinsics.center.tolist(), run.size
    record = {"camera_model": "OPENCV", "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": w, "h": h}
    record |= dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0)
    record |= {"applied_transform": ZUP_T_WORLD[:3].tolist(), **meaning(run)}
    if all(row.depth for row in run.rows):
        record |= {"ply_file_path": "sparse_pc.ply", "depth_unit_scale_factor": DEPTH_STEP}
    poses = ZUP_T_WORLD @ run.trajectory().world_T_cam @ CAM_T_OPENGL
    frames = zip(run.numbers, run.rows, poses, strict=True)
    return record | {"frames": [_frame(number, row, pose) for number, row, pose in frames]}


def _frame(number: int, row: Row, pose: np.ndarray) -> dict[str, Any]:
    frame = {"file_path": f"images/{number:06d}.jpg", "transform_matrix": pose.tolist(), "time": row.time_s}
    if row.depth:
        frame["depth_file_path"] = f"depth/{number:06d}.png"
    if row.mask:
        frame["mask_path"] = f"masks/{number:06d}.png"
    return frame
