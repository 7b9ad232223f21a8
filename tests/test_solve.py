"""The camera of a shot: against hand-made matches with a known answer, and on rendered frames."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from glvid.geometry import inverse, rigid_flow, se3_exp, so3_log
from glvid.predict import Flows, dis_flow, working_size
from glvid.solve import bundle, long, matches, solve, starts, welds
from glvid.solve import shot as whole
from glvid.synthetic import scene
from glvid.types import Intrinsics, Shot
from glvid.warp import resize, warp

SIZE = (384, 224)


def camera(focal: float) -> Intrinsics:
    return Intrinsics(torch.full((2,), focal), torch.tensor([SIZE[0] / 2, SIZE[1] / 2]), SIZE)


def twists(t):
    return torch.stack([0.05 * t, 0.3 * (t / 4).sin(), 0.04 * t, 0.1 * (t / 3).sin(), 0.12 * (t / 5).sin(), 0 * t], -1)


def problem(focal: float = 300.0, frames: int = 12, offsets: tuple[int, ...] = (1, -1, 2, -2), noise: float = 0.0):
    """Exact matches of random points by a camera that moves and turns: the Problem at the truth, and the State."""
    g = torch.Generator().manual_seed(3)
    G = se3_exp(twists(torch.arange(frames, dtype=torch.float64)))
    G = G @ inverse(G[0])
    K = camera(focal)
    xy = torch.rand(frames, 80, 2, generator=g) * torch.tensor(SIZE) * 0.8 + torch.tensor(SIZE) * 0.1
    depth = 1 + 4 * torch.rand(frames, 80, generator=g)
    rays = torch.cat([(xy - K.center) / K.focal, torch.ones(frames, 80, 1)], -1) * depth[..., None]
    target, weight = torch.zeros(frames, len(offsets), 80, 2), torch.zeros(frames, len(offsets), 80)
    for n in range(frames):
        for k, o in enumerate(offsets):
            if 0 <= n + o < frames:
                T = (G[n + o] @ inverse(G[n])).float()
                q = rays[n] @ T[:3, :3].T + T[:3, 3]
                target[n, k] = q[:, :2] / q[:, 2:] * K.focal + K.center
                weight[n, k] = (q[:, 2] > 0.1).float()
    target = target + noise * torch.randn(target.shape, generator=g)
    state = bundle.State(G, -depth.log(), torch.zeros((), dtype=torch.float64))
    guess = depth * (0.3 * torch.randn(depth.shape, generator=g)).exp()
    return bundle.Problem(
        matches.Tracks(offsets, xy, target, weight, guess, torch.eye(2).expand(*guess.shape, 2, 2)),
        K,
        sigma_depth=float("inf"),
    ), state


def test_the_truth_costs_nothing():
    p, state = problem()
    assert bundle.cost_of(p, state, 1.0) < 1e-4


def test_a_broken_scale_is_welded():
    """All that follows a step is half as large: the weld finds the factor, and leaves a sound path alone."""
    p, state = problem(frames=24, noise=0.1)
    broken = welds.scaled_from(state, 13, 0.5)
    torch.testing.assert_close(welds.scaled_from(broken, 13, 2.0).cam_T_world, state.cam_T_world)
    torch.testing.assert_close(welds.scaled_from(broken, 13, 2.0).log_rho, state.log_rho)
    found = welds.welded(p, broken, 0.7)
    found, true = (inverse(s.cam_T_world)[:, :3, 3].diff(dim=0).norm(dim=1) for s in (found, state))
    moved = found / true
    assert abs(float(moved[14:].median() / moved[:11].median()) - 1) < 0.1
    assert welds.welded(p, state, 0.7) is None


def test_the_network_does_not_vouch_for_the_focal_length():
    """A camera that only moves sideways: any focal length fits, and depth that happens to be right adds nothing."""
    p, state = problem(frames=12, noise=0.3)
    G = torch.eye(4, dtype=torch.float64).repeat(12, 1, 1)
    G[:, 0, 3] = -0.05 * torch.arange(12)
    t, depth = p.tracks, (-state.log_rho).exp()
    target = torch.stack([t.xy - torch.tensor([1.0, 0]) * (300 * 0.05 * o / depth)[..., None] for o in t.offsets], 1)
    target = target + 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    p = replace(p, tracks=replace(t, target=target, depth=depth), sigma_depth=0.5, sigma_px=0.02)
    assert whole.sigmas(p, replace(state, cam_T_world=G))[0] > 1


def test_points_that_the_network_is_unsure_of_are_held_less():
    """The network's depth is twice too far at every other point, and it says so; matches say little."""
    p, state = problem(noise=1.0)
    depth, wrong = (-state.log_rho).exp(), torch.arange(80) % 2 == 1
    tracks = replace(p.tracks, depth=torch.where(wrong, 2 * depth, depth), weight=0.02 * p.tracks.weight)
    off = {}
    for said in (False, True):
        sigma = torch.where(wrong, 4.0, 0.25).expand(depth.shape) if said else None
        q = replace(p, tracks=replace(tracks, sigma=sigma), sigma_depth=0.3)
        found, _ = bundle.adjust(q, replace(state, log_rho=-q.tracks.depth.log()), ((2.0, 10),))
        e = found.log_rho + depth.log()
        off[said] = float((e - e[:, ~wrong].median(dim=1, keepdim=True).values).abs().mean())
    assert off[True] < 0.7 * off[False]


