"""Paths across frames in which nothing can be seen."""

from dataclasses import replace

import pytest
import test_solve
import torch
from test_solve import SIZE, problem

from glvid.geometry import inverse, se3_exp, se3_log
from glvid.solve.bundle import reproject
from glvid.solve.gaps import bridged, gaps, leaps
from glvid.solve.shot import PARALLAX, turning_alone


def steps(G):
    return se3_log(G[1:] @ inverse(G[:-1]))


def blurred(p, frames, seen=()):
    """Matches from and to some frames replaced by chance; those of the pairs in `seen` are kept."""
    target, g = p.tracks.target.clone(), torch.Generator().manual_seed(0)
    for n in range(len(target)):
        for k, o in enumerate(p.tracks.offsets):
            if (n in frames or n + o in frames) and (n, n + o) not in seen:
                target[n, k] = torch.rand(target[n, k].shape, generator=g) * torch.tensor(SIZE)
    return replace(p, tracks=replace(p.tracks, target=target))


def leaping(state, frames, far):
    """The path with a leap sideways at every one of `frames`; `far`: what comes later stays where the leap has led."""
    G, leap = state.cam_T_world.clone(), torch.eye(4, dtype=torch.float64)
    leap[0, 3] = 3.0
    for n in frames:
        there = slice(n, None if far else n + 1)
        G[there] = G[there] @ leap
    return replace(state, cam_T_world=G)


def test_runs_of_untold_steps_are_gaps():
    told = torch.tensor([True, False, False, True, False, True, True])
    assert gaps(told, 0) == [(1, 3), (4, 5)] and gaps(told, 2) == [(2, 3), (4, 5)] and gaps(~told[:0], 0) == []


def test_a_step_far_longer_or_turning_far_more_than_its_neighbours_is_a_leap():
    twist = torch.zeros(10, 6, dtype=torch.float64)
    twist[:, 0], twist[:, 4] = 0.1, 0.02
    twist[3, 0], twist[6, 4] = 0.3, 0.08
    G = [torch.eye(4, dtype=torch.float64)]
    for step in se3_exp(twist):
        G.append(step @ G[-1])
    assert leaps(torch.stack(G), 1.0).nonzero()[:, 0].tolist() == [3, 6]
    assert leaps(torch.stack(G), 100.0).nonzero()[:, 0].tolist() == [6]  # trembling of a scene so far away


def test_a_path_that_is_told_stays():
    p, state = problem()
    path, found = bridged(p, state)
    assert found == [] and torch.equal(path, state.cam_T_world)


def test_over_a_gap_the_camera_goes_on_as_before():
    p, state = problem()
    path, found = bridged(blurred(p, (5, 6)), leaping(state, (5, 6, 7), far=True))
    assert found == [(4, 7)]
    true, now = (steps(x)[:, :3] for x in (state.cam_T_world, path))
    assert torch.equal(path[:5], state.cam_T_world[:5])
    assert torch.allclose(now[7:], true[7:], atol=1e-9)  # behind the gap only the place changes
    usual = torch.cat([true[1:4], true[7:10]]).norm(dim=1)
    assert (now[4:7].norm(dim=1) < 1.5 * usual.max()).all()
    assert (steps(leaping(state, (5,), far=True).cam_T_world)[4, :3].norm() > 5 * usual.max()).all()


def test_gap_after_gap_does_not_add_rounding_to_rounding():
    p, state = problem(frames=40)
    worn = state.cam_T_world.clone()
    worn[:, :3, :3] *= 1 + 1e-9
    path, found = bridged(blurred(p, range(3, 36, 4)), replace(state, cam_T_world=worn))
    assert len(found) == 9
    R = path[found[-1][1] :, :3, :3]
    assert torch.allclose(R.transpose(1, 2) @ R, torch.eye(3).double().expand(len(R), 3, 3), atol=1e-14)


