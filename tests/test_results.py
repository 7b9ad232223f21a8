"""The run folder: written as the contract says, read back the same, and only written where it may be."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from room import IDENTITY, Room, room, write_run
from run_folder import check

from glvid import claim, results
from glvid.errors import InputError, OutputError, UsageError
from glvid.types import Intrinsics

REFEREE = Path(__file__).parents[2] / "shared" / "check" / "referee.py"


@pytest.fixture(scope="module")
def truth() -> Room:
    return room()


@pytest.fixture(scope="module")
def good(truth, tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "room.glvid", truth).path


@pytest.fixture
def copy(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy.glvid"))


# ---------------------------------------------------------------- reading back


def test_a_run_reads_back_as_written(good, truth):
    run = results.open_run(good)
    scale = run.info["depth"]["scale"]
    for k, row in enumerate(run.rows):
        assert np.abs(run.depth(row) - truth.depth[k]).max() <= 0.5 * scale + 1e-6  # float32 at 8 m
        assert np.abs(run.mask(row) - truth.moving[k]).max() < 1 / 255
        assert np.abs(run.image(row).astype(float) - truth.images[k]).mean() < 6  # JPEG 4:2:0 of a gaudy texture
        assert row.time_s == pytest.approx(k / 30, abs=1e-9)
    for row, flow in zip(run.rows, truth.flow, strict=False):
        assert np.abs(run.flow(row) - flow).max() <= 1 / 128 + 1e-5
    assert run.flow(run.rows[-1]) is None
    path = run.trajectory()
    assert np.abs(path.world_T_cam - truth.world_T_cam).max() < 1e-10 and path.unit == "m"
    assert run.intrinsics.focal.tolist() == truth.intrinsics.focal.tolist()
    assert run.intrinsics.center.tolist() == truth.intrinsics.center.tolist()


def test_a_run_with_flo_and_two_shots_obeys_the_contract(tmp_path, truth):
    run = write_run(tmp_path / "a", truth, shots=(4,), flow_format="flo")
    check(run.path)
    assert [row.shot for row in run.rows] == [0, 0, 0, 0, 1, 1]
    assert [bool(row.flow) for row in run.rows] == [True, True, True, False, True, False]
    assert np.abs(run.flow(run.rows[0]) - truth.flow[0]).max() < 1e-4


def test_a_given_camera_is_returned_as_given():
    """KITTI's, stored at another aspect ratio: the source fields give it back to float64."""
    given = Intrinsics.from_fov(60.0, (1242, 375)).to(torch.float64)
    given.focal[:] = given.focal.new_tensor([721.5377, 721.5377])
    given.center[:] = given.center.new_tensor([609.5593, 172.854])
    record = results.camera_record(given.resized((640, 193)), (1242, 375), "given", 0.0, True)
    found = [record[f"source_{k}"] for k in ("fx", "fy", "cx", "cy", "width", "height")]
    assert found == pytest.approx([721.5377, 721.5377, 609.5593, 172.854, 1242, 375], rel=1e-14)
    assert record["fx"] == pytest.approx(721.5377 * 640 / 1242) and record["fy"] == pytest.approx(721.5377 * 193 / 375)
    again = results.intrinsics_of(json.loads(json.dumps(record)))
    assert again.focal.tolist() == [record["fx"], record["fy"]] and again.size == (640, 193)


def test_what_is_not_kept_is_refused_by_name(tmp_path, truth):
    run = write_run(tmp_path / "a", truth, keep=("depth", "flow"))
    with pytest.raises(UsageError, match="no mask of frame 0"):
        run.mask(run.rows[0])


def test_what_is_no_run_is_refused(tmp_path, copy):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="is no run folder"):
            results.open_run(folder)
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | {"status": "running"}))
    with pytest.raises(UsageError, match="interrupted run"):
        results.open_run(copy)
    assert len(results.open_run(copy, finished=False).rows) == 6


@pytest.mark.parametrize("name", ["camera.json", "frames.csv"])
def test_missing_and_damaged_files_are_named(copy, name):
    (copy / name).write_bytes(b"{]")
    with pytest.raises(InputError, match=f"{name}: is damaged"):
        results.open_run(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"{name}: is missing"):
        results.open_run(copy)


