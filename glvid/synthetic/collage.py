"""Collages: photos cut into pieces that slide over one another between two frames, with exact flow. They look like
nothing, cost a hundredth of a rendered world, and teach matching: any texture, any motion, any edge (FlyingChairs,
Dosovitskiy et al. 2015; AutoFlow, Sun et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from glvid.synthetic.surfaces import PAINTERS

Random = np.random.Generator
Photo = UInt8[np.ndarray, "_h _w 3"]

PAINTED = 240  # painted surfaces to choose from, where there are no photos
WIDE = 0.2  # of the width: how far things move, at most usually
BENT = 4.0  # px at a width of 384: bending of a piece, beside its motion as a plane


@dataclass(frozen=True)
class Collage:
    """Two frames, and flow (px) from the first to the second with where its target is seen there (0 or 1)."""

    a: UInt8[np.ndarray, "h w 3"]
    b: UInt8[np.ndarray, "h w 3"]
    flow: Float32[np.ndarray, "h w 2"]
    visible: UInt8[np.ndarray, "h w"]


@dataclass(frozen=True)
class Piece:
    """A cut-out as it lies in the first frame before it is bent: colours and cover of a box, and its motion."""

    colours: UInt8[np.ndarray, "h w 3"]
    cover: UInt8[np.ndarray, "h w"] | None  # 255 where it is; None: everywhere and beyond
    corner: tuple[int, int]  # of the box
    motion: np.ndarray  # 3x3, first frame to second
    bend: float  # px


@lru_cache(maxsize=4)
def photos(folder: Path | None) -> tuple[Photo, ...]:
    """Photos of a folder (searched deeply) at most 640 px long, or painted surfaces where none is given."""
    if folder is None:
        rng, painters, found = np.random.default_rng(0), tuple(PAINTERS.values()), []
        for k in range(PAINTED):
            painted = painters[k % len(painters)](rng).clamp(0, 1)
            found.append((painted.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
        return tuple(found)
    found = []
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is not None and min(image.shape[:2]) >= 64:
            scale = min(1.0, 640 / max(image.shape[:2]))
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
            found.append(np.ascontiguousarray(image[..., ::-1]))
    return tuple(found) or photos(None)


def collage(rng: Random, size: tuple[int, int], textures: Sequence[Photo]) -> Collage:
    """A pair of `size` (w, h): a background and pieces of it, as many as there are in a usual picture."""
    w, h = size
    unit = w / 384
    camera = motion(rng, (w / 2, h / 2), unit, unit * np.exp(rng.uniform(np.log(0.3), np.log(WIDE * 384 / 2))))
    pieces = [Piece(surface(rng, size, textures), None, (0, 0), camera, bending(rng, unit))]
    for _ in range(int(rng.integers(2, 13))):
        pieces.append(piece(rng, size, textures, camera))
    blur = int(rng.uniform(3, 12) * unit) if rng.random() < 0.25 else 0
    return composed(rng, [streaked(p, blur) for p in pieces] if blur > 1 else pieces, size)


def bending(rng: Random, unit: float) -> float:
    """How far a piece bends, px: often not at all."""
    return 0.0 if rng.random() < 0.4 else unit * BENT * rng.random() ** 2


def motion(rng: Random, about: tuple[float, float], unit: float, far: float) -> np.ndarray:
    """A homography near a shift of about `far` px: turning, zooming, shearing and tilting as much as that."""
    angle = rng.uniform(0, 2 * np.pi)
    turn, zoom = rng.normal(0, min(0.25, 0.004 * far / unit)), np.exp(rng.normal(0, min(0.2, 0.003 * far / unit)))
    linear = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = linear + rng.normal(0, min(0.1, 0.001 * far / unit), (2, 2))
    out, there = np.eye(3), np.eye(3)
    out[:2, :2], there[:2, 2] = linear, about
    out[2, :2] = rng.normal(0, min(1.5e-4, 6e-6 * far / unit) / unit, 2) * (rng.random() < 0.5)
    shift = np.eye(3)
    shift[:2, 2] = far * np.abs(rng.normal(1, 0.3)) * np.array([np.cos(angle), 0.7 * np.sin(angle)])
    return shift @ there @ out @ np.linalg.inv(there)


def surface(rng: Random, size: tuple[int, int], textures: Sequence[Photo]) -> UInt8[np.ndarray, "h w 3"]:
    """Part of a photo, turned and zoomed, mirrored beyond its borders; sometimes of hardly any contrast."""
    photo = textures[int(rng.integers(len(textures)))]
    w, h = size
    zoom = np.exp(rng.uniform(-0.7, 0.6)) * max(w / photo.shape[1], h / photo.shape[0]) ** rng.uniform(0, 1)
    photo = cv2.resize(photo, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA) if zoom < 0.7 else photo
    zoom = 1.0 if zoom < 0.7 else zoom
    angle = rng.normal(0, 0.3) if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    inverse = np.column_stack([linear, rng.uniform(0, 1, 2) * [photo.shape[1], photo.shape[0]]])
    if rng.random() < 0.5:
        inverse[:, 0] *= -1
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out = cv2.warpAffine(photo, inverse, size, flags=how, borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.15:
        mean = out.mean((0, 1))
        out = (mean + rng.uniform(0, 0.3) * (out - mean)).astype(np.uint8)
    return out


def piece(rng: Random, size: tuple[int, int], textures: Sequence[Photo], camera: np.ndarray) -> Piece:
    """A cut-out anywhere in the picture, moving with the background and as much again on its own."""
    w, h = size
    unit = w / 384
    radius = unit * np.exp(rng.uniform(np.log(8), np.log(110)))
    box = tuple(int(2 * radius * np.exp(rng.normal(0, 0.3))) + 6 for _ in range(2))
    middle = rng.uniform(-0.05, 1.05, 2) * size
    far = unit * np.exp(rng.uniform(np.log(0.3), np.log(WIDE * 384)))
    own = motion(rng, tuple(middle), unit, far) if rng.random() < 0.85 else np.eye(3)
    corner = (int(middle[0] - box[0] / 2), int(middle[1] - box[1] / 2))
    with_camera = camera if rng.random() < 0.6 else np.eye(3)
    return Piece(surface(rng, box, textures), outline(rng, box), corner, with_camera @ own, bending(rng, unit))


def outline(rng: Random, box: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """What is cut out of a box (w, h): a smooth blob, a polygon, bars, leaves, or the whole; 0 on its border."""
    w, h = box
    kind, mask = rng.choice(5, p=[0.35, 0.25, 0.15, 0.15, 0.1]), np.zeros((h, w), np.uint8)
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    if kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
    if kind < 2:
        waves = sum(rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 6)) for k in range(1, 6))
        reach = np.clip(0.75 + waves, 0.15, 1) if kind == 0 else rng.uniform(0.5, 1, len(angles))
        xy = np.stack([w / 2 + (w / 2 - 2) * reach * np.cos(angles), h / 2 + (h / 2 - 2) * reach * np.sin(angles)], 1)
        cv2.fillPoly(mask, [(xy * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    elif kind == 2:
        for _ in range(int(rng.integers(1, 5))):
            ends = (rng.uniform(0.05, 0.95, (2, 2)) * box).astype(int)
            thick = max(1, int(rng.uniform(0.01, 0.12) * min(box)))
            cv2.line(mask, tuple(map(int, ends[0])), tuple(map(int, ends[1])), 255, thick, cv2.LINE_AA)
    elif kind == 3:
        cells = rng.standard_normal((max(2, h // int(rng.integers(6, 20))), max(2, w // int(rng.integers(6, 20)))))
        mask = (cv2.resize(cells, box, interpolation=cv2.INTER_CUBIC) * 512).clip(0, 255).astype(np.uint8)
    else:
        mask[:] = 255
    mask[[0, -1]], mask[:, [0, -1]] = 0, 0
    return mask


def streaked(p: Piece, longest: int) -> Piece:
    """A piece blurred along its motion, both frames alike, by half of it but no more than `longest` px."""
    h, w = p.colours.shape[:2]
    here = np.array([p.corner[0] + w / 2, p.corner[1] + h / 2, 1.0])
    there = p.motion @ here
    step = there[:2] / there[2] - here[:2]
    length = float(np.hypot(*step))
    n = min(longest, int(length / 2))
    if n < 2:
        return p
    kernel, middle = np.zeros((n + 2, n + 2), np.float32), (n + 1) / 2
    ends = [tuple(int(16 * (middle + s * n / 2 * x / length)) for x in step) for s in (-1, 1)]
    cv2.line(kernel, *ends, 1.0, 1, cv2.LINE_8, 4)
    kernel /= kernel.sum()
    colours = cv2.filter2D(p.colours, -1, kernel, borderType=cv2.BORDER_REFLECT)
    cover = None if p.cover is None else cv2.filter2D(p.cover, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    return Piece(colours, cover, p.corner, p.motion, p.bend)


def composed(rng: Random, pieces: Sequence[Piece], size: tuple[int, int]) -> Collage:
    """The pieces one over another in both frames. A pixel belongs to the topmost piece that covers half of it."""
    w, h = size
    a, b = (np.zeros((h, w, 3), np.uint8) for _ in range(2))
    owner_a, owner_b = (np.zeros((h, w), np.float32) for _ in range(2))
    flow = np.zeros((h, w, 2), np.float32)
    for k, p in enumerate(pieces):
        bent = bend(rng, p)
        box = meeting(p, np.eye(3), size, int(p.bend) + 2)
        if box is not None:
            x, y = grid(box)
            if bent is not None:
                fx, fy = (cv2.remap(d, x - p.corner[0] - 0.5, y - p.corner[1] - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for d in bent)  # fmt: skip # noqa: E501
            else:
                fx = fy = np.zeros_like(x)
            over = laid(p, a, owner_a, box, x + fx, y + fy, k)
            u, v = moved(p.motion, x + fx, y + fy)
            part = flow[box[1] : box[3], box[0] : box[2]]
            part[over] = np.stack([u - x, v - y], -1)[over]
        box = meeting(p, p.motion, size, 2)
        if box is not None:
            laid(p, b, owner_b, box, *moved(np.linalg.inv(p.motion), *grid(box)), k)
    x, y = grid((0, 0, w, h))
    there = cv2.remap(owner_b, x + flow[..., 0] - 0.5, y + flow[..., 1] - 0.5, cv2.INTER_NEAREST, borderValue=-1)
    return Collage(a, b, flow, (there == owner_a).astype(np.uint8))


def grid(box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres x, y of a box (x0, y0, x1, y1)."""
    x, y = np.arange(box[0], box[2], dtype=np.float32) + 0.5, np.arange(box[1], box[3], dtype=np.float32) + 0.5
    return np.meshgrid(x, y)


