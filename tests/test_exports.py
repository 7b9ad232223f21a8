"""The cloud and the mesh lie on the true surfaces, movers are absent, and PLY files open in Open3D."""

import builtins
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from room import Room, ball, room, write_run

from glvid import exports, results
from glvid.errors import InputError, UsageError
from glvid.exports.cloud import (
    View,
    chosen,
    clean,
    consistent_points,
    fuse,
    load_open3d,
    longest_shot,
    on_edge,
    seen_ratio,
    strided,
    surrounded,
    with_normals,
)
from glvid.exports.mesh import mesh
from glvid.exports.ply import Cloud, Mesh, read_ply, write_ply
from glvid.geometry import pixel_grid
from glvid.types import Intrinsics

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def truth() -> Room:
    return room()


@pytest.fixture(scope="module")
def run(truth, tmp_path_factory) -> results.RunFolder:
    return write_run(tmp_path_factory.mktemp("runs") / "room.glvid", truth)


@pytest.fixture
def copy(run, tmp_path) -> results.RunFolder:
    return results.open_run(shutil.copytree(run.path, tmp_path / "copy.glvid"))


CELL = 0.025  # m, a voxel of the room's cloud, which averages round the edges where two planes meet


def off_surface(points: np.ndarray) -> np.ndarray:
    """Distance to the nearest of the room's three planes."""
    return np.min(np.abs([points[:, 1] - 1.2, points[:, 2] - 8, points[:, 0] + 3]), 0)


def assert_on_surface(points: np.ndarray) -> None:
    """In a room of 8 m, 16-bit depth costs 0.1 mm; more is off only where planes meet."""
    distance = off_surface(points)
    assert np.percentile(distance, 99) < 1e-3 and distance.max() < CELL


# ---------------------------------------------------------------- the cloud


def test_cloud_lies_on_the_true_surface_in_true_colours(run, truth):
    cloud = fuse(run)
    assert len(cloud.points) > 10_000
    assert_on_surface(cloud.points)
    for axis, offset in ((1, 1.2), (2, 8), (0, -3)):
        assert (np.abs(cloud.points[:, axis] - offset) < 1e-3).mean() > 0.05, "a surface is missing"
    waves = np.sin(cloud.points @ np.array([[3, 1, 2], [-2, 4, 1], [1, -3, 3.5]]) * 2.2)
    color = (128 + 50 * waves + 40 * np.sin(cloud.points.sum(-1, keepdims=True) * 9)).clip(0, 255)
    assert np.median(np.abs(cloud.colors - color)) < 8  # JPEG of 160x120 and voxel means


def test_movers_are_absent(run, truth):
    centers = np.stack([ball(k) for k in range(len(truth.depth))])
    distance = np.linalg.norm(fuse(run).points[:, None] - centers, axis=-1)
    assert distance.min() > 0.7 + 0.1  # the ball's radius, and a gap to the floor below it


def test_an_unmasked_mover_is_mostly_refused_by_the_other_views(copy, truth):
    """Nobody says that the ball moves; depth consistency must."""
    for row in copy.rows:
        cv2.imwrite(str(copy.path / row.mask), np.zeros((120, 160), np.uint8))
    cloud = fuse(copy)
    on_ball = int(truth.moving.sum())
    assert (off_surface(cloud.points) > 0.2).sum() < 0.2 * on_ball


def test_wrong_depth_in_one_frame_is_refused(copy, truth):
    scale = copy.info["depth"]["scale"]
    wrong = (truth.depth[3] * 0.8 / scale).astype(np.uint16)
    cv2.imwrite(str(copy.path / copy.rows[3].depth), wrong)
    assert_on_surface(fuse(copy).points)