def test_missing_maps_other_sizes_and_paths_that_leave_are_named(copy):
    run = results.open_run(copy)
    cv2.imwrite(str(copy / run.rows[1].depth), np.ones((5, 5), np.uint16))
    (copy / run.rows[2].depth).unlink()
    with pytest.raises(InputError, match="000001.png: is 5x5, camera.json says 160x120"):
        run.depth(run.rows[1])
    with pytest.raises(InputError, match="000002.png: is missing"):
        run.depth(run.rows[2])
    text = (copy / "frames.csv").read_text()
    (copy / "frames.csv").write_text(text.replace("depth/000000.png", "../../secret.png"))
    with pytest.raises(InputError, match="outside the run folder"):
        run = results.open_run(copy)
        run.depth(run.rows[0])
    (copy / "trajectory.txt").write_text("0 0 0 0 0 0 0 1\n")
    with pytest.raises(InputError, match="1 poses for 6 frames"):
        run.trajectory()


def test_names_with_commas_and_quotes_survive(tmp_path):
    rows = [results.frame_row(0, 7, 0.25, 0, True, name='a,"b"\u00e9 \n.png', keep=("depth",))]
    results.write_frames(tmp_path, rows)
    assert list(results.read_frames(tmp_path)) == rows


@pytest.mark.skipif(not REFEREE.exists(), reason="the referee is not here")
def test_the_referee_finds_the_truth_consistent(good):
    out = subprocess.run([sys.executable, REFEREE, "consistency", good], capture_output=True, text=True, check=True)
    scores = json.loads(out.stdout)
    assert scores["rigid_flow_error_px"] < 0.01 and scores["static_share"] > 0.85
    assert scores["flow_vs_dis_px"] < 0.3


# ---------------------------------------------------------------- the checker


def test_checker_accepts_a_good_run(good):
    check(good)


def edit_json(run: Path, name: str, change) -> None:
    record = json.loads((run / name).read_text())
    change(record)
    (run / name).write_text(json.dumps(record))


def edit_text(run: Path, name: str, old: str, new: str) -> None:
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new, 1))


def both_cameras(run: Path, **change) -> None:
    edit_json(run, "camera.json", lambda c: c.update(change))
    edit_json(run, "run.json", lambda info: info["camera"].update(change))


def zeros(run: Path, name: str, dtype: type, *channels: int) -> None:
    cv2.imwrite(str(run / name), np.zeros((120, 160, *channels), dtype))


def turn_sign(run: Path) -> None:
    lines = (run / "trajectory.txt").read_text().splitlines()
    words = lines[3].split()
    lines[3] = " ".join(words[:4] + [f"{-float(w)}" for w in words[4:]])
    (run / "trajectory.txt").write_text("\n".join(lines) + "\n")


BROKEN = {
    "run.json: is missing": lambda r: (r / "run.json").unlink(),
    "status is running": lambda r: edit_json(r, "run.json", lambda i: i.update(status="running")),
    "lacks refine": lambda r: edit_json(r, "run.json", lambda i: i.pop("refine")),
    "lacks depth.scale_source": lambda r: edit_json(r, "run.json", lambda i: i["depth"].pop("scale_source")),
    "partial if and only if": lambda r: edit_json(r, "run.json", lambda i: i.update(status="partial")),
    "JSON holds NaN": lambda r: edit_json(r, "run.json", lambda i: i["refine"].update(seconds=float("nan"))),
    "camera.json: differs": lambda r: edit_json(r, "camera.json", lambda c: c.update(fx=99)),
    "camera.json: source_fx": lambda r: both_cameras(r, source_fx=144.0),
    "model or pixel_center": lambda r: both_cameras(r, pixel_center=0),
    "frames.csv: header": lambda r: edit_text(r, "frames.csv", "time_s", "time"),
    "flow is '', not": lambda r: edit_text(r, "frames.csv", "flow/000002.png", ""),
    "flow is 'flow/000005.png', not ''": lambda r: edit_text(
        r, "frames.csv", "depth/000005.png,", "depth/000005.png,flow/000005.png"
    ),
    "time falls": lambda r: edit_text(r, "frames.csv", "0.100000000", "0.300000000"),
    "5 poses for 6 frames": lambda r: (r / "trajectory.txt").write_text(
        "".join((r / "trajectory.txt").read_text().splitlines(True)[:5])
    ),
    "is not TUM": lambda r: edit_text(r, "trajectory.txt", " 0 0 0 ", "  0 0 0 "),
    "is not the identity": lambda r: edit_text(r, "trajectory.txt", " 0 0 0 ", " 0 0 1 "),
    "sign jumps at line 4": turn_sign,
    "depth/000003.png: is missing": lambda r: (r / "depth/000003.png").unlink(),
    "depth/000003.png: is not dense": lambda r: zeros(r, "depth/000003.png", np.uint16),
    "depth/000003.png: is uint8": lambda r: zeros(r, "depth/000003.png", np.uint8),
    "flow/000003.png: is invalid": lambda r: zeros(r, "flow/000003.png", np.uint16, 3),
    "mask/000003.png: cannot be decoded": lambda r: (r / "mask/000003.png").write_bytes(b""),
    "image/000003.jpg: is no JPEG": lambda r: shutil.copy(r / "mask/000003.png", r / "image/000003.jpg"),
    "left-over temporary file": lambda r: (r / "depth/.glvid-9-000000.png").touch(),
    "preview.mp4: 4 frames, not 6": lambda r: shorten(r),
    "scene.ply: is cut": lambda r: (r / "scene.ply").write_bytes((r / "scene.ply").read_bytes()[:-1]),
    "scene.ply: more points": lambda r: edit_json(r, "run.json", lambda i: i["options"].update(max_points=10)),
}


