"""Every export is read back by the reader that people will use, and says what the run says; truth is a room."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import types
from pathlib import Path

import av
import cv2
import numpy as np
import pycolmap
import pytest
import trimesh
from evo.tools import file_interface
from room import Room, room, write_run

from glvid import exports, results
from glvid.cli import command
from glvid.cli.options import FORMATS
from glvid.errors import InputError, OutputError, UsageError
from glvid.exports import ExportOptions
from glvid.exports.cloud import load_open3d
from glvid.exports.maps import with_text
from glvid.exports.ply import Mesh, read_ply
from glvid.exports.tracks import tracks

FRAMES, SIZE = 8, (240, 180)


@pytest.fixture(scope="module")
def truth() -> Room:
    return room(FRAMES, SIZE)


@pytest.fixture(scope="module")
def run(truth, tmp_path_factory) -> results.RunFolder:
    return write_run(tmp_path_factory.mktemp("runs") / "my room.glvid", truth)


@pytest.fixture(scope="module")
def out(run, tmp_path_factory) -> Path:
    """All formats at once, by the command line."""
    place = tmp_path_factory.mktemp("out")
    assert command(["export", str(run.path), "--to", ",".join(exports.FORMATS), "-o", str(place), "-q"]) == 0
    return place


# ---------------------------------------------------------------- a point lands on its pixel


def seen_points(truth: Room, k: int) -> tuple[np.ndarray, np.ndarray]:
    """World points of pixels of frame k, computed from the room's own formulas, and the centres of those pixels."""
    y, x = np.mgrid[10 : SIZE[1] : 23, 7 : SIZE[0] : 29].reshape(2, -1)
    f, c = truth.intrinsics.focal.numpy(), truth.intrinsics.center.numpy()
    rays = np.concatenate([(np.stack([x, y], 1) + 0.5 - c) / f, np.ones((len(x), 1))], 1)
    local = rays * truth.depth[k][y, x][:, None]
    T = truth.world_T_cam[k]
    return local @ T[:3, :3].T + T[:3, 3], np.stack([x, y], 1) + 0.5


def pinhole(K: np.ndarray, cam_T_world: np.ndarray, points: np.ndarray) -> np.ndarray:
    local = points @ cam_T_world[:3, :3].T + cam_T_world[:3, 3]
    return (local @ K.T)[:, :2] / local[:, 2:]


