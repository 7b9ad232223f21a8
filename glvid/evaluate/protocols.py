"""The protocols of the literature, by name, on one run and what is known of its clip: numbers, and a row per frame."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from glvid.evaluate import metrics
from glvid.evaluate.truth import Judged, depth_pairs, measured_depth, path_pair, posed, scanned_depth
from glvid.results import Row, RunFolder
from glvid.types import Recording

INDOOR, OUTDOOR, SINTEL = 10.0, 80.0, 70.0  # m: true depth beyond does not count
FAR_INDOOR = 70.0  # m: the same in protocol A of video depth, which takes all of KITTI


@dataclass(frozen=True)
class Scores:
    """Numbers of a clip, and one row per frame for a table; `weight`: of the clip in a mean over clips."""

    summary: dict[str, float]
    rows: tuple[dict[str, Any], ...] = ()
    weight: float = 1.0


def outdoors(recording: Recording) -> bool:
    return recording.kind.startswith("KITTI")


def cap_of(recording: Recording) -> float:
    """KITTI's depth counts up to 80 m, Sintel's up to 70 m, that of the rooms of TUM and Bonn up to 10 m."""
    return OUTDOOR if outdoors(recording) else SINTEL if recording.kind == "Sintel" else INDOOR


# --- depth ------------------------------------------------------------------------------------------------------------


def kitti_eigen(case: Judged, frames: set[int] | None = None) -> Scores:
    """Eigen split with Garg's crop, raw LiDAR below 80 m, median scaling per frame (Monodepth2's evaluate_depth).

    Where a frame has no scan, its projected depth map stands in, if there is one.
    """

    kinds = []  # of every map, in order

    def truth(recording: Recording, n: int):
        scan = scanned_depth(recording, n)
        found = measured_depth(recording, n) if scan is None else scan
        if found is not None:
            kinds.append("projected" if scan is None else "scan")
        return found

    found = _depth(case, truth, metrics.NEAREST, OUTDOOR, True, frames)
    rows = tuple(row | {"truth": kind} for row, kind in zip(found.rows, kinds, strict=True))
    return Scores(found.summary, rows, found.weight)


def kitti_improved(case: Judged, frames: set[int] | None = None) -> Scores:
    """As `kitti_eigen`, against KITTI's depth maps of several scans, without a crop."""
    return _depth(case, measured_depth, metrics.NEAREST, OUTDOOR, False, frames)


def sensor_depth(case: Judged) -> Scores:
    """Depth against a depth camera, 0.1 to 10 m, median scaling per frame."""
    return _depth(case, measured_depth, 0.1, INDOOR, False, None)


def _depth(case: Judged, truth: Callable, low: float, cap: float, crop: bool, frames: set[int] | None) -> Scores:
    found = list(depth_pairs(case, truth, low, cap, crop, frames))
    rows = metrics.per_frame_scaled([(p, g) for _, p, g in found], low, cap)
    named = tuple({"frame": label(row)} | scores for (row, _, _), scores in zip(found, rows, strict=True))
    summary = metrics.mean_over_frames(rows)
    return Scores(summary, named, summary["frames"])


def video_depth(case: Judged) -> Scores:
    """Protocol A (MonST3R, CUT3R: one scale, or scale and shift, of the whole sequence by least absolute errors) and B
    (Video Depth Anything: scale and shift of disparity by least squares), in keys that begin with a_ and b_."""
    farthest = np.inf if outdoors(case.recording) else FAR_INDOOR
    whole = [(p, g) for _, p, g in depth_pairs(case, measured_depth, metrics.NEAREST, farthest, cubic=True)]
    cap = cap_of(case.recording)
    found = list(depth_pairs(case, measured_depth, metrics.NEAREST, cap))
    pairs = [(p, g) for _, p, g in found]
    if not sum(len(g) for _, g in pairs):
        return Scores({}, weight=0)
    clipped = SINTEL if case.recording.kind == "Sintel" else np.inf
    a, both = (metrics.sequence_aligned(whole, align, clipped) for align in ("scale", "scale_shift"))
    b = metrics.disparity_aligned(pairs, cap)
    summary = {f"a_scale_{k}": a[k] for k in metrics.DEPTH} | {f"a_shift_{k}": both[k] for k in metrics.DEPTH}
    summary |= {f"b_{k}": b[k] for k in metrics.DEPTH} | {"frames": len(pairs)}
    return Scores(summary, tuple(video_rows(found, cap)), a["pixels"])


