"""glvid from Python: arrays that are read when they are asked for."""

import subprocess
import sys

import numpy as np
import pytest
from room import room, write_run

import glvid
import glvid.errors
from glvid.errors import UsageError
from glvid.video import write_video


@pytest.fixture(scope="module")
def truth():
    return room(5)


@pytest.fixture(scope="module")
def run(truth, tmp_path_factory) -> glvid.Run:
    return glvid.open_run(write_run(tmp_path_factory.mktemp("runs") / "a.glvid", truth, shots=(3,)).path)


def test_importing_is_light():
    code = "import glvid, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; glvid.Run; dir(glvid)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        glvid.nonsense  # noqa: B018


def test_arrays_are_those_of_the_run(run, truth):
    assert len(run) == len(run.depth) == len(run.flow) == 5 and run.unit == "m"
    assert run.depth[2] == pytest.approx(truth.depth[2], rel=1e-3) and run.depth[-1].shape == (120, 160)
    assert run.depth[1:4].shape == (3, 120, 160) and run.images[0:2].shape == (2, 120, 160, 3)
    assert run.flow[0] == pytest.approx(truth.flow[0], abs=0.01) and run.flow[2] is None and run.flow[4] is None
    assert np.isnan(run.flow[:]).all((1, 2, 3)).tolist() == [False, False, True, False, True]
    assert run.depth[3:3].shape == (0, 120, 160) and run.images[::2].dtype == np.uint8
    assert [moving.mean() > 0 for moving in run.moving] == [True] * 5
    assert np.array_equal(run.K, truth.intrinsics.matrix.numpy())
    assert run.poses[:3] == pytest.approx(truth.world_T_cam[:3], abs=1e-9) and run.poses.shape == (5, 4, 4)
    assert run.times == pytest.approx(np.arange(5) / 30) and run.shots.tolist() == [0, 0, 0, 1, 1]
    assert run.cloud.shape == run.colors.shape and len(run.cloud) > 5000 and run.colors.dtype == np.uint8


def test_nothing_is_read_before_it_is_asked_for(truth, tmp_path):
    folder = write_run(tmp_path / "a.glvid", truth).path
    for path in (folder / "depth").iterdir():
        path.unlink()
    run = glvid.open_run(folder)
    assert len(run.depth) == 5 and run.images[3].shape == (120, 160, 3)
    with pytest.raises(glvid.errors.InputError, match="is missing"):
        run.depth[0]


def test_metres_and_exports(run, tmp_path):
    doubled = run.metric("camera-height=2.44")
    assert doubled.poses[1, 0, 3] == pytest.approx(0.24, rel=0.02) and run.poses[1, 0, 3] == pytest.approx(0.12)
    files = doubled.export("tum,npy", tmp_path, frames="0:2")
    assert files["tum"] == ["trajectory.txt"] and len(files["npy"]) == 5
    with pytest.raises(UsageError, match="no fbx"):
        run.export("fbx", tmp_path)
    with pytest.raises(TypeError):
        run.export("tum", tmp_path, nonsense=1)


def test_infer(tmp_path, monkeypatch):
    """The folder has the clip's name; asking again opens what is there."""
    rng = np.random.default_rng(0)
    wall = rng.integers(0, 255, (16, 24, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    write_video(tmp_path / "my.clip.mp4", [wall[:96, k : k + 128] for k in (0, 2, 4)], 10)
    monkeypatch.chdir(tmp_path)
    run = glvid.infer("my.clip.mp4", refine="none")
    assert run.path.name == "my.clip.glvid" and len(run) == 3 and run.depth[1].shape == (96, 128)
    before = (run.path / "run.json").stat().st_mtime_ns
    again = glvid.infer("my.clip.mp4", refine="none")
    assert (again.path / "run.json").stat().st_mtime_ns == before
    with pytest.raises(TypeError):
        glvid.infer("my.clip.mp4", refined="output")
    with pytest.raises(UsageError, match="nowhere"):
        glvid.infer("nowhere.mp4")
