"""Metres from a height, a distance or a path: a room of known size, whose run says scene units."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from room import Room, room, write_run

from glvid import formats, given, metric, results
from glvid.cli import command
from glvid.errors import UsageError
from glvid.types import Trajectory

UNIT = 0.37  # metres of a scene unit
FRAMES, SIZE = 8, (240, 180)


@pytest.fixture(scope="module")
def truth() -> Room:
    return room(FRAMES, SIZE)


@pytest.fixture(scope="module")
def run(truth, tmp_path_factory) -> results.RunFolder:
    """The room, by a run that knows no metres."""
    return write_run(tmp_path_factory.mktemp("runs") / "a.glvid", truth).scaled(1 / UNIT, "scene", "none")


def found(run: results.RunFolder, spec: str) -> float:
    return metric.metres_per_unit(run, metric.parsed(spec))[0]


# ---------------------------------------------------------------- the three measurements


def test_height_above_the_floor(run):
    """The floor is at y = 1.2 m, and the camera rises by 2 cm a frame: at half time it is 1.27 m above it."""
    assert found(run, "camera-height=1.27") == pytest.approx(UNIT, rel=0.01)
    scaled = metric.in_metres(run, "camera-height=1.27")
    assert scaled.info["depth"]["unit"] == "m" and "8 of 8 frames" in scaled.info["depth"]["scale_source"]
    assert np.nanmedian(scaled.depth(scaled.rows[0])) == pytest.approx(
        UNIT * np.nanmedian(run.depth(run.rows[0])), rel=0.01
    )


def test_a_tilted_camera_sees_the_floor_too():
    """25 degrees down and 10 to the side."""
    a, b = np.radians([25, 10])
    tilt = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    roll = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    draw = np.random.default_rng(1)
    floor = np.stack([draw.uniform(-3, 3, 1500), np.full(1500, 1.6), draw.uniform(1, 9, 1500)], 1)
    wall = np.stack([draw.uniform(-3, 3, 900), draw.uniform(-2, 1.6, 900), np.full(900, 9.0)], 1)
    points = np.concatenate([floor, wall]) @ (roll @ tilt)
    points *= draw.normal(1, 0.01, (len(points), 1))
    down, (height,) = metric.levelled(metric.ground_normal(points), [points])
    assert down @ (np.array([0, 1, 0]) @ (roll @ tilt)) > np.cos(np.radians(1))
    assert height == pytest.approx(1.6, rel=0.01)


def test_no_floor_no_height(truth, tmp_path):
    """Only the wall behind: nothing lies flat below."""
    depth = np.full_like(truth.depth, 5.0)
    bare = write_run(tmp_path / "a.glvid", Room(truth.images, depth, truth.moving * 0, *_rest(truth)))
    with pytest.raises(UsageError, match="ground is seen in 0 of 8"):
        found(bare, "camera-height=1.5")


def _rest(truth: Room) -> tuple:
    return truth.flow, truth.world_T_cam, truth.intrinsics


def test_a_road_that_seems_to_climb_is_level_along_the_way():
    """Far ground is taken for nearer than it is; the camera's own way says that it does not climb."""
    tilted = np.array([0, np.cos(0.04), np.sin(0.04)])
    path = np.stack([np.zeros(20), np.zeros(20), np.arange(20.0)], 1)
    levelled = metric.along_the_way(tilted, path, np.arange(20), 1.6)
    assert np.allclose(levelled, [0, 1, 0])
    assert np.allclose(metric.along_the_way(tilted, path * 0.01, np.arange(20), 1.6), tilted)  # hardly moves
    rising = np.stack([np.zeros(20), -0.3 * np.arange(20.0), np.arange(20.0)], 1)
    assert np.allclose(metric.along_the_way(tilted, rising, np.arange(20), 1.6), tilted)  # a drone that climbs


def test_distance_to_a_pixel(run, truth):
    """Pixels are those of the source, which is twice the size of the maps; distance goes along the ray."""
    x, y, k = 200, 90, 3
    f, c = truth.intrinsics.focal.numpy(), truth.intrinsics.center.numpy()
    ray = np.append((np.array([x, y]) - c) / f, 1)
    z = np.median(truth.depth[k][y - 2 : y + 3, x - 2 : x + 3])
    assert found(run, f"distance={k}:{2 * x},{2 * y}:{z * np.linalg.norm(ray)}") == pytest.approx(UNIT, rel=1e-3)


def test_distance_wants_what_rests_and_is_there(run, truth):
    y, x = np.argwhere(truth.moving[0] > 0).mean(0)
    for spec, words in (
        (f"distance=0:{2 * x},{2 * y}:3", "moves on its own"),
        ("distance=0:480,10:3", "outside the source's 480x360"),
        ("distance=99:10,10:3", "frame 99 of the source is none"),
    ):
        with pytest.raises(UsageError, match=words):
            found(run, spec)


def test_distance_knows_the_distortion_that_was_taken_out(run, truth):
    """The pixel is one of the clip as it is; the maps are straight. The place goes there and back."""
    options = {"distortion": "-0.2,0.05,0.001,0", "intrinsics": "432,432,242,176"}
    bent = replace(run, info=run.info | {"options": run.info["options"] | options})
    lens = metric.lens_of(bent)
    straight = given.straightened(np.array([200.0, 150.0]), *lens)
    rectified = given.rectifier(*lens)
    assert np.abs(straight - [200, 150]).max() > 1
    x, y = straight - 0.5
    seen = [
        cv2.remap(m, np.float32([[x]]), np.float32([[y]]), cv2.INTER_LINEAR)[0, 0] + 0.5
        for m in (rectified.x, rectified.y)
    ]
    assert seen == pytest.approx([200, 150], abs=0.02)
    z = np.median(truth.depth[3][int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3])
    f, c = truth.intrinsics.focal.numpy(), truth.intrinsics.center.numpy()
    metres = z * np.linalg.norm(np.append((straight - c) / f, 1))
    assert found(bent, f"distance=3:400,300:{metres}") == pytest.approx(UNIT, rel=2e-3)