def video_rows(found: list[tuple[Row, np.ndarray, np.ndarray]], cap: float) -> Iterator[dict[str, Any]]:
    """Of every frame, its Abs Rel under protocol B's one scale and shift of the whole clip."""
    scale, shift = metrics.disparity_scale_shift([(p, g) for _, p, g in found])
    for row, p, g in found:
        if len(g):
            error = np.abs(metrics.through_disparity(p, scale, shift, cap) - g) / g
            yield {"frame": label(row), "of": len(g), "frame_abs_rel": float(error.mean())}


# --- path and camera --------------------------------------------------------------------------------------------------


def path(case: Judged) -> Scores:
    """ATE and RPE over one frame, after a similarity (evo's)."""
    said, true = path_pair(case)
    names = [label(row) for row, kept in zip(case.run.rows, posed(case), strict=True) if kept]
    rows = tuple({"frame": n} | r for n, r in zip(names, metrics.along_path(said, true), strict=True))
    return Scores(metrics.ate(said, true) | metrics.rpe(said, true) | {"poses": len(said)}, rows)


def label(row: Row) -> str:
    """What a frame is called in a table: its picture's name, in a video its number."""
    return row.name or str(row.index)


def kitti_odometry(case: Judged) -> Scores:
    """t_rel and r_rel over 100 to 800 m, ATE, RPE, and the ATE of five frames that earlier papers give."""
    said, true = path_pair(case)
    segments = metrics.kitti_segments(said, true, align="7dof")
    found = path(case)
    return Scores(found.summary | segments | metrics.five_frame_ate(said, true), found.rows)


def intrinsics(case: Judged) -> Scores:
    """Focal length (in %) and field of view (degrees), and whether the clip determines them."""
    known = case.recording.camera
    if known is None:
        return Scores({}, weight=0)
    camera = case.run.camera
    known = known.resized((camera["width"], camera["height"]))
    true = tuple(float(x) for x in known.focal)
    field_of_view = metrics.fov_error((camera["fx"], camera["fy"]), true, known.size)
    summary = {"focal_percent": metrics.focal_error(camera["fx"], true[0])} | field_of_view
    found = summary | {"observable": float(camera["observable"])}
    return Scores(found, ({"frame": "all", **found},))  # one camera for all frames


def tum(case: Judged) -> Scores:
    """Path, and depth and camera where they are known."""
    summary, rows = {}, ()
    if any(case.recording.depth):
        depth = sensor_depth(case)
        summary, rows = summary | depth.summary, depth.rows
    if case.recording.poses is not None:
        found = path(case)
        summary |= found.summary
        at = {row["frame"]: row for row in found.rows}
        rows = tuple(row | at.pop(row["frame"], {}) for row in rows) + tuple(at.values())
    return Scores(summary | intrinsics(case).summary, rows)


# --- consistency over time --------------------------------------------------------------------------------------------


def consistency(run: RunFolder, case: Judged | None = None) -> Scores:
    """OPW, from the run alone; TAE too where true path and depth are known.

    OPW is of depth over its median, so that it has no unit.
    """
    pairs = _opw(run)
    summary = {"opw": float(np.mean([row["frame_opw"] for row in pairs]))} if pairs else {}
    known = case.recording if case is not None else None
    if known is not None and known.poses is not None and known.camera is not None and any(known.depth):
        summary |= {"tae_percent": _tae(case)}
    return Scores(summary, tuple(pairs))


