"""Does Blender see what the camera saw? `python tests/in_blender.py RUN EXPORTED` where bpy is installed (by pip).

Runs EXPORTED/blender/camera.py and prints how far, in px, points of the cloud are from where the run's own camera has
them, over all frames. Needs nothing of glvid.
"""

import json
import sys
from pathlib import Path

import bpy
import numpy as np
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector


def rotation(q: np.ndarray) -> np.ndarray:
    """Of a quaternion x y z w."""
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def main(run: Path, exported: Path) -> None:
    """Prints one line."""
    script = exported / "blender/camera.py"
    exec(compile(script.read_text(), str(script), "exec"), {"__file__": str(script)})
    scene, lens = bpy.context.scene, json.loads((run / "camera.json").read_text())
    poses, worst, seen = np.loadtxt(run / "trajectory.txt"), 0.0, 0
    cloud = next(thing for thing in bpy.data.objects if thing.name.startswith("scene"))
    points = np.array([point.co for point in cloud.data.vertices])[:: max(1, len(cloud.data.vertices) // 50)]
    for k, pose in enumerate(poses):
        scene.frame_set(k + 1)
        bpy.context.view_layer.update()
        for x, y, z in points:  # z up
            local = rotation(pose[4:]).T @ (np.array([x, -z, y]) - pose[1:4])
            if local[2] < 0.1:
                continue
            true = local[:2] / local[2] * [lens["fx"], lens["fy"]] + [lens["cx"], lens["cy"]]
            u, v, _ = world_to_camera_view(scene, scene.camera, Vector((x, y, z)))
            if (np.array([u, v]) > 0).all() and (np.array([u, v]) < 1).all():
                worst, seen = max(worst, np.abs([u * lens["width"], (1 - v) * lens["height"]] - true).max()), seen + 1
    sys.stdout.write(
        f"Blender {bpy.app.version_string}: {seen} points in {len(poses)} frames, {worst:.5f} px at most\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