def moved(truth: Room) -> np.ndarray:
    """The true path in other axes: turned, shifted, in metres."""
    a = 0.7
    T = np.array([[np.cos(a), 0, np.sin(a), 5], [0, 1, 0, -2], [-np.sin(a), 0, np.cos(a), 9], [0, 0, 0, 1]])
    return T @ truth.world_T_cam


@pytest.mark.parametrize("shift", [0.0, 0.01, 1e9])
def test_path_as_tum(run, truth, tmp_path, shift):
    """On the clip's clock, a little off, or (as many poses as frames) on another one."""
    times = np.array([row.time_s for row in run.rows]) + shift
    formats.write_trajectory(tmp_path / "gt.txt", Trajectory(times, moved(truth), "m"))
    assert found(run, f"path={tmp_path / 'gt.txt'}") == pytest.approx(UNIT, rel=1e-6)
    assert "8 poses" in metric.in_metres(run, f"path={tmp_path / 'gt.txt'}").info["depth"]["scale_source"]


@pytest.mark.parametrize("late", [0.05, 1.0])
def test_a_clock_that_is_off_is_seen(run, truth, tmp_path, late):
    """As many poses as frames: they belong together one by one, though some times agree by chance."""
    times = np.array([row.time_s for row in run.rows]) + late
    formats.write_trajectory(tmp_path / "gt.txt", Trajectory(times, moved(truth), "m"))
    assert found(run, f"path={tmp_path / 'gt.txt'}") == pytest.approx(UNIT, rel=1e-6)


def test_a_long_path_takes_no_table_of_all_pairs(run, truth, tmp_path):
    """Two million poses, of which eight are of the clip."""
    times = np.array([row.time_s for row in run.rows])
    places = np.concatenate([np.zeros((2_000_000, 3)), moved(truth)[:, :3, 3]])
    known = metric.Known("path=x", "path", times=np.concatenate([np.arange(2e6) + 9, times]), places=places)
    assert metric.metres_per_unit(run, known)[0] == pytest.approx(UNIT, rel=1e-6)


def test_path_as_kitti_counts_frames_of_the_source(run, truth, tmp_path):
    """More poses than rows: of a run with every second frame, pose 2 k is of row k."""
    np.savetxt(tmp_path / "gt.txt", moved(truth)[:, :3].reshape(-1, 12))
    half = run.only(range(0, FRAMES, 2))
    assert found(half, f"path={tmp_path / 'gt.txt'}") == pytest.approx(UNIT, rel=1e-5)


def test_a_path_must_be_of_this_clip(run, truth, tmp_path):
    times = np.array([row.time_s for row in run.rows])
    formats.write_trajectory(tmp_path / "other.txt", Trajectory(times[:5] + 100, moved(truth)[:5], "m"))
    with pytest.raises(UsageError, match="less than three of its poses"):
        found(run, f"path={tmp_path / 'other.txt'}")
    bent = moved(truth).copy()
    bent[:, :3, 3] = np.random.default_rng(0).normal(size=(FRAMES, 3))
    formats.write_trajectory(tmp_path / "bent.txt", Trajectory(times, bent, "m"))
    with pytest.raises(UsageError, match="another path"):
        found(run, f"path={tmp_path / 'bent.txt'}")
    rests = np.repeat(moved(truth)[:1], FRAMES, 0)
    formats.write_trajectory(tmp_path / "rests.txt", Trajectory(times, rests, "m"))
    with pytest.raises(UsageError, match="does not change place"):
        found(run, f"path={tmp_path / 'rests.txt'}")


@pytest.mark.parametrize(
    "spec",
    "x camera-height camera-height=0 camera-height=-1 camera-height=a camera-height=inf distance=1 distance=1:2:3 "
    "distance=a:1,2:3 distance=1:1,2:0 path= path=nowhere.txt =1".split(),
)
def test_what_is_no_measurement(spec):
    with pytest.raises(UsageError, match="--scale-from"):
        metric.parsed(spec)


@pytest.mark.parametrize("text", ["", "1 2 3\n", "0 0 0 0 0 0 0 1\n1 2\n", "a b c d e f g h\n", "nan 0 0 0 0 0 0 1\n"])
def test_what_is_no_path(text, tmp_path):
    (tmp_path / "gt.txt").write_text(text)
    with pytest.raises(UsageError, match="--scale-from"):
        metric.parsed(f"path={tmp_path / 'gt.txt'}")


# ---------------------------------------------------------------- where they are used


def test_exports_in_metres(truth, tmp_path, capsys):
    """Of a stored run in scene units, by the command line."""
    stored = write_run(tmp_path / "a.glvid", truth)
    spec = ["--scale-from", "camera-height=2.54"]
    assert command(["export", str(stored.path), "--to", "tum,npy", "-o", str(tmp_path / "out"), *spec]) == 0
    path = np.loadtxt(tmp_path / "out/tum/trajectory.txt")[:, 1:4]
    assert np.allclose(path, 2 * truth.world_T_cam[:, :3, 3], rtol=0.02, atol=1e-3)
    assert np.allclose(np.load(tmp_path / "out/npy/depth/000000.npy"), 2 * truth.depth[0], rtol=0.02)
    assert command(["export", str(stored.path), "--to", "tum", "-o", str(tmp_path / "x"), "--scale-from", "x"]) == 2
    assert "camera-height" in capsys.readouterr().err
