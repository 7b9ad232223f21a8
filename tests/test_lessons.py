"""Lessons from real clips: solved on a rendered clip whose truth is known, in the form that training draws."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glvid import lessons
from glvid.data.frames import LEFT_OUT, Footage
from glvid.data.pool import drawn
from glvid.networks import CameraNet, DepthNet
from glvid.synthetic import scene

SIZE = (192, 128)


@pytest.fixture(scope="module")
def truth():
    return scene(900001, "handheld", frames=10, size=SIZE)


@pytest.fixture(scope="module")
def clip(truth):
    images = (truth.images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return Footage(Path("clips/rendered.mp4"), images, SIZE, 15.0, np.zeros(len(images), np.int64))


def networks():
    torch.manual_seed(0)
    return DepthNet().eval(), CameraNet().eval()


def test_segments_keep_to_shots_and_to_length():
    shot = np.array([0] * 10 + [1] * 12 + [LEFT_OUT] * 9)
    assert [x.tolist() for x in lessons.segments(shot)] == [list(range(10)), list(range(10, 22))]
    parts = lessons.segments(np.zeros(200, np.int64))
    assert len(parts) == lessons.SEGMENTS and all(8 <= len(x) <= lessons.LENGTH for x in parts)
    assert lessons.segments(np.zeros(5, np.int64)) == []


def test_rows_hold_what_is_true(truth, clip):
    """From depth that knows nothing: where flow is sure, the rows' depth is the truth's up to one scale."""
    found = lessons.solved(clip.images, *networks(), SIZE)
    rows = np.stack(list(lessons.rows(found)))
    assert len(rows) == 9
    true, depth = truth.depth[:9, 0].numpy(), rows["depth"][:, 0].astype(np.float32)
    sure = rows["sure"][:, 0] > 128
    assert sure.mean() > 0.2
    ratio = np.log(depth / true)[sure]
    assert np.median(np.abs(ratio - np.median(ratio))) < 0.08
    assert np.array_equal(rows["image"][3, 0], clip.images[3])
    assert np.array_equal(rows["image"][1, 1], clip.images[3])  # frame 1 goes with the second after it
    batch = drawn([rows], [np.random.default_rng(k) for k in range(4)], (96, 64))
    assert batch.a.shape == (4, 3, 64, 96) and 0 < float(batch.sure.min()) and float(batch.sure.max()) <= 1


def test_a_known_camera_stays_and_is_learned(truth, clip):
    """A wrong one, too: what is given is not asked about. One that nobody knows is learned where it was found well."""
    given = replace(truth.intrinsics, focal=1.3 * truth.intrinsics.focal)
    found = lessons.solved(clip.images, *networks(), SIZE, given)
    row = next(lessons.rows(found))
    assert np.allclose(row["focal"], given.focal.numpy()) and row["known"] == 1
    guessed = replace(found, solution=replace(found.solution, focal_sigma=0.2))
    assert next(lessons.rows(guessed))["known"] == 0


@pytest.mark.slow
def test_lessons_of_another_form_are_made_anew(clip, tmp_path):
    rows = np.array(lessons.taught(clip, tmp_path, *networks())[0])  # a mapped file that is cut cannot be looked at
    store = next(tmp_path.glob("*.npy"))
    np.save(store, np.zeros(3, [("image", "u1")]))
    again, _ = lessons.taught(clip, tmp_path, *networks())
    assert np.array_equal(rows, again)


def test_a_clip_is_solved_once(clip, tmp_path, monkeypatch):
    rows, said = lessons.taught(clip, tmp_path, *networks())
    assert len(rows) == 9 and len(said) == 1 and "9 pairs" in said[0]
    monkeypatch.setattr(lessons, "solved", None)
    again, heard = lessons.taught(clip, tmp_path, *networks())
    assert np.array_equal(rows, again) and said == heard


def test_what_cannot_be_trusted_is_left_out_and_said(clip, tmp_path):
    still = replace(clip, images=np.repeat(clip.images[:1], 10, 0))
    rows, said = lessons.taught(still, tmp_path, *networks())
    assert len(rows) == 0 and "no parallax" in said[0]
