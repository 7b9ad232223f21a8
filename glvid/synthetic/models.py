"""Textured models (GLB files, and solids made here) as plain arrays, and their textures with mip levels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from glvid.errors import InputError

SIDE = 256  # texels along a texture
UP = np.diag([1.0, -1.0, -1.0]).astype(np.float32)  # GLB's y up, z backward to our y down, z forward
SIZES = {"barrel": 1.1, "grey_snapper": 0.5, "fuze": 0.12}  # m, the longest side of models whose file has no unit
LYING = ("fridge_body",)  # models whose z is up
LEAFY = ("oak_tree", "pine_tree")  # models whose textures are cut out; other clear texels are window panes
PANE = (38, 44, 50)

Numbers = Sequence[float] | np.ndarray
Corners = Float32[np.ndarray, "F 3 3"]


@dataclass(frozen=True)
class Model:
    """Triangles of a thing that stands on y = 0 (y down, so it is above: y < 0), its middle at x = z = 0; metres.

    `texture` numbers the `Paints` of every triangle, `tint` multiplies its colours.
    """

    corners: Corners
    uv: Float32[np.ndarray, "F 3 2"]  # 1 = once across the texture
    texture: Int32[np.ndarray, " F"]
    tint: Float32[np.ndarray, "F 3"]

    @property
    def size(self) -> np.ndarray:
        """Extent along x, y, z."""
        return np.ptp(self.corners.reshape(-1, 3), axis=0).astype(float)


def joined(parts: Sequence[Model]) -> Model:
    """Several models as one."""
    return Model(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("corners", "uv", "texture", "tint")))


def moved(model: Model, world_T_model: np.ndarray) -> Model:
    """A model elsewhere: a 4x4 matrix, scaled as may be."""
    m = world_T_model.astype(np.float32)
    return replace(model, corners=model.corners @ m[:3, :3].T + m[:3, 3])


def standing(model: Model) -> Model:
    """Moved so that it stands on y = 0, its middle at x = z = 0."""
    low, high = model.corners.min((0, 1)), model.corners.max((0, 1))
    shift = np.array([(low[0] + high[0]) / 2, high[1], (low[2] + high[2]) / 2], np.float32)
    return replace(model, corners=model.corners - shift)


# --- textures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paints:
    """N textures RGBA of 256 x 256 and their mip levels: level k is (N, 256 >> k, 256 >> k, 4); which have holes."""

    levels: tuple[UInt8[np.ndarray, "N _s _s 4"], ...]
    holed: Bool[np.ndarray, " N"]

    def looked_up(
        self, texture: Int32[np.ndarray, " P"], uv: Float32[np.ndarray, "P 2"], level: Float32[np.ndarray, " P"]
    ) -> Float32[np.ndarray, "P 4"]:
        """Bilinear values 0..1 at the nearest mip level; textures repeat."""
        out = np.empty((len(texture), 4), np.float32)
        which = np.clip(np.rint(level), 0, len(self.levels) - 1).astype(np.int8)
        for k, texels in enumerate(self.levels):
            at = np.flatnonzero(which == k)
            if len(at):
                out[at] = bilinear(texels, texture[at], uv[at])
        return out


def bilinear(texels: UInt8[np.ndarray, "N s s 4"], texture: np.ndarray, uv: np.ndarray) -> Float32[np.ndarray, "P 4"]:
    """Values 0..1 of repeating textures, v down."""
    side = texels.shape[1]
    xy = uv * np.float32(side) - np.float32(0.5)
    base = np.floor(xy)
    fx, fy = (xy - base).T[..., None]
    x0, y0 = (base.astype(np.int32) % side).T
    x1, y1 = (x0 + 1) % side, (y0 + 1) % side
    flat, n = texels.reshape(-1, 4), texture.astype(np.int64) * side
    a, b, c, d = (flat[(n + y) * side + x].astype(np.float32) for y, x in ((y0, x0), (y0, x1), (y1, x0), (y1, x1)))
    top, low = a + fx * (b - a), c + fx * (d - c)
    return (top + fy * (low - top)) * np.float32(1 / 255)


def mipped(images: Sequence[UInt8[np.ndarray, "_h _w _c"]]) -> Paints:
    """Images RGB or RGBA of any size as textures."""
    first = np.stack([rgba(image) for image in images])
    levels = [first]
    while levels[-1].shape[1] > 2:
        s = levels[-1].shape[1] // 2
        levels.append(np.stack([cv2.resize(x, (s, s), interpolation=cv2.INTER_AREA) for x in levels[-1]]))
    return Paints(tuple(levels), np.array([bool((x[..., 3] < 128).any()) for x in first]))


def rgba(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "_s _s 4"]:
    """An image as a texture. Where it is clear (alpha), its colour is the mean of the rest, for the sake of mips."""
    out = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if out.shape[2] == 3:
        return np.dstack([out, np.full((SIDE, SIDE), 255, np.uint8)])
    seen = out[..., 3] > 127
    mean = out[seen].mean(0)[:3] if seen.any() else np.full(3, 128.0)
    return np.dstack([np.where(seen[..., None], out[..., :3], mean.astype(np.uint8)), out[..., 3]])


# --- files -----------------------------------------------------------------------------------------------------------


def read_models(folder: Path, images: list[np.ndarray]) -> dict[str, Model]:
    """Every GLB file below a folder by its stem; their textures are appended to `images`, after a white one.

    Raises InputError where there is none.
    """
    import open3d  # heavy, and not needed by those who cast no meshes

    white, found = len(images), {}
    images.append(np.full((8, 8, 3), 255, np.uint8))
    for path in sorted(Path(folder).rglob("*.glb")):
        read, parts = open3d.io.read_triangle_model(str(path)), []
        for part in read.meshes:
            mesh, material = part.mesh, read.materials[part.material_idx]
            triangles, uv = np.asarray(mesh.triangles), np.asarray(mesh.triangle_uvs, np.float32).reshape(-1, 3, 2)
            picture = None if material.albedo_img is None else np.asarray(material.albedo_img)
            picture = picture if picture is not None and picture.ndim == 3 and len(uv) else None
            if picture is not None:
                images.append(picture if path.stem in LEAFY else glazed(picture))
            count = len(triangles)
            tint = np.ones(3) if picture is not None else np.asarray(material.base_color)[:3]
            uv = uv * np.float32([1, -1]) if len(uv) else np.zeros((count, 3, 2), np.float32)  # v down
            parts.append(
                Model(
                    np.asarray(mesh.vertices, np.float32)[triangles] @ UP.T,
                    uv,
                    np.full(count, white if picture is None else len(images) - 1, np.int32),
                    np.tile(np.float32(tint), (count, 1)),
                )
            )
        if parts:
            found[path.stem] = natural(path.stem, standing(joined(parts)))
    if not found:
        raise InputError(f"{folder}: holds no GLB files; give a folder of textured models")
    return found


def glazed(picture: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """A picture whose clear texels are panes of dark glass."""
    if picture.shape[2] == 3:
        return picture
    return np.where(picture[..., 3:] > 127, picture[..., :3], np.uint8(PANE))


def natural(name: str, model: Model) -> Model:
    """A model upright and in metres."""
    if name in LYING:
        turn = np.eye(4)
        turn[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
        model = standing(moved(model, turn))
    if name in SIZES:
        model = moved(model, np.diag([*[SIZES[name] / model.size.max()] * 3, 1]))
    return model


# --- solids ----------------------------------------------------------------------------------------------------------


def solid(corners: np.ndarray, uv: np.ndarray, texture: int, tint: Numbers = (1, 1, 1), tile: float = 1.0) -> Model:
    """Triangles with one texture, `uv` in units of `tile`."""
    count = len(corners)
    tints = np.tile(np.float32(tint), (count, 1))
    return Model(np.float32(corners), np.float32(uv / tile), np.full(count, texture, np.int32), tints)


def quad(a: Numbers, b: Numbers, c: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Parallelogram from corner a along a-b and a-c: corners (2, 3, 3) and uv (2, 3, 2) in metres."""
    a, b, c = (np.asarray(x, float) for x in (a, b, c))
    across, down = np.linalg.norm(b - a), np.linalg.norm(c - a)
    uv = np.array([[[0, 0], [across, 0], [across, down]], [[0, 0], [across, down], [0, down]]])
    d = b + c - a
    return np.array([[a, b, d], [a, d, c]]), uv


