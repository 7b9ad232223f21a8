"""Protocols on runs whose errors are known by construction, benchmarks from layout to table."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from room import Room, room, write_run
from test_layouts import kitti_raw, picture, text

from glvid import evaluate, formats, inference, results, synth
from glvid.cli import command
from glvid.data.layouts import survey
from glvid.data.splits import eigen_test, listed_frames, read_frames, training
from glvid.errors import InputError, UsageError
from glvid.evaluate import protocols as P
from glvid.evaluate import suite as B
from glvid.evaluate.truth import judged, measured_depth, path_pair, scanned_depth
from glvid.geometry import quaternion
from glvid.inference import InferOptions
from glvid.types import FlowPair, Recording


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def tum_tree(root: Path, truth: Room) -> Path:
    """The room as a TUM sequence; the world of its poses is turned and 3 m away."""
    turn = np.array([[0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 2], [0, 0, 0, 1.0]])
    lists = {"rgb": "", "depth": "", "groundtruth": ""}
    for k, depth in enumerate(truth.depth):
        save(root / f"rgb/{k}.png", truth.images[k][..., ::-1])
        save(root / f"depth/{k}.png", (depth * 5000).round().astype(np.uint16))
        lists["rgb"] += f"{k / 30:.6f} rgb/{k}.png\n"
        lists["depth"] += f"{k / 30:.6f} depth/{k}.png\n"
        pose = turn @ truth.world_T_cam[k]
        q = quaternion(torch.from_numpy(pose[:3, :3])).numpy()
        lists["groundtruth"] += " ".join(f"{x:.9f}" for x in (k / 30, *pose[:3, 3], *q)) + "\n"
    for name, words in lists.items():
        text(root / f"{name}.txt", words)
    fx, (cx, cy) = float(truth.intrinsics.focal[0]), truth.intrinsics.center.tolist()
    text(root / "calibration.txt", f"fx {fx}\nfy {fx}\ncx {cx - 0.5}\ncy {cy - 0.5}\ndepth_factor 5000\n")
    return root


@pytest.fixture(scope="module")
def truth() -> Room:
    return room()


@pytest.fixture(scope="module")
def sequence(tmp_path_factory, truth) -> Recording:
    return survey([tum_tree(tmp_path_factory.mktemp("tum") / "room", truth)]).recordings[0]


def run_with(folder: Path, truth: Room, **changes):
    return write_run(folder, replace(truth, **changes))


def test_the_truth_scores_nothing(tmp_path, truth, sequence):
    case = judged(run_with(tmp_path / "run", truth), sequence)
    found = P.tum(case).summary
    assert found["abs_rel"] < 2e-4 and found["d1"] == 1 and found["frames"] == 6
    assert found["ate_m"] < 1e-6 and found["rpe_rot_deg"] < 1e-4 and found["poses"] == 6
    assert found["focal_percent"] < 1e-4 and found["observable"] == 1
    video = P.video_depth(case).summary
    assert video["a_scale_abs_rel"] < 2e-4 and video["a_shift_abs_rel"] < 2e-4 and video["b_abs_rel"] < 2e-4
    steady = P.consistency(case.run, case).summary
    assert steady["tae_percent"] < 2.0 and 0 <= steady["opw"] < 0.05


def test_errors_of_a_known_size_are_measured(tmp_path, truth, sequence):
    """Odd frames 1.2 times as deep: nothing per frame, but with one scale. A part 20 % nearer. A wrong focal length."""
    doubled = truth.depth * np.where(np.arange(6) % 2, 1.2, 1.0)[:, None, None]
    found = P.sensor_depth(judged(run_with(tmp_path / "a", truth, depth=doubled), sequence)).summary
    assert found["abs_rel"] < 2e-4 and found["scale_spread"] == pytest.approx(1 / 11, abs=1e-3)
    assert found["abs_rel_one_scale"] == pytest.approx(
        (1 / 12 + 1 / 10) / 2, abs=1e-3
    )  # ratios 1 and 5/6, their median 11/12
    quarter = np.quantile(truth.depth, 0.25, axis=(1, 2), keepdims=True)
    nearer = np.where(truth.depth < quarter, 0.8 * truth.depth, truth.depth)  # the median stays
    found = P.sensor_depth(judged(run_with(tmp_path / "b", truth, depth=nearer), sequence)).summary
    assert found["abs_rel"] == pytest.approx(0.25 * 0.2, abs=1e-3)
    lens = replace(truth.intrinsics, focal=truth.intrinsics.focal * 1.1)
    found = P.intrinsics(judged(run_with(tmp_path / "c", truth, intrinsics=lens), sequence)).summary
    assert found["focal_percent"] == pytest.approx(10) and found["hfov"] == pytest.approx(
        2 * np.degrees(np.arctan(80 / 144) - np.arctan(80 / 158.4))
    )


def test_depth_that_flickers_is_less_consistent(tmp_path, truth, sequence):
    shaking = truth.depth * np.where(np.arange(6) % 2, 1.1, 1.0)[:, None, None]
    cases = [
        judged(run_with(tmp_path / f"{k}", truth, depth=d), sequence) for k, d in enumerate((truth.depth, shaking))
    ]
    steady, loose = (P.consistency(case.run, case).summary for case in cases)
    assert loose["tae_percent"] > steady["tae_percent"] + 5 and loose["opw"] > 1.5 * steady["opw"]


def test_only_the_longest_shot_has_one_path(tmp_path, truth, sequence):
    run = write_run(tmp_path / "run", truth, shots=(2,))
    said, true = path_pair(judged(run, sequence))
    assert len(said) == len(true) == 4


def test_a_run_of_another_clip_is_refused(tmp_path, truth, sequence):
    run = run_with(tmp_path / "run", truth)
    with pytest.raises(UsageError, match="frame '3' is none of"):
        judged(run, replace(sequence, pictures=sequence.pictures[:3]))
    with pytest.raises(UsageError, match="knows no camera path"):
        path_pair(judged(run, replace(sequence, poses=None)))


# --- KITTI ------------------------------------------------------------------------------------------------------------


def test_a_scan_is_projected_as_monodepth2_does(tmp_path):
    root = kitti_raw(tmp_path / "kitti", drives=("0002",))
    day = root / "2011_09_26"
    calibration = (day / "calib_cam_to_cam.txt").read_text().splitlines()
    calibration[-1] = "P_rect_02: 20 0 12 0 0 20 8 0 0 0 1 0"
    text(day / "calib_cam_to_cam.txt", "\n".join(calibration) + "\n")
    scan = day / "2011_09_26_drive_0002_sync/velodyne_points/data/0000000001.bin"
    # x forward, y left, z up; the camera sits 0.1 to the left of, 0.2 below and 0.3 behind it
    points = [[10, 0, 0, 1], [5, 0, 0, 1], [20, -3, 2, 1], [-4, 0, 0, 1]]
    np.array(points, np.float32).tofile(scan)
    recording = survey([root]).recordings[0]
    depth = scanned_depth(recording, 1)
    # at (0.1, 0.2, 10.3): x 12.19, y 8.39; (0.1, 0.2, 5.3): x 12.38, y 8.75; (3.1, -1.8, 20.3): x 15.05, y 6.23
    wanted = {(7, 11): 10.0, (8, 11): 5.0, (5, 14): 20.0}
    assert {tuple(map(int, at)): float(depth[tuple(at)]) for at in np.argwhere(depth > 0)} == wanted
    assert scanned_depth(recording, 0) is None and measured_depth(recording, 0) is None
    scan.write_bytes(b"123")
    with pytest.raises(InputError, match="no LiDAR scan"):
        scanned_depth(recording, 1)


def eigen_tree(root: Path, truth: Room) -> Path:
    """The room as KITTI drive 0002, whose frames 0, 3, 6, ... are on Eigen's list; depth as projected maps."""
    day = root / "2011_09_26"
    drive = day / "2011_09_26_drive_0002_sync"
    fx, (cx, cy) = float(truth.intrinsics.focal[0]), truth.intrinsics.center.tolist()
    text(day / "calib_cam_to_cam.txt", f"P_rect_02: {fx} 0 {cx - 0.5} 0 0 {fx} {cy - 0.5} 0 0 0 1 0\n")
    for k, depth in enumerate(truth.depth):
        save(drive / f"image_02/data/{k:010d}.png", truth.images[k][..., ::-1])
        save(drive / f"proj_depth/groundtruth/image_02/{k:010d}.png", (depth * 256).round().astype(np.uint16))
    return root