def test_sky_is_absent(copy, truth):
    """Clamped values, and whatever lies beyond ten median depths."""
    for row in copy.rows:
        raw = cv2.imread(str(copy.path / row.depth), cv2.IMREAD_UNCHANGED)
        raw[:30] = 65535
        cv2.imwrite(str(copy.path / row.depth), raw)
    assert_on_surface(fuse(copy).points)
    text = (copy.path / "run.json").read_text()
    info = json.loads(text)
    for row in copy.rows:
        raw = cv2.imread(str(copy.path / row.depth), cv2.IMREAD_UNCHANGED)
        raw = np.where(raw == 65535, 60000, raw // 20).astype(np.uint16)
        cv2.imwrite(str(copy.path / row.depth), raw)
    info["depth"]["scale"] *= 20
    (copy.path / "run.json").write_text(json.dumps(info))
    cloud = fuse(results.open_run(copy.path))
    assert len(cloud.points) > 5000 and cloud.points[:, 2].max() < 8.1


@pytest.mark.parametrize("most", [1, 7, 500, 5000])
def test_cloud_is_capped_and_stays_on_the_surface(run, most):
    cloud = fuse(run, most)
    assert 0.3 * most <= len(cloud.points) <= most
    assert most < 500 or np.median(off_surface(cloud.points)) < 0.002
    again = fuse(run, most)
    assert np.array_equal(cloud.points, again.points) and np.array_equal(cloud.colors, again.colors)


def test_cloud_is_thinned(run):
    """No more points than sampled pixels of any frame would need: the six views overlap."""
    assert len(fuse(run).points) < 0.4 * 6 * 160 * 120


def test_only_the_longest_shot_is_fused(truth, tmp_path):
    both = write_run(tmp_path / "a", truth, shots=(2,))
    assert longest_shot(both).tolist() == [2, 3, 4, 5]
    first = np.linalg.inv(truth.world_T_cam[2])  # that shot's world is its first camera
    points = fuse(both).points.astype(np.float64)
    assert_on_surface((points - first[:3, 3]) @ first[:3, :3])


def test_one_frame_gives_its_own_points(tmp_path):
    single = write_run(tmp_path / "a", room(1))
    cloud = fuse(single)
    assert len(cloud.points) > 10_000
    assert_on_surface(cloud.points)


def test_without_images_grey_and_without_depth_refused(truth, tmp_path):
    grey = write_run(tmp_path / "a", truth, keep=("depth",))
    assert (fuse(grey).colors == 128).all()
    for row in grey.rows:
        cv2.imwrite(str(grey.path / row.depth), np.zeros((120, 160), np.uint16))
    with pytest.raises(UsageError, match="nothing to fuse"):
        fuse(grey)


def test_larger_pictures_are_sampled(tmp_path):
    """Of 480x480 every second pixel: the half-pixel shift of the grid must be right."""
    cloud = fuse(write_run(tmp_path / "a", room(2, (480, 480))))
    assert 30_000 < len(cloud.points) < 2 * 240 * 240
    assert np.median(off_surface(cloud.points)) < 1e-4


# ---------------------------------------------------------------- its parts


def test_strided_camera_sees_the_same_rays():
    K = Intrinsics(torch.tensor([300.0, 310.0]).double(), torch.tensor([101.0, 77.0]).double(), (203, 151))
    for stride in (1, 2, 3, 5):
        small = strided(K, stride)
        full = (pixel_grid(K.size, K.focal) - K.center[:, None, None]) / K.focal[:, None, None]
        part = (pixel_grid(small.size, K.focal) - small.center[:, None, None]) / small.focal[:, None, None]
        assert torch.allclose(full[:, stride // 2 :: stride, stride // 2 :: stride], part, atol=1e-12)


def test_edges_but_not_slopes_are_found(truth):
    edge = on_edge((1 / truth.depth[0]).astype(np.float32), truth.intrinsics)
    moving = truth.moving[0] > 0
    rim = cv2.dilate(moving.astype(np.uint8), np.ones((3, 3))) > cv2.erode(moving.astype(np.uint8), np.ones((3, 3)))
    assert edge[rim].mean() > 0.95
    assert edge[~cv2.dilate(rim.astype(np.uint8), np.ones((9, 9))).astype(bool)].mean() < 0.02  # the room's own edges


def test_a_soft_edge_is_an_edge_all_along():
    """Depth 2 to 6 over 10 px, as networks draw it: nothing on the ramp may float in the cloud."""
    depth = np.interp(np.arange(320), [155, 165], [2, 6]).astype(np.float32)[None].repeat(240, 0)
    K = Intrinsics(torch.tensor([300.0, 300.0]), torch.tensor([160.0, 120.0]), (320, 240))
    edge = on_edge(1 / depth, K)
    assert edge[:, 155:166].all() and not edge[:, :153].any() and not edge[:, 168:].any()


def test_seen_ratio_of_points_before_on_and_behind_a_wall():
    K = Intrinsics(torch.tensor([50.0, 50.0]), torch.tensor([32.0, 24.0]), (64, 48))
    pose = np.eye(4)
    pose[:3, 3] = [1, 0, 0]
    wall = View(np.full((48, 64), 1 / 4, np.float32), np.zeros((48, 64, 3), np.uint8), pose, K)
    points = np.float64([[1, 0, 4], [1, 0, 2], [1, 0, 8], [1, 0, -4], [9, 0, 4]])
    assert seen_ratio(points, wall) == pytest.approx([1, 0.5, 2, np.nan, np.nan], nan_ok=True)


def test_a_point_that_others_see_through_is_dropped():
    K = Intrinsics(torch.tensor([50.0, 50.0]), torch.tensor([32.0, 24.0]), (64, 48))
    image = np.zeros((48, 64, 3), np.uint8)
    near, far = (View(np.full((48, 64), 1 / z, np.float32), image, np.eye(4), K) for z in (2, 4))
    assert len(consistent_points(near, [near, near, far])) == 64 * 48
    assert len(consistent_points(near, [near, near, far, far])) == 0
    assert len(consistent_points(near, [near, far, far, far])) == 0
    assert len(consistent_points(near, [])) == 64 * 48


def test_surrounded_and_chosen():
    found = [(x, others) for x, others in surrounded("abcde", 2)]
    assert found == [("a", ["b", "c"]), ("b", ["a", "c", "d"]), ("c", ["a", "b", "d", "e"]), ("d", ["b", "c", "e"]),
                     ("e", ["c", "d"])]  # fmt: skip
    assert chosen(np.arange(5), 9).tolist() == [0, 1, 2, 3, 4]
    assert chosen(np.arange(10, 110), 4).tolist() == [10, 43, 76, 109]


# ---------------------------------------------------------------- PLY


def some_cloud(count: int = 1000, normals: bool = False) -> Cloud:
    points = RNG.normal(size=(count, 3)).astype(np.float32)
    return Cloud(points, RNG.integers(0, 256, (count, 3), np.uint8), points[:, ::-1].copy() if normals else None)


@pytest.mark.parametrize("normals", [False, True])
def test_ply_round_trip_and_open3d(tmp_path, normals):
    cloud = some_cloud(normals=normals)
    write_ply(tmp_path / "c.ply", cloud)
    back = read_ply(tmp_path / "c.ply")
    assert np.array_equal(back.points, cloud.points) and np.array_equal(back.colors, cloud.colors)
    assert back.normals is None if not normals else np.array_equal(back.normals, cloud.normals)
    reader = load_open3d().io.read_point_cloud(str(tmp_path / "c.ply"))
    assert np.array_equal(np.asarray(reader.points, np.float32), cloud.points)
    assert np.abs(np.asarray(reader.colors) * 255 - cloud.colors).max() < 1e-9
    assert reader.has_normals() == normals


def test_ply_bytes_are_the_contracts(tmp_path):
    cloud = some_cloud(2)
    write_ply(tmp_path / "c.ply", cloud)
    data = (tmp_path / "c.ply").read_bytes()
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
    head += "".join(f"property float {n}\n" for n in "xyz")
    head += "".join(f"property uchar {n}\n" for n in ("red", "green", "blue")) + "end_header\n"
    assert data.startswith(head.encode()) and len(data) == len(head) + 2 * 15
    assert data[len(head) : len(head) + 15] == cloud.points[0].tobytes() + cloud.colors[0].tobytes()


def test_an_empty_cloud_is_a_file_too(tmp_path):
    write_ply(tmp_path / "c.ply", some_cloud(0))
    assert read_ply(tmp_path / "c.ply").points.shape == (0, 3)


def test_mesh_ply_round_trip_and_open3d(tmp_path):
    triangles = RNG.integers(0, 1000, (50, 3), np.int32)
    write_ply(tmp_path / "m.ply", Mesh(some_cloud(normals=True), triangles))
    back = read_ply(tmp_path / "m.ply")
    assert isinstance(back, Mesh) and np.array_equal(back.triangles, triangles)
    reader = load_open3d().io.read_triangle_mesh(str(tmp_path / "m.ply"))
    assert np.array_equal(np.asarray(reader.triangles), triangles) and len(reader.vertices) == 1000


def test_open3d_files_are_read(tmp_path):
    """Doubles, as Open3D writes them."""
    o3d = load_open3d()
    points = RNG.normal(size=(7, 3))
    shape = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    shape.colors = o3d.utility.Vector3dVector(np.tile([[1.0, 0.0, 0.2]], (7, 1)))
    assert o3d.io.write_point_cloud(str(tmp_path / "c.ply"), shape)
    back = read_ply(tmp_path / "c.ply")
    assert np.array_equal(back.points, points.astype(np.float32)) and back.colors[0].tolist() == [255, 0, 51]


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_cut_ply_is_damaged(tmp_path, cut):
    write_ply(tmp_path / "c.ply", some_cloud())
    (tmp_path / "c.ply").write_bytes((tmp_path / "c.ply").read_bytes()[:cut])
    with pytest.raises(InputError, match=r"c\.ply: is damaged"):
        read_ply(tmp_path / "c.ply")


def test_ply_refuses_what_is_not_finite(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        write_ply(tmp_path / "c.ply", Cloud(np.float32([[0, np.nan, 0]]), np.zeros((1, 3), np.uint8)))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- Open3D


def test_clean_drops_what_is_far_from_everything(run):
    cloud = fuse(run)
    points, colors = np.float32([*cloud.points, [0, -5, 3]]), np.uint8([*cloud.colors, [0, 0, 0]])
    cleaned = clean(Cloud(points, colors))
    assert 0.9 * len(cloud.points) < len(cleaned.points) <= len(cloud.points)
    assert cleaned.points[:, 1].min() > -4


def test_normals_stand_on_the_planes_and_face_the_camera(run, truth):
    cloud = with_normals(fuse(run, 5000), truth.world_T_cam[:, :3, 3])
    for axis, offset, sign in ((1, 1.2, -1), (2, 8, -1), (0, -3, 1)):
        on = np.abs(cloud.points[:, axis] - offset) < 1e-3
        assert np.median(cloud.normals[on, axis]) * sign > 0.999


def test_mesh_lies_on_the_true_surface_without_the_mover(run, truth, tmp_path):
    shape = mesh(run, voxel=0.05)
    points = shape.vertices.points
    assert len(shape.triangles) > 5000
    assert np.linalg.norm(points[:, None] - [ball(k) for k in range(6)], axis=-1).min() > 0.7
    for axis, offset in ((1, 1.2), (2, 8), (0, -3)):
        distance = points[np.abs(points[:, axis] - offset) < 0.2, axis] - offset
        assert abs(np.median(distance)) < 0.001  # half a pixel off gives 0.02
        assert np.percentile(np.abs(distance), 90) < 0.04  # less than a voxel
    waves = np.sin(points @ np.array([[3, 1, 2], [-2, 4, 1], [1, -3, 3.5]]) * 2.2)
    color = (128 + 50 * waves + 40 * np.sin(points.sum(-1, keepdims=True) * 9)).clip(0, 255)
    assert np.median(np.abs(shape.vertices.colors - color)) < 12
    edges = points[shape.triangles]
    normals = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    floor = np.abs(edges[..., 1] - 1.2).max(1) < 0.02
    assert (normals[floor, 1] < 0).mean() > 0.99  # counter-clockwise seen from the room


@pytest.mark.parametrize("kind", ["cloud", "clean", "mesh"])
def test_export_ply(run, tmp_path, kind):
    count = exports.export_ply(run, tmp_path / "x.ply", kind == "mesh", kind == "clean", 3000)
    back = read_ply(tmp_path / "x.ply")
    assert isinstance(back, Mesh) == (kind == "mesh")
    cloud = back.vertices if kind == "mesh" else back
    assert len(cloud.points) == count > 1000
    assert kind == "mesh" or count <= 3000
    assert (cloud.normals is None) == (kind == "cloud")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("libusb-1.0.so.0: cannot open shared object file"), "apt-get install -y libusb-1.0-0"),
        (OSError("libGL.so.1: cannot open shared object file"), "apt-get install -y libgl1"),
        (ImportError("No module named 'open3d'"), "pip install open3d"),
    ],
)
def test_what_open3d_lacks_is_named_and_the_plain_cloud_needs_none_of_it(run, tmp_path, monkeypatch, error, words):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "open3d":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for cleaned, as_mesh in ((True, False), (False, True)):
        with pytest.raises(UsageError, match=words):
            exports.export_ply(run, tmp_path / "x.ply", as_mesh, cleaned)
    assert not list(tmp_path.iterdir())
    assert exports.export_ply(run, Path(tmp_path / "x.ply")) > 10_000