def box(size: Numbers, texture: int, tint: Numbers = (1, 1, 1), tile: float = 1.0) -> Model:
    """A box (x, y, z extents) standing on y = 0."""
    x, y, z = np.asarray(size) * [0.5, -1, 0.5]
    sides = [
        ((-x, y, -z), (x, y, -z), (-x, 0, -z)), ((x, y, z), (-x, y, z), (x, 0, z)),
        ((-x, y, z), (-x, y, -z), (-x, 0, z)), ((x, y, -z), (x, y, z), (x, 0, -z)),
        ((-x, y, z), (x, y, z), (-x, y, -z)), ((-x, 0, -z), (x, 0, -z), (-x, 0, z)),
    ]  # fmt: skip
    corners, uv = (np.concatenate(p) for p in zip(*(quad(*s) for s in sides), strict=True))
    return solid(corners, uv, texture, tint, tile)


def turned(
    profile: Sequence[tuple[float, float]],
    texture: int,
    tint: Numbers = (1, 1, 1),
    tile: float = 1.0,
    around: int = 20,
) -> Model:
    """A profile of (radius, height) turned about the upright axis: cylinders, balls, bottles, cones."""
    r, y = np.array(profile, float).T
    angle = np.linspace(0, 2 * np.pi, around + 1)
    ring = np.stack([np.outer(r, np.cos(angle)), np.repeat(-y[:, None], around + 1, 1), np.outer(r, np.sin(angle))], -1)
    along = np.concatenate([[0], np.cumsum(np.hypot(np.diff(r), np.diff(y)))])
    uv = np.stack([np.tile(angle * r.max(), (len(r), 1)), np.repeat(along[:, None], around + 1, 1)], -1)

    def faces(grid: np.ndarray) -> np.ndarray:
        a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
        return np.concatenate([np.stack(t, 2).reshape(-1, 3, grid.shape[-1]) for t in ((a, b, d), (a, d, c))])

    return solid(faces(ring), faces(uv), texture, tint, tile)
