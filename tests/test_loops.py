"""Places seen again: a drifting path is bent back by its loops, and by nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from glvid.geometry import inverse, se3_exp, so3_log
from glvid.predict import working_size
from glvid.solve import loops
from glvid.synthetic import scene
from glvid.types import Intrinsics, Shot, Solution
from glvid.warp import resize

CAMERA = Intrinsics.from_fov(60, (320, 192))


def circle(n: int) -> torch.Tensor:
    """world_T_cam of a camera that goes round twice, looking inwards."""
    angle = 4 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    turn = torch.zeros(n, 6, dtype=torch.float64)
    turn[:, 4] = angle
    path = se3_exp(turn)
    path[:, :3, 3] = torch.stack([-angle.sin(), 0 * angle, -angle.cos()], 1) * 3
    return inverse(path[0]) @ path


def drifted(path: torch.Tensor, growth: float, turn: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The path with every step longer and turned more than the one before, and the scale of each frame."""
    step = inverse(path[:-1]) @ path[1:]
    scale = torch.linspace(0, growth, len(path), dtype=torch.float64).exp()
    twist = torch.zeros(len(step), 6, dtype=torch.float64)
    twist[:, 4] = turn / len(path)
    out = [torch.eye(4, dtype=torch.float64)]
    for k in range(len(step)):
        now = step[k] @ se3_exp(twist[k])
        now[:3, 3] *= scale[k]
        out.append(out[-1] @ now)
    return torch.stack(out), scale


def solution_of(path: torch.Tensor, scale: torch.Tensor, intrinsics) -> Solution:
    return Solution(intrinsics, 0.0, True, "given", path, scale, 20.0, 0.0)


