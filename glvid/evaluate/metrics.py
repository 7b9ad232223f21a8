"""Every number glvid is judged by, as pure functions: depth, temporal consistency, path, flow, intrinsics.

Arrays in, plain numbers out; sums are taken in float64. What cannot be measured (no pixel, too few poses) is NaN.
True arrays are called g or gt. Each function names the protocol it follows; numbers of two protocols do not compare.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float64

from glvid.geometry import inverse, pixel_grid, rigid_flow, umeyama
from glvid.types import Intrinsics
from glvid.warp import warp

# ---------------------------------------------------------------- depth

DEPTH = ("abs_rel", "sq_rel", "rmse", "rmse_log", "d1", "d2", "d3")
NEAREST = 1e-3  # m: lower bound of predicted depth, in the Eigen protocol and in protocol B below
MIN_PIXELS = 100  # frames with fewer pixels of true depth say nothing
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)  # first and last row, first and last column, as fractions

Vector = Float64[np.ndarray, " _"]
Pair = tuple[Vector, Vector]  # predicted and true depth of one frame, at the pixels that have both


def depth_errors(p: Float64[np.ndarray, " P"], g: Float64[np.ndarray, " P"]) -> dict[str, float]:
    """The seven numbers of Eigen et al. (2014) of predicted depth p and true depth g > 0; d1, d2, d3 are shares 0..1.

    Where p <= 0 (a shift can make it so) logarithms and ratios take 1e-5 instead, as MonST3R's evaluation does.
    """
    if not len(g):
        return dict.fromkeys(DEPTH, math.nan)
    q = np.maximum(p, 1e-5)
    ratio = np.maximum(q / g, g / q)
    return {
        "abs_rel": _mean(np.abs(p - g) / g),
        "sq_rel": _mean((p - g) ** 2 / g),
        "rmse": _rms(p - g),
        "rmse_log": _rms(np.log(q / g)),
        **{f"d{k}": _mean(ratio < 1.25**k) for k in (1, 2, 3)},
    }


def garg_crop(shape: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """True in the part of a KITTI image that LiDAR covers (Garg et al. 2016); shape = (H, W)."""
    h, w = shape
    top, bottom, left, right = (int(part * n) for part, n in zip(GARG, (h, h, w, w), strict=True))
    box = np.zeros(shape, bool)
    box[top:bottom, left:right] = True
    return box


def resized_as_disparity(depth: Float[np.ndarray, "H W"], size: tuple[int, int]) -> Float64[np.ndarray, "h w"]:
    """Depth resampled to `size` (width, height), bilinearly in disparity, as Monodepth2's Eigen evaluation does.

    A pixel that says nothing (NaN) counts as the median depth, so that leaving out what is hard wins nothing.
    """
    known = np.isfinite(depth)
    depth = np.where(known, depth, np.median(depth[known]) if known.any() else 1.0)
    disparity = (1 / np.maximum(depth, 1e-9)).astype(np.float32)  # float32 as in that evaluation: same rounding
    return (1 / np.maximum(cv2.resize(disparity, size, interpolation=cv2.INTER_LINEAR), 1e-9)).astype(np.float64)


def per_frame_scaled(pairs: Iterable[Pair], low: float, cap: float) -> list[dict[str, float]]:
    """One row per frame: errors after its own median scaling, prediction clipped to [low, cap] (Eigen protocol).

    Further keys: "pixels"; "scale" = median(g) / median(p), which was applied; "ratio" = median(g / p); and
    "abs_rel_one_scale", with the median of all frames' ratios as the one scale. p must be > 0. Frames of fewer than
    MIN_PIXELS are NaN. `mean_over_frames` sums up.
    """
    pairs = list(pairs)
    ratios = [float(np.median(g / p)) if len(g) >= MIN_PIXELS else math.nan for p, g in pairs]
    seen = [ratio for ratio in ratios if not math.isnan(ratio)]
    one = np.median(seen) if seen else math.nan
    rows = []
    for (p, g), ratio in zip(pairs, ratios, strict=True):
        row = dict.fromkeys((*DEPTH, "abs_rel_one_scale", "scale"), math.nan)
        if len(g) >= MIN_PIXELS:
            scale = float(np.median(g) / np.median(p))
            row = depth_errors(np.clip(p * scale, low, cap), g)
            row["abs_rel_one_scale"] = depth_errors(np.clip(p * one, low, cap), g)["abs_rel"]
            row["scale"] = scale
        rows.append(row | {"ratio": ratio, "pixels": len(g)})
    return rows


def mean_over_frames(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means of the rows of `per_frame_scaled` that are not NaN, and "frames", how many that are.

    "scale_spread" is the standard deviation of the frames' ratios, divided by their median: 0 when depth is consistent.
    """
    seen = [row for row in rows if row["pixels"] >= MIN_PIXELS]
    ratios = np.array([row["ratio"] for row in seen])
    return {
        "frames": len(seen),
        **{key: _mean(np.array([row[key] for row in seen])) for key in (*DEPTH, "abs_rel_one_scale")},
        "scale_spread": float(np.std(ratios / np.median(ratios))) if seen else math.nan,
    }