def shorten(run: Path) -> None:
    from glvid.video import write_video

    write_video(run / "preview.mp4", [np.zeros((120, 480, 3), np.uint8)] * 4, 30)


@pytest.mark.parametrize("rule", BROKEN)
def test_checker_names_the_broken_rule(copy, rule):
    BROKEN[rule](copy)
    with pytest.raises(AssertionError) as error:
        check(copy)
    assert rule in str(error.value)


# ---------------------------------------------------------------- who may write


def other(part: str, **change) -> dict:
    return IDENTITY | {part: IDENTITY[part] | change}


def test_a_new_folder_becomes_ours_and_locked(tmp_path):
    folder = tmp_path / "new" / "run"
    assert claim.prepare(folder, IDENTITY) == "new"
    assert results.read_info(folder)["status"] == "running"
    with pytest.raises(OutputError, match=f"process {os.getpid()} is writing"):
        claim.prepare(folder, IDENTITY, resume=True)
    claim.release(folder)
    (tmp_path / "empty").mkdir()
    assert claim.prepare(tmp_path / "empty", IDENTITY) == "new"


def test_a_complete_run_of_the_same_is_done_and_untouched(good):
    before = {p: p.stat().st_mtime_ns for p in good.rglob("*")}
    assert claim.prepare(good, IDENTITY) == "done"
    with claim.claimed(good, IDENTITY, resume=True) as verdict:
        assert verdict == "done"
    assert {p: p.stat().st_mtime_ns for p in good.rglob("*")} == before


@pytest.mark.parametrize("resume", [False, True])
def test_another_run_needs_overwrite_and_is_named(good, resume):
    with pytest.raises(UsageError, match="options seed is 0, not 1.*--overwrite"):
        claim.prepare(good, other("options", seed=1), resume=resume)
    with pytest.raises(UsageError, match="input bytes is 1234, not 5"):
        claim.prepare(good, other("input", bytes=5), resume=resume)
    with pytest.raises(UsageError, match="options new is None, not None"):
        claim.prepare(good, other("options", new=None), resume=resume)


def test_an_interrupted_run_needs_resume(tmp_path, truth):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), claim.claimed(folder, IDENTITY):
        row = results.frame_row(0, 0, 0.0, 0, False)
        results.write_frame(folder, row, 0.01, truth.depth[0], truth.flow[0], truth.moving[0], truth.images[0])
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match="interrupted run; use --resume"):
        claim.prepare(folder, IDENTITY)
    with pytest.raises(UsageError, match="another run"):
        claim.prepare(folder, other("options", seed=1), resume=True)
    (folder / "depth" / f".glvid-{os.getpid()}-000001.png").write_bytes(b"half")
    with claim.claimed(folder, IDENTITY, resume=True) as verdict:
        assert verdict == "resume"
        assert all((folder / path).is_file() for path in row.maps)
    assert [p.name for p in (folder / "depth").iterdir()] == ["000000.png"]


def test_overwrite_removes_what_is_ours_and_nothing_else(copy):
    kept = {"notes.txt", "depth/mine.png", "depth/999999.png", "image/scan.jpg", ".hidden"}
    for name in kept:
        (copy / name).write_bytes(b"precious")
    (copy / results.REPORT).write_text("ours")
    assert claim.prepare(copy, other("options", seed=1), overwrite=True) == "new"
    claim.release(copy)
    found = {str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()}
    assert found == kept | {"run.json", results.JOURNAL}
    assert results.read_info(copy)["options"]["seed"] == 1


def test_overwrite_of_an_interrupted_run_knows_its_maps_by_the_journal(tmp_path, truth):
    folder = tmp_path / "run"
    with claim.claimed(folder, IDENTITY):
        row = results.frame_row(0, 0, 0.0, 0, True)
        results.write_frame(folder, row, 0.01, truth.depth[0], None, truth.moving[0], truth.images[0])
    (folder / "depth/000001.png").write_bytes(b"not in the journal")
    with claim.claimed(folder, other("options", seed=1), overwrite=True) as verdict:
        assert verdict == "new"
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == {"run.json", results.JOURNAL, "depth/000001.png"}


