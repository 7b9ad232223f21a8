"""Every layout is recognised in a small tree of its own, known numbers are read, what is broken is named."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from glvid.data.layouts import Found, excluded, read_patterns, survey
from glvid.errors import InputError, UsageError
from glvid.evaluate.truth import measured_depth

P2 = "721.5 0 609.5 44.8 0 720.5 172.8 0.2 0 0 1 0.002"
UNIT = "1 0 0 0 1 0 0 0 1"


def picture(path: Path, size: tuple[int, int] = (24, 16), dtype: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if dtype == np.uint16 else (size[1], size[0], 3)
    path.write_bytes(cv2.imencode(path.suffix, np.full(shape, 90, dtype))[1].tobytes())
    return path


def text(path: Path, words: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words)
    return path


def kitti_raw(root: Path, drives: tuple[str, ...] = ("0001", "0002"), count: int = 4) -> Path:
    day = root / "2011_09_26"
    text(day / "calib_cam_to_cam.txt", f"calib_time: now\nS_rect_02: 24 16\nR_rect_00: {UNIT}\nP_rect_02: {P2}\n")
    text(day / "calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 0\nT: 0.1 0.2 0.3\n")
    for number in drives:
        drive = day / f"2011_09_26_drive_{number}_sync"
        for n in range(count):
            picture(drive / "image_02/data" / f"{n:010d}.png")
        scan = drive / "velodyne_points/data/0000000001.bin"
        scan.parent.mkdir(parents=True)
        np.array([[10, 0, 0, 0.5]], np.float32).tofile(scan)
        picture(drive / "proj_depth/groundtruth/image_02/0000000002.png", dtype=np.uint16)
    return root


def odometry(root: Path, count: int = 3) -> Path:
    for n in range(count):
        picture(root / "sequences/05/image_2" / f"{n:06d}.png")
    text(root / "sequences/05/calib.txt", f"P0: {P2}\nP2: {P2}\n")
    text(root / "poses/05.txt", "".join(f"1 0 0 {n} 0 1 0 0 0 0 1 {2 * n}\n" for n in range(count)))
    return root


def tum(root: Path) -> Path:
    for n in range(3):
        picture(root / f"rgb/{n}.png")
        picture(root / f"depth/{n}.png", dtype=np.uint16)
    text(root / "rgb.txt", "# stamp file\n1.0 rgb/0.png\n2.0 rgb/1.png\n3.0 rgb/2.png\n")
    text(root / "depth.txt", "1.001 depth/0.png\n2.5 depth/1.png\n3.0 depth/2.png\n")
    text(root / "groundtruth.txt", "1.0 0 0 0 0 0 0 1\n2.01 1 2 3 0 0 1 0\n9.0 0 0 0 0 0 0 1\n")
    text(root / "calibration.txt", "fx 500\nfy 510\ncx 12\ncy 8\ndepth_factor 1000\n")
    return root


def flow_trees(root: Path) -> Path:
    for name in ("image_2/000003_10.png", "image_2/000003_11.png", "flow_occ/000003_10.png", "flow_noc/000003_10.png"):
        picture(root / "kitti15/training" / name)
    scene = ("flow/alley/frame_0001", "invalid/alley/frame_0001", "clean/alley/frame_0001", "clean/alley/frame_0002")
    for name in (*scene, "final/alley/frame_0001", "final/alley/frame_0002"):
        picture(root / f"sintel/{name}.png")
    for name in ("00001_img1.ppm", "00001_img2.ppm", "00001_flow.png"):
        picture(root / "chairs" / name)
    for name in ("other-data/Venus/frame10.png", "other-data/Venus/frame11.png", "other-gt-flow/Venus/flow10.png"):
        picture(root / "middlebury" / name)
    return root


def sintel(root: Path) -> Path:
    """One scene of two frames, the second camera 1 m further on, 3 m of depth everywhere."""
    tag = np.array([202021.25], "<f4").tobytes()
    K = np.array([[30, 0, 11.5], [0, 30, 7.5], [0, 0, 1.0]])
    for n in (1, 2):
        picture(root / f"final/alley/frame_{n:04d}.png"), picture(root / f"clean/alley/frame_{n:04d}.png")
        cam_T_world = np.column_stack([np.eye(3), [0, 0, 1.0 - n]])
        for name, data in (
            ("camdata_left/alley/frame_{:04d}.cam", np.r_[K.ravel(), cam_T_world.ravel()].astype("<f8").tobytes()),
            ("depth/alley/frame_{:04d}.dpt", np.array([24, 16], "<i4").tobytes() + np.full(384, 3, "<f4").tobytes()),
        ):
            path = root / name.format(n)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tag + data)
    return root


def only(found: Found):
    assert len(found.recordings) == 1 and not found.pairs
    return found.recordings[0]


def test_kitti_raw(tmp_path):
    found = survey([kitti_raw(tmp_path / "kitti")], ["2011_09_26_drive_0001_sync"])
    drive = only(found)
    assert drive.name == "2011_09_26_drive_0002_sync/image_02" and len(drive.pictures) == 4
    assert drive.camera.focal.tolist() == [721.5, 720.5] and drive.camera.center.tolist() == [
        610.0,
        pytest.approx(173.3),
    ]
    assert drive.camera.size == (24, 16)
    assert [p and p.name for p in drive.depth] == [None, None, "0000000002.png", None] and drive.depth_unit == 1 / 256
    assert [p and p.name for p in drive.lidar] == [None, "0000000001.bin", None, None]
    # 10 m ahead of the scanner: z = 10.3, x = 0.1, y = 0.2 in camera 0
    x, y, z = drive.lidar_camera @ [10, 0, 0, 1]
    assert z == pytest.approx(10.302)
    assert x == pytest.approx(721.5 * 0.1 + 609.5 * 10.3 + 44.8) and y == pytest.approx(
        720.5 * 0.2 + 172.8 * 10.3 + 0.2
    )
    assert found.said == ("kitti/2011_09_26: KITTI raw, 1 recordings, 4 pictures",)


def test_a_drive_by_itself_knows_its_day(tmp_path):
    day = kitti_raw(tmp_path / "kitti") / "2011_09_26"
    drive = only(survey([day / "2011_09_26_drive_0001_sync"]))
    assert (
        drive.kind == "KITTI raw" and drive.name == "2011_09_26_drive_0001_sync/image_02" and drive.camera is not None
    )
    (day / "calib_cam_to_cam.txt").unlink()
    with pytest.raises(InputError, match="calib_cam_to_cam.txt"):
        survey([day / "2011_09_26_drive_0001_sync"])


def test_runs_of_glvid_are_no_footage(tmp_path):
    for n in range(4):
        picture(tmp_path / f"clip.glvid/image/{n:06d}.jpg")
    text(tmp_path / "clip.glvid/run.json", "{}"), text(tmp_path / "clip.glvid/frames.csv", "")
    found = survey([tmp_path])
    assert not found.recordings and "a run of glvid" in found.said[0]


def test_kitti_odometry(tmp_path):
    sequence = only(survey([odometry(tmp_path / "dataset")]))
    assert sequence.kind == "KITTI odometry" and sequence.name == "dataset/05"
    assert np.array_equal(sequence.poses[2, :3, 3], [2, 0, 4]) and np.array_equal(sequence.poses[1, 3], [0, 0, 0, 1])
    assert np.allclose(sequence.times, [0, 0.1, 0.2])


def test_tum(tmp_path):
    sequence = only(survey([tum(tmp_path / "desk")]))
    assert [p and p.name for p in sequence.depth] == ["0.png", None, "2.png"] and sequence.depth_unit == 1 / 1000
    assert np.array_equal(sequence.poses[1, :3, 3], [1, 2, 3]) and np.allclose(sequence.poses[1, 0, :3], [-1, 0, 0])
    assert np.isnan(sequence.poses[2]).all()  # its nearest pose is 0.99 s away
    assert torch.equal(sequence.camera.focal, torch.tensor([500.0, 510.0]))


def test_flow_pairs(tmp_path):
    pairs = {p.name: p for p in survey([flow_trees(tmp_path)]).pairs}
    assert set(pairs) == {
        "training/000003", "clean/alley/frame_0001", "final/alley/frame_0001", "chairs/00001", "middlebury/Venus",
    }  # fmt: skip
    assert pairs["training/000003"].visible.parts[-2] == "flow_noc"
    assert pairs["final/alley/frame_0001"].second.parts[-3:] == ("final", "alley", "frame_0002.png")
    assert pairs["final/alley/frame_0001"].invalid is not None
    assert pairs["middlebury/Venus"].flow.parts[-3] == "other-gt-flow"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("sintel/final/alley/frame_0002.png", "is missing"),
        ("chairs/00001_img2.ppm", "is 30x20 px"),
        ("chairs/00001_img1.ppm", "cannot be read"),
        ("chairs/00001_flow.png", "is no flow"),
    ],
)
def test_a_broken_flow_pair_is_named_before_anything_is_learned(tmp_path, harm, words):
    flow_trees(tmp_path)
    path = next(p for p in tmp_path.rglob(Path(harm).name) if str(p).endswith(harm))
    if words == "is missing":
        path.unlink()
    elif words.startswith("is 30"):
        path.write_bytes(cv2.imencode(".ppm", np.zeros((20, 30, 3), np.uint8))[1].tobytes())
    else:
        path.write_bytes(b"torn")
    with pytest.raises(InputError, match=f"{path.name}: .*{words}|{words}"):
        survey([tmp_path])


def test_sintel_with_depth_is_a_film(tmp_path):
    root = sintel(tmp_path / "sintel/training")
    found = survey([tmp_path])
    film = only(found)
    assert film.kind == "Sintel" and film.name == "final/alley" and "Sintel, 1 recordings, 2 pictures" in found.said[0]
    assert film.camera.focal.tolist() == [30, 30] and film.camera.center.tolist() == [12, 8]
    assert film.poses[1, :3, 3].tolist() == [0, 0, 1]
    assert np.array_equal(measured_depth(film, 1), np.full((16, 24), 3.0))
    film.depth[1].write_bytes(b"torn")
    with pytest.raises(InputError, match="frame_0002.dpt"):
        measured_depth(film, 1)
    (root / "camdata_left/alley/frame_0002.cam").write_bytes(b"torn")
    with pytest.raises(InputError, match="frame_0002.cam"):
        survey([tmp_path])


def test_a_tree_may_mix_kinds_and_hold_other_things(tmp_path):
    kitti_raw(tmp_path / "a/kitti")
    tum(tmp_path / "b/desk")
    flow_trees(tmp_path / "c")
    text(tmp_path / "clips/holiday.MP4", "not looked into here")
    text(tmp_path / "clips/notes.txt", "nothing")
    for n in range(5):
        picture(tmp_path / f"clips/walk/{n}.jpg")
    picture(tmp_path / "clips/stills/a.jpg"), picture(tmp_path / "clips/stills/b.jpg")
    for n in range(4):
        picture(tmp_path / f"clips/mixed/{n}.jpg", (24 + n, 16))
        picture(tmp_path / f"clips/depths/{n}.png", dtype=np.uint16)
        picture(tmp_path / f"clips/torn/{n}.jpg")
    text(tmp_path / "clips/torn/2.jpg", "no picture")
    found = survey([tmp_path])
    assert sorted(r.kind for r in found.recordings) == ["KITTI raw", "KITTI raw", "TUM RGB-D", "frames", "video"]
    said = "\n".join(found.said)
    assert "clips/stills: skipped, 2 pictures are stills" in said and "4 pictures of 4 sizes are stills" in said
    assert "clips/depths: skipped, 16-bit" in said and "clips/torn: skipped, 2.jpg cannot be read" in said
    assert "clips: 1 videos" in said and "walk: 5 frames" in said and "notes" not in said


@pytest.mark.parametrize(
    ("make", "broken"),
    [
        (kitti_raw, "2011_09_26/calib_cam_to_cam.txt"),
        (odometry, "sequences/05/calib.txt"),
        (tum, "rgb/1.png"),
    ],
)
def test_a_broken_layout_names_the_first_offending_path(tmp_path, make, broken):
    root = make(tmp_path / "data")
    (root / broken).unlink()
    with pytest.raises(InputError) as error:
        survey([root])
    assert str(root / broken) in str(error.value)


def test_what_is_cut_or_miscounted_is_named(tmp_path):
    root = odometry(tmp_path / "dataset")
    text(root / "poses/05.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(InputError, match="05.txt: not 3 rows of 12 numbers"):
        survey([root])
    text(root / "poses/05.txt", "a b c\n")
    with pytest.raises(InputError, match="05.txt"):
        survey([root])
    day = kitti_raw(tmp_path / "kitti") / "2011_09_26"
    text(day / "calib_cam_to_cam.txt", "P_rect_02: 1 2 3\n")
    with pytest.raises(InputError, match="holds no P_rect_02 of 12 numbers"):
        survey([tmp_path / "kitti"])


def test_patterns(tmp_path):
    path = tmp_path / "shared/wild/lady_running.mp4"
    assert (
        excluded(path, ["wild/lady_running*"]) and excluded(path, ["wild/*"]) and excluded(path, ["lady_running.mp4"])
    )
    assert not excluded(path, ["wild/lady"]) and not excluded(path, ["rgbd/*"])
    list_file = text(tmp_path / "list.txt", "# test clips\nwild/a*\n\nrgbd/*\n")
    assert read_patterns(["x", f"@{list_file}"]) == ["x", "wild/a*", "rgbd/*"]
    with pytest.raises(UsageError, match="cannot read the patterns"):
        read_patterns([f"@{tmp_path / 'none'}"])
    with pytest.raises(UsageError, match="no folder at"):
        survey([tmp_path / "nowhere"])
