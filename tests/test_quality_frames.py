"""Quality by frame on rendered truth: nothing where all agrees, as much as was put in where it does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rendered_shot import rendered_shot

from glvid import quality
from glvid.dense import Dense
from glvid.predict import Flows, dense_size
from glvid.warp import resize

SIZE = (384, 256)  # stored: twice the working size


@pytest.fixture(scope="module")
def exact():
    """A rendered shot with flow, depth, camera and what moves as they truly are, and its flow both ways."""
    truth, shot, solution = rendered_shot()
    size = dense_size(shot.size)
    flows = Flows(shot, no_matching)
    forth = np.arange(5)
    flows.keep(forth, forth + 1, truth.flow)
    flows.keep(forth + 1, forth, truth.flow_back)
    depth, moving = 1 / resize(1 / truth.depth, size), resize(truth.moving, size)
    sure = np.linspace(0, 1, 6, dtype=np.float32)[:, None, None] * np.ones(moving.shape[2:], np.float32)
    return truth, shot, solution, Dense(depth[:, 0].numpy(), sure, moving[:, 0].numpy()), flows


def no_matching(a, b):
    raise AssertionError("all flow is known")


def test_truth_agrees_with_itself(exact):
    truth, *known = exact
    found = quality.of_shot(*known, SIZE)
    assert len(found.reprojection) == 6 and max(found.reprojection) < 0.1
    moving = known[2].moving
    assert found.static == pytest.approx([(m < 0.5).mean() for m in moving])
    assert found.confidence == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert found.scale == (1.0,) * 6


@pytest.mark.parametrize("size", [SIZE, (192, 64)])
def test_a_flow_that_is_off_shows_by_its_length_in_stored_pixels(exact, size):
    _, shot, solution, dense, flows = exact
    true = quality.expected(shot, solution, dense, 2, 3)
    off = Flows(shot, no_matching)
    shift = torch.tensor([0.75, -1.0])[:, None, None]
    back = flows(3, 2)
    off.keep(np.array([2]), np.array([3]), true + shift)
    off.keep(np.array([3]), np.array([2]), back - shift)
    found = quality.reprojection(shot.part(0, 4), solution, dense, off, size, 2)
    width, height = dense_size(shot.size)
    assert found == pytest.approx(np.hypot(0.75 * size[0] / width, size[1] / height), rel=0.02)


def test_the_last_frame_looks_back_and_what_moves_has_no_say(exact):
    _, shot, solution, dense, flows = exact
    back = quality.reprojection(shot, solution, dense, flows, SIZE, 5)
    assert back < 0.1
    wrong = replace(dense, depth=np.where(dense.moving < 0.5, dense.depth, 100 * dense.depth).astype(np.float32))
    assert quality.reprojection(shot, solution, wrong, flows, SIZE, 5) == back
    assert quality.reprojection(shot, solution, replace(dense, moving=0 * dense.moving + 1), flows, SIZE, 2) is None


def test_nothing_is_said_of_one_frame_or_of_a_camera_that_nothing_is_known_of(exact):
    _, shot, solution, dense, flows = exact
    one = Dense(dense.depth[:1], dense.sure[:1], dense.moving[:1])
    only = replace(solution, depth_scale=solution.depth_scale[:1], world_T_cam=solution.world_T_cam[:1])
    assert quality.of_shot(shot.part(0, 1), only, one, flows, SIZE).reprojection == (None,)
    unknown = replace(solution, parallax=0.0, cost=0.0)
    assert quality.of_shot(shot, unknown, dense, flows, SIZE).reprojection == (None,) * 6
    resting = quality.of_shot(shot, replace(unknown, resting=True), dense, flows, SIZE)
    assert None not in resting.reprojection


def test_scale_is_over_the_median_and_shots_follow_each_other(exact):
    _, shot, solution, dense, flows = exact
    scale = torch.tensor([2.0, 2.0, 2.0, 3.0, 1.0, 2.0], dtype=torch.float64)
    found = quality.of_shot(shot, replace(solution, depth_scale=scale), dense, flows, SIZE)
    assert found.scale == (1.0, 1.0, 1.0, 1.5, 0.5, 1.0)
    one = quality.Quality((None,), (1.0,), (1 / 3,), (0.25,))
    entry = quality.stated([found, one])
    assert set(entry) == {"reprojection_px", "static", "scale", "confidence"}
    assert {len(values) for values in entry.values()} == {7}
    assert entry["scale"][3:] == [1.5, 0.5, 1.0, 0.33333] and entry["reprojection_px"][-1] is None


def test_what_is_not_finite_is_stated_as_unknown():
    found = quality.Quality((0.1, float("nan")), (1.0, 1.0), (float("inf"), 1.0), (0.25, 0.5))
    assert quality.stated([found]) == {
        "reprojection_px": [0.1, None],
        "static": [1.0, 1.0],
        "scale": [None, 1.0],
        "confidence": [0.25, 0.5],
    }
