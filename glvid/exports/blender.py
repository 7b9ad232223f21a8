"""A Python script for Blender (3 and newer): the camera, moving as it did, before the clip's pictures, and the cloud.

Open it in Blender's text editor and run it, or `blender --python camera.py`. It needs no add-on.
"""

import json
from pathlib import Path

from glvid.exports.cloud import fuse
from glvid.exports.maps import copied, every, meaning
from glvid.exports.options import ExportOptions
from glvid.exports.ply import Cloud, write_ply
from glvid.exports.trajectories import CAM_T_OPENGL, ZUP_T_WORLD
from glvid.files import atomic_write
from glvid.results import Row, RunFolder

SENSOR = 36.0  # mm, the width that Blender's cameras have

SCRIPT = '''"""Camera of a video, by glvid. Run it in Blender's text editor, or: blender --python camera.py

Blender's axes: z up, cameras look along -z. One frame a picture, at the rate of the clip.
DATA says where the unit comes from.
"""

import json
import os

import bpy
from mathutils import Matrix

HERE = os.path.dirname(os.path.abspath(__file__)) if "__file__" in globals() else bpy.path.abspath("//")
DATA = json.loads({data})


def set_scene(scene):
    scene.render.resolution_x, scene.render.resolution_y = DATA["size"]
    scene.render.resolution_percentage = 100
    scene.render.pixel_aspect_x, scene.render.pixel_aspect_y = DATA["pixel_aspect"]
    scene.render.fps, scene.render.fps_base = DATA["fps"]
    scene.frame_start, scene.frame_end = 1, len(DATA["poses"])


def add_camera(scene):
    lens = bpy.data.cameras.new("glvid camera")
    lens.sensor_fit, lens.sensor_width, lens.lens = "HORIZONTAL", {sensor}, DATA["lens"]
    lens.shift_x, lens.shift_y = DATA["shift"]
    camera = bpy.data.objects.new("glvid camera", lens)
    camera.rotation_mode = "QUATERNION"
    scene.collection.objects.link(camera)
    scene.camera, before = camera, None
    for frame, rows in enumerate(DATA["poses"], 1):
        place, turn, _ = Matrix(rows).decompose()
        if before is not None and before.dot(turn) < 0:
            turn.negate()
        camera.location, camera.rotation_quaternion, before = place, turn, turn.copy()
        camera.keyframe_insert("location", frame=frame)
        camera.keyframe_insert("rotation_quaternion", frame=frame)
    return lens


def add_pictures(lens):
    names = [os.path.join(HERE, name) for name in DATA["pictures"]]
    if not names or not os.path.exists(names[0]):
        return
    picture = bpy.data.images.load(names[0])
    picture.source = "SEQUENCE"
    background = lens.background_images.new()
    background.image = picture
    background.image_user.frame_duration = len(names)
    background.image_user.frame_start = 1
    background.image_user.frame_offset = 0
    lens.show_background_images = True


def add_cloud():
    path = os.path.join(HERE, "scene.ply")
    if not os.path.exists(path) or not hasattr(bpy.ops.wm, "ply_import"):
        return
    bpy.ops.wm.ply_import(filepath=path, forward_axis="Y", up_axis="Z")


set_scene(bpy.context.scene)
add_pictures(add_camera(bpy.context.scene))
add_cloud()
'''


def write_blender(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`camera.py`, `images/`, and `scene.ply` in Blender's axes."""
    # ASCII twice over: a text that stands in a run can say nothing to Python
    script = SCRIPT.replace("{sensor}", str(SENSOR)).replace("{data}", repr(json.dumps(facts(run) | meaning(run))))
    atomic_write(folder / "camera.py", script.encode())
    if all(row.depth for row in run.rows):
        cloud = fuse(run, options.max_points)
        turned = (cloud.points @ ZUP_T_WORLD[:3, :3].T).astype(cloud.points.dtype)
        write_ply(folder / "scene.ply", Cloud(turned, cloud.colors))

    places = {number: place for place, number in enumerate(run.numbers, 1)}  # Blender wants them without gaps

    def write(number: int, row: Row) -> None:
        if row.image:
            copied(run, row, folder / picture(places[number]))

    every(run, write)


def picture(place: int) -> str:
    """File of the picture that Blender shows at a frame."""
    return f"images/{place:06d}.jpg"


def facts(run: RunFolder) -> dict:
    """What the script is filled with. A shift is in widths of the picture; pictures are a frame apart each."""
    (fx, fy), (cx, cy), (w, h) = run.intrinsics.focal.tolist(), run.intrinsics.center.tolist(), run.size
    path = run.trajectory()
    rate = (len(path.times) - 1) / (path.times[-1] - path.times[0]) if len(path.times) > 1 else 25.0
    fps = max(1, round(rate))
    tall = fx / fy  # how tall a pixel is for its width
    return {
        "size": [w, h],
        "lens": fx / w * SENSOR,
        "shift": [(w / 2 - cx) / w, (cy - h / 2) * tall / w],
        "pixel_aspect": [max(1.0, 1 / tall), max(1.0, tall)],
        "fps": [fps, round(fps / rate, 6)],
        "poses": (ZUP_T_WORLD @ path.world_T_cam @ CAM_T_OPENGL).tolist(),
        "pictures": [picture(place) for place, row in enumerate(run.rows, 1) if row.image],
    }