def test_a_forged_manifest_deletes_nothing_outside(copy, tmp_path):
    (tmp_path / "victim.png").write_bytes(b"precious")
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth/000000.png").write_bytes(b"precious")
    edit_json(copy, "run.json", lambda i: i["frames"][0].update(depth="../victim.png", flow="../depth/000000.png"))
    shutil.rmtree(copy / "image")
    (copy / "image").symlink_to(tmp_path / "depth")
    edit_json(copy, "run.json", lambda i: i["frames"][1].update(image="image/000000.png"))
    claim.prepare(copy, other("options", seed=1), overwrite=True)
    assert (tmp_path / "victim.png").exists() and (tmp_path / "depth/000000.png").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_never_touched(tmp_path, overwrite):
    (tmp_path / "file").write_bytes(b"x")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="choose another"):
            claim.prepare(folder, IDENTITY, resume=True, overwrite=overwrite)
    (tmp_path / "run.json").write_text('{"schema": "another tool"}')
    with pytest.raises(UsageError, match="no glvid run"):
        claim.prepare(tmp_path, IDENTITY, overwrite=overwrite)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "run.json"]


def test_a_path_through_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="cannot be written"):
        claim.prepare(tmp_path / "file" / "run", IDENTITY)


@pytest.mark.parametrize("lock", ["{dead} 1", "{me} 1", "{old}"])
def test_locks_of_the_dead_are_taken_over(tmp_path, lock):
    """A process that ended; our own pid, born at another time (a container that restarted); an old empty lock."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = tmp_path / results.LOCK
    path.write_text(lock.format(dead=dead.pid, me=os.getpid(), old=""))
    os.utime(path, (0, 0))
    assert claim.prepare(tmp_path, IDENTITY) == "new"


def test_a_living_lock_counts(tmp_path):
    other_process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / results.LOCK).write_text(f"{other_process.pid}")
        with pytest.raises(OutputError, match=f"process {other_process.pid} is writing"):
            claim.prepare(tmp_path, IDENTITY)
        (tmp_path / results.LOCK).write_text("")  # just being created
        with pytest.raises(OutputError, match="another run is writing"):
            claim.prepare(tmp_path, IDENTITY)
    finally:
        other_process.communicate(b"\n")


# ---------------------------------------------------------------- disk


def test_estimate_is_what_the_formats_take():
    """About 0.7 MB a frame at 360p and 2.9 MB at 720p."""

    def per_frame(*args, **kwargs) -> float:
        return results.estimate(1000, *args, max_points=0, **kwargs) / 1000

    assert per_frame((640, 360)) == pytest.approx(0.8e6, rel=0.1)
    assert per_frame((1280, 720)) == pytest.approx(2.9e6, rel=0.1)
    assert per_frame((640, 360), ("depth",)) < 0.6 * per_frame((640, 360))
    assert per_frame((640, 360), flow_format="flo") > 2 * per_frame((640, 360))
    assert results.estimate(0, (640, 360)) == 0
    beside = results.estimate(10, (640, 360), working=(384, 224)) - results.estimate(10, (640, 360))
    assert beside == 10 * results.WORKING * 384 * 224
    assert results.estimate(1000, (640, 360)) - results.estimate(1000, (640, 360), max_points=0) == 30_000_000


def test_too_little_disk_is_refused_before_the_first_frame(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    results.check_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(OutputError, match="free some space"):
        results.check_space(tmp_path / "not" / "there", 10 * free)


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i.pop("seconds"),
        lambda i: i.update(frames=3),
        lambda i: i.update(frames=[]),
        lambda i: i.update(input="x"),
        lambda i: i.update(models="x"),
        lambda i: i["depth"].pop("kind"),
        lambda i: i["depth"].update(scale=-1),
        lambda i: i["depth"].update(scale="x"),
        lambda i: i["depth"].update(unit=["m"]),
        lambda i: i.update(quality={"scale": [1.0]}),
    ],
)
def test_a_run_json_that_somebody_edited_is_damaged(copy, change):
    edit_json(copy, "run.json", change)
    with pytest.raises(InputError, match="is damaged"):
        results.open_run(copy)


@pytest.mark.parametrize("lines", [1, 3, 8])
def test_rows_must_be_as_many_as_frames(copy, lines):
    """Cut, or one too many: poses and rows would belong to different frames."""
    text = (copy / "frames.csv").read_text().splitlines()
    (copy / "frames.csv").write_text("\n".join([*text, text[-1]][:lines]) + "\n")
    with pytest.raises(InputError, match=r"frames\.csv: is damaged"):
        results.open_run(copy)