def off(path: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest distance between two paths from one origin."""
    return float((path[:, :3, 3] - truth[:, :3, 3]).norm(dim=1).max())


KEYS = range(0, 1501, 25)


def graph(path: torch.Tensor, scale: torch.Tensor, wrong: int = 0) -> loops.Graph:
    """The drifted path's graph with exact loops between the first and the second round, some of them wrong."""
    truth, found = circle(len(path)), []
    for a in range(0, 30, 3):
        i, j = KEYS[a], KEYS[a + 30]
        pose = inverse(truth[j]) @ truth[i]
        pose[:3, 3] *= scale[i]
        found.append((a, a + 30, pose.numpy(), float((scale[j] / scale[i]).log())))
    for a in range(wrong):
        found.append((a, 59 - a, se3_exp(torch.tensor([1.0, 0, 0, 0, 0.5, 0]).double()).numpy(), 0.3))
    return loops.graph_of(solution_of(path, scale, CAMERA), KEYS, [3.0] * len(KEYS), found)


@pytest.mark.parametrize("wrong", [0, 4, 8])
def test_loops_take_drift_back(wrong):
    """A unit that has grown by a half and a direction 17 degrees off, after two rounds; 8 of 18 loops wrong at most."""
    truth = circle(1501)
    path, scale = drifted(truth, 0.4, 0.3)
    now = loops.relaxed(graph(path, scale, wrong), len(KEYS))
    mended = loops.bent(solution_of(path, scale, CAMERA), KEYS, now)
    assert off(path, truth) > 1.5 and off(mended.world_T_cam, truth) < 0.35 * off(path, truth)
    assert mended.depth_scale.log().abs().max() < 0.2 < 0.35 < scale.log().max()
    turned, before = (
        so3_log(p[:, :3, :3].transpose(1, 2) @ truth[:, :3, :3]).norm(dim=1) for p in (mended.world_T_cam, path)
    )
    assert turned.max() < 0.15 < 0.25 < before.max()


def test_loops_that_agree_change_nothing():
    truth = circle(1501)
    assert loops.relaxed(graph(truth, torch.ones(1501, dtype=torch.float64)), len(KEYS)) is None


@pytest.mark.parametrize("size", [float("nan"), 1e200])
@pytest.mark.parametrize("part", [slice(3), 3])
def test_a_path_beyond_all_numbers_is_not_touched(part, size):
    path, scale = drifted(circle(1501), 0.4, 0.3)
    path[700, :3, part] *= size
    assert loops.relaxed(graph(path, scale), len(KEYS)) is None


def test_a_step_is_the_best_one():
    """Steps of Gauss-Newton end where no small change lowers the cost."""
    path, scale = drifted(circle(1501), 0.3, 0.2)
    g = graph(path, scale)
    g = replace(g, loop=torch.zeros(len(g.i), dtype=torch.bool))
    at = path[list(KEYS)]
    now = loops.Similarities(at[:, :3, :3], at[:, :3, 3], torch.zeros(len(KEYS), dtype=torch.float64))
    ones = torch.ones(len(g.i), dtype=torch.float64)
    for _ in range(20):
        now = now.moved(loops.newton_step(g, now, ones, len(KEYS)))
    best = float(loops.residuals(g, now).square().sum())
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        change = 1e-4 * torch.randn(len(KEYS), 7, generator=generator, dtype=torch.float64)
        change[0] = 0
        assert float(loops.residuals(g, now.moved(change)).square().sum()) > best


@pytest.fixture(scope="module")
def walk():
    """There and back again: frames, true depth, true path."""
    truth = scene(900001, "handheld", frames=40, size=(320, 192))
    size, order = working_size((320, 192)), [*range(40), *range(38, -1, -1)]
    images = (resize(truth.images, size).permute(0, 2, 3, 1) * 255).round().byte().numpy()[order]
    depth = resize(truth.depth, size)[:, 0].numpy()[order]
    path = (inverse(truth.world_T_cam[0].double()) @ truth.world_T_cam.double())[order]
    return Shot(np.arange(len(order)) / 30, images, depth), path, truth.intrinsics.resized(size)


def test_a_place_seen_again_mends_the_path(walk, monkeypatch):
    monkeypatch.setattr(loops, "APART", 20)
    monkeypatch.setattr(loops, "LATER", 4)
    monkeypatch.setattr(loops, "STEP_SIGMA", (0.01, 0.002, 0.01))  # so much drift takes more frames than a test has
    shot, path, camera = walk
    bad, scale = drifted(path, 0.5, 0.1)
    mended = loops.closed(shot, solution_of(bad, scale, camera))
    assert off(mended.world_T_cam, path) < 0.4 * off(bad, path)
    assert float((mended.depth_scale[-1] / mended.depth_scale[0]).log().abs()) < 0.15
    true = solution_of(path, torch.ones(len(path), dtype=torch.float64), camera)
    assert loops.closed(shot, true) is true


def test_other_places_are_not_taken_for_this_one(walk, monkeypatch):
    monkeypatch.setattr(loops, "APART", 10)
    monkeypatch.setattr(loops, "LATER", 4)
    shot, path, camera = walk
    other = scene(900004, "drone", frames=20, size=(320, 192))
    images = (resize(other.images, shot.size).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    mixed = Shot(np.arange(40) / 30, np.concatenate([shot.images[:20], images]), shot.depth[:40])
    keys = [*range(0, 20, 4), *range(20, 40, 4)]
    found = loops.found_loops(mixed, solution_of(path[:40], torch.ones(40, dtype=torch.float64), camera), keys)
    assert all((keys[a] < 20) == (keys[b] < 20) for a, b, *_ in found)


def test_a_long_path_has_no_more_keyframes_than_the_graph_can_bear():
    """Of 1,500 frames that all showed something new, the graph of 1,500 keyframes took 6 GB."""
    n = 3 * loops.MOST
    path = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
    path[:, 0, 3] = torch.arange(n, dtype=torch.float64)
    solution = Solution(CAMERA, 0.01, True, "solved", path, torch.ones(n, dtype=torch.float64), 20.0, 0.1)
    keys = loops.keyframes(solution, lambda k: 1.0)
    assert loops.MOST <= 500 and len(keys) <= loops.MOST + 1
    assert keys[0] == 0 and keys[-1] == n - 1 and max(np.diff(keys)) <= 4
