"""What the page asks for, as bytes: facts as JSON, maps as pictures, the cloud as numbers. Knows nothing of HTTP."""

import json
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int, Shaped, UInt8

from glvid import formats
from glvid.colors import Range, color_range, flow_colors
from glvid.errors import GlvidError, InputError, OutputError
from glvid.exports.cloud import chosen, fuse_with_first, longest_shot
from glvid.exports.ply import Cloud
from glvid.parallel import each
from glvid.results import KINDS, Row, RunFolder

LONGEST = 640  # px, long side of the pictures sent: scrubbing is to be smooth through a tunnel too
POINTS = 400_000  # of the cloud, 6 MB
VIEWS, SAMPLES = 20, 60_000  # of them: what the eye needs, in a second or two
SAMPLED = 8, 4  # depth and flow maps looked at for the limits of the colours
MOVING = 0.5  # probability from which on a pixel counts as moving


def sent_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the pictures sent for maps of `size`; never enlarged."""
    ratio = min(1.0, LONGEST / max(size))
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def nearest(array: Shaped[np.ndarray, "H W *C"], size: tuple[int, int]) -> Shaped[np.ndarray, "h w *C"]:
    """The pixels in which the centres of a coarser grid of `size` lie: values are stored ones, never mixed."""
    h, w = array.shape[:2]
    x = ((np.arange(size[0]) + 0.5) * (w / size[0])).astype(np.int64)
    y = ((np.arange(size[1]) + 0.5) * (h / size[1])).astype(np.int64)
    return array[y[:, None], x]


# ---------------------------------------------------------------- maps


def depth_png(run: RunFolder, row: Row) -> bytes:
    """PNG whose red and green are the high and low byte of the stored 16-bit depth and whose blue is the mask.

    0 where the run holds no depth, or no mask. Depth is counted in steps of run.json's depth.scale.
    """
    w, h = size = sent_size(run.size)
    picture = np.zeros((h, w, 3), np.uint8)
    if row.depth:
        steps = np.nan_to_num(nearest(run.depth(row), size) / run.info["depth"]["scale"])
        steps = np.rint(steps).astype(np.uint16)
        picture[..., 0], picture[..., 1] = steps >> 8, steps & 255
    if row.mask:
        picture[..., 2] = np.rint(nearest(run.mask(row), size) * 255)
    return formats.png_of(picture)


def flow_png(run: RunFolder, row: Row, limits: Range) -> bytes:
    """The flow in the colours of the Middlebury circle, full at `limits.flow` px of the stored map."""
    flow = nearest(run.flow(row).transpose(1, 2, 0), sent_size(run.size)).transpose(2, 0, 1)
    return formats.png_of(flow_colors(flow, limits.flow))


def image_jpg(run: RunFolder, row: Row) -> bytes:
    """The frame, as stored where it is small enough."""
    image, size = run.image(row), sent_size(run.size)  # read in any case: what is damaged is to be said
    if size == run.size:
        return run.bytes_of(row, "image")
    return _encoded(".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA)[..., ::-1], _JPEG)


_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 88]


def _encoded(suffix: str, picture: UInt8[np.ndarray, "h w 3"], flags: list[int]) -> bytes:
    ok, data = cv2.imencode(suffix, np.ascontiguousarray(picture), flags)
    if not ok:
        raise OutputError(f"{suffix}: OpenCV cannot encode a picture of shape {picture.shape}")
    return data.tobytes()


# ---------------------------------------------------------------- cloud


def cloud_bytes(cloud: Cloud, first: Int[np.ndarray, " M"], rows: int) -> bytes:
    """Little endian: uint32 M and R; uint32 R numbers of points seen up to and including each row; float32 M x 3
    positions; uint8 M x 3 colours. Points are in the order in which they were seen: the cloud grows at its end."""
    order = np.argsort(first, kind="stable")
    upto = np.searchsorted(first[order], np.arange(rows), "right")
    head = np.array([len(order), rows, *upto], "<u4")
    return head.tobytes() + cloud.points[order].astype("<f4").tobytes() + cloud.colors[order].tobytes()


def fused(run: RunFolder) -> bytes:
    """The cloud of the longest shot. Raises what `fuse` raises."""
    cloud, first = fuse_with_first(run, POINTS, VIEWS, SAMPLES)
    return cloud_bytes(cloud, first, len(run.rows))


# ---------------------------------------------------------------- facts


def limits_of(run: RunFolder) -> Range:
    """Limits of the colours, from a few maps spread over the run; a damaged map is passed over."""
    depth = _sampled(run, [k for k, row in enumerate(run.rows) if row.depth], SAMPLED[0], run.depth)
    flow = _sampled(run, [k for k, row in enumerate(run.rows) if row.flow], SAMPLED[1], run.flow)
    return color_range(depth, np.hypot(*flow.reshape(2, -1)) if flow.size else np.ones(1))


def _sampled(run: RunFolder, rows: list[int], count: int, read: Any) -> np.ndarray:
    """Every eighth pixel both ways of some of the rows: (..., values)."""

    def sample(k: int) -> np.ndarray | None:
        try:
            values = read(run.rows[k])[..., ::8, ::8]
        except InputError:
            return None
        return values.reshape(*values.shape[:-2], -1)

    parts = [part for part in each(sample, chosen(np.array(rows, np.int64), count).tolist()) if part is not None]
    return np.concatenate(parts, -1) if parts else np.empty(0, np.float32)


def facts(run: RunFolder, limits: Range) -> dict[str, Any]:
    """What the page knows of the run before it asks for maps. Poses are world_T_cam, 3 x 4, row by row."""
    (fx, fy), (cx, cy) = run.intrinsics.focal.tolist(), run.intrinsics.center.tolist()
    depth, longest = run.info["depth"], [run.rows[k] for k in longest_shot(run)]
    poses = run.trajectory().world_T_cam[:, :3].reshape(-1, 12)
    rows = [_row(row, pose) for row, pose in zip(run.rows, poses.tolist(), strict=True)]
    return {
        "title": str(run.info.get("input", {}).get("path", run.path.name)).replace("\\", "/").rsplit("/", 1)[-1],
        "status": run.info["status"],
        "warnings": run.info.get("warnings", []),
        "size": run.size,
        "sent": sent_size(run.size),
        "camera": {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "source": run.camera.get("source", "")},
        "depth": {"scale": depth["scale"], "unit": depth["unit"], "source": depth.get("scale_source", "")},
        "refine": run.info.get("refine", {}).get("mode", "none"),
        "limits": asdict(limits),
        "moving": MOVING,
        "stride": max(1, round((run.size[0] * run.size[1] / SAMPLES) ** 0.5)),  # px between the cloud's samples
        "cloud": longest[0].shot if all(row.depth for row in longest) else None,  # the shot whose cloud there is
        "palette": palette(),
        "rows": rows,
    }


def _row(row: Row, pose: list[float]) -> dict[str, Any]:
    """`maps` holds the first letters of what is stored."""
    maps = "".join(kind[0] for kind in KINDS if getattr(row, kind))
    return {
        "index": row.index,
        "time": round(row.time_s, 6),
        "name": row.name,
        "shot": row.shot,
        "maps": maps,
        "pose": [float(f"{value:.7g}") for value in pose],
    }


def facts_json(run: RunFolder, limits: Range) -> bytes:
    """`facts` as compact JSON."""
    return json.dumps(facts(run, limits), separators=(",", ":"), allow_nan=False).encode()


def palette() -> str:
    """The 256 colours of depth, far to near, as hexadecimal digits: the page has the preview's colours."""
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(ramp[:, 0, ::-1]).tobytes().hex()


def reason(error: Exception) -> str:
    """One line on what went wrong."""
    known = isinstance(error, GlvidError)
    return " ".join((str(error) if known else f"internal error: {type(error).__name__}: {error}").split())