def by_kitti(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    """Pixel centres at integers."""
    P = np.array((place / "kitti/calib.txt").read_text().split()[1:], float).reshape(3, 4)
    pose = file_interface.read_kitti_poses_file(str(place / "kitti/poses.txt")).poses_se3[k]
    return pinhole(P[:, :3], np.linalg.inv(pose), points) + 0.5


def by_colmap(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    image = pycolmap.Reconstruction(place / "colmap/sparse/0").image(k + 1)
    return np.array([image.project_point(p) for p in points])


def by_colmap_text(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    model = pycolmap.Reconstruction()
    model.read_text(place / "colmap/sparse_txt")
    return np.array([model.image(k + 1).project_point(p) for p in points])


def by_nerfstudio(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    """Cameras look along -z with y up; the world was turned by applied_transform; rays go through pixel + 0.5."""
    said = json.loads((place / "nerfstudio/transforms.json").read_text())
    turned = points @ np.array(said["applied_transform"])[:, :3].T
    pose = np.array(said["frames"][k]["transform_matrix"])
    local = (turned - pose[:3, 3]) @ pose[:3, :3]
    x, y = local[:, 0] / -local[:, 2], local[:, 1] / -local[:, 2]
    return np.stack([said["fl_x"] * x + said["cx"], said["cy"] - said["fl_y"] * y], 1)


def by_open3d_json(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    """Pixel centres at integers."""
    path = load_open3d().io.read_pinhole_camera_trajectory(str(place / "open3d/trajectory.json"))
    camera = path.parameters[k]
    return pinhole(camera.intrinsic.intrinsic_matrix, camera.extrinsic, points) + 0.5


def by_open3d_log(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    o3d = load_open3d()
    path = o3d.io.read_pinhole_camera_trajectory(str(place / "open3d/trajectory.log"))
    lens = o3d.io.read_pinhole_camera_intrinsic(str(place / "open3d/intrinsic.json"))
    return pinhole(lens.intrinsic_matrix, path.parameters[k].extrinsic, points) + 0.5


def by_glb(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    """glTF's camera is centred: what is off the centre is compared beside the principal point's shift."""
    document, data = glb_parts(place / "glb/scene.glb")
    animation, lens = document["animations"][0], document["cameras"][0]["perspective"]
    move, turn = (glb_values(document, data, s["output"]) for s in animation["samplers"])
    x, y, z, w = turn[k]
    R = trimesh.transformations.quaternion_matrix([w, x, y, z])[:3, :3]
    local = (points * [1, -1, -1] - move[k]) @ R
    half = np.tan(lens["yfov"] / 2)
    u = local[:, 0] / -local[:, 2] / (half * lens["aspectRatio"])
    v = local[:, 1] / -local[:, 2] / half
    return np.stack([(1 + u) * SIZE[0] / 2 + 1, (1 - v) * SIZE[1] / 2 - 2], 1)  # the room's centre is off by (1, -2)


def by_blender(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    """Blender's camera, as its manual has it: the lens in mm of a sensor as wide as the picture, shifts in widths.
    (`in_blender.py` asks Blender itself, which is too large to be installed for tests.)"""
    scene, camera = blender_scene(place / "blender/camera.py")
    pose = camera.poses[k + 1]
    local = (points @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]).T - pose[:3, 3]) @ pose[:3, :3]
    w, h = scene.render.resolution_x, scene.render.resolution_y
    tall = scene.render.pixel_aspect_y / scene.render.pixel_aspect_x
    f = camera.data.lens / camera.data.sensor_width * w
    u = w / 2 - camera.data.shift_x * w + f * local[:, 0] / -local[:, 2]
    v = h / 2 + (camera.data.shift_y * w - f * local[:, 1] / -local[:, 2]) / tall
    return np.stack([u, v], 1)


def by_npz(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    frame = np.load(place / f"npz/{k:06d}.npz")
    return pinhole(frame["K"], np.linalg.inv(frame["world_T_cam"]), points)


def by_npy(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    return pinhole(np.load(place / "npy/K.npy"), np.linalg.inv(np.load(place / "npy/poses.npy")[k]), points)


def by_tum_and_exr(place: Path, k: int, points: np.ndarray) -> np.ndarray:
    """TUM has no camera; EXR files have one in their heads."""
    import OpenEXR

    K = OpenEXR.File(str(place / f"exr/depth/{k:06d}.exr")).header()["K"]
    pose = file_interface.read_tum_trajectory_file(str(place / "tum/trajectory.txt")).poses_se3[k]
    return pinhole(np.float64(K), np.linalg.inv(pose), points)


CAMERAS = (by_kitti, by_colmap, by_colmap_text, by_nerfstudio, by_open3d_json, by_open3d_log, by_glb, by_blender)
CAMERAS += (by_npz, by_npy, by_tum_and_exr)


@pytest.mark.parametrize("projected", CAMERAS, ids=lambda f: f.__name__)
def test_a_point_lands_on_its_pixel(projected, out, truth):
    for k in (0, 3, FRAMES - 1):
        points, pixels = seen_points(truth, k)
        assert np.abs(projected(out, k, points) - pixels).max() < 0.01


# ---------------------------------------------------------------- paths


def test_tum_by_evo(out, run):
    path = file_interface.read_tum_trajectory_file(str(out / "tum/trajectory.txt"))
    assert path.check()[0] and np.abs(np.array(path.poses_se3) - run.trajectory().world_T_cam).max() < 1e-9
    assert path.timestamps == pytest.approx([row.time_s for row in run.rows])


def test_kitti_by_evo(out, run):
    path = file_interface.read_kitti_poses_file(str(out / "kitti/poses.txt"))
    assert path.check()[0] and np.abs(np.array(path.poses_se3) - run.trajectory().world_T_cam).max() < 1e-9
    assert np.loadtxt(out / "kitti/times.txt") == pytest.approx([row.time_s for row in run.rows])


def test_open3d_poses(out, run):
    o3d = load_open3d()
    for name in ("trajectory.log", "trajectory.json"):
        path = o3d.io.read_pinhole_camera_trajectory(str(out / "open3d" / name))
        poses = np.linalg.inv([camera.extrinsic for camera in path.parameters])
        assert np.abs(poses - run.trajectory().world_T_cam).max() < 1e-9


# ---------------------------------------------------------------- COLMAP


def test_colmap_says_what_the_run_says(out, run):
    model = pycolmap.Reconstruction(out / "colmap/sparse/0")
    assert model.num_images() == FRAMES and [model.image(k + 1).name for k in range(3)] == [
        f"{k:06d}.jpg" for k in range(3)
    ]
    assert all((out / "colmap/images" / image.name).is_file() for image in model.images.values())
    centers = np.array([model.image(k + 1).projection_center() for k in range(FRAMES)])
    assert np.abs(centers - run.trajectory().world_T_cam[:, :3, 3]).max() < 1e-9
    camera = model.camera(1)
    assert camera.model == pycolmap.CameraModelId.PINHOLE and (camera.width, camera.height) == SIZE


def test_colmap_tracks_lie_on_the_surface_and_join_frames(out, truth):
    model = pycolmap.Reconstruction(out / "colmap/sparse/0")
    points = np.array([point.xyz for point in model.points3D.values()])
    off = np.min(np.abs([points[:, 1] - 1.2, points[:, 2] - 8, points[:, 0] + 3]), 0)
    assert len(points) > 1000 and np.percentile(off, 99) < 2e-3
    assert model.compute_mean_track_length() > 4
    assert model.compute_mean_reprojection_error() < 0.05  # measured along the flow, so not nothing
    assert max(len(point.track.elements) for point in model.points3D.values()) == FRAMES
    seen = [e.image_id for e in model.point3D(1).track.elements]
    assert len(set(seen)) == len(seen)


def test_colmap_tracks_are_measured(run):
    """Where they are seen is what flow says, not the projection again."""
    found = tracks(run)
    assert 1e-4 < found.errors.mean() < 0.05


def test_colmap_bundle_adjustment_leaves_true_cameras_alone(out, run):
    model = pycolmap.Reconstruction(out / "colmap/sparse/0")
    before = np.array([model.image(k + 1).projection_center() for k in range(FRAMES)])
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.ceres.solver_options.max_num_iterations = 20
    pycolmap.bundle_adjustment(model, options)
    after = np.array([model.image(k + 1).projection_center() for k in range(FRAMES)])
    length = np.linalg.norm(np.diff(before, axis=0), axis=1).sum()
    assert 0 < np.linalg.norm(after - before, axis=1).max() < 0.01 * length
    assert model.compute_mean_reprojection_error() < 0.05


def test_colmap_text_and_binary_are_one_model(out):
    binary, text = pycolmap.Reconstruction(out / "colmap/sparse/0"), pycolmap.Reconstruction()
    text.read_text(out / "colmap/sparse_txt")
    assert binary.num_points3D() == text.num_points3D()
    for number in (1, binary.num_points3D()):
        a, b = binary.point3D(number), text.point3D(number)
        assert np.allclose(a.xyz, b.xyz, atol=1e-12) and (a.color == b.color).all()
        assert [(e.image_id, e.point2D_idx) for e in a.track.elements] == [
            (e.image_id, e.point2D_idx) for e in b.track.elements
        ]


def test_colmap_masks_are_black_where_things_move(out, truth):
    for k in range(FRAMES):
        mask = cv2.imread(str(out / f"colmap/masks/{k:06d}.jpg.png"), cv2.IMREAD_UNCHANGED)
        assert ((mask == 0) == (truth.moving[k] > 0.5)).all() and set(np.unique(mask)) == {0, 255}


def test_tracks_without_flow_follow_the_projection(truth, tmp_path):
    bare = write_run(tmp_path / "a.glvid", truth, keep=("depth", "mask", "image"))
    found = tracks(bare)
    assert len(found.points) > 1000 and np.bincount(found.point).max() == FRAMES and found.errors.mean() < 0.05


def test_tracks_of_one_frame_are_its_points(tmp_path):
    found = tracks(write_run(tmp_path / "a.glvid", room(1, SIZE)))
    assert len(found.points) == len(found.frame) > 1000


# ---------------------------------------------------------------- nerfstudio


def test_nerfstudio_by_its_own_rules(out, run, truth):
    """What its data parser asks for: files that exist, all frames alike, one size, a cloud turned like the cameras."""
    place = out / "nerfstudio"
    said = json.loads((place / "transforms.json").read_text())
    assert said["camera_model"] == "OPENCV" and (said["w"], said["h"]) == SIZE
    assert len({tuple(sorted(frame)) for frame in said["frames"]}) == 1 and len(said["frames"]) == FRAMES
    for frame in said["frames"]:
        assert all((place / frame[key]).is_file() for key in ("file_path", "depth_file_path", "mask_path"))
    pose = np.array(said["frames"][0]["transform_matrix"])
    assert pose[:3, 1] == pytest.approx([0, 0, 1])  # the camera's up is the world's z
    turned = np.array(said["applied_transform"])
    assert np.linalg.det(turned[:, :3]) == pytest.approx(1)
    cloud = load_open3d().io.read_point_cloud(str(place / said["ply_file_path"]))
    points = np.asarray(cloud.points) @ turned[:, :3]  # turned back
    off = np.min(np.abs([points[:, 1] - 1.2, points[:, 2] - 8, points[:, 0] + 3]), 0)
    assert np.percentile(off, 99) < 1e-3
    depth = cv2.imread(str(place / said["frames"][2]["depth_file_path"]), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and np.abs(depth * 1e-3 - run.depth(run.rows[2])).max() < 0.00051
    mask = cv2.imread(str(place / said["frames"][2]["mask_path"]), cv2.IMREAD_UNCHANGED)
    assert ((mask == 0) == (truth.moving[2] > 0.5)).all()


# ---------------------------------------------------------------- clouds and meshes


def test_rgbd_by_open3d_is_the_room(out, run):
    o3d = load_open3d()
    about = json.loads((out / "open3d/rgbd.json").read_text())
    path = o3d.io.read_pinhole_camera_trajectory(str(out / "open3d/trajectory.json"))
    color, depth = (o3d.io.read_image(str(out / "open3d" / name)) for name in ("color/000002.jpg", "depth/000002.png"))
    pair = o3d.geometry.RGBDImage.create_from_color_and_depth(color, depth, about["depth_scale"], about["depth_trunc"])
    camera = path.parameters[2]
    cloud = o3d.geometry.PointCloud.create_from_rgbd_image(pair, camera.intrinsic, camera.extrinsic)
    points = np.asarray(cloud.points)[np.asarray(run.mask(run.rows[2])).ravel() < 0.5]
    off = np.min(np.abs([points[:, 1] - 1.2, points[:, 2] - 8, points[:, 0] + 3]), 0)
    assert about["depth_scale"] == pytest.approx(1000) and off.max() < 0.002


def test_ply_and_mesh_by_open3d(out):
    o3d = load_open3d()
    cloud = o3d.io.read_point_cloud(str(out / "ply/scene.ply"))
    assert len(cloud.points) == len(read_ply(out / "ply/scene.ply").points) > 10_000
    mesh = o3d.io.read_triangle_mesh(str(out / "mesh/mesh.ply"))
    assert isinstance(read_ply(out / "mesh/mesh.ply"), Mesh) and len(mesh.triangles) > 1000


def glb_parts(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size = struct.unpack("<I", data[12:16])[0]
    assert len(data) % 4 == 0 and data[16:20] == b"JSON" and data[24 + size : 28 + size] == b"BIN\0"
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def glb_values(document: dict, data: bytes, number: int) -> np.ndarray:
    accessor = document["accessors"][number]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
    start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    kind = {5126: "<f4", 5121: "u1", 5125: "<u4"}[accessor["componentType"]]
    return np.frombuffer(data, kind, accessor["count"] * width, start).reshape(-1, width)


def test_glb_by_trimesh(out, run):
    scene = trimesh.load(out / "glb/scene.glb")
    cloud = next(shape for shape in scene.geometry.values() if isinstance(shape, trimesh.PointCloud))
    ours = read_ply(out / "ply/scene.ply")
    assert np.array_equal(np.float32(cloud.vertices), ours.points * np.float32([1, -1, -1]))
    assert np.array_equal(cloud.colors[:, :3], ours.colors)
    assert scene.has_camera and np.allclose(scene.camera_transform, np.eye(4), atol=1e-6)  # y up, looks along -z
    assert scene.camera.fov[1] == pytest.approx(2 * np.degrees(np.arctan(SIZE[1] / 2 / run.camera["fy"])))
    document, data = glb_parts(out / "glb/scene.glb")  # trimesh does not read strips
    strip = next(mesh["primitives"][0] for mesh in document["meshes"] if mesh["name"] == "camera path")
    centers = run.trajectory().world_T_cam[:, :3, 3] * [1, -1, -1]
    assert strip["mode"] == 3
    assert np.abs(glb_values(document, data, strip["attributes"]["POSITION"]) - centers).max() < 1e-6


def test_glb_of_a_mesh(run, tmp_path):
    exports.export(run, ["glb", "mesh"], tmp_path, ExportOptions(mesh=True))
    scene = trimesh.load(tmp_path / "glb/scene.glb")
    mesh = next(shape for shape in scene.geometry.values() if isinstance(shape, trimesh.Trimesh))
    ours = read_ply(tmp_path / "mesh/mesh.ply")
    assert len(mesh.faces) == len(ours.triangles) and len(mesh.vertices) == len(ours.vertices.points)
    assert mesh.visual.vertex_attributes["color"][0, :3].tolist() == ours.vertices.colors[0].tolist()


def test_ply_with_normals(run, tmp_path):
    exports.export(run, ["ply"], tmp_path, ExportOptions(normals=True, max_points=3000))
    cloud = load_open3d().io.read_point_cloud(str(tmp_path / "ply/scene.ply"))
    assert cloud.has_normals() and 1000 < len(cloud.points) <= 3000


# ---------------------------------------------------------------- maps


def test_exr_is_bit_exact(out, run):
    import OpenEXR

    for k, row in enumerate(run.rows):
        file = OpenEXR.File(str(out / f"exr/depth/{k:06d}.exr"))
        assert np.array_equal(file.channels()["Z"].pixels, np.nan_to_num(run.depth(row)))
        head = file.header()
        assert head["compression"] == OpenEXR.ZIP_COMPRESSION and head["type"] == OpenEXR.scanlineimage
        assert (head["unit"], head["kind"], head["frame"]) == ("m", "depth", row.index)
        assert head["time"] == pytest.approx(row.time_s) and head["K"][0, 0] == pytest.approx(run.camera["fx"])


@pytest.mark.parametrize("channel", ["R", "Y"])
def test_exr_channel(run, tmp_path, channel):
    import OpenEXR

    exports.export(run, ["exr"], tmp_path, ExportOptions(exr_channel=channel, frames="2:4"))
    assert sorted(path.name for path in (tmp_path / "exr/depth").iterdir()) == ["000002.exr", "000003.exr"]
    assert list(OpenEXR.File(str(tmp_path / "exr/depth/000002.exr")).channels()) == [channel]


def test_npy_and_npz(out, run):
    for k, row in enumerate(run.rows):
        assert np.array_equal(np.load(out / f"npy/depth/{k:06d}.npy"), run.depth(row), equal_nan=True)
        frame = np.load(out / f"npz/{k:06d}.npz", allow_pickle=False)
        assert np.array_equal(frame["depth"], run.depth(row), equal_nan=True)
        assert np.array_equal(frame["moving"], run.mask(row)) and frame["index"] == row.index
        assert ("flow" in frame) == bool(row.flow)
        if row.flow:
            assert np.array_equal(frame["flow"], run.flow(row), equal_nan=True)


def test_png16_by_opencv(out, run):
    said = json.loads((out / "png16/depth.json").read_text())
    assert (said["unit"], said["scale"], said["kind"]) == ("m", 0.001, "depth")
    for k, row in enumerate(run.rows):
        raw = cv2.imread(str(out / f"png16/depth/{k:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert raw.dtype == np.uint16 and np.abs(raw * said["scale"] - run.depth(row)).max() < 0.00051
    data = (out / "png16/depth/000000.png").read_bytes()
    text = data[data.index(b"tEXtglvid\0") + 10 :]
    assert json.loads(text[: text.index(b"}") + 1]) == said


def test_text_chunks_are_read(tmp_path):
    from PIL import Image

    png = cv2.imencode(".png", np.arange(12, dtype=np.uint16).reshape(3, 4))[1].tobytes()
    image = Image.open(io.BytesIO(with_text(png, "note", "snow \u2603 in June")))
    image.load()
    assert image.text["note"] == "snow \\u2603 in June" and np.asarray(image).max() == 11


def test_counts_beyond_16_bits_are_unknown(run, tmp_path):
    exports.export(run, ["png16"], tmp_path, ExportOptions(png_step=0.0001))
    depth = run.depth(run.rows[0])
    raw = cv2.imread(str(tmp_path / "png16/depth/000000.png"), cv2.IMREAD_UNCHANGED)
    assert ((raw == 0) == (depth > 6.55355)).all() and (raw == 0).any() and (raw > 0).any()


def test_flo_by_opencv(out, run):
    names = sorted(path.name for path in (out / "flo").glob("*.flo"))
    assert names == [f"{k:06d}.flo" for k in range(FRAMES - 1)]
    for k, row in enumerate(run.rows[:-1]):
        flow = cv2.readOpticalFlow(str(out / f"flo/{k:06d}.flo"))
        assert np.array_equal(flow.transpose(2, 0, 1), run.flow(row))


def test_depth_video_is_bit_exact(out, run):
    with av.open(str(out / "depth-video/depth.mkv")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("ffv1", "gray16le")
        assert float(video.metadata["SCALE"]) == run.info["depth"]["scale"] and video.metadata["UNIT"] == "m"
        for row, frame in zip(run.rows, video.decode(video=0), strict=True):
            stored = cv2.imread(str(run.path / row.depth), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(frame.to_ndarray(), stored) and frame.time == pytest.approx(row.time_s, abs=0.0006)


# ---------------------------------------------------------------- Rerun and Blender


def test_rrd_loads(out):
    """By Rerun's own command: verified, and all entities are there, a frame each."""
    tool = [sys.executable, "-m", "rerun", "rrd"]
    path = str(out / "rrd/run.rrd")
    done = subprocess.run([*tool, "verify", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = subprocess.run([*tool, "print", "-v", path], capture_output=True, text=True, timeout=60).stdout
    for entity in ("/world/path", "/world/scene", "/world/camera", "/world/camera/image/depth", "/about"):
        assert entity in told


class Anything(types.SimpleNamespace):
    """Takes whatever is set, and has a value for whatever is asked."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = Anything()
        setattr(self, name, value)
        return value

    def __call__(self, *args, **kwargs):
        return Anything()


class Turned(np.ndarray):
    """Enough of a quaternion: a rotation matrix whose dot product with others is positive."""

    def dot(self, other):
        return 1.0

    def copy(self):
        return self


def blender_scene(script: Path) -> tuple[Anything, Anything]:
    """Runs the script with a stand-in for Blender; returns the scene, and the camera with its `poses` by frame."""
    scene, camera = Anything(), Anything(poses={})

    class Matrix:
        def __init__(self, rows):
            self.rows = np.array(rows)

        def decompose(self):
            return self.rows[:3, 3], self.rows[:3, :3].view(Turned), None

    def keyframe_insert(path, frame):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = camera.rotation_quaternion, camera.location
        camera.poses[frame] = pose

    camera.keyframe_insert = keyframe_insert
    bpy, mathutils = types.ModuleType("bpy"), types.ModuleType("mathutils")
    bpy.context, bpy.ops, mathutils.Matrix = Anything(scene=scene), Anything(), Matrix
    bpy.data = Anything(cameras=Anything(new=lambda name: Anything()))
    bpy.data.objects = Anything(new=lambda name, lens: setattr(camera, "data", lens) or camera)
    bpy.data.images.load = lambda path: Anything()
    sys.modules |= {"bpy": bpy, "mathutils": mathutils}
    try:
        exec(compile(script.read_text(), str(script), "exec"), {"__file__": str(script)})
    finally:
        del sys.modules["bpy"], sys.modules["mathutils"]
    return scene, camera


def test_blender_script(out, run):
    scene, camera = blender_scene(out / "blender/camera.py")
    assert (scene.render.resolution_x, scene.render.resolution_y) == SIZE
    assert scene.frame_end == FRAMES == len(camera.poses) and scene.render.fps / scene.render.fps_base == 30
    assert sorted(path.name for path in (out / "blender/images").iterdir())[0] == "000001.jpg"


@pytest.mark.parametrize("source", ['x"""\nraise SystemExit("taken over")\n"""', "gps\\N.txt", "a\\' + \"\udcff"])
def test_no_text_of_a_run_becomes_code(run, tmp_path, source):
    """Where the scale comes from is a file name, or whatever a run from elsewhere says."""
    exports.export(run.scaled(2, "m", source), ["blender", "exr", "depth-video", "rrd", "kitti"], tmp_path)
    scene, camera = blender_scene(tmp_path / "blender/camera.py")
    assert len(camera.poses) == FRAMES


# ---------------------------------------------------------------- folders, ranges, units


def test_formats_of_the_command_line_are_those_of_the_library():
    assert tuple(exports.FORMATS) == tuple(FORMATS)


def test_every_export_lists_its_files(out, run):
    for name in exports.FORMATS:
        said = json.loads((out / name / "export.json").read_text())
        assert said["files"] and all((out / name / file).is_file() for file in said["files"])
        assert {path.name for path in (out / name).rglob("*") if path.is_file()} == {
            Path(file).name for file in [*said["files"], "export.json"]
        }
        assert (said["format"], said["unit"], said["scale_source"]) == (name, "m", "truth")
        assert said["frames"][3][:2] == [3, run.rows[3].index]


def test_ranges_and_strides(run, tmp_path):
    exports.export(run, ["tum", "colmap", "npy", "kitti"], tmp_path, ExportOptions(frames="1:7", stride=3))
    path = file_interface.read_tum_trajectory_file(str(tmp_path / "tum/trajectory.txt"))
    assert path.timestamps == pytest.approx([1 / 30, 4 / 30])
    assert np.abs(np.array(path.poses_se3) - run.trajectory().world_T_cam[[1, 4]]).max() < 1e-9
    model = pycolmap.Reconstruction(tmp_path / "colmap/sparse/0")
    assert [model.image(k).name for k in (1, 2)] == ["000001.jpg", "000004.jpg"] and model.num_points3D() > 300
    assert sorted(path.name for path in (tmp_path / "npy/depth").iterdir()) == ["000001.npy", "000004.npy"]
    said = json.loads((tmp_path / "kitti/export.json").read_text())
    assert [row[0] for row in said["frames"]] == [1, 4]


@pytest.mark.parametrize("frames", ["3", "a:b", "5:5", "0:99", "-1:3", "", "\u00b2:", "1:2:3"])
def test_wrong_ranges(run, tmp_path, frames):
    with pytest.raises(UsageError, match="--frames"):
        exports.export(run, ["tum"], tmp_path, ExportOptions(frames=frames))
    assert not list(tmp_path.iterdir())


def test_shots_have_worlds_of_their_own(truth, tmp_path):
    both, notes = write_run(tmp_path / "a.glvid", truth, shots=(3,)), []
    exports.export(both, ["tum", "npy", "colmap"], tmp_path / "long", None, notes.append)
    assert len(np.loadtxt(tmp_path / "long/tum/trajectory.txt")) == FRAMES - 3
    assert len(list((tmp_path / "long/npy/depth").iterdir())) == FRAMES  # maps need no world
    assert len(notes) == 2 and "rows 3 to 7" in notes[0]
    exports.export(both, ["tum"], tmp_path / "first", ExportOptions(shot=0))
    assert len(np.loadtxt(tmp_path / "first/tum/trajectory.txt")) == 3
    with pytest.raises(UsageError, match="no frame is left"):
        exports.export(both, ["tum"], tmp_path / "none", ExportOptions(shot=2))


def test_what_is_not_stored_is_asked_for(truth, tmp_path):
    bare = write_run(tmp_path / "a.glvid", truth, keep=("depth",))
    for name, kind in (("flo", "flow"), ("colmap", "image"), ("nerfstudio", "image")):
        with pytest.raises(UsageError, match=f"needs {kind}"):
            exports.export(bare, [name], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    exports.export(bare, ["open3d", "rrd", "blender", "npz"], tmp_path / "out")
    assert not (tmp_path / "out/open3d/color").exists()


def test_scene_units_are_marked(truth, tmp_path):
    free, notes = write_run(tmp_path / "a.glvid", truth).scaled(0.1, "scene", "none"), []
    exports.export(free, ["kitti", "png16", "glb", "nerfstudio", "exr"], tmp_path / "out", None, notes.append)
    assert {note.split(":")[0] for note in notes} == {"kitti", "glb", "nerfstudio"}
    assert json.loads((tmp_path / "out/png16/depth.json").read_text())["unit"] == "scene"
    document, _ = glb_parts(tmp_path / "out/glb/scene.glb")
    assert document["asset"]["extras"]["unit"] == "scene"
    assert json.loads((tmp_path / "out/nerfstudio/transforms.json").read_text())["unit"] == "scene"
    raw = cv2.imread(str(tmp_path / "out/png16/depth/000000.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(raw, cv2.imread(str(free.path / free.rows[0].depth), cv2.IMREAD_UNCHANGED))


def test_scaled_runs_scale_everything(run, tmp_path):
    doubled = run.scaled(2, "m", "test")
    exports.export(doubled, ["tum", "ply", "npy"], tmp_path)
    path = file_interface.read_tum_trajectory_file(str(tmp_path / "tum/trajectory.txt"))
    assert np.abs(path.positions_xyz - 2 * run.trajectory().world_T_cam[:, :3, 3]).max() < 1e-9
    assert np.allclose(np.load(tmp_path / "npy/depth/000000.npy"), 2 * run.depth(run.rows[0]))
    points = read_ply(tmp_path / "ply/scene.ply").points
    assert np.median(np.min(np.abs([points[:, 1] - 2.4, points[:, 2] - 16, points[:, 0] + 6]), 0)) < 1e-3


def test_overwrite_takes_away_what_was_written_and_nothing_else(run, tmp_path):
    exports.export(run, ["npy"], tmp_path)
    with pytest.raises(UsageError, match="--overwrite"):
        exports.export(run, ["npy"], tmp_path)
    exports.export(run, ["npy"], tmp_path, ExportOptions(frames="0:2", overwrite=True))
    assert len(list((tmp_path / "npy/depth").iterdir())) == 2
    (tmp_path / "npy/mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.txt"):
        exports.export(run, ["npy"], tmp_path, ExportOptions(overwrite=True))
    assert (tmp_path / "npy/mine.txt").read_text() == "mine" and len(list((tmp_path / "npy/depth").iterdir())) == 2


def test_a_list_of_files_cannot_lead_out_of_its_folder(run, tmp_path):
    exports.export(run, ["tum"], tmp_path)
    (tmp_path / "victim").write_text("x")
    path = tmp_path / "tum/export.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"files": [*said["files"], "../victim"]}))
    exports.export(run, ["tum"], tmp_path, ExportOptions(overwrite=True))
    assert (tmp_path / "victim").exists()


def test_a_format_that_fails_leaves_what_was_there(run, tmp_path, monkeypatch):
    """A damaged map in the middle, a full disk, a foreign file beside another format: the old exports stay."""
    copy = results.open_run(shutil.copytree(run.path, tmp_path / "copy.glvid"))
    exports.export(copy, ["tum", "npy"], tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (copy.path / copy.rows[5].depth).write_bytes(b"broken")
    again = ExportOptions(overwrite=True)
    with pytest.raises(InputError, match=r"000005\.png: is damaged"):
        exports.export(copy, ["npy"], tmp_path / "out", again)
    with pytest.raises(InputError):
        exports.export(copy, ["npy"], tmp_path / "new")
    (tmp_path / "out/mesh").mkdir()
    (tmp_path / "out/mesh/mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.txt"):
        exports.export(run, ["tum", "npy", "mesh"], tmp_path / "out", again)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: types.SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="disk"):
        exports.export(run, ["tum", "npy"], tmp_path / "out", again)
    (tmp_path / "out/mesh/mine.txt").unlink()
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert list((tmp_path / "new").iterdir()) == []


def test_an_interrupted_export_is_none(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exports.folders, "finished", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exports.export(run, ["npy"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_swept_and_in_nobody_s_way(run, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = f".glvid-{os.getpid()}-export"  # another program may have had our number
    for name in (f".glvid-{ended.pid}-export-npy/depth", f"{own}-npy/depth", f"{own}-flo", ".glvid-x-export-npy"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "stale.npy").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/me.jpg").write_text("me")
    (tmp_path / f".glvid-{ended.pid}-export-tum").symlink_to(tmp_path / "photos")
    files = exports.export(run, ["npy"], tmp_path)["npy"]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"npy", f"{own}-flo", ".glvid-x-export-npy", f".glvid-{ended.pid}-export-tum", "photos"}
    assert "depth/stale.npy" not in files and (tmp_path / "photos/me.jpg").read_text() == "me"


@pytest.mark.parametrize(
    "wrong",
    [{"stride": 0}, {"stride": -1}, {"max_points": 0}, {"png_step": -1.0}, {"png_step": float("inf")}],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ExportOptions(**wrong)


def test_the_last_frame_never_has_flow(run, tmp_path):
    with pytest.raises(UsageError, match="none of the chosen frames has flow"):
        exports.export(run, ["flo"], tmp_path, ExportOptions(frames=f"{FRAMES - 1}:"))


def test_unknown_formats(run, tmp_path, capsys):
    assert command(["export", str(run.path), "--to", "tum,fbx", "-o", str(tmp_path / "x")]) == 2
    assert "fbx" in capsys.readouterr().err and not (tmp_path / "x").exists()
