"""What a procedural world is made of: unit solids under affine maps, in rigidly moving groups, seen by one camera."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from glvid.synthetic.surfaces import Atlas, Random
from glvid.types import Intrinsics

# |x|, |y|, |z| <= 1, seen from outside (BOX) or inside (ROOM); narrower towards the top (y = -1): SLANT; a ball of
# radius 1; radius 1 around y, |y| <= 1
BOX, ROOM, TAPER, PRISM, ELLIPSOID, CYLINDER = range(6)
SLANT = {TAPER: (0.2, 0.2), PRISM: (0.5, 0.0)}  # k of |x| <= 1 - k + k y, and the same for |z|
SKY = 1000.0  # depth of pixels that see nothing, m; beyond everything else


@dataclass(frozen=True)
class World:
    """N solids, G groups, S frames. Axes of the world: x right, y DOWN, z forward; the ground is y = 0; metres."""

    shape: Int[Tensor, " N"]
    affine: Float64[Tensor, "N 3 3"]  # m per local unit: group point = affine @ local + offset
    offset: Float64[Tensor, "N 3"]
    group: Int[Tensor, " N"]  # 0 = static
    faces: Float[Tensor, "N 6 9"]  # -x +x -y +y -z +z: texture, tiles per m (u, v), offset (u, v), tint, stains
    world_T_group: Float64[Tensor, "G S 4 4"]
    world_T_cam: Float64[Tensor, "S 4 4"]
    intrinsics: Intrinsics  # (2,)
    times: Float[Tensor, " S"]
    atlas: Atlas
    sun: Float[Tensor, " 3"]  # towards the sun, unit
    sky: Float[Tensor, "2 3"]  # zenith and horizon colour
    ambient: float  # share of light without direction
    haze: float  # 1 / m
    shadow_side: int  # texels along the shadow map of the sun; 0 = no shadows


@dataclass(frozen=True)
class Surface:
    """How one face looks: texture name, size of its tile (m) along u and v; tile 0 = the whole face is one tile."""

    texture: str
    tile: tuple[float, float] = (2.0, 2.0)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Part:
    """One solid with its six surfaces (balls and cylinders use the first, their caps top and bottom)."""

    shape: int
    affine: np.ndarray  # (3, 3)
    offset: np.ndarray  # (3,)
    surfaces: tuple[Surface, ...]


Thing = list[Part]


def yaw(angle: float) -> np.ndarray:
    """Rotation about y by `angle` (rad): z turns towards x."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def surface(rng: Random, texture: str, tile: float = 2.0, tint: float = 0.25) -> Surface:
    """A surface with a little random tint; tile 0 = one texture covers the face."""
    shade = 1 + tint * rng.uniform(-1, 1) + 0.5 * tint * rng.uniform(-1, 1, 3)
    return Surface(texture, (tile, tile), tuple(float(x) for x in shade))


def solid(
    shape: int,
    at: Sequence[float],
    half: Sequence[float],
    look: Surface,
    turn: np.ndarray | None = None,
    **faces: Surface,
) -> Part:
    """A solid centred `at`, half sizes `half`, rotated by `turn`; top, bottom, sides (+-x), ends (+-z) may differ."""
    affine = (np.eye(3) if turn is None else turn) @ np.diag(np.asarray(half, float))
    sides, ends = faces.get("sides", look), faces.get("ends", look)
    looks = (sides, sides, faces.get("top", look), faces.get("bottom", look), ends, ends)
    return Part(shape, affine, np.asarray(at, float), looks)


def placed(thing: Thing, x: float, z: float, angle: float = 0.0, y: float = 0.0, scale: float = 1.0) -> Thing:
    """The thing turned by `angle` about y, scaled, and moved to (x, y, z)."""
    R = scale * yaw(angle)
    at = np.array([x, y, z])
    return [Part(p.shape, R @ p.affine, R @ p.offset + at, p.surfaces) for p in thing]


def clear(things: list[Thing], path: np.ndarray, margin: float) -> list[Thing]:
    """The things that keep `margin` metres away from every point (S, 3) of the path; rooms always do."""

    def near(part: Part) -> bool:
        if part.shape == ROOM:
            return False
        size = np.linalg.norm(part.affine, axis=0)
        local = np.abs((path - part.offset) @ np.linalg.inv(part.affine).T)
        return bool((local < 1 + margin / size).all(1).any())

    return [thing for thing in things if not any(near(p) for p in thing)]


def packed(things: list[Thing], atlas: Atlas, rng: Random, photo_share: float = 0.5) -> dict[str, Tensor]:
    """Tensors shape, affine, offset, group, faces of `World`; thing n is group n, thing 0 is everything static."""
    parts = [(p, g) for g, thing in enumerate(things) for p in thing]
    named: dict[str, list[int]] = {}
    for n, name in enumerate(atlas.names):
        named.setdefault(name, []).append(n)
    faces = np.zeros((len(parts), 6, 9), np.float32)
    for n, (part, _) in enumerate(parts):
        chosen = {look: _texture(look, named, rng, photo_share) for look in dict.fromkeys(part.surfaces)}
        faces[n] = _faces(part, chosen, rng.random(3))
    device = atlas.device
    return {
        "shape": torch.tensor([p.shape for p, _ in parts], device=device),
        "affine": torch.from_numpy(np.stack([p.affine for p, _ in parts])).to(device),
        "offset": torch.from_numpy(np.stack([p.offset for p, _ in parts])).to(device),
        "group": torch.tensor([g for _, g in parts], device=device),
        "faces": torch.from_numpy(faces).to(device),
    }


PHOTO_SHARE = {
    "road": 0.0,
    "windows": 0.4,
    "leaves": 0.4,
    "glass": 0.2,
}  # some surfaces should mostly stay what they are


def _texture(look: Surface, named: dict[str, list[int]], rng: Random, photo_share: float) -> int:
    """Index of a texture of the look's name, or of a photo."""
    photo = "photo" in named and rng.random() < photo_share * PHOTO_SHARE.get(look.texture, 1.0)
    options = named["photo" if photo else look.texture]
    return options[int(rng.integers(len(options)))]


_ALONG = np.array([[2, 1], [0, 2], [0, 1]]).repeat(2, 0)  # axes that u and v run along, face by face


def _faces(part: Part, chosen: dict[Surface, int], shift: np.ndarray) -> np.ndarray:
    """The six rows of `World.faces`."""
    along = _ALONG.copy()
    if part.shape in (ELLIPSOID, CYLINDER):
        along[:2] = 0, 1
    span = 2 * np.sqrt((part.affine**2).sum(0))[along]
    tile = np.array([look.tile for look in part.surfaces])
    whole = tile <= 0  # then the tile runs from 0 to 1 across the face
    texture = [[chosen[look]] for look in part.surfaces]
    tint = [look.tint for look in part.surfaces]
    stains = np.full((6, 1), 0.1 + 0.6 * shift[2] ** 2)
    return np.concatenate(
        [texture, 1 / np.where(whole, span, tile), np.where(whole, 0.5, 2 * shift[:2]), tint, stains], 1
    )