def l1_scale(p: Float64[np.ndarray, " P"], g: Float64[np.ndarray, " P"], steps: int = 10) -> float:
    """Scale s of about least sum |s p - g|: Weiszfeld steps from the ratio of means.

    As MonST3R and CUT3R do, but for their lower bound of 1e-3 on s, which would depend on the unit of p.
    """
    s = g.mean() / p.mean()
    for _ in range(steps):
        weight = 1 / (np.abs(s * p - g) + 1e-8)
        s = (weight * p * g).sum() / (weight * p * p).sum()
    return float(s)


def l1_scale_shift(p: Float64[np.ndarray, " P"], g: Float64[np.ndarray, " P"]) -> tuple[float, float]:
    """Scale s and shift t of least sum |s p + t - g|, by iteratively reweighted least squares to convergence.

    The problem that MonST3R and CUT3R set. They descend it from the median ratio by 1000 Adam steps of 1e-4 at most,
    which cannot move s or t by much more than 0.1: where the best shift is larger they stop short of this minimum.
    """
    s, t = np.median(g) / np.median(p), 0.0
    floor = 1e-9 * np.abs(g).mean()
    blunt = last = math.inf  # residuals below `blunt` weigh alike: sharpened step by step, lest one pixel pin the line
    for _ in range(500):
        residual = np.abs(s * p + t - g)
        cost = residual.mean()
        blunt = max(min(cost, 0.7 * blunt), floor)
        if blunt == floor and last - cost <= 1e-10 * cost:
            break
        last = cost
        s, t = l2_scale_shift(p, g, 1 / np.maximum(residual, blunt))
    return float(s), float(t)


def l2_scale_shift(
    p: Float64[np.ndarray, " P"], g: Float64[np.ndarray, " P"], weight: Float64[np.ndarray, " P"] | None = None
) -> tuple[float, float]:
    """Scale s and shift t of least sum weight (s p + t - g)^2; s = 0 where p does not vary."""
    weight = np.full(len(p), 1 / len(p)) if weight is None else weight / weight.sum()
    p_mean, g_mean = weight @ p, weight @ g
    away = p - p_mean
    variance = weight @ away**2
    s = weight @ (away * (g - g_mean)) / variance if variance > (1e-9 * p_mean) ** 2 else 0.0
    return float(s), float(g_mean - s * p_mean)


def sequence_aligned(
    pairs: Iterable[Pair], align: Literal["scale", "scale_shift"], cap: float = math.inf
) -> dict[str, float]:
    """Depth errors of a whole sequence as one list of pixels, aligned once (protocol A: MonST3R, CUT3R).

    Predictions above `cap` are clipped, after alignment: 70 m on Sintel; their code clips nothing on Bonn and KITTI.
    True depth must be in range already: below 70 m on Sintel and Bonn. Further keys: "scale", "shift", "pixels"; a
    dataset's number is the mean of its sequences weighted by "pixels". Raises ValueError without any pixel.
    """
    p, g = _flattened(pairs)
    scale, shift = (l1_scale(p, g), 0.0) if align == "scale" else l1_scale_shift(p, g)
    errors = depth_errors(np.minimum(scale * p + shift, cap), g)
    return errors | {"scale": scale, "shift": shift, "pixels": len(g)}