def moved(motion: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions under a homography."""
    m = motion.astype(np.float32)
    z = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    return (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / z, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / z


def meeting(p: Piece, motion: np.ndarray, size: tuple[int, int], margin: int) -> tuple[int, int, int, int] | None:
    """The box of pixels that a piece may cover after a motion; None where it is outside."""
    if p.cover is None:
        return (0, 0, *size)
    h, w = p.cover.shape
    x, y = np.array([0, w, 0, w]) + p.corner[0], np.array([0, 0, h, h]) + p.corner[1]
    u, v = moved(motion, x.astype(np.float32), y.astype(np.float32))
    x0, y0 = max(0, int(u.min()) - margin), max(0, int(v.min()) - margin)
    x1, y1 = min(size[0], int(u.max()) + margin + 1), min(size[1], int(v.max()) + margin + 1)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def bend(rng: Random, p: Piece) -> tuple[np.ndarray, np.ndarray] | None:
    """Smooth shifts x, y (px) over a piece's box."""
    if p.bend < 0.1:
        return None
    h, w = p.colours.shape[:2]
    n = int(rng.integers(2, 6))
    cells = rng.standard_normal((2, n, n)).astype(np.float32) * p.bend / 2
    return tuple(cv2.resize(c, (w, h), interpolation=cv2.INTER_CUBIC) for c in cells)


def laid(
    p: Piece,
    picture: np.ndarray,
    owner: np.ndarray,
    box: tuple[int, int, int, int],
    x: np.ndarray,
    y: np.ndarray,
    k: int,
) -> np.ndarray:
    """Lay piece k, looked up at x, y, over a picture within a box; returns where it owns the pixels."""
    x, y = x - p.corner[0] - 0.5, y - p.corner[1] - 0.5
    part = picture[box[1] : box[3], box[0] : box[2]]
    colours = cv2.remap(p.colours, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    if p.cover is None:
        part[:] = colours
        owner[:] = k
        return np.ones(part.shape[:2], bool)
    cover = cv2.remap(p.cover, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    share = cover[..., None].astype(np.uint16)
    part[:] = ((part * (255 - share) + colours * share + 127) // 255).astype(np.uint8)
    over = cover > 127
    owner[box[1] : box[3], box[0] : box[2]][over] = k
    return over
