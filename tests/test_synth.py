"""Rendered clips in the layouts of data sets: read back by the same code that reads those, and true."""

import numpy as np
import pytest
import torch

from glvid import formats
from glvid.data.layouts import survey
from glvid.errors import UsageError
from glvid.evaluate.truth import measured_depth, scanned_depth
from glvid.synth import synth
from glvid.synthetic import scene

SIZE = (96, 64)
SEED = 700_000


@pytest.fixture(scope="module")
def truth():
    return scene(SEED, "driving", 3, SIZE)


def test_kitti_raw(tmp_path, truth):
    synth(tmp_path / "kitti", 2, "kitti-raw", "driving", 3, SIZE, SEED)
    drives = survey([tmp_path / "kitti"]).recordings
    assert len(drives) == 2 and drives[0].kind == "KITTI raw" and len(drives[0].pictures) == 3
    assert torch.allclose(drives[0].camera.focal, truth.intrinsics.focal, rtol=1e-5)
    assert torch.allclose(drives[0].camera.center, truth.intrinsics.center, rtol=1e-5)
    true = truth.depth[1, 0].numpy()
    measured, scanned = measured_depth(drives[0], 1), scanned_depth(drives[0], 1)
    near = (true < 79) & (true > 1)
    assert np.abs(measured - true)[near].max() < 0.01 and (measured[true > 81] == 0).all()
    # a point in the middle of a pixel is counted one to the left and above: KITTI's numbers begin at 1
    y, x = np.nonzero(scanned)
    assert len(y) > 100
    ahead = true[np.minimum(y + 1, 63), np.minimum(x + 1, 95)]
    assert np.median(np.abs(scanned[y, x] - 0.27 - ahead)) < 0.02  # the scanner stands 0.27 m behind the camera


def test_kitti_odometry_and_tum(tmp_path, truth):
    synth(tmp_path / "odo", 1, "kitti-odometry", "driving", 3, SIZE, SEED)
    synth(tmp_path / "tum", 1, "tum", "driving", 3, SIZE, SEED)
    for root in ("odo", "tum"):
        clip = survey([tmp_path / root]).recordings[0]
        assert np.allclose(clip.poses, truth.world_T_cam.numpy(), atol=1e-5)
        assert torch.allclose(clip.camera.center, truth.intrinsics.center, atol=1e-4)
    true, depth = truth.depth[2, 0].numpy(), measured_depth(clip, 2)
    near = (true < 12.9) & (true > 0.1)
    assert np.abs(depth - true)[near].max() < 1e-3 and (depth[true > 13.1] == 0).all()


def test_kitti_flow(tmp_path):
    synth(tmp_path / "flow", 2, "kitti-flow", "walk", 9, SIZE, SEED)
    pairs = survey([tmp_path / "flow"]).pairs
    truth = scene(SEED, "walk", 2, SIZE)
    assert len(pairs) == 2
    flow, seen = formats.read_flow(pairs[0].flow), formats.read_flow(pairs[0].visible)
    true = truth.flow[0].numpy()
    known = np.isfinite(flow).all(0)
    assert known.mean() > 0.9 and np.abs(flow - true)[:, known].max() < 1 / 64
    hidden = truth.visible[0, 0].numpy() < 0.5
    assert np.isnan(seen[:, hidden]).all()


def test_sintel(tmp_path, truth):
    synth(tmp_path / "sintel", 1, "sintel", "driving", 3, SIZE, SEED)
    found = survey([tmp_path / "sintel"])
    (clip,) = found.recordings
    assert clip.kind == "Sintel" and len(clip.pictures) == 3 and len(found.pairs) == 4  # clean and final
    assert np.allclose(clip.poses, truth.world_T_cam.numpy(), atol=1e-6)
    assert torch.allclose(clip.camera.focal.float(), truth.intrinsics.focal, rtol=1e-6)
    assert torch.allclose(clip.camera.center.float(), truth.intrinsics.center, rtol=1e-6)
    assert np.array_equal(measured_depth(clip, 2), truth.depth[2, 0].numpy())
    assert np.allclose(formats.read_flow(found.pairs[-1].flow), truth.flow[1].numpy())


@pytest.mark.parametrize(("layout", "kind"), [("chairs", "FlyingChairs"), ("middlebury", "Middlebury")])
def test_other_pairs(tmp_path, layout, kind):
    synth(tmp_path / "flow", 2, layout, "walk", 9, SIZE, SEED)
    pairs = survey([tmp_path / "flow"]).pairs
    assert len(pairs) == 2 and {pair.kind for pair in pairs} == {kind}
    assert np.allclose(formats.read_flow(pairs[0].flow), scene(SEED, "walk", 2, SIZE).flow[0].numpy())
    assert formats.read_image(pairs[1].second).shape == (64, 96, 3)


def test_frames_alone(tmp_path):
    synth(tmp_path / "clips", 2, "frames", "walk", 3, SIZE, SEED)
    clips = survey([tmp_path / "clips"]).recordings
    assert [len(clip.pictures) for clip in clips] == [3, 3] and clips[0].camera is None


def test_what_a_user_can_get_wrong(tmp_path):
    for changes, message in (
        ({"layout": "nuscenes"}, "no layout"),
        ({"kind": "boat"}, "no kind"),
        ({"seed": 899_999, "count": 2}, "for evaluation"),
    ):
        with pytest.raises(UsageError, match=message):
            synth(**{"out": tmp_path / "new", "count": 1, "size": SIZE, "frames": 2} | changes)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").touch()
    with pytest.raises(UsageError, match="not empty"):
        synth(tmp_path / "full", 1)