def disparity_scale_shift(pairs: Iterable[Pair]) -> tuple[float, float]:
    """Least squares scale and shift of a clip's predicted disparity 1 / p onto the true one (protocol B).

    Video Depth Anything's evaluation, but for its lower bound of 1e-3 on predicted disparity, which would depend on the
    unit of p. Raises ValueError without any pixel.
    """
    p, g = _flattened(pairs)
    return l2_scale_shift(1 / p, 1 / (g + 1e-8))


def through_disparity(
    depth: Float64[np.ndarray, "*S"], scale: float, shift: float, cap: float
) -> Float64[np.ndarray, "*S"]:
    """Depth of the scaled and shifted disparity 1 / depth, within [NEAREST, cap]; depth > 0, or NaN and stays so."""
    return np.clip(1 / np.maximum(scale / depth + shift, 1e-3), NEAREST, cap)


def disparity_aligned(pairs: Iterable[Pair], cap: float) -> dict[str, float]:
    """Depth errors of a clip, aligned once in disparity; means over its frames (protocol B: Video Depth Anything).

    `cap` is 80 m on KITTI, 70 m on Sintel, 10 m indoors; true depth must lie within (NEAREST, cap) already. Frames
    without a pixel are left out. Further keys: "scale", "shift" (of disparity), "frames". Raises ValueError without
    any pixel.
    """
    pairs = list(pairs)
    scale, shift = disparity_scale_shift(pairs)
    rows = [depth_errors(through_disparity(p, scale, shift, cap), g) for p, g in pairs if len(g)]
    means = {key: _mean(np.array([row[key] for row in rows])) for key in DEPTH}
    return means | {"scale": scale, "shift": shift, "frames": len(rows)}


# ---------------------------------------------------------------- temporal consistency of depth


def tae(depths: Float[np.ndarray, "N H W"], world_T_cam: Float64[np.ndarray, "N 4 4"], camera: Intrinsics) -> float:
    """Temporal alignment error of a static scene, in % (Video Depth Anything; its eval_tae.py).

    Each frame's depth is carried into the next one by the true path and camera and compared there, |seen - depth| /
    depth, over the pixels it lands on; so backwards; mean over all N - 1 pairs, both ways. `depths` must be in the
    path's unit (for their table: after `disparity_scale_shift` and `through_disparity`); NaN or <= 0 is unknown.
    Neighbours that share no pixel are left out, where theirs count as 0.
    """
    camera = camera.to(torch.float64)
    poses = torch.tensor(world_T_cam)
    errors = []
    for n in range(len(depths) - 1):
        for i, j in ((n, n + 1), (n + 1, n)):
            seen, depth = splat(depths[i], camera, inverse(poses[j]) @ poses[i]), depths[j].astype(np.float64)
            hit = (seen > 0) & (depth > 0) & np.isfinite(depth)
            errors.append(_mean(np.abs(seen - depth)[hit] / depth[hit]))
    return 100 * _known_mean(errors)


