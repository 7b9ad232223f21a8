"""Metrics: values worked out on paper, and the same numbers as the referee, evo and plain loops."""

import importlib.util
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from glvid.evaluate import metrics
from glvid.geometry import se3_exp
from glvid.types import Intrinsics

CHECK = Path(__file__).parent.parent.parent / "shared" / "check"
needs_referee = pytest.mark.skipif(not CHECK.exists(), reason="the referee is not here")


def shared(name: str):
    """A module of ../shared/check."""
    spec = importlib.util.spec_from_file_location(name, CHECK / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agree(ours: dict[str, float], theirs: dict[str, float], keys) -> None:
    assert {key: ours[key] for key in keys} == pytest.approx({key: theirs[key] for key in keys}, rel=0, abs=1e-6)


def path(count: int = 30, seed: int = 0, noise: float = 0.0) -> np.ndarray:
    """A winding walk, camera to world; with `noise` every pose is off, and the whole is turned, moved and shrunk."""
    g = torch.Generator().manual_seed(seed)
    steps = 0.1 * torch.randn(count, 6, generator=g, dtype=torch.float64) + torch.tensor([0.2, 0, 1, 0, 0.05, 0])
    poses = [torch.eye(4, dtype=torch.float64)]
    for step in se3_exp(steps[1:]):
        poses.append(poses[-1] @ step)
    poses = torch.stack(poses)
    if noise:
        off = noise * torch.randn(count, 6, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
        poses = se3_exp(torch.tensor([[1.0, 2, 3, 0.3, -2, 0.5]]).double()) @ poses @ se3_exp(off)
        poses[:, :3, 3] *= 0.4
    return poses.numpy()


def along(z, turn_deg: float = 0.0) -> np.ndarray:
    """Poses at positions z on the optical axis of the first, each turned about y by turn_deg more than the last."""
    poses = np.tile(np.eye(4), (len(z), 1, 1))
    angle = np.radians(turn_deg) * np.arange(len(z))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
    poses[:, 2, 3] = z
    return poses


# ---------------------------------------------------------------- depth


def test_depth_errors_by_hand():
    p, g = np.array([1.2, 1.5, 3.8, 3.0]), np.array([1.0, 1.0, 2.0, 1.0])
    errors = metrics.depth_errors(p, g)
    assert errors == pytest.approx({
        "abs_rel": (0.2 + 0.5 + 0.9 + 2) / 4, "sq_rel": (0.04 + 0.25 + 1.62 + 4) / 4,
        "rmse": math.sqrt((0.04 + 0.25 + 3.24 + 4) / 4),
        "rmse_log": math.sqrt(sum(math.log(x) ** 2 for x in (1.2, 1.5, 1.9, 3)) / 4),
        "d1": 0.25, "d2": 0.5, "d3": 0.75,
    })  # fmt: skip
    assert metrics.depth_errors(g, p)["d1"] == 0.25  # too near counts as too far does


def test_depth_that_a_shift_made_negative_is_wrong_not_right():
    errors = metrics.depth_errors(np.array([-1.0]), np.array([1.0]))
    assert (errors["abs_rel"], errors["d3"]) == (2, 0)
    assert errors["rmse_log"] == pytest.approx(5 * math.log(10))


def test_no_pixel_is_nan():
    assert all(map(math.isnan, metrics.depth_errors(np.zeros(0), np.zeros(0)).values()))


def test_garg_crop_of_a_kitti_image():
    box = metrics.garg_crop((375, 1242))  # 375 * 0.40810811 = 153.04, ... as printed in many evaluation scripts
    rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (153, 370, 44, 1196)
    assert box.sum() == (371 - 153) * (1197 - 44)


def test_depth_is_resized_as_disparity():
    depth = np.array([[1.0, 4.0]])
    assert metrics.resized_as_disparity(depth, (4, 1))[0] == pytest.approx([1, 1 / 0.8125, 1 / 0.4375, 4])
    hole = np.array([[2.0, np.nan, 6.0, 3.0]])
    assert metrics.resized_as_disparity(hole, (4, 1))[0] == pytest.approx([2, 3, 6, 3])
    assert metrics.resized_as_disparity(np.full((2, 2), np.nan), (3, 3)) == pytest.approx(np.ones((3, 3)))


def test_per_frame_scaling_hides_what_one_scale_shows():
    g = np.full(100, 10.0)
    rows = metrics.per_frame_scaled([(g / 2, g), (g / 4, g), (g[:99], g[:99])], 1e-3, 80)
    assert [row["abs_rel"] for row in rows[:2]] == [0, 0]
    assert [row["scale"] for row in rows[:2]] == [row["ratio"] for row in rows[:2]] == [2, 4]
    assert [row["abs_rel_one_scale"] for row in rows[:2]] == pytest.approx([0.5, 0.25])  # the one scale is 3
    assert math.isnan(rows[2]["abs_rel"]) and rows[2]["pixels"] == 99  # too few
    assert [list(row) for row in rows[1:]] == [list(rows[0])] * 2  # one header fits all
    scores = metrics.mean_over_frames(rows)
    assert (scores["frames"], scores["abs_rel"], scores["d1"]) == (2, 0, 1)
    assert scores["abs_rel_one_scale"] == pytest.approx(0.375)
    assert scores["scale_spread"] == pytest.approx(1 / 3)  # std of 2 and 4, over 3
    assert metrics.mean_over_frames(rows[2:])["frames"] == 0
    assert math.isnan(metrics.mean_over_frames(rows[2:])["scale_spread"])


def test_per_frame_scaling_clips():
    g = np.concatenate([np.full(60, 10.0), np.full(40, 50.0)])
    p = np.where(g == 10, 1.0, 9.0)  # scale 10: 90 where 50 is true
    assert metrics.per_frame_scaled([(p, g)], 1e-3, 80)[0]["abs_rel"] == pytest.approx(0.4 * 30 / 50)


@needs_referee
@pytest.mark.parametrize("crop", [False, True])
def test_depth_is_the_referees(crop):
    rng = np.random.default_rng(0)
    items, pairs = [], []
    for n in range(5):
        depth = np.exp(rng.normal(2, 0.8, (24, 40)))
        depth[rng.random(depth.shape) < 0.1] = np.nan
        gt = 1.7 * (1 + 0.1 * n) * np.exp(rng.normal(2, 0.8, (37, 61)))
        gt[rng.random(gt.shape) < (0.5 if n else 0.97)] = 0  # the first has too few pixels
        items.append((depth, gt))
        p = metrics.resized_as_disparity(depth, (61, 37))
        seen = (gt > 1e-3) & (gt < 30) & (metrics.garg_crop(gt.shape) if crop else True)
        pairs.append((p[seen], gt[seen]))
    theirs = shared("referee").depth_scores(items, 30, crop)
    rows = metrics.per_frame_scaled(iter(pairs), 1e-3, 30)
    ours = metrics.mean_over_frames(rows)
    assert ours["frames"] == theirs["frames"] == 4
    agree(ours, theirs, set(theirs) - {"missing"})


def test_l1_scale_takes_weiszfeld_steps():
    p, g = np.ones(3), np.array([2.0, 2.0, 5.0])
    assert metrics.l1_scale(p, g, steps=0) == 3  # ratio of means
    assert metrics.l1_scale(p, g, steps=1) == pytest.approx((2 + 2 + 5 / 2) / (1 + 1 + 1 / 2), abs=1e-6)
    assert metrics.l1_scale(p, g, steps=2) == pytest.approx(7 / 3, abs=1e-6)  # weights 1/.6, 1/.6, 1/2.4
    assert metrics.l1_scale(p, g) == pytest.approx(2, abs=0.01)  # ten are almost there


def test_l1_scale_shift_ignores_an_outlier():
    p = np.arange(1.0, 8)
    g = 2 * p + 1
    assert metrics.l1_scale_shift(p, g) == pytest.approx((2, 1))
    g[5] = 500
    assert metrics.l1_scale_shift(p, g) == pytest.approx((2, 1), abs=1e-6)
    assert metrics.l1_scale_shift(np.ones(3), np.array([2.0, 3, 40])) == pytest.approx((0, 3), abs=1e-6)


@pytest.mark.parametrize("count", [7, 12, 41])
def test_l1_scale_shift_is_the_best_line_through_two_points(count):
    """The least sum of absolute residuals is always reached by a line through two of the points."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        p = rng.uniform(1, 10, count)
        g = 3 * p + 8 + rng.laplace(0, 1, count) + 50 * (rng.random(count) < 0.2)

        def cost(s, t, p=p, g=g):
            return np.abs(s * p + t - g).sum()

        slopes = (((g[i] - g[j]) / (p[i] - p[j]), i) for i, j in itertools.combinations(range(count), 2))
        best = min(cost(s, g[i] - s * p[i]) for s, i in slopes)
        assert cost(*metrics.l1_scale_shift(p, g)) <= best * (1 + 1e-6)


def test_l2_scale_shift_by_hand():
    assert metrics.l2_scale_shift(np.array([0.0, 1, 2]), np.array([1.0, 2, 6])) == pytest.approx((2.5, 0.5))
    assert metrics.l2_scale_shift(np.full(3, 0.3), np.array([1.0, 2, 6])) == pytest.approx((0, 3))  # any scale will do
    weighted = metrics.l2_scale_shift(np.array([0.0, 1, 2]), np.array([1.0, 2, 6]), np.array([1.0, 1, 0]))
    assert weighted == pytest.approx((1, 1))


def test_sequence_is_aligned_once_and_clipped():
    frames = [(np.array([1.0, 2]), np.array([2.0, 4])), (np.array([3.0, 40]), np.array([6.0, 80]))]
    errors = metrics.sequence_aligned(frames, "scale", cap=70)
    assert (errors["scale"], errors["shift"], errors["pixels"]) == (pytest.approx(2), 0, 4)
    assert errors["abs_rel"] == pytest.approx((10 / 80) / 4)  # 80 clipped to 70
    assert metrics.sequence_aligned(frames, "scale")["abs_rel"] == pytest.approx(0, abs=1e-9)
    shifted = [(p, g + 5) for p, g in frames]
    assert metrics.sequence_aligned(shifted, "scale")["abs_rel"] > 0.05
    errors = metrics.sequence_aligned(shifted, "scale_shift")
    assert (errors["abs_rel"], errors["scale"], errors["shift"]) == pytest.approx((0, 2, 5), abs=1e-6)
    with pytest.raises(ValueError, match="no pixel"):
        metrics.sequence_aligned([(np.zeros(0), np.zeros(0))], "scale")


def test_through_disparity_by_hand():
    depth = np.array([[1.0, 4.0], [100.0, np.nan]])
    expected = [[1 / 1.9, 1 / 0.4], [10, np.nan]]  # 2 / d - 0.1; 2 / 100 - 0.1 is negative: as far as cap
    assert metrics.through_disparity(depth, 2.0, -0.1, 10) == pytest.approx(np.array(expected), nan_ok=True)
    assert metrics.through_disparity(depth, 1e6, 0.0, 10)[0, 0] == 1e-3


def test_disparity_aligned_is_a_mean_over_frames():
    g = np.array([1.0, 2, 5])
    twice = [(1 / (2 / g + 3), g), (1 / (2 / g[:1] + 3), g[:1]), (g[:0], g[:0])]
    errors = metrics.disparity_aligned(twice, 10)
    assert (errors["scale"], errors["shift"]) == pytest.approx((0.5, -1.5))
    assert (errors["abs_rel"], errors["frames"]) == (pytest.approx(0, abs=1e-6), 2)
    flat = [(np.ones(3), np.array([1.0, 1, 1])), (np.ones(1), np.array([0.5]))]  # mean disparity 5/4, so depth 0.8
    assert metrics.disparity_aligned(flat, 10)["abs_rel"] == pytest.approx((0.2 + 0.6) / 2)
    with pytest.raises(ValueError, match="no pixel"):
        metrics.disparity_aligned([], 10)


# ---------------------------------------------------------------- temporal consistency of depth


def camera(w: int, h: int, f: float = 10.0) -> Intrinsics:
    return Intrinsics(torch.tensor([f, f]), torch.tensor([w / 2, h / 2]), (w, h))


def moved(x: float = 0.0, z: float = 0.0) -> torch.Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3], pose[2, 3] = x, z
    return pose


def test_splat_moves_pixels_by_focal_times_step_over_depth():
    depth = np.array([[10.0, 10, 10, 10, np.nan]])
    assert metrics.splat(depth, camera(5, 1), moved(x=1)).tolist() == [[0, 10, 10, 10, 10]]
    assert metrics.splat(depth, camera(5, 1), moved(x=-1)).tolist() == [[10, 10, 10, 0, 0]]
    assert metrics.splat(depth, camera(5, 1), moved(x=0.49)).tolist() == [[10, 10, 10, 10, 0]]  # within its pixel
    assert metrics.splat(depth, camera(5, 1), moved(z=-11)).tolist() == [[0] * 5]  # behind


def test_splat_has_no_z_buffer():
    near_first = np.array([[5.0, 10, np.nan, np.nan]])  # 2 and 1 px to the right: both land in the third
    assert metrics.splat(near_first, camera(4, 1), moved(x=1)).tolist() == [[0, 0, 10, 0]]
    near_last = np.array([[np.nan, np.nan, 10.0, 5.0]])
    assert metrics.splat(near_last, camera(4, 1), moved(x=-1)).tolist() == [[0, 5, 0, 0]]


def test_tae_of_a_wall_ahead():
    poses = torch.stack([moved(z=0), moved(z=1)]).numpy()
    wall = np.stack([np.full((6, 8), 10.0), np.full((6, 8), 9.0)])
    assert metrics.tae(wall, poses, camera(8, 6)) == pytest.approx(0, abs=1e-9)
    still = np.full((2, 6, 8), 10.0)  # as if nothing came nearer: seen at 9 in the second, at 11 in the first
    assert metrics.tae(still, poses, camera(8, 6)) == pytest.approx(100 * (0.1 + 0.1) / 2)
    back = metrics.tae(wall[::-1].astype(np.float32), poses, camera(8, 6))
    assert back == pytest.approx(100 * (2 / 10 + 2 / 9) / 2)  # 9 seen at 8 where 10 is said; 10 at 11 for 9


def test_tae_leaves_out_what_is_unknown_or_out_of_view():
    poses = torch.stack([moved(), moved(x=1)]).numpy()  # things move one pixel to the left
    depths = np.array([[[10.0, 10, 10, 10]], [[10, np.nan, 8, 0]]])
    # forwards 10, 10, 10, - meets 10, nan, 8, 0; backwards 10 -> 1, 8 -> 3 (1.25 px: 2.5 + 1.25 = 3.75)
    assert metrics.tae(depths, poses, camera(4, 1)) == pytest.approx(100 * ((0 + 2 / 8) / 2 + (0 + 2 / 10) / 2) / 2)
    far = torch.stack([moved(), moved(x=99)]).numpy()
    assert math.isnan(metrics.tae(depths, far, camera(4, 1)))


def test_opw_by_hand():
    depths = np.stack([np.full((4, 6), 2.0), np.full((4, 6), 2.5)])
    images, flows = np.full((2, 3, 4, 6), 0.4), np.zeros((1, 2, 4, 6))
    assert metrics.opw(depths, images, flows) == pytest.approx(0.5)
    images[1, 0, :2] += 0.1  # half of the pixels change: |0.1, 0, 0|^2 = 0.01
    expected = 0.5 * (1 + math.exp(-0.5)) / 2
    assert metrics.opw(depths, images, flows) == pytest.approx(expected)  # over pixels, not over weights
    images[1, 1, :2] += 0.1
    assert metrics.opw(depths, images, flows) == pytest.approx(0.5 * (1 + math.exp(-1)) / 2)


def test_opw_follows_the_flow_where_it_is_known():
    rng = np.random.default_rng(0)
    depth, image = rng.uniform(1, 9, (5, 9)), rng.random((3, 5, 9))
    right = np.zeros((1, 2, 5, 9))
    right[:, 0] = 2  # everything moves two pixels to the right
    depths, images = np.stack([depth, np.roll(depth, 2, 1)]), np.stack([image, np.roll(image, 2, 2)])
    assert metrics.opw(depths, images, right) == pytest.approx(0, abs=1e-9)  # the last two columns leave the image
    assert metrics.opw(depths, images, -right) > 0.01
    depths[0, 0, 0] = 1e6
    assert metrics.opw(depths, images, right) > 1e4
    right[0, :, 0, 0] = np.nan
    assert metrics.opw(depths.astype(np.float32), images, right) == pytest.approx(0, abs=1e-6)
    depths[1, 3, 4] = 0  # unknown; so are its neighbours, which a bilinear look-up touches
    assert metrics.opw(depths, images, right) == pytest.approx(0, abs=1e-6)
    assert math.isnan(metrics.opw(depths, images, right + 100))


# ---------------------------------------------------------------- camera path


def test_ate_by_hand():
    est, gt = along([0.0, 1, 2]), along([0.0, 1, 2])
    est[1, 1, 3] = 1  # a triangle onto a line: scale (2/3) / (8/9), errors 1/8, 1/4, 1/8 squared
    scores = metrics.ate(est, gt)
    assert scores == pytest.approx({
        "ate_m": math.sqrt(1 / 6), "path_m": 2, "ate_percent": 50 * math.sqrt(1 / 6), "scale": 0.75,
    })  # fmt: skip


def test_path_scores_do_not_see_a_similarity():
    gt = path()
    est = gt.copy()
    est[:, :3, 3] *= 0.2
    est = se3_exp(torch.tensor([3.0, 1, 2, 1, 2, 0.5]).double()).numpy() @ est
    assert metrics.ate(est, gt)["ate_m"] == pytest.approx(0, abs=1e-9)
    assert metrics.ate(est, gt)["scale"] == pytest.approx(5)
    for scores in (
        metrics.rpe(est, gt),
        metrics.five_frame_ate(est, gt),
        metrics.kitti_segments(est, gt, "7dof", (5,)),
        metrics.kitti_segments(est, gt, "scale", (5,)),
    ):
        assert {**scores, "segments": 0} == pytest.approx(dict.fromkeys([*scores, "segments"], 0), abs=1e-6)


def test_rpe_by_hand():
    scores = metrics.rpe(along([0.0, 1, 2, 3]), along([0.0, 1, 3, 4]))  # scale 7 / 5, so steps 1.4 against 1, 2, 1
    assert scores == pytest.approx({"rpe_trans_m": math.sqrt((0.16 + 0.36 + 0.16) / 3), "rpe_rot_deg": 0})
    turning = along([0.0, 1, 2, 3], turn_deg=1e-4)
    assert metrics.rpe(turning, along([0.0, 1, 2, 3]))["rpe_rot_deg"] == pytest.approx(1e-4)
    assert metrics.rpe(turning, along([0.0, 1, 2, 3]), delta=3)["rpe_rot_deg"] == pytest.approx(3e-4)
    assert math.isnan(metrics.rpe(turning, turning, delta=4)["rpe_rot_deg"])


def test_five_frame_ate_divides_outside_the_root():
    est, gt = along([0.0, 1, 2, 3, 5]), along([0.0, 1, 2, 3, 4])
    expected = math.sqrt(30 - 34**2 / 39) / 5  # sum g^2 - (sum g e)^2 / sum e^2
    assert metrics.five_frame_ate(est, gt) == pytest.approx({"ate5": expected, "ate5_std": 0})
    longer = metrics.five_frame_ate(along([0.0, 1, 2, 3, 5, 6]), along([0.0, 1, 2, 3, 4, 5]))
    second = math.sqrt(30 - (1 + 4 + 12 + 20) ** 2 / (1 + 4 + 16 + 25)) / 5  # 1, 2, 4, 5 against 1, 2, 3, 4
    assert longer == pytest.approx({"ate5": (expected + second) / 2, "ate5_std": abs(expected - second) / 2})
    assert math.isnan(metrics.five_frame_ate(est[:4], gt[:4])["ate5"])


def test_kitti_segments_by_hand():
    gt = along(np.arange(30.0))
    scores = metrics.kitti_segments(along(np.arange(30.0), turn_deg=0.1), gt, lengths=(5,))
    assert scores["segments"] == 3  # 0-6, 10-16, 20-26: more than 5 m
    assert scores["r_rel"] == pytest.approx(100 * 0.6 / 5)
    chords = [6 * 2 * math.sin(math.radians(turn) / 2) for turn in (0, 1, 2)]  # the same 6 m, in turned frames
    assert scores["t_rel"] == pytest.approx(100 * sum(chords) / 3 / 5)
    assert metrics.kitti_segments(gt, gt, lengths=(5, 20))["segments"] == 3 + 1
    assert metrics.kitti_segments(gt, gt)["segments"] == 0  # 29 m
    assert math.isnan(metrics.kitti_segments(gt, gt)["t_rel"])


def test_kitti_segments_say_how_they_scale():
    gt, sideways = along(np.arange(30.0)), along(np.zeros(30))
    sideways[:, 0, 3] = np.arange(30.0)
    assert metrics.kitti_segments(sideways, gt, "7dof", (5,))["t_rel"] == pytest.approx(100 * 6 * math.sqrt(2) / 5)
    assert metrics.kitti_segments(sideways, gt, "scale", (5,))["t_rel"] == pytest.approx(100 * 6 / 5)  # scaled to 0


@pytest.mark.parametrize("align", ["7dof", "scale"])
def test_kitti_segments_are_those_of_a_plain_loop(align):
    est, gt = path(60, noise=0.05), path(60)
    scale = metrics.ate(est, gt)["scale"]
    if align == "scale":
        a, b = ((np.linalg.inv(x[0]) @ x)[:, :3, 3] for x in (est, gt))
        scale = (a * b).sum() / (a * a).sum()
    distance = [np.linalg.norm(np.diff(gt[: n + 1, :3, 3], axis=0), axis=1).sum() for n in range(60)]
    translation, rotation = [], []
    for first in range(0, 60, 10):
        for length in (8, 16, 24):
            last = next((k for k in range(first, 60) if distance[k] > distance[first] + length), None)
            if last is not None:
                e, g = (np.linalg.inv(x[first]) @ x[last] for x in (est, gt))
                e[:3, 3] *= scale
                off = np.linalg.inv(e) @ g
                translation.append(np.linalg.norm(off[:3, 3]) / length)
                rotation.append(np.degrees(np.arccos((np.trace(off[:3, :3]) - 1) / 2)) / length)
    scores = metrics.kitti_segments(est, gt, align, (8, 16, 24))
    assert scores["segments"] == len(translation) > 10
    assert (scores["t_rel"], scores["r_rel"]) == pytest.approx((100 * np.mean(translation), 100 * np.mean(rotation)))


@needs_referee
@pytest.mark.parametrize("digits", [16, 6])
@pytest.mark.parametrize("seed", [0, 5])
def test_path_scores_are_the_referees(seed, digits):
    est, gt = path(seed=seed, noise=0.1), np.round(path(seed=seed), digits)  # KITTI's poses have seven digits
    theirs = shared("referee").path_scores(est, gt)
    agree(metrics.ate(est, gt), theirs, ("path_m", "ate_m", "ate_percent", "scale"))
    agree(metrics.rpe(est, gt), theirs, ("rpe_rot_deg", "rpe_trans_m"))
    agree(metrics.five_frame_ate(est, gt), theirs, ("ate5", "ate5_std"))
    assert theirs["ate_m"] > 0.01 and theirs["rpe_rot_deg"] > 1  # something to disagree about


@pytest.mark.parametrize("delta", [1, 4])
def test_path_scores_are_evos(delta):
    from evo.core import metrics as evo
    from evo.core.trajectory import PosePath3D

    est, gt = path(noise=0.1), path()
    aligned, truth = PosePath3D(poses_se3=list(est.copy())), PosePath3D(poses_se3=list(gt.copy()))
    aligned.align(truth, correct_scale=True)

    def rmse(metric):
        metric.process_data((truth, aligned))
        return metric.get_statistic(evo.StatisticsType.rmse)

    def rpe(part):
        return evo.RPE(part, delta=delta, delta_unit=evo.Unit.frames, all_pairs=True)

    theirs = {
        "ate_m": rmse(evo.APE(evo.PoseRelation.translation_part)),
        "rpe_trans_m": rmse(rpe(evo.PoseRelation.translation_part)),
        "rpe_rot_deg": rmse(rpe(evo.PoseRelation.rotation_angle_deg)),
    }
    agree(metrics.ate(est, gt) | metrics.rpe(est, gt, delta), theirs, theirs)


def test_relative_and_angles():
    a, b = path(5), path(5, seed=3)
    assert metrics.relative(a, b) == pytest.approx(np.linalg.inv(a) @ b)
    assert metrics.relative(a[:1], b) == pytest.approx(np.linalg.inv(a[0]) @ b)
    assert metrics.angles_between(along([0, 0, 0]), along([0, 0, 0], 90)) == pytest.approx([0, 90, 180])
    stretched = a @ np.diag([1, 1.01, 1, 1])  # no rotation, but R is the nearest
    assert metrics.angles_between(a, stretched) == pytest.approx(np.zeros(5), abs=1e-9)


# ---------------------------------------------------------------- flow and intrinsics


def test_flow_errors_by_hand():
    gt = np.array([[100.0, 10, 10, 6, 0], [0, 0, 0, 8, 0]])[:, None]
    pred = gt + np.array([[4.0, 4, 2, np.nan, 100], [0, 0, 0, 0, 0]])[:, None]
    valid = np.array([[True, True, True, True, False]])
    # 4 px of 100 is below 5 %, 4 of 10 is an outlier, 2 is below 3 px, nothing said of (6, 8) is 6 of 10 px off
    assert metrics.flow_errors(pred, gt, valid) == pytest.approx({
        "epe": (4 + 4 + 2 + 6) / 4, "fl": 0.5, "outliers": 2, "pixels": 4,
    })  # fmt: skip
    nothing = metrics.flow_errors(pred, gt, ~valid & False)
    assert math.isnan(nothing["epe"]) and nothing["pixels"] == 0


@needs_referee
def test_flow_errors_are_the_referees():
    rng = np.random.default_rng(0)
    gt, valid = rng.normal(0, 30, (2, 20, 30)), rng.random((20, 30)) < 0.7
    pred = gt + rng.normal(0, 2.5, gt.shape)
    epe, fl = shared("flowio").epe_fl(pred.transpose(1, 2, 0), gt.transpose(1, 2, 0), valid)
    ours = metrics.flow_errors(pred, gt, valid)
    agree(ours, {"epe": epe, "fl": fl}, ("epe", "fl"))
    assert 0.05 < fl < 0.95 and ours["outliers"] / ours["pixels"] == ours["fl"]


def test_focal_and_field_of_view():
    assert metrics.focal_error(450.0, 500.0) == metrics.focal_error(550.0, 500.0) == pytest.approx(10)
    errors = metrics.fov_error((320.0, 240.0), (320 / math.tan(math.radians(30)), 240.0), (640, 480))
    assert errors == pytest.approx({"hfov": 30, "vfov": 0})  # 90 against 60 degrees
    assert metrics.fov_error((320.0, 240.0), (320.0, 240 * math.sqrt(3)), (640, 480))["vfov"] == pytest.approx(30)


@needs_referee
def test_focal_error_is_the_referees():
    run = SimpleNamespace(camera={"fx": 300.0, "width": 640})
    theirs = shared("referee").focal_error(run, 721.5, 1242)["focal_error_percent"]
    assert metrics.focal_error(300.0 * 1242 / 640, 721.5) == pytest.approx(theirs)


def test_auc_by_hand():
    errors = np.array([4.0, np.nan, 0.2, 2.0])
    plain = metrics.auc(errors, (1, 5), floor=0)  # corners (0, 0) (.2, .25) (2, .5) (4, .75), then level
    assert plain == pytest.approx({"auc1": 2.5 + 20, "auc5": 100 * (0.025 + 0.675 + 1.25 + 0.75) / 5})
    assert metrics.auc(errors) == pytest.approx({
        "auc1": 25, "auc5": 100 * (0.25 + 0.375 + 1.25 + 0.75) / 5, "auc10": 100 * (2.625 + 5 * 0.75) / 10,
    })  # fmt: skip
    assert metrics.auc(np.zeros(3)) == {"auc1": 100, "auc5": 100, "auc10": 100}
    assert metrics.auc(np.full(3, 11.0))["auc10"] == 0
    assert math.isnan(metrics.auc(np.zeros(0))["auc5"])