@pytest.fixture
def infer_tells_the_truth(monkeypatch, truth):
    """Instead of networks: runs that hold the truth; those made are listed."""
    made = []

    def run(source: Path, folder: Path, options: InferOptions, report) -> dict:
        if not (folder / "run.json").exists():
            write_run(folder, truth)
            made.append(source)
        return results.read_info(folder)

    monkeypatch.setattr(inference, "run", run)
    return made


def test_a_benchmark_from_layout_to_table(tmp_path, truth, infer_tells_the_truth):
    root = eigen_tree(tmp_path / "kitti", truth)
    for _ in range(2):  # the second time nothing is run again
        done = evaluate.benchmark("kitti-eigen", [root], tmp_path / "out", InferOptions(refine="output"))
    assert len(infer_tells_the_truth) == 1
    assert done.summary["frames"] == 2 and done.summary["abs_rel"] < 0.002  # frames 0 and 3 of six
    with open(tmp_path / "out/frames.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and rows[0]["clip"] == "2011_09_26_drive_0002_sync/image_02" and float(rows[1]["d1"]) == 1
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["protocol"] == "kitti-eigen" and summary["refine"] == "output"
    table = (tmp_path / "out/table.md").read_text()
    head = table.splitlines()[2]
    assert "Garg crop" in head and "2 of 697 frames; 2 of them against projected" in head and "published" not in table
    whole = B.table(replace(done, comparable=True), InferOptions())
    assert "| GLNet, refined, 416x128 (published) |0.099|" in whole
    for method in ("struct2depth", "learnK", "Monodepth2", "ManyDepth + TTR", "DualRefine"):
        assert method in whole


def test_other_protocols_find_their_clips(tmp_path, truth, infer_tells_the_truth):
    root = tmp_path / "data"
    tum_tree(root / "desk", truth)
    eigen_tree(root / "kitti", truth)
    rows = {}
    for name, clips in (("tum", 1), ("video-depth", 2), ("intrinsics", 2), ("consistency", 2), ("kitti-improved", 1)):
        done = evaluate.benchmark(name, [root], tmp_path / name, InferOptions())
        assert len(done.clips) == clips and done.summary, name
        assert all(key in done.summary for key in done.shown if key != "tae_percent"), name
        rows[name] = list(csv.DictReader((tmp_path / name / "frames.csv").open()))
        assert {row["clip"] for row in rows[name]} == set(done.clips) and all(row["frame"] for row in rows[name])
    posed = [row for row in rows["tum"] if row["position_m"]]
    assert len(posed) > 1 and max(float(row["position_m"]) for row in posed) < 1e-5 and posed[0]["abs_rel"]
    assert max(float(row["frame_abs_rel"]) for row in rows["video-depth"]) < 0.01
    assert min(float(row["frame_opw"]) for row in rows["consistency"]) >= 0
    with pytest.raises(UsageError, match="nothing to measure by kitti-odometry"):
        evaluate.benchmark("kitti-odometry", [root], tmp_path / "none", InferOptions())
    with pytest.raises(UsageError, match="no protocol 'make3d'"):
        evaluate.benchmark("make3d", [root], tmp_path / "none", InferOptions())


def test_odometry(tmp_path, truth, infer_tells_the_truth):
    root = tmp_path / "dataset"
    for k in range(6):
        picture(root / f"sequences/07/image_0/{k:06d}.png", truth.intrinsics.size)
    text(root / "sequences/07/calib.txt", "P0: 144 0 80.5 0 0 144 57.5 0 0 0 1 0\n")
    rows = [" ".join(f"{x:.9f}" for x in pose[:3].ravel()) for pose in truth.world_T_cam]
    text(root / "poses/07.txt", "\n".join(rows) + "\n")
    done = evaluate.benchmark("kitti-odometry", [root], tmp_path / "out", InferOptions())
    assert done.summary["ate_m"] < 1e-6 and done.summary["ate5"] < 1e-6 and np.isnan(done.summary["t_rel"])
    assert json.loads((tmp_path / "out/summary.json").read_text())["summary"]["t_rel"] is None
    assert "published" not in (tmp_path / "out/table.md").read_text()  # those are of 09 and 10
    lines = (tmp_path / "out/frames.csv").read_text().splitlines()
    assert lines[0] == "clip,frame,position_m,step_m,step_deg" and len(lines) == 7 and lines[-1].endswith(",,")
    for number in ("09", "10"):
        shutil.copytree(root / "sequences/07", root / f"sequences/{number}")
        shutil.copy(root / "poses/07.txt", root / f"poses/{number}.txt")
    evaluate.benchmark("kitti-odometry", [root], tmp_path / "all", InferOptions())
    assert "GLNet, sequence 09 (published)" in (tmp_path / "all/table.md").read_text()


def test_splits():
    test = eigen_test()
    assert sum(map(len, test.values())) == 697 and len(test) == 28

    def drive(name: str) -> Recording:
        return Recording("KITTI raw", f"{name}/image_02", Path(name))

    tested, other, film = drive("2011_09_26_drive_0002_sync"), drive("2011_09_26_drive_0001_sync"), Recording(
        "video", "clip", Path("clip.mp4")
    )  # fmt: skip
    said = []
    assert training([tested, other, film], None, said.append) == [other, film] and "1 of 2 drives" in said[0]
    assert training([tested, other], "all", said.append) == [tested, other]
    assert training([tested], None, said.append) == [tested] and "mean nothing" in said[-1]
    assert training([tested, film], "eigen", said.append) == [film]


def test_a_split_of_ones_own(tmp_path):
    listed = text(tmp_path / "mine.txt", "# drives\n2011_09_26_drive_0001_sync\n2011_09_26_drive_0002_sync: 0 4\n")
    assert read_frames(listed) == {"2011_09_26_drive_0001_sync": [], "2011_09_26_drive_0002_sync": [0, 4]}
    name = "2011_09_26/2011_09_26_drive_0001_sync"
    theirs = text(tmp_path / "theirs.txt", f"{name} 7 l\n{name} 9 r\n")
    assert read_frames(theirs) == {"2011_09_26_drive_0001_sync": [7, 9]}
    pictures = tuple(Path(f"{n:010d}.png") for n in range(12))
    drive = Recording("KITTI raw", "2011_09_26_drive_0001_sync/image_02", Path("d"), pictures)
    assert listed_frames(drive, str(theirs)) == {7, 9} and listed_frames(drive, "eigen") is None
    with pytest.raises(UsageError, match="cannot read the split"):
        read_frames(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="lines are"):
        read_frames(text(tmp_path / "bad.txt", "drive: one two\n"))


# --- flow -------------------------------------------------------------------------------------------------------------


def test_flow_of_a_known_error(tmp_path, truth):
    true = truth.flow[0].copy()
    formats.write_flow(tmp_path / "true.png", true)
    invalid = np.zeros(true.shape[1:], np.uint8)
    invalid[:60] = 255
    pictures = [save(tmp_path / f"{k}.png", truth.images[k][..., ::-1]) for k in range(2)]
    run = run_with(tmp_path / "run", truth, flow=truth.flow + np.array([3.0, 4.0])[:, None, None])
    pair = FlowPair("KITTI flow", "a", *pictures, tmp_path / "true.png", save(tmp_path / "invalid.png", invalid))
    row = B.flow_row(pair, run)
    assert row["epe"] == pytest.approx(5, abs=0.02) and row["pixels"] == 60 * 160
    assert row["fl_percent"] == pytest.approx(100, abs=1) and row["epe_dis"] < 2 and "epe_noc" not in row
    formats.write_flow(tmp_path / "noc.png", np.where(np.arange(160) < 40, true, np.nan))
    row = B.flow_row(replace(pair, invalid=None, visible=tmp_path / "noc.png"), run)
    assert row["pixels_noc"] == 40 * 120 and row["epe_noc"] == pytest.approx(5, abs=0.02)


def test_flow_is_brought_to_the_size_of_its_truth():
    flow = np.stack([np.full((10, 20), 4.0), np.full((10, 20), 6.0)])
    big = B.resized(flow, (40, 30))
    assert big.shape == (2, 30, 40) and np.allclose(big[0], 8) and np.allclose(big[1], 18)


# --- the command ------------------------------------------------------------------------------------------------------


def test_eval_of_a_run(tmp_path, truth, sequence, capsys):
    run = run_with(tmp_path / "run", truth)
    assert command(["eval", str(run.path), "--truth", str(sequence.path.parent), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"tum", "video-depth", "consistency", "intrinsics"} == set(found) and found["tum"]["abs_rel"] < 2e-4
    assert command(["eval", str(run.path)]) == 0
    assert capsys.readouterr().out.startswith("consistency\nopw")
    assert command(["eval", str(run.path), "--truth", str(tmp_path / "run/depth")]) == 2
    assert "no truth for" in capsys.readouterr().err
    assert command(["eval", "flow"]) == 2 and "--data" in capsys.readouterr().err
    assert command(["eval", "nothing-such"]) == 2 and "no run folder" in capsys.readouterr().err


# --- which truth, and what a mean is ---------------------------------------------------------------------------------


def test_a_run_is_scored_against_its_own_recording_or_not_at_all(tmp_path, truth):
    """Two drives whose pictures have the same names: the one the run was made of counts, whatever the order."""
    root = eigen_tree(tmp_path / "kitti", truth)
    other = root / "2011_09_26/2011_09_26_drive_0001_sync"
    (root / "2011_09_26/2011_09_26_drive_0002_sync").rename(other)
    eigen_tree(root, truth)
    drives = survey([root]).recordings
    run = run_with(tmp_path / "run", truth)
    for drive in drives:
        known = replace(run, info=run.info | {"input": {"path": str(drive.path)}})
        assert B.recording_of(known, drives, [root]).path == drive.path
    with pytest.raises(UsageError, match="may be of 2 recordings"):
        B.recording_of(run, drives, [root])


def test_means_over_clips():
    depth = [
        P.Scores({"abs_rel": a, "frames": n}, tuple(frame_row(a) for _ in range(n)), n) for a, n in ((0.1, 1), (0.4, 3))
    ]
    found = P.overall(P.PROTOCOLS["kitti-improved"], depth)
    assert found["frames"] == 4 and found["abs_rel"] == pytest.approx(0.325)
    angles = [P.Scores({"hfov": v, "focal_percent": v}) for v in (0.5, 4.0, 30.0)]
    found = P.overall(P.PROTOCOLS["intrinsics"], angles)
    assert found["hfov"] == 4 and found["auc1"] == pytest.approx(100 / 3) and found["auc10"] > found["auc5"] > 0
    video = [P.Scores({"a_scale_abs_rel": v, "b_abs_rel": v, "frames": 2}, weight=w) for v, w in ((0.1, 1), (0.2, 3))]
    found = P.overall(P.PROTOCOLS["video-depth"], video)
    assert found["a_scale_abs_rel"] == pytest.approx(0.175) and found["b_abs_rel"] == pytest.approx(0.15)
    paths = [P.Scores({"ate_m": v, "t_rel": t, "poses": 5}) for v, t in ((1.0, np.nan), (3.0, 2.0))]
    found = P.overall(P.PROTOCOLS["kitti-odometry"], paths)
    assert found == {"ate_m": 2.0, "t_rel": 2.0, "poses": 10.0}


def frame_row(value: float) -> dict[str, float]:
    row = dict.fromkeys(("abs_rel", "sq_rel", "rmse", "rmse_log", "d1", "d2", "d3", "abs_rel_one_scale"), value)
    return row | {"scale": 1.0, "ratio": 1.0, "pixels": 1000}


def test_a_pair_taken_for_a_cut_counts_as_no_flow(tmp_path, truth):
    formats.write_flow(tmp_path / "true.png", truth.flow[0])
    pictures = [save(tmp_path / f"{k}.png", truth.images[k][..., ::-1]) for k in range(2)]
    run = write_run(tmp_path / "run", truth, shots=(1,))
    row = B.flow_row(FlowPair("KITTI flow", "a", *pictures, tmp_path / "true.png"), run)
    assert row["epe"] == pytest.approx(np.hypot(*truth.flow[0]).mean(), abs=0.02)


def test_a_benchmark_of_flow_pairs(tmp_path):
    """Two rendered pairs in KITTI's layout, through inference: figures of every pair, their mean, DIS beside them."""
    synth.synth(tmp_path / "tree", 2, "kitti-flow", size=(192, 96), seed=3)
    done = evaluate.benchmark("kitti-flow", [tmp_path / "tree"], tmp_path / "out", InferOptions())
    rows = list(csv.DictReader((tmp_path / "out/frames.csv").open()))
    assert len(rows) == 2 and done.summary["pairs"] == 2
    assert done.summary["epe"] == pytest.approx(np.mean([float(row["epe"]) for row in rows]), rel=1e-6)
    wrong, pixels = (sum(float(row[key]) for row in rows) for key in ("outliers", "pixels"))
    assert done.summary["fl_percent"] == pytest.approx(100 * wrong / pixels)
    assert done.summary["epe"] == pytest.approx(done.summary["epe_dis"], abs=0.05)  # without refinement it is DIS
    assert 0 < done.summary["epe_noc"] <= done.summary["epe"]
    assert "published" not in (tmp_path / "out/table.md").read_text()  # those are of all 200 pairs
    assert json.loads((tmp_path / "out/summary.json").read_text())["summary"]["pairs"] == 2