def splat(
    depth: Float[np.ndarray, "H W"], camera: Intrinsics, j_T_i: Float64[torch.Tensor, "4 4"]
) -> Float64[np.ndarray, "H W"]:
    """Depth of frame i as frame j sees it; 0 where nothing lands.

    Every pixel goes to the pixel its centre falls into. There is no z-buffer: of several, the last in reading order
    stays, as in Video Depth Anything's evaluation. What lies behind camera j is left out.
    """
    h, w = depth.shape
    here = torch.tensor(depth, dtype=torch.float64)[None]
    flow, z = rigid_flow(here, camera.to(torch.float64), j_T_i)
    x, y = (pixel_grid((w, h), here) + flow).floor().numpy()
    z = z[0].numpy()
    lands = (depth > 0) & np.isfinite(depth) & (z > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    seen = np.zeros((h, w))
    seen[y[lands].astype(int), x[lands].astype(int)] = z[lands]
    return seen


def opw(
    depths: Float[np.ndarray, "N H W"], images: Float[np.ndarray, "N 3 H W"], flows: Float[np.ndarray, "N-1 2 H W"]
) -> float:
    """Optical-flow warping error: mean of w |d_t(p) - d_t+1(p + F(p))| in the depth's unit, so align depth first.

    w = exp(-50 |I_t(p) - I_t+1(p + F(p))|^2), over the three channels of RGB 0..1, fades out what flow gets wrong or
    what is hidden. As in FMNet and NVDS (Wang et al. 2022, 2023) the sum is divided by the number of pixels, not by the
    sum of weights; then mean over the N - 1 pairs. A pixel counts where flow t -> t+1 and both depths are known (not
    NaN, > 0) and its target is inside. True depth scores above 0 where things come nearer or recede.
    """
    errors = []
    for n, flow in enumerate(flows):
        here, there = (
            np.concatenate([np.where(depths[k] > 0, depths[k], np.nan)[None], images[k]]).astype(np.float64)
            for k in (n, n + 1)
        )
        found, inside = warp(torch.tensor(there)[None], torch.tensor(np.nan_to_num(flow), dtype=torch.float64)[None])
        change = np.abs(here - found[0].numpy())
        known = (inside[0, 0].numpy() > 0) & np.isfinite(flow).all(0) & np.isfinite(change[0])
        weight = np.exp(-50 * (change[1:] ** 2).sum(0))
        errors.append(_mean((weight * change[0])[known]))
    return _known_mean(errors)


# ---------------------------------------------------------------- camera path


def ate(est: Float64[np.ndarray, "N 4 4"], gt: Float64[np.ndarray, "N 4 4"]) -> dict[str, float]:
    """Absolute trajectory error: RMSE of camera positions after the best similarity (Umeyama 1991), as evo's APE.

    est, gt: camera to world, row by row the same frame; m is the unit of gt. Keys: "ate_m"; "path_m", the length of the
    true path; "ate_percent" of that; "scale" of the similarity est -> gt. Poses must be finite.
    """
    a, b = est[:, :3, 3], gt[:, :3, 3]
    scale, R, t = umeyama(torch.tensor(a), torch.tensor(b))
    error = _rms(np.linalg.norm(float(scale) * a @ R.numpy().T + t.numpy() - b, axis=-1))
    length = float(_travelled(gt)[-1])
    return {"ate_m": error, "path_m": length, "ate_percent": 100 * error / max(length, 1e-9), "scale": float(scale)}


def along_path(est: Float64[np.ndarray, "N 4 4"], gt: Float64[np.ndarray, "N 4 4"]) -> list[dict[str, float]]:
    """Of every frame, what `ate` and `rpe` take the root mean square of: "position_m", and over the step to the next
    frame "step_m" and "step_deg" (none for the last one)."""
    a, b = est[:, :3, 3], gt[:, :3, 3]
    scale, R, t = umeyama(torch.tensor(a), torch.tensor(b))
    rows = [{"position_m": float(x)} for x in np.linalg.norm(float(scale) * a @ R.numpy().T + t.numpy() - b, axis=-1)]
    e, g = (relative(x[:-1], x[1:]) for x in (scaled(est, gt), gt))
    steps = zip(np.linalg.norm(e[:, :3, 3] - g[:, :3, 3], axis=-1), angles_between(e, g), strict=True)
    for row, (metres, degrees) in zip(rows, steps, strict=False):
        row |= {"step_m": float(metres), "step_deg": float(degrees)}
    return rows


def rpe(est: Float64[np.ndarray, "N 4 4"], gt: Float64[np.ndarray, "N 4 4"], delta: int = 1) -> dict[str, float]:
    """Relative pose error over all pairs of frames `delta` apart, as evo's RPE: RMSE, "rpe_trans_m" and "rpe_rot_deg".

    est is scaled as in `ate`; the rest of that similarity does not change relative poses. delta >= 1.
    """
    e, g = (relative(x[:-delta], x[delta:]) for x in (scaled(est, gt), gt))
    return {
        "rpe_trans_m": _rms(np.linalg.norm(e[:, :3, 3] - g[:, :3, 3], axis=-1)),
        "rpe_rot_deg": _rms(angles_between(e, g)),
    }


def five_frame_ate(est: Float64[np.ndarray, "N 4 4"], gt: Float64[np.ndarray, "N 4 4"]) -> dict[str, float]:
    """SfMLearner's 5-frame error (Zhou et al. 2017), mean "ate5" and standard deviation "ate5_std" over all windows.

    A window's poses are taken relative to its first and scaled by sum(gt est) / sum(est^2); its error is the root of
    the sum of squared distances, divided by 5: the division is outside the root, so this is no RMSE. Full windows
    only; Monodepth2's script keeps the shorter ones at the end.
    """
    count = max(len(gt) - 4, 0)
    e, g = (np.stack([relative(x[:count], x[k : k + count])[:, :3, 3] for k in range(5)], 1) for x in (est, gt))
    scale = (g * e).sum((1, 2)) / np.maximum((e**2).sum((1, 2)), 1e-12)
    errors = np.sqrt(((g - scale[:, None, None] * e) ** 2).sum((1, 2))) / 5
    return {"ate5": _mean(errors), "ate5_std": float(np.std(errors)) if count else math.nan}


def kitti_segments(
    est: Float64[np.ndarray, "N 4 4"],
    gt: Float64[np.ndarray, "N 4 4"],
    align: Literal["7dof", "scale"] = "7dof",
    lengths: Sequence[float] = tuple(range(100, 900, 100)),
) -> dict[str, float]:
    """KITTI odometry's drift (Geiger et al. 2012): "t_rel" in %, "r_rel" in degrees per 100 m, and "segments".

    From every 10th frame to the first one more than a length farther on the true path; the relative pose's error is
    divided by that length; mean over all segments of all lengths. Monocular paths are scaled first, by the similarity
    of `ate` ("7dof") or by least squares of the positions relative to the first pose ("scale"), as in DF-VO: say which.
    Lengths in m, the unit of gt. A path shorter than the shortest of them (100 m) has no segment and is NaN.
    """
    distance = _travelled(gt)
    starts = np.arange(0, len(gt), 10)
    segments = [
        (first, last, length)
        for length in lengths
        for first, last in zip(starts, np.searchsorted(distance, distance[starts] + length, "right"), strict=True)
        if last < len(gt)
    ]
    if not segments:
        return {"t_rel": math.nan, "r_rel": math.nan, "segments": 0}
    first, last, length = (np.array(column) for column in zip(*segments, strict=True))
    e, g = (relative(x[first], x[last]) for x in (scaled(est, gt, align), gt))
    return {
        "t_rel": 100 * _mean(np.linalg.norm(e[:, :3, 3] - g[:, :3, 3], axis=-1) / length),
        "r_rel": 100 * _mean(angles_between(e, g) / length),
        "segments": len(segments),
    }


def scaled(
    est: Float64[np.ndarray, "N 4 4"], gt: Float64[np.ndarray, "N 4 4"], align: Literal["7dof", "scale"] = "7dof"
) -> Float64[np.ndarray, "N 4 4"]:
    """est with its positions in the unit of gt: scaled by Umeyama's similarity, or by sum(gt est) / sum(est^2).

    The latter takes positions relative to the first pose, so it depends on their directions as well.
    """
    if align == "7dof":
        factor = float(umeyama(torch.tensor(est[:, :3, 3]), torch.tensor(gt[:, :3, 3]))[0])
    else:
        e, g = (relative(x[:1], x)[:, :3, 3] for x in (est, gt))
        factor = (g * e).sum() / max((e**2).sum(), 1e-12)
    est = est.copy()
    est[:, :3, 3] *= factor
    return est


def relative(
    world_T_a: Float64[np.ndarray, "M 4 4"], world_T_b: Float64[np.ndarray, "N 4 4"]
) -> Float64[np.ndarray, "N 4 4"]:
    """a_T_b; M = N, or 1 for all."""
    return (inverse(torch.tensor(world_T_a)) @ torch.tensor(world_T_b)).numpy()


def angles_between(a: Float64[np.ndarray, "N 4 4"], b: Float64[np.ndarray, "N 4 4"]) -> Float64[np.ndarray, " N"]:
    """Degrees from the rotation of a to that of b, accurate near 0 (arccos of the trace is not).

    Both are brought to the nearest rotation before: poses of text files have few digits.
    """
    u, _, vt = np.linalg.svd(np.stack([a[:, :3, :3], b[:, :3, :3]]))
    Ra, Rb = u @ vt
    return np.degrees(2 * np.arcsin(np.minimum(np.linalg.norm(Ra - Rb, axis=(1, 2)) / 8**0.5, 1)))


# ---------------------------------------------------------------- flow


def flow_errors(
    pred: Float64[np.ndarray, "2 H W"], gt: Float64[np.ndarray, "2 H W"], valid: Bool[np.ndarray, "H W"]
) -> dict[str, float]:
    """End-point error and outliers of one image, over `valid` pixels (KITTI 2015; RAFT's evaluate.py).

    "epe": mean distance in px, to be averaged over images. "outliers": how many of "pixels" are off by more than 3 px
    and more than 5 % of the true flow; "fl" = outliers / pixels, 0..1. A dataset's Fl-all is the sum of outliers over
    the sum of pixels. Prediction that says nothing (NaN) counts as no motion.
    """
    truth = gt[:, valid]
    error = np.linalg.norm(np.nan_to_num(pred[:, valid]) - truth, axis=0)
    outlier = (error > 3) & (error > 0.05 * np.linalg.norm(truth, axis=0))
    return {"epe": _mean(error), "fl": _mean(outlier), "outliers": int(outlier.sum()), "pixels": len(error)}


# ---------------------------------------------------------------- intrinsics


def focal_error(f: float, f_true: float) -> float:
    """|f - f_true| in % of f_true, both in px of the same image."""
    return 100 * abs(f - f_true) / f_true


def fov_error(focal: tuple[float, float], focal_true: tuple[float, float], size: tuple[int, int]) -> dict[str, float]:
    """Degrees by which the field of view is off, "hfov" and "vfov"; focal = (fx, fy) in px of an image of `size`.

    Field of view is 2 atan(side / 2 f), as in GeoCalib, whose tables are of "vfov"; where the principal point is has no
    say in it.
    """
    fov, fov_true = (
        [math.degrees(2 * math.atan(side / (2 * f))) for f, side in zip(x, size, strict=True)]
        for x in (focal, focal_true)
    )
    return {"hfov": abs(fov[0] - fov_true[0]), "vfov": abs(fov[1] - fov_true[1])}


def auc(errors: Float64[np.ndarray, " N"], at: Sequence[float] = (1, 5, 10), floor: float = 1.0) -> dict[str, float]:
    """Area under the recall curve up to each threshold, in % of the threshold: keys "auc1", "auc5", "auc10".

    Recall(e) is the share of errors up to e, linear between the errors. As in GeoCalib's tables, errors below `floor`
    (degrees) count alike, so "auc1" is the recall at 1; floor = 0 is the plain curve. NaN counts as never found.
    """
    if not len(errors):
        return {f"auc{t:g}": math.nan for t in at}
    errors = np.sort(np.where(np.isnan(errors), np.inf, errors))
    below = np.searchsorted(errors, floor, "right")
    recall = np.arange(below, len(errors) + 1) / len(errors)
    x, y = np.concatenate([[0, floor], errors[below:]]), np.concatenate([recall[:1], recall])
    areas = {}
    for t in at:
        k = np.searchsorted(x, t, "right")
        areas[f"auc{t:g}"] = 100 * float(np.trapezoid(np.append(y[:k], y[k - 1]), np.append(x[:k], t))) / t
    return areas


# ---------------------------------------------------------------- means


def _mean(x: np.ndarray) -> float:
    return float(np.mean(x)) if len(x) else math.nan


def _rms(x: np.ndarray) -> float:
    return math.sqrt(_mean(np.square(x)))


def _known_mean(x: Sequence[float]) -> float:
    return _mean(np.array([value for value in x if not math.isnan(value)]))


def _flattened(pairs: Iterable[Pair]) -> tuple[Vector, Vector]:
    pairs = list(pairs)
    if not any(len(g) for _, g in pairs):
        raise ValueError("no pixel with true depth to align to")
    return np.concatenate([p for p, _ in pairs]), np.concatenate([g for _, g in pairs])


def _travelled(poses: Float64[np.ndarray, "N 4 4"]) -> Float64[np.ndarray, " N"]:
    """Length of the path up to every pose."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=-1))])
