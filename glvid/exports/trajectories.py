"""Camera paths as other programs read them: TUM, KITTI odometry, Open3D; and the axes that the rest of them use."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from glvid import formats
from glvid.exports.options import ExportOptions
from glvid.files import atomic_write
from glvid.given import integer_centers
from glvid.results import RunFolder
from glvid.types import Intrinsics

# Camera axes of OpenGL, Blender, glTF and nerfstudio: x right, y up, z backward
CAM_T_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
# A world whose z is up, as nerfstudio's and Blender's: x stays, forward becomes y, up (-y) becomes z
ZUP_T_WORLD = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
# A world whose y is up, as glTF's
YUP_T_WORLD = np.diag([1.0, -1.0, -1.0, 1.0])


def write_tum(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`trajectory.txt`: time, translation, quaternion with w last; camera to world."""
    formats.write_trajectory(folder / "trajectory.txt", run.trajectory())


def write_kitti(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """KITTI odometry: `poses.txt`, 3x4 camera to world row by row, `times.txt`, and `calib.txt` with P0, a pinhole.

    Line i is the i-th exported frame; `export.json` tells which frame of the source that is.
    """
    path = run.trajectory()
    atomic_write(folder / "poses.txt", _lines(path.world_T_cam[:, :3].reshape(-1, 12)))
    atomic_write(folder / "times.txt", _lines(path.times[:, None]))
    P = np.concatenate([integer_centers(run.intrinsics), np.zeros((3, 1))], 1)
    atomic_write(folder / "calib.txt", b"P0: " + _lines(P.reshape(1, 12)))


def _lines(values: Float64[np.ndarray, "N M"]) -> bytes:
    """Single spaces; 13 digits, of which 10 mm over 10,000 km leave three."""
    return "".join(" ".join(f"{x:.12e}" for x in row) + "\n" for row in values + 0.0).encode()


def open3d_log(world_T_cam: Float64[np.ndarray, "N 4 4"]) -> bytes:
    """Open3D's `.log`: `i i i+1`, then the camera-to-world matrix."""
    blocks = (f"{k} {k} {k + 1}\n".encode() + _lines(T) for k, T in enumerate(world_T_cam))
    return b"".join(blocks)


def open3d_intrinsic(camera: Intrinsics) -> dict:
    """Open3D's PinholeCameraIntrinsic; its matrix is column by column."""
    w, h = camera.size
    return {"width": w, "height": h, "intrinsic_matrix": integer_centers(camera).T.ravel().tolist()}


def open3d_json(world_T_cam: Float64[np.ndarray, "N 4 4"], camera: Intrinsics) -> bytes:
    """Open3D's PinholeCameraTrajectory: `extrinsic` is world to camera (the `.log` has its inverse), by columns."""
    lens = open3d_intrinsic(camera)
    head = {"class_name": "PinholeCameraParameters", "version_major": 1, "version_minor": 0}
    parameters = [head | {"extrinsic": np.linalg.inv(T).T.ravel().tolist(), "intrinsic": lens} for T in world_T_cam]
    record = {"class_name": "PinholeCameraTrajectory", "parameters": parameters, "version_major": 1, "version_minor": 0}
    return (json.dumps(record, indent=1) + "\n").encode()