def test_in_a_gap_the_camera_turns_as_the_picture_does():
    p, state = problem()
    R = se3_exp(torch.tensor([[0.0, 0, 0, 0.05, -0.15, 0.02]], dtype=torch.float64))[0, :3, :3]
    r = torch.cat([(p.tracks.xy[5] - p.base.center) / p.base.focal, torch.ones(80, 1)], 1) @ R.T.float()
    target = p.tracks.target.clone()
    target[5, 0] = r[:, :2] / r[:, 2:] * p.base.focal + p.base.center
    target[5, 0, :20] = 0.0  # some match nothing
    path, found = bridged(replace(p, tracks=replace(p.tracks, target=target)), leaping(state, (6,), far=True))
    assert found == [(5, 6)]
    assert torch.allclose((path[6] @ inverse(path[5]))[:3, :3], R, atol=1e-4)
    assert torch.allclose(steps(path)[6:], steps(state.cam_T_world)[6:], atol=1e-9)


@pytest.mark.parametrize("held", [1, 9])
def test_both_ends_stay_where_a_pair_across_is_told(held):
    p, state = problem()
    p = replace(blurred(p, (6,), seen=((5, 7), (7, 5))), held=held)
    leapt = leaping(state, (6,), far=False)
    path, found = bridged(p, leapt)
    if held == 9:  # settled by the window before
        assert found == [] and torch.equal(path, leapt.cam_T_world)
        return
    assert found == [(5, 7)]
    assert torch.allclose(path[:6], state.cam_T_world[:6]) and torch.allclose(path[7:], state.cam_T_world[7:])
    a, b = steps(path)[5:7]
    assert torch.allclose(a, b, atol=1e-9)


def test_the_state_that_was_bridged_is_left_as_it_was():
    p, state = problem()
    leapt = leaping(state, (5, 6, 7), far=True)
    before = leapt.cam_T_world.clone()
    bridged(blurred(p, (5, 6)), leapt)
    assert torch.equal(leapt.cam_T_world, before)


def test_a_camera_that_only_turns_does_not_leap_either(monkeypatch):
    steady = torch.tensor([0.0, 0, 0, 0.02, 0.04, 0.01], dtype=torch.float64)
    monkeypatch.setattr(test_solve, "twists", lambda t: t[..., None] * steady)
    p, state = problem()
    turning, parallax = turning_alone(blurred(p, (5, 6)), state)
    path, found = bridged(*turning)
    assert found == [(4, 7)] and parallax < PARALLAX
    assert torch.allclose(steps(path)[:4, 3:], steady[3:].expand(4, 3), atol=2e-3)
    assert (steps(path)[4:7, 3:].norm(dim=1) < 3 * steady.norm()).all()


def test_a_walk_under_an_open_sky_changes_place():
    """Six in ten points are so far away that nothing but turning moves them."""
    p, state = problem(noise=0.05)
    log_rho = state.log_rho.clone()
    log_rho[:, :48] = -12.0
    state = replace(state, log_rho=log_rho)
    assert turning_alone(matched(p, state), state)[1] > PARALLAX


def test_what_moves_on_its_own_is_no_parallax(monkeypatch):
    """The camera turns; four in ten points are fish, each with a way of its own."""
    monkeypatch.setattr(test_solve, "twists", lambda t: t[..., None] * torch.tensor([0, 0, 0, 0.01, 0.02, 0]).double())
    p, state = problem(noise=0.05)
    swim = 12 * torch.randn(len(p.tracks.xy), 1, 32, 2, generator=torch.Generator().manual_seed(1))
    p.tracks.target[:, :, :32] += swim * torch.tensor(p.tracks.offsets)[:, None, None]
    assert turning_alone(p, state)[1] < PARALLAX


def matched(p, state):
    """The problem whose matches are where the state has them."""
    *_, residual, weight = reproject(p, state, torch.arange(len(p.tracks.xy)))
    return replace(p, tracks=replace(p.tracks, target=p.tracks.target + residual, weight=weight))