def _opw(run: RunFolder) -> list[dict[str, Any]]:
    """Pair by pair, so that a long run fits in memory: a row for every frame that has flow."""
    errors = []
    middle = float(np.median([np.nanmedian(run.depth(row)) for row in run.rows[:: max(1, len(run.rows) // 16)]]))
    for here, there in zip(run.rows[:-1], run.rows[1:], strict=True):
        if not here.flow:
            continue
        depths = np.stack([run.depth(row) / middle for row in (here, there)])
        images = np.stack([run.image(row).transpose(2, 0, 1) / 255.0 for row in (here, there)])
        errors.append({"frame": label(here), "frame_opw": metrics.opw(depths, images, run.flow(here)[None])})
    return errors


def _tae(case: Judged) -> float:
    """After protocol B's alignment, at the size of the truth."""
    cap = cap_of(case.recording)
    found = [(row, n) for row, n in zip(case.run.rows, case.at, strict=True) if case.recording.depth[n] is not None]
    posed = [(row, n) for row, n in found if np.isfinite(case.recording.poses[n]).all()]
    pairs = [(p, g) for _, p, g in depth_pairs(case, measured_depth, metrics.NEAREST, cap)]
    if not sum(len(g) for _, g in pairs):
        return float("nan")
    scale, shift = metrics.disparity_scale_shift(pairs)
    errors = []
    for (here, i), (there, j) in zip(posed[:-1], posed[1:], strict=True):
        maps = []
        for row, n in ((here, i), (there, j)):
            h, w = measured_depth(case.recording, n).shape
            said = metrics.resized_as_disparity(case.run.depth(row), (w, h))
            maps.append(metrics.through_disparity(said, scale, shift, cap))
        camera = case.recording.camera.resized((w, h))
        errors.append(metrics.tae(np.stack(maps), case.recording.poses[[i, j]], camera))
    return float(np.mean(errors)) if errors else float("nan")


def has_depth(recording: Recording) -> bool:
    return any(recording.depth) or any(recording.lidar)


def has_maps(recording: Recording) -> bool:
    return any(recording.depth)


def has_path(recording: Recording) -> bool:
    return recording.poses is not None and int(np.isfinite(recording.poses).all((1, 2)).sum()) > 1


def has_camera(recording: Recording) -> bool:
    return recording.camera is not None


def has_any(recording: Recording) -> bool:
    return has_maps(recording) or has_path(recording) or has_camera(recording)


def needs_nothing(recording: Recording) -> bool:
    return True


@dataclass(frozen=True)
class Protocol:
    """A protocol: what its table says, how a case is scored, what a recording must know for it, of which kinds.

    kinds: none means all. shown: the columns of its table.
    """

    name: str
    head: str
    score: Callable[[Judged], Scores]
    needs: Callable[[Recording], bool]
    kinds: tuple[str, ...] = ()
    shown: tuple[str, ...] = metrics.DEPTH[:5]

    def fits(self, recording: Recording) -> bool:
        """Is there anything to measure on this recording?"""
        return (not self.kinds or recording.kind in self.kinds) and self.needs(recording)


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("kitti-eigen", "KITTI Eigen, raw LiDAR, Garg crop, 80 m, median scaling", kitti_eigen,
                 has_depth, ("KITTI raw",)),
        Protocol("kitti-improved", "KITTI Eigen, improved depth, 80 m, median scaling", kitti_improved,
                 has_maps, ("KITTI raw",)),
        Protocol("kitti-odometry", "KITTI odometry, similarity (7 DoF) alignment", kitti_odometry,
                 has_path, ("KITTI odometry",), ("t_rel", "r_rel", "ate_m", "ate_percent", "ate5", "ate5_std")),
        Protocol("tum", "TUM RGB-D: path after a similarity, depth with median scaling to 10 m", tum,
                 has_any, ("TUM RGB-D",),
                 ("abs_rel", "d1", "ate_m", "ate_percent", "rpe_trans_m", "rpe_rot_deg", "focal_percent")),
        Protocol("video-depth", "video depth, protocols A (scale; scale and shift) and B (disparity)", video_depth,
                 has_maps, (), ("a_scale_abs_rel", "a_scale_d1", "a_shift_abs_rel", "b_abs_rel", "b_d1")),
        Protocol("consistency", "temporal consistency: OPW, and TAE where path and depth are known",
                 lambda case: consistency(case.run, case), needs_nothing, (), ("opw", "tae_percent")),
        Protocol("intrinsics", "focal length and field of view: medians over clips, AUC of the field of view",
                 intrinsics, has_camera, (), ("focal_percent", "hfov", "vfov", "auc1", "auc5", "auc10", "observable")),
    )
}  # fmt: skip

COUNTS = ("frames", "poses", "segments", "pixels")


def overall(protocol: Protocol, scores: list[Scores]) -> dict[str, float]:
    """A protocol's numbers over clips.

    Depth with a scale per frame: means over all frames. Intrinsics: medians, and the AUC of the horizontal field of
    view at 1, 5 and 10 degrees (GeoCalib). Video depth: A weighted by pixels, B a mean over clips. Else means over
    clips. NaN does not count; counts are added up.
    """
    rows = [row for s in scores for row in s.rows if "ratio" in row]
    pooled = metrics.mean_over_frames(rows) if rows else {}
    out: dict[str, float] = {}
    for key in dict.fromkeys(key for s in scores for key in s.summary):
        known = [(s.summary[key], s.weight) for s in scores if np.isfinite(s.summary.get(key, np.nan))]
        values, weights = (np.array(x, float) for x in zip(*known, strict=True)) if known else (np.zeros(0),) * 2
        if key in pooled:
            out[key] = pooled[key]
        elif key in COUNTS:
            out[key] = float(values.sum())
        elif not known:
            out[key] = float("nan")
        elif protocol.name == "intrinsics" and key != "observable":
            out[key] = float(np.median(values))
        else:
            out[key] = float(np.average(values, weights=weights if key.startswith("a_") else None))
    if protocol.name == "intrinsics":
        out |= metrics.auc(np.array([s.summary["hfov"] for s in scores]))
    return out