def test_matches_that_flow_is_unsure_of_count_less():
    """Relative to the pair's usual point; without a word of flow's error, all that agree count alike."""
    xy, go = torch.tensor([[[10.5, 8.5], [30.5, 8.5], [50.5, 8.5]]]), torch.zeros(1, 3, 32, 64)
    go[:, 0], go[:, 2] = 2.0, 0.3
    go[:, 2, :, 20:40], go[:, 2, :, 40:] = 0.9, 0.03
    there, weight = matches.follow(xy, go, -go)
    torch.testing.assert_close(there, xy + torch.tensor([2.0, 0]))
    torch.testing.assert_close(weight[0], torch.tensor([1, 2 / (1 + 3**2), 2 / (1 + 0.25**2)]))
    _, plain = matches.follow(xy, go[:, :2], -go[:, :2])
    assert (plain == 1).all()


def test_gradient_is_the_derivative_of_the_cost():
    """Hand-written Jacobians against autograd, for poses, focal length, readout and point depths."""
    p, state = problem(noise=0.5)
    n = torch.arange(len(p.tracks.xy))
    twist = torch.zeros(len(n), 6, dtype=torch.float64, requires_grad=True)
    log_f = torch.zeros((), dtype=torch.float64, requires_grad=True)
    log_rho = torch.zeros(state.log_rho.shape, requires_grad=True)
    p, late = bundle.lagging(p, state), torch.zeros((), dtype=torch.float64, requires_grad=True)
    state = replace(state, readout=torch.tensor(0.3, dtype=torch.float64))
    at = bundle.State(se3_exp(twist) @ state.cam_T_world, state.log_rho + log_rho, log_f, state.readout + late)
    *_, residual, weight = bundle.reproject(p, at, n)
    (bundle.robust(residual, 2.0)[0] * weight).sum().backward()
    system, _ = bundle.reduce(p, state, 2.0, 0.0, freeze_points=True)
    g_rho = bundle.normal_equations(p, state, n, 2.0)[-1]
    assert torch.allclose(system.gradient.flatten()[: 6 * len(n)].reshape(-1, 6), twist.grad, rtol=1e-4, atol=0.05)
    assert float(system.gradient_lens[0]) == pytest.approx(float(log_f.grad), rel=1e-3)
    prior = p.readout_weight * 0.3
    assert float(system.gradient_lens[1]) - prior == pytest.approx(float(late.grad), rel=1e-3)
    assert torch.allclose(g_rho, log_rho.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("readout", [0.0, 0.6])
def test_the_readout_of_a_rolling_shutter_is_found(readout):
    """Matches of a camera whose rows are taken one after another: points are where the pose of their row puts them."""
    p, truth = problem(frames=16)
    p = replace(p, sigma_px=0.1)  # exact matches: the prior hardly counts
    seen, moving = p, replace(truth, readout=torch.tensor(readout, dtype=torch.float64))
    for _ in range(5):  # the row in which a point is seen depends on where it has moved to
        seen = bundle.lagging(seen, moving).tracks
        xy, target = p.tracks.xy + readout * seen.lag, p.tracks.target + readout * seen.target_lag
        seen = replace(p, tracks=replace(seen, xy=xy, target=target))
    rolling = replace(p.tracks, xy=xy, target=target)
    guess = replace(truth, log_rho=truth.log_rho + 0.05 * torch.randn(truth.log_rho.shape))
    shaken = replace(p, tracks=rolling)
    for _ in range(5):  # how far points are shifted follows from how fast they move
        shaken = bundle.lagging(shaken, guess)
        guess, cost = bundle.adjust(shaken, guess, ((0.5, 20),))
    assert float(guess.readout) == pytest.approx(readout, abs=0.02)
    assert float(guess.log_f) == pytest.approx(0, abs=0.005)
    still, _ = bundle.adjust(replace(p, tracks=rolling), truth, ((0.5, 20),))
    worse = bundle.cost_of(replace(p, tracks=rolling), still, 0.5)
    assert cost < 0.1 * worse if readout else cost < 1.0


def test_rows_read_from_the_top_down_are_a_positive_readout():
    """Matches made without the solver: a point is seen by the pose its row is read at, later in the lower half."""
    p, truth = problem(frames=16)
    N, M = p.tracks.xy.shape[:2]
    K, depth = p.base, truth.log_rho.neg().exp().double()

    def pose(times):  # on the path of `problem`, also between its frames
        return se3_exp(twists(times)) @ inverse(se3_exp(twists(torch.zeros(1, dtype=torch.float64))[0]))

    def read(n, row):  # when
        return n + 0.5 * (row.double() / K.size[1] - 0.5)

    frame = torch.arange(N, dtype=torch.float64)[:, None].expand(N, M)
    ray = torch.cat([(p.tracks.xy - K.center) / K.focal, torch.ones(N, M, 1)], -1).double()
    local = torch.cat([ray * depth[..., None], torch.ones(N, M, 1, dtype=torch.float64)], -1)
    there = inverse(pose(read(frame, p.tracks.xy[..., 1]))) @ local[..., None]
    target, weight = p.tracks.target.clone(), torch.zeros_like(p.tracks.weight)
    for k, o in enumerate(p.tracks.offsets):
        seen = p.tracks.xy
        for _ in range(10):  # the row in which it is seen says when
            q = (pose(read(frame + o, seen[..., 1])) @ there)[..., :3, 0]
            seen = (q[..., :2] / q[..., 2:] * K.focal + K.center).float()
        inside = ((seen > 0) & (seen < torch.tensor(K.size))).all(-1) & (q[..., 2] > 0.1)
        target[:, k], weight[:, k] = seen, inside.float() * ((frame + o >= 0) & (frame + o < N))
    rolling = replace(p, sigma_px=0.1, tracks=replace(p.tracks, target=target, weight=weight))
    guess = replace(truth, cam_T_world=pose(torch.arange(N, dtype=torch.float64)))
    for _ in range(5):
        rolling = bundle.lagging(rolling, guess)
        guess, _ = bundle.adjust(rolling, guess, ((0.5, 20),))
    assert float(guess.readout) == pytest.approx(0.5, abs=0.05)


def test_a_smooth_path_costs_less_than_a_jerking_one():
    p, state = problem()
    still = torch.eye(4, dtype=torch.float64).repeat(12, 1, 1)
    steady, jerking, worse = still.clone(), still.clone(), still.clone()
    for k, path in enumerate((steady, jerking, worse)):
        path[:, 0, 3] = torch.arange(12) + 0.4 * k * (torch.arange(12) % 2)
    costs = [bundle.jolt_cost(p, replace(state, cam_T_world=path)) for path in (still, steady, jerking, worse)]
    assert costs[0] == 0 and costs[1] < 1e-12 < costs[2] < costs[3]
    jerking[:, 0, 3] *= 7
    assert bundle.jolt_cost(p, replace(state, cam_T_world=jerking)) == pytest.approx(costs[2])  # whatever the unit


def test_the_smoother_of_two_paths_is_chosen(monkeypatch):
    """Ends that fit the matches alike: the one that jerks loses, whichever start it comes from."""
    p, state = problem()
    jerking = state.cam_T_world.clone()
    jerking[::2, 0, 3] += 0.3
    ends = [(replace(state, cam_T_world=jerking), 99.0), (state, 100.0)]
    for order in (ends, ends[::-1]):
        left = list(order)
        monkeypatch.setattr(whole, "adjust", lambda *_, left=left: left.pop(0))
        assert whole.settle(p, None)[0] is state


def test_block_solver_equals_dense_solver():
    p, state = problem(noise=0.5)
    system, _ = bundle.reduce(p, state, 2.0, 1e-3, freeze_points=False)
    L, D = system.gradient.shape
    A = torch.zeros(L * D, L * D, dtype=torch.float64)
    for k in range(L):
        A[k * D : (k + 1) * D, k * D : (k + 1) * D] = system.diagonal[k]
        if k + 1 < L:
            A[(k + 1) * D : (k + 2) * D, k * D : (k + 1) * D] = system.below[k]
            A[k * D : (k + 1) * D, (k + 1) * D : (k + 2) * D] = system.below[k].T
    exact = torch.linalg.solve(A, system.gradient.flatten())
    assert torch.allclose(system.inverse_times(system.gradient[..., None]).flatten(), exact, atol=1e-6, rtol=1e-4)


def test_two_view_finds_motion_and_its_scale():
    p, state = problem(frames=3, offsets=(1, -1))
    t = p.tracks
    a, b = (((x - p.base.center) / p.base.focal).double().numpy() for x in (t.xy[0], t.target[0, 0]))
    found = starts.two_view(a, b, (-state.log_rho[0]).exp().double().numpy(), 1e-3)
    truth = (state.cam_T_world[1] @ inverse(state.cam_T_world[0])).numpy()
    assert np.abs(found - truth).max() < 2e-3


@pytest.mark.parametrize("guess", [180.0, 300.0, 450.0])
def test_focal_and_path_from_matches_alone(guess):
    p, truth = problem(noise=0.1)
    flat = replace(p, base=camera(guess), sigma_depth=0.5, sigma_focal=0.3)
    solved, state, agree = whole.best_start(flat, only=False)
    focal = float(bundle.camera_of(solved, state.log_f).focal[0])
    assert focal == pytest.approx(300, rel=0.04) and agree  # the prior at a wrong guess pulls a little
    a, b = (inverse(s.cam_T_world)[:, :3, 3] for s in (state, truth))
    scale = (a * b).sum() / (a * a).sum()
    assert (scale * a - b).norm(dim=1).max() < 0.02 * b.diff(dim=0).norm(dim=1).sum()


def path_error(state, truth):
    """Largest distance (share of the path) of two paths after scaling."""
    a, b = (inverse(s.cam_T_world)[:, :3, 3] for s in (state, truth))
    scale = (a * b).sum() / (a * a).sum()
    return float((scale * a - b).norm(dim=1).max() / b.diff(dim=0).norm(dim=1).sum())


def test_sharper_kernels_leave_out_what_drifts_slowly():
    """A third of the points slides by 0.25 px a frame: a kernel of 0.7 px does not see it, and the path bends."""
    p, truth = problem(noise=0.05)
    t, offsets = p.tracks, torch.tensor(p.tracks.offsets, dtype=torch.float32)
    target = t.target.clone()
    target[:, :, ::3, 0] += 0.25 * offsets[:, None]
    p = replace(p, tracks=replace(t, target=target))
    blunt, _ = bundle.adjust(p, truth, whole.ANNEAL, 0, 0)
    sharp_problem, sharp, _ = whole.sharpened(p, blunt, 0)
    assert path_error(sharp, truth) < 0.7 * path_error(blunt, truth)
    assert abs(float(sharp.log_f)) < 0.5 * abs(float(blunt.log_f))
    assert whole.SHARP[-1] <= sharp_problem.sigma_px <= whole.SHARP[0]


def test_kernels_grow_no_sharper_than_matches_are():
    p, truth = problem(noise=0.6)
    rough, _, _ = whole.sharpened(p, truth, 0)
    fine, _, _ = whole.sharpened(problem(noise=0.02)[0], truth, 0)
    assert rough.sigma_px > fine.sigma_px == whole.SHARP[-1]


def test_points_are_where_texture_is():
    image = torch.zeros(112, 192)
    image[40:60, 80:100] = 1
    points = matches.anchor_points(image, (1, 1))
    x, y = points[0].tolist()
    assert 76 <= x <= 104 and 36 <= y <= 64


@pytest.fixture(scope="module")
def truth():
    return scene(900001, "handheld", frames=12, size=(320, 192))


def shot_of(images: torch.Tensor) -> Shot:
    size = working_size((images.shape[-1], images.shape[-2]))
    small = (resize(images, size).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return Shot(np.arange(len(small)) / 30, small, np.ones(small.shape[:3], np.float32))


def test_rendered_shot(truth):
    shot = shot_of(truth.images)
    guess = Intrinsics.from_fov(60, (320, 192)).resized(shot.size)
    solution = solve(shot, Flows(shot, dis_flow), guess)
    a, b = solution.world_T_cam[:, :3, 3], truth.world_T_cam.double()[:, :3, 3]
    scale = (a * b).sum() / (a * a).sum()
    length = b.diff(dim=0).norm(dim=1).sum()
    assert (scale * a - b).norm(dim=1).square().mean().sqrt() < 0.03 * length
    focal = float(solution.intrinsics.focal[0]) * 320 / shot.size[0]
    if solution.observable:
        assert focal == pytest.approx(float(truth.intrinsics.focal[0]), rel=0.1)
    assert torch.equal(solution.world_T_cam[0], torch.eye(4, dtype=torch.float64))


def test_given_camera_stays(truth):
    shot = shot_of(truth.images[:6])
    given = Intrinsics.from_fov(50, (320, 192)).resized(shot.size)
    solution = solve(shot, Flows(shot, dis_flow), given, given=True, fix=True, full=False)
    assert torch.allclose(solution.intrinsics.focal, given.focal) and solution.source == "given"
    assert solution.focal_sigma == 0


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_still_image_has_no_motion(truth, frames):
    shot = shot_of(truth.images[:1].repeat(frames, 1, 1, 1))
    guess = Intrinsics.from_fov(60, (320, 192)).resized(shot.size)
    solution = solve(shot, Flows(shot, dis_flow), guess)
    assert torch.equal(solution.world_T_cam, torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1))
    assert not solution.observable and solution.warnings and torch.equal(solution.intrinsics.focal, guess.focal)


def test_turning_alone_is_told_from_moving(truth):
    """One picture seen by a camera that turns about its own centre, and the room it is of walked through."""
    K = truth.intrinsics
    twist = torch.zeros(8, 6)
    twist[:, 4], twist[:, 3] = 0.015 * torch.arange(8), 0.004 * torch.arange(8)
    here_T_first = se3_exp(twist)
    back, _ = rigid_flow(torch.ones(8, 1, 192, 320), K, inverse(here_T_first))
    images, _ = warp(truth.images[:1].expand(8, 3, 192, 320), back)
    crop = Intrinsics(K.focal, K.center - torch.tensor([32.0, 16.0]), (256, 160))
    shot = shot_of(images[..., 16:176, 32:288])
    solution = solve(shot, Flows(shot, dis_flow), crop.resized(shot.size), given=True, fix=True)
    assert solution.parallax < whole.PARALLAX and not solution.world_T_cam[:, :3, 3].any() and solution.warnings
    assert torch.equal(solution.world_T_cam[0], torch.eye(4, dtype=torch.float64))
    turned = here_T_first[:, :3, :3].double() @ solution.world_T_cam[:, :3, :3]
    assert so3_log(turned).norm(dim=1).max() < 0.1 * 0.11
    walked = shot_of(truth.images)
    moved = solve(walked, Flows(walked, dis_flow), K.resized(walked.size), given=True, fix=True)
    assert moved.parallax > 2 * whole.PARALLAX


def test_slow_clips_are_matched_farther_apart(truth):
    """Every frame shown five times moves a fifth as far a frame."""
    quick, slow = (shot_of(images) for images in (truth.images, truth.images.repeat_interleave(5, 0)))
    assert whole.baselines(quick, Flows(quick, dis_flow), full=True) == (1, 2, 4, 8)
    assert whole.baselines(slow, Flows(slow, dis_flow), full=True) == (1, 2, 4, 8, 16)
    assert whole.baselines(slow, Flows(slow, dis_flow), full=False) == (1, 2, 16)
    few = shot_of(truth.images[:3])
    assert whole.baselines(few, Flows(few, dis_flow), full=True) == (1, 2)


def test_black_video(truth):
    shot = shot_of(torch.zeros(3, 3, 192, 320))
    solution = solve(shot, Flows(shot, dis_flow), Intrinsics.from_fov(60, (320, 192)).resized(shot.size))
    assert torch.isfinite(solution.world_T_cam).all() and solution.warnings


def test_resting_camera_is_not_moved_by_what_passes(truth):
    """A textured object that covers a quarter of the image crosses an otherwise still picture."""
    images = truth.images[:1].repeat(8, 1, 1, 1)
    passing = truth.images[0, :, 96:192, 160:320]
    for k in range(8):
        images[k, :, 50:146, 20 + 8 * k : 180 + 8 * k] = passing
    shot = shot_of(images)
    solution = solve(shot, Flows(shot, dis_flow), Intrinsics.from_fov(60, (320, 192)).resized(shot.size))
    assert torch.equal(solution.world_T_cam, torch.eye(4, dtype=torch.float64).repeat(8, 1, 1)) and solution.warnings


# --- long shots


def test_windows_cover_every_frame_once():
    for n in (401, 448, 752, 753, 10_000):
        parts = list(long.windows(n, 400))
        new = [k for first, last, held in parts for k in range(first + held, last)]
        again = (len(parts) - 1) * long.UNSETTLED
        assert sorted(set(new)) == list(range(n)) and len(new) == n + again
        assert all(last - first <= 400 and last - first > held + long.UNSETTLED for first, last, held in parts)


@pytest.fixture(scope="module")
def flight():
    """A drone's flight, the shot, and its exact flow."""
    truth = scene(850017, "drone", frames=60, size=(192, 112))
    shot = shot_of(truth.images)
    K, cam_T_world = truth.intrinsics.resized(shot.size), inverse(truth.world_T_cam)
    depth = resize(truth.depth, shot.size)
    shot = replace(shot, depth=(depth[:, 0] * torch.linspace(0.8, 1.3, shot.size[0])).numpy())
    number = {image.tobytes(): n for n, image in enumerate(shot.images)}

    def flow(a: np.ndarray, b: np.ndarray, start: torch.Tensor | None = None) -> torch.Tensor:
        i, j = ([number[x.tobytes()] for x in images] for images in (a, b))
        return rigid_flow(depth[i], K, (cam_T_world[j] @ truth.world_T_cam[i]).float())[0]

    return truth, shot, K, flow


@pytest.mark.slow
def test_a_long_shot_has_one_scale_and_no_seams(flight, monkeypatch):
    """Windows of 40 frames: the length of its steps beside the true ones, along the path and where windows meet."""
    monkeypatch.setattr(long, "SHARED", 20)
    monkeypatch.setattr(long, "UNSETTLED", 8)
    monkeypatch.setitem(whole.POINTS, False, 60)
    truth, shot, K, flow = flight
    told = []
    solution = solve(shot, Flows(shot, flow), K, True, True, full=False, advance=told.append, window=40)
    assert sum(told) == len(shot)
    path, true = solution.world_T_cam, inverse(truth.world_T_cam[0].double()) @ truth.world_T_cam.double()
    step, true_step = (p[4:, :3, 3] - p[:-4, :3, 3] for p in (path, true))
    share = step.norm(dim=1) / true_step.norm(dim=1)
    assert max(float((part.median() / share.median()).log().abs()) for part in share.split(16)) < 0.02
    second, true_second = (p[2:, :3, 3] - 2 * p[1:-1, :3, 3] + p[:-2, :3, 3] for p in (path, true))
    assert (second / share.median() - true_second).norm(dim=1).max() < 0.05 * true_step.norm(dim=1).mean()
    assert so3_log(path[:, :3, :3].transpose(1, 2) @ true[:, :3, :3]).norm(dim=1).max() < 0.01
    identity = torch.eye(3, dtype=torch.float64).expand(len(path), 3, 3)
    assert torch.allclose(path[:, :3, :3].transpose(1, 2) @ path[:, :3, :3], identity, atol=1e-14)


@pytest.mark.slow
def test_windows_that_show_nothing_carry_scale_and_place_on(flight, monkeypatch):
    """The picture stops for more than a window's length, then goes on."""
    monkeypatch.setattr(long, "SHARED", 20)
    monkeypatch.setattr(long, "UNSETTLED", 8)
    monkeypatch.setitem(whole.POINTS, False, 60)
    truth, shot, K, flow = flight
    order = [*range(25), *[25] * 44, *range(25, 50)]
    paused = replace(shot, times=np.arange(len(order)) / 30, images=shot.images[order], depth=shot.depth[order])
    solution = solve(paused, Flows(paused, flow), K, True, True, full=False, window=40)
    at = solution.world_T_cam[:, :3, 3]
    before, rest, after = (at[a:b].diff(dim=0).norm(dim=1).median() for a, b in ((5, 20), (35, 59), (75, 90)))
    true = truth.world_T_cam[:, :3, 3].diff(dim=0).norm(dim=1)
    assert rest < 0.02 * before and not solution.resting and solution.parallax > whole.PARALLAX
    assert float(after / before) == pytest.approx(float(true[31:46].median() / true[5:20].median()), rel=0.1)
    assert any("frames" in w for w in solution.warnings)
