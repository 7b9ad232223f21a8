"""Online refinement: exact where flow is exact, never worse by its own measure, seamless over spans."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from glvid import refine as R
from glvid.geometry import rigid_flow, se3_exp
from glvid.networks import DepthNet
from glvid.predict import dis_flow, working_size
from glvid.synthetic import scene
from glvid.types import Intrinsics, Shot, Solution
from glvid.warp import resize, resize_flow

SIZE = (96, 64)


def camera() -> Intrinsics:
    return Intrinsics.from_fov(60, SIZE)


def test_triangulation_is_exact_for_exact_flow():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 96), indexing="ij")
    depth = (3 + x + 0.5 * y)[None]
    there_T_here = se3_exp(torch.tensor([[0.2, 0, 0, 0, 0.02, 0], [-0.1, 0.1, 0.1, 0.01, 0, 0]]))
    flow = torch.cat([rigid_flow(depth[None], camera(), T[None])[0] for T in there_T_here])
    views = R.Views(torch.ones(3, 64, 96), torch.zeros(2, 3, 64, 96), flow, torch.ones(2, 1, 64, 96), there_T_here)
    found, information, errors = R.triangulate(torch.full_like(depth, 5.0), views, camera(), sigma_depth=100.0)
    assert (found / depth - 1).abs().max() < 1e-3 and errors.max() < 1e-2 and (information > 0).all()


def test_triangulation_keeps_the_start_where_nothing_is_seen():
    views = R.Views(
        torch.ones(3, 64, 96),
        torch.zeros(1, 3, 64, 96),
        torch.zeros(1, 2, 64, 96),
        torch.zeros(1, 1, 64, 96),
        torch.eye(4)[None],
    )
    start = torch.rand(1, 64, 96) + 1
    found, information, _ = R.triangulate(start, views, camera())
    assert torch.allclose(found, start) and information.max() == 0


def test_push_pull_keeps_known_and_extends_it():
    x = torch.full((1, 20, 30), 7.0)
    x[:, :, 15:] = 3.0
    weight = torch.zeros_like(x)
    weight[:, :, :10] = 1
    filled = R.push_pull(x, weight)
    assert torch.allclose(filled[:, :, :10], x[:, :, :10]) and torch.allclose(
        filled, torch.full_like(x, 7.0), atol=1e-4
    )


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 28, 29, 100])
def test_spans_cover_every_frame_once(n):
    spans = list(R.bounds(n))
    fresh = [k for first, last, held in spans for k in range(first + held, last)]
    assert fresh == list(range(n)) and all(last - first <= R.SPAN for first, last, _ in spans)


@pytest.fixture(scope="module")
def room():
    """A rendered shot with its true camera; the depth it starts from is a smooth distortion of the truth."""
    truth = scene(900001, "handheld", frames=6, size=(192, 128))
    size = working_size((192, 128), 192)
    images = (resize(truth.images, size).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    x = torch.linspace(0.7, 1.4, size[0])
    depth = (resize(truth.depth, size)[:, 0] * x).numpy()
    solution = Solution(
        truth.intrinsics.resized(size), 0.0, True, "given", truth.world_T_cam.double(),
        torch.ones(6, dtype=torch.float64), 20.0, 0.0,
    )  # fmt: skip
    return truth, Shot(np.arange(6) / 30, images, depth), solution


def error(depth: np.ndarray, truth) -> float:
    """Abs Rel after median scaling, against the truth at the same size."""
    true = resize(truth.depth, (depth.shape[2], depth.shape[1]))[:, 0].numpy()
    return float(np.mean(np.abs(depth * np.median(true / depth) / true - 1)))


def test_output_refinement_improves_depth_and_keeps_the_loss_down(room):
    truth, shot, solution = room
    plan = R.Plan("output", 8)
    before = np.stack([R.dense_prior(shot, solution, n)[0].numpy() for n in range(6)])
    net = DepthNet()
    _, dense, refined, progress = R.refine(shot, solution, dis_flow, net, plan, lambda n: None)
    assert error(dense.depth, truth) < 0.5 * error(before, truth)
    assert progress.last < progress.first
    assert torch.equal(refined.world_T_cam[0], torch.eye(4, dtype=torch.float64))
    assert np.isfinite(dense.depth).all() and (dense.depth > 0).all()


def test_parameter_refinement_works_on_a_copy(room):
    truth, shot, solution = room
    torch.manual_seed(0)
    net = DepthNet().eval()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    tuned, _, _, progress = R.refine(shot, solution, dis_flow, net, R.Plan("params", 5), lambda n: None)
    assert progress.last < progress.first
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert tuned.depth.shape == shot.depth.shape and not np.array_equal(tuned.depth, shot.depth)


def change_of(depth: np.ndarray, prior: np.ndarray) -> float:
    return float(np.abs(np.log(depth / prior)).mean())


def test_depth_is_only_steadied_without_parallax(room):
    _, shot, solution = room
    still = Solution(
        solution.intrinsics, None, False, "predicted", torch.eye(4, dtype=torch.float64).repeat(6, 1, 1),
        torch.ones(6, dtype=torch.float64), 0.0, 0.0,
    )  # fmt: skip
    _, dense, _, progress = R.refine(shot, still, dis_flow, DepthNet(), R.Plan("output", 3), lambda n: None)
    prior = np.stack([R.dense_prior(shot, still, n)[0].numpy() for n in range(6)])
    assert change_of(dense.depth, prior) < 0.02 and "no parallax" in progress.warnings[0]


def test_steadied_depth_is_truer_than_that_of_single_frames(room):
    """What a network says anew of every frame, at random, averages out; what all its frames say stays."""
    truth, shot, solution = room
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.2, (6, 4, 6)).astype(np.float32).repeat(32, 1).repeat(32, 2)
    assert noise.shape == shot.depth.shape
    noisy = replace(shot, depth=shot.depth * np.exp(noise))
    prior, before = (np.stack([R.dense_prior(s, solution, n)[0].numpy() for n in range(6)]) for s in (shot, noisy))
    after = R.steadied(noisy, solution, dis_flow, R.in_memory)
    inner = slice(2, 4)  # frames with two others on either side
    assert change_of(after[inner], prior[inner]) < 0.7 * change_of(before[inner], prior[inner])
    assert change_of(after[:1], before[:1]) < 1e-6  # the first has none before it
    clean = R.steadied(shot, solution, dis_flow, R.in_memory)
    assert change_of(clean, prior) < 0.02


def test_nothing_is_refined_where_matches_contradict_each_other(room):
    _, shot, solution = room
    doubtful = replace(solution, cost=2 * R.CONTRADICTED)
    _, dense, _, progress = R.refine(shot, doubtful, dis_flow, DepthNet(), R.Plan("output", 3), lambda n: None)
    prior = np.stack([R.dense_prior(shot, doubtful, n)[0].numpy() for n in range(6)])
    assert change_of(dense.depth, prior) < 0.02 and "no rigid scene" in progress.warnings[0]


def test_what_passes_a_resting_camera_is_found(room):
    """A textured square crosses a still picture; depth stays the network's."""
    _, shot, solution = room
    images = np.repeat(shot.images[:1], 6, 0)
    passing = np.random.default_rng(0).integers(0, 255, (12, 14, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    real = np.zeros(images.shape[:3], bool)
    for k in range(6):
        images[k, 40:88, 30 + 6 * k : 86 + 6 * k], real[k, 40:88, 30 + 6 * k : 86 + 6 * k] = passing, True
    eye = torch.eye(4, dtype=torch.float64).repeat(6, 1, 1)
    still = replace(solution, world_T_cam=eye, parallax=0.0, observable=False, resting=True)
    watched = replace(shot, images=images)
    _, dense, _, _ = R.refine(watched, still, dis_flow, DepthNet(), R.Plan("none", 0), lambda n: None)
    there = resize(torch.from_numpy(real).float()[:, None], R.dense_size(shot.size))[:, 0].numpy() > 0.5
    found = dense.moving > 0.5
    assert (found & there).sum() > 0.6 * (found | there).sum()
    kept = np.stack([R.dense_prior(watched, still, n)[0].numpy() for n in range(6)])
    assert np.array_equal(dense.depth, kept)
    lost = R.refine(watched, replace(still, resting=False), dis_flow, DepthNet(), R.Plan("none", 0), lambda n: None)[1]
    assert lost.moving.max() == 0  # an unknown camera says nothing about what moves


def test_every_pair_of_frames_is_matched_once(room):
    _, shot, solution = room
    asked = []

    def flow(a, b):
        asked.extend((x.tobytes(), y.tobytes()) for x, y in zip(a, b, strict=True))
        return dis_flow(a, b)

    R.triangulate_shot(shot, solution, flow, (1, 2), lambda n: None)
    assert len(asked) == len(set(asked)) == 2 * (5 + 4)
    kept: R.Kept = {}
    for n in range(6):
        others = [n + k for k in (1, -1, 2, -2) if 0 <= n + k < 6]
        go, back = R.both_ways(shot, dis_flow, n, others, kept)
        here, there = np.repeat(shot.images[n : n + 1], len(others), 0), shot.images[others]
        assert torch.equal(go, resize_flow(dis_flow(here, there), R.dense_size(shot.size)))
        assert torch.equal(back, resize_flow(dis_flow(there, here), R.dense_size(shot.size)))
    assert not kept


def test_progress_counts_what_was_announced(room):
    _, shot, solution = room
    for mode, steps in (("none", 0), ("output", 2), ("both", 1)):
        done = []
        R.refine(shot, solution, dis_flow, DepthNet(), R.Plan(mode, steps), done.append)
        assert sum(done) == R.work([(0, len(shot))], mode, steps)


def test_adaptive_flow_takes_the_better_one():
    """Left, depth and camera are right; right, flow is; in between a square that moves on its own keeps its flow."""
    truth = scene(900001, "handheld", frames=2, size=(192, 128))
    here, there = truth.images[:1], truth.images[1:]
    true = truth.flow[:1].nan_to_num(0)
    wrong = true + torch.tensor([3.0, -2.0])[:, None, None]
    left = (torch.arange(192) < 96).expand(1, 1, 128, 192)
    rigid, seen = torch.where(left, true, wrong), torch.where(left, wrong, true)
    moving = torch.zeros(1, 1, 128, 192)
    moving[..., 48:80, 32:64] = 1
    found = R.adaptive_flow(seen, rigid, here, there, moving)
    off = (found - true).norm(dim=1, keepdim=True)
    assert torch.equal(found[:, :, 48:80, 32:64], seen[:, :, 48:80, 32:64])
    visible = (truth.visible[:1] > 0.5) & (moving == 0)
    for side in (left, ~left):
        inner = visible & side & ~((torch.arange(192) - 96).abs() < 8)
        assert off[inner].mean() < 0.5 * float(torch.tensor([3.0, 2.0]).norm())


def test_moving_object_is_found():
    truth = scene(900002, "handheld", frames=10, size=(320, 192))
    assert truth.moving.any()
    size = working_size((320, 192))
    images = (resize(truth.images, size).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    shot = Shot(np.arange(10) / 30, images, resize(truth.depth, size)[:, 0].numpy())
    solution = Solution(
        truth.intrinsics.resized(size), 0.0, True, "given", truth.world_T_cam.double(),
        torch.ones(10, dtype=torch.float64), 20.0, 0.0,
    )  # fmt: skip
    dense = R.triangulate_shot(shot, solution, dis_flow, (1, 2, 4), lambda n: None)
    real = resize(truth.moving, R.dense_size(size))[:, 0].numpy() > 0.5
    assert dense.moving[real].mean() > 3 * dense.moving[~real].mean()
    assert dense.moving[~real].mean() < 0.1
