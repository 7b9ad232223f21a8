"""Online refinement: exact where flow is exact, never worse by its own measure, seamless over spans."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rendered_shot import change_of, rendered_shot

from glvid import refine as R
from glvid.networks import DepthNet
from glvid.predict import Flows, dis_flow
from glvid.types import Solution
from glvid.views import dense_prior
from glvid.warp import resize


@pytest.fixture(scope="module")
def room():
    return rendered_shot()


@pytest.mark.parametrize("mode", ["params", "output"])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 28, 29, 100])
def test_spans_cover_every_frame_once(n, mode):
    spans = list(R.bounds(n, mode))
    fresh = [k for first, last, held in spans for k in range(first + held, last)]
    assert fresh == list(range(n)) and all(last - first <= R.SPAN[mode] for first, last, _ in spans)


def error(depth: np.ndarray, truth) -> float:
    """Abs Rel after median scaling, against the truth at the same size."""
    true = resize(truth.depth, (depth.shape[2], depth.shape[1]))[:, 0].numpy()
    return float(np.mean(np.abs(depth * np.median(true / depth) / true - 1)))


def test_output_refinement_improves_depth_and_keeps_the_loss_down(room):
    truth, shot, solution = room
    plan = R.Plan("output", 8)
    before = np.stack([dense_prior(shot, solution, n)[0].numpy() for n in range(6)])
    net = DepthNet()
    _, dense, refined, progress = R.refine(shot, solution, Flows(shot, dis_flow), net, plan, lambda n: None)
    assert error(dense.depth, truth) < 0.5 * error(before, truth)
    assert progress.last < progress.first
    assert torch.equal(refined.world_T_cam[0], torch.eye(4, dtype=torch.float64))
    assert np.isfinite(dense.depth).all() and (dense.depth > 0).all()


def test_parameter_refinement_works_on_a_copy(room):
    truth, shot, solution = room
    torch.manual_seed(0)
    net = DepthNet().eval()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    tuned, _, _, progress = R.refine(shot, solution, Flows(shot, dis_flow), net, R.Plan("params", 5), lambda n: None)
    assert progress.last < progress.first
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert tuned.depth.shape == shot.depth.shape and not np.array_equal(tuned.depth, shot.depth)


def test_depth_is_only_steadied_without_parallax(room):
    _, shot, solution = room
    still = Solution(
        solution.intrinsics, None, False, "predicted", torch.eye(4, dtype=torch.float64).repeat(6, 1, 1),
        torch.ones(6, dtype=torch.float64), 0.0, 0.0,
    )  # fmt: skip
    _, dense, _, progress = R.refine(
        shot, still, Flows(shot, dis_flow), DepthNet(), R.Plan("output", 3), lambda n: None
    )
    prior = np.stack([dense_prior(shot, still, n)[0].numpy() for n in range(6)])
    assert change_of(dense.depth, prior) < 0.02 and "no parallax" in progress.warnings[0]


def test_nothing_is_refined_where_matches_contradict_each_other(room):
    _, shot, solution = room
    doubtful = replace(solution, cost=2 * R.CONTRADICTED)
    _, dense, _, progress = R.refine(
        shot, doubtful, Flows(shot, dis_flow), DepthNet(), R.Plan("output", 3), lambda n: None
    )
    prior = np.stack([dense_prior(shot, doubtful, n)[0].numpy() for n in range(6)])
    assert change_of(dense.depth, prior) < 0.02 and "no rigid scene" in progress.warnings[0]


def test_progress_counts_what_was_announced(room):
    _, shot, solution = room
    for mode, steps in (("none", 0), ("output", 2), ("both", 1)):
        done = []
        R.refine(shot, solution, Flows(shot, dis_flow), DepthNet(), R.Plan(mode, steps), done.append)
        assert sum(done) == R.work([(0, len(shot))], mode, steps)
