"""Maps as pictures: depth and flow in colours, and the frames of the preview. Arrays in, uint8 RGB out; no files."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8, UInt32

WIDEST = 1920  # px, of the whole preview
# Hue circle of Baker et al., "A Database and Evaluation Methodology for Optical Flow" (IJCV 2011): between these six
# corners the colour runs linearly, in as many steps as the eye tells apart there; 55 in all.
CORNERS = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255))
STEPS = (15, 6, 4, 11, 13, 6)


@dataclass(frozen=True)
class Range:
    """Fixed limits for the colours of a whole clip."""

    near: float  # depth shown brightest
    far: float  # depth shown darkest
    flow: float  # px, length of the flow vector shown at full saturation


def color_range(depth: Shaped[np.ndarray, "..."], flow: Shaped[np.ndarray, "..."]) -> Range:
    """Limits from depths and flow lengths sampled over the clip: percentiles 2 and 98 of 1 / depth, 98 of flow.

    The far end has some room, so that a wall that fills half of the picture is not drawn black.
    """
    depth = depth[np.isfinite(depth) & (depth > 0)]
    flow = flow[np.isfinite(flow)]
    far, near = 1 / np.percentile(1 / depth, [2, 98]) if depth.size else (1.0, 1.0)
    radius = np.percentile(flow, 98) if flow.size else 1.0
    return Range(float(near), float(1.5 * far), float(max(radius, 1.0)))


def color_wheel() -> UInt8[np.ndarray, "55 3"]:
    """The Middlebury hue circle, starting at red."""
    arcs = []
    for start, end, steps in zip(CORNERS, CORNERS[1:] + CORNERS[:1], STEPS, strict=True):
        ramp = np.floor(255 * np.arange(steps) / steps)[:, None]
        arcs.append(np.array(start) + ramp * np.sign(np.array(end) - np.array(start)))
    return np.concatenate(arcs).astype(np.uint8)


SHADES = 32  # hues between two of the wheel's colours, which is finer than 8 bits
LEVELS = 256  # of saturation; one more is what lies out of range


@cache
def shades() -> UInt32[np.ndarray, "colors"]:
    """The circle's colours, SHADES as many and the first one again, by saturation: bytes R, G, B, 0."""
    wheel = color_wheel().astype(np.float32) / 255
    # the published code spreads the turn over 54 steps and leaves a seam at the right; over 55 the circle closes
    at = np.arange(len(wheel) * SHADES + 1) / SHADES
    low, share = at.astype(np.int64), (at % 1)[:, None].astype(np.float32)
    hue = (wheel[low % len(wheel)] * (1 - share) + wheel[(low + 1) % len(wheel)] * share)[:, None]
    saturation = np.linspace(0, 1, LEVELS, dtype=np.float32)[:, None]
    colors = (255 * np.concatenate([1 - saturation * (1 - hue), 0.75 * hue], 1)).astype(np.uint8)
    return np.pad(colors, ((0, 0), (0, 0), (0, 1))).view(np.uint32).ravel()


def flow_colors(flow: Float[np.ndarray, "2 H W"], radius: float) -> UInt8[np.ndarray, "H W 3"]:
    """Hue = direction, saturation = length / radius; white rests, darker colours are out of range, black is unknown.

    Motion to the right is red, down yellow, left cyan, up violet (the published convention).
    """
    known = np.isfinite(flow).all(0)
    u, v = flow.astype(np.float32) if known.all() else np.where(known, flow, 0).astype(np.float32)
    colors, hues = shades(), sum(STEPS) * SHADES
    length = np.minimum(cv2.magnitude(u, v), np.float32(2 * radius))
    level = np.minimum(cv2.multiply(length, (LEVELS - 1) / radius, dtype=cv2.CV_16U), LEVELS)
    hue = cv2.multiply(cv2.phase(u, v), hues / (2 * np.pi), dtype=cv2.CV_16U)
    at = cv2.addWeighted(hue, LEVELS + 1, level, 1, 0, dtype=cv2.CV_32S)
    picture = cv2.cvtColor(colors.take(at).view(np.uint8).reshape(*at.shape, 4), cv2.COLOR_BGRA2BGR)
    picture[~known] = 0
    return picture


def depth_colors(depth: Float[np.ndarray, "H W"], near: float, far: float) -> UInt8[np.ndarray, "H W 3"]:
    """Inverse depth on OpenCV's inferno map: near bright, far dark, black where nothing is said."""
    said = depth > 0
    inverse = 1 / np.where(said, depth, far).astype(np.float32)
    level = ((inverse - 1 / far) / (1 / near - 1 / far)).clip(0, 1) * 255
    colors = cv2.cvtColor(cv2.applyColorMap(np.rint(level).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    colors[~said] = 0
    return colors


def panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Even width and height of one of three panels side by side, together at most 1920 px wide; never enlarged."""
    width = min(size[0], WIDEST // 3)
    height = size[1] * width / size[0]
    return max(2, 2 * (width // 2)), max(2, 2 * round(height / 2))


def preview_frame(
    image: UInt8[np.ndarray, "H W 3"],
    depth: Float[np.ndarray, "H W"],
    flow: Float[np.ndarray, "2 H W"] | None,
    limits: Range,
) -> UInt8[np.ndarray, "h w 3"]:
    """Frame | depth | flow side by side; the flow panel is black where no flow leaves the frame."""
    size = panel_size((image.shape[1], image.shape[0]))
    panels = [image, depth_colors(depth, limits.near, limits.far)]
    panels.append(np.zeros_like(image) if flow is None else flow_colors(flow, limits.flow))
    if size != panels[0].shape[1::-1]:
        panels = [cv2.resize(np.ascontiguousarray(p), size, interpolation=cv2.INTER_AREA) for p in panels]
    return np.hstack(panels)
