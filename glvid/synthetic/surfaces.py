"""Textures of the procedural worlds: painted here from noise and cells, or photos; one atlas with its mip levels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from glvid.errors import InputError

SIDE = 256  # texels along a texture; one texture covers one tile of a surface and is mirrored beyond it
LEVELS = 8  # mip levels: 256, 128, ..., 2
Random = np.random.Generator


def colour(rng: Random, saturation: float = 0.5, low: float = 0.2, high: float = 0.9) -> Tensor:
    """A random colour (3, 1, 1), grey for saturation 0."""
    hue = (rng.random() + np.array([0, 1 / 3, 2 / 3])) % 1
    shade = 1 - saturation * rng.beta(1.2, 2.2) * (1 - np.clip(np.abs(hue * 6 - 3) - 1, 0, 1))
    return torch.from_numpy(rng.uniform(low, high) * shade).float()[:, None, None]


def noise(
    rng: Random, first: int = 4, octaves: int = 6, decay: float = 0.7, stretch: int = 1
) -> Float[Tensor, "1 h w"]:
    """Value noise of about unit spread: octaves of first, 2 first, ... cells; `stretch` elongates them along y."""
    total, spread = torch.zeros(1, SIDE, SIDE), 0.0
    for k in range(octaves):
        n = min(SIDE, first * 2**k)
        grid = torch.from_numpy(rng.standard_normal((1, 1, max(2, n // stretch), n), dtype=np.float32))
        total += decay**k * F.interpolate(grid, (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
        spread += decay ** (2 * k) * 0.5
    return total / spread**0.5


@dataclass(frozen=True)
class Cells:
    """A grid of bricks, tiles, windows ...: position inside each cell 0..1, and one random tone per cell."""

    u: Float[Tensor, "1 h w"]
    v: Float[Tensor, "1 h w"]
    tone: Float[Tensor, "1 h w"]
    tones: Float[Tensor, "3 h w"]

    def inside(self, u0: float, u1: float, v0: float, v1: float) -> Tensor:
        """1 inside a rectangle of every cell."""
        return ((self.u > u0) & (self.u < u1) & (self.v > v0) & (self.v < v1)).float()


def cells(rng: Random, rows: int, columns: int, stagger: float = 0.0) -> Cells:
    """Cells of a texture; odd rows are shifted by `stagger` cells."""
    line = (torch.arange(SIDE) + 0.5) / SIDE
    v = (line * rows)[:, None].expand(SIDE, SIDE)
    row = v.floor()
    u = (line * columns)[None, :] + stagger * (row % 2)
    where = (row * columns + u.floor() % columns).long()
    tones = torch.from_numpy(rng.random((3, rows * columns), dtype=np.float32))
    return Cells((u - u.floor())[None], (v - row)[None], tones[:1, where], tones[:, where])


def plain(rng: Random) -> Tensor:
    return colour(rng, 0.45, 0.35, 0.95) * (1 + rng.uniform(0.01, 0.06) * noise(rng, 2, 7, 0.8))


def rough(rng: Random) -> Tensor:
    a, b = colour(rng, 0.7, 0.1, 0.9), colour(rng, 0.7, 0.2, 1.0)
    return torch.lerp(a, b, torch.sigmoid(2 * noise(rng, int(rng.integers(2, 9)), 6, 0.75)))


def stripes(rng: Random) -> Tensor:
    c = cells(rng, 1, int(rng.integers(6, 24)))
    return torch.lerp(colour(rng, 0.8), colour(rng, 0.8), c.tone) * (1 + 0.05 * noise(rng))


def checks(rng: Random) -> Tensor:
    n = 2 * int(rng.integers(2, 7))
    c = cells(rng, n, n)
    line = (torch.arange(SIDE) * n // SIDE) % 2
    odd = (line[:, None] ^ line[None, :])[None].float()
    return torch.lerp(colour(rng, 0.6), colour(rng, 0.6), odd) * (0.85 + 0.3 * c.tone + 0.04 * noise(rng))


def tiles(rng: Random) -> Tensor:
    n = int(rng.integers(3, 9))
    c = cells(rng, n, n)
    face = colour(rng, 0.4, 0.4, 0.9) * (0.85 + 0.2 * c.tone + 0.05 * noise(rng))
    return torch.lerp(colour(rng, 0.1, 0.3, 0.7), face, c.inside(0.03, 0.97, 0.03, 0.97))


def bricks(rng: Random) -> Tensor:
    c = cells(rng, 2 * int(rng.integers(6, 12)), int(rng.integers(5, 9)), 0.5)
    base = torch.tensor([0.62, 0.36, 0.28])[:, None, None] if rng.random() < 0.6 else colour(rng, 0.5)
    face = base * (0.7 + 0.5 * c.tone) * (1 + 0.1 * noise(rng, 8, 6))
    return torch.lerp(colour(rng, 0.1, 0.45, 0.7), face, c.inside(0.04, 1, 0.1, 1))


def paving(rng: Random) -> Tensor:
    n = int(rng.integers(5, 12))
    c = cells(rng, n, n, float(rng.choice([0, 0.5])))
    face = colour(rng, 0.15, 0.4, 0.7) * (0.8 + 0.3 * c.tone + 0.12 * noise(rng, 8))
    return torch.lerp(face * 0.5, face, c.inside(0.04, 1, 0.04, 1))


def windows(rng: Random) -> Tensor:
    """A facade: four by four windows on plaster or brick."""
    c = cells(rng, 4, int(rng.integers(3, 5)))
    wall = bricks(rng) if rng.random() < 0.35 else colour(rng, 0.45, 0.45, 0.9) * (1 + 0.08 * noise(rng, 2, 7))
    wall = wall * (1 - 0.25 * c.inside(0, 1, 0.94, 1))
    w, h = rng.uniform(0.2, 0.36), rng.uniform(0.24, 0.38)
    frame = c.inside(0.5 - w - 0.04, 0.54 + w, 0.5 - h - 0.04, 0.54 + h)
    pane = c.inside(0.5 - w, 0.5 + w, 0.5 - h, 0.5 + h) * (1 - c.inside(0.48, 0.52, 0, 1))
    glass = torch.tensor([0.3, 0.38, 0.45])[:, None, None] * (0.25 + 0.9 * c.tone + 0.5 * (0.5 - c.v))
    return torch.lerp(torch.lerp(wall, colour(rng, 0.2, 0.5, 1), frame), glass, pane)


def wood(rng: Random) -> Tensor:
    c = cells(rng, 1, int(rng.integers(3, 8)))
    grain = noise(rng, 32, 4, 0.8, 16)
    base = torch.tensor([0.62, 0.42, 0.26])[:, None, None] * rng.uniform(0.5, 1.4)
    return base * (0.8 + 0.3 * c.tone + 0.12 * grain) * (1 - 0.4 * (c.u < 0.03).float())


def leaves(rng: Random) -> Tensor:
    base = torch.tensor([0.24, 0.42, 0.14])[:, None, None] * (1 + 0.5 * (colour(rng, 0.9, 0.6, 1) - 0.7))
    return base * (0.55 + torch.sigmoid(1.6 * noise(rng, 12, 5, 0.95)) * 0.95)


def grass(rng: Random) -> Tensor:
    base = torch.lerp(torch.tensor([0.34, 0.46, 0.2]), torch.tensor([0.5, 0.46, 0.3]), float(rng.random()))
    return base[:, None, None] * (1 + 0.22 * noise(rng, 4, 7, 0.9))


def asphalt(rng: Random) -> Tensor:
    return colour(rng, 0.08, 0.28, 0.55) * (1 + 0.09 * noise(rng, 3, 7, 0.9))


def road(rng: Random) -> Tensor:
    """Lanes along y: edge lines, a dashed middle, wheel tracks; the tile's width is the road's."""
    c = cells(rng, 1, 1)
    marks = c.inside(0.035, 0.05, 0, 1) + c.inside(0.95, 0.965, 0, 1) + c.inside(0.493, 0.507, 0, rng.uniform(0.4, 1))
    base = asphalt(rng) * (1 - 0.06 * torch.cos(8 * torch.pi * c.u))
    worn = marks * torch.sigmoid(3 + 1.5 * noise(rng, 16, 5))
    return torch.lerp(base, torch.full_like(base, float(rng.uniform(0.75, 0.95))), worn)


def poster(rng: Random) -> Tensor:
    """Overlapping discs and bars over a gradient, in a frame."""
    c = cells(rng, 1, 1)
    image = torch.lerp(colour(rng, 0.9), colour(rng, 0.9), c.v)
    for _ in range(int(rng.integers(6, 18))):
        x, y, r, s = rng.random(), rng.random(), rng.uniform(0.03, 0.25), rng.uniform(0.2, 1)
        disc = ((c.u - x) ** 2 + ((c.v - y) / s) ** 2 < r * r).float()
        bar = c.inside(x - r, x + r, y - r * s, y + r * s)
        image = torch.lerp(image, colour(rng, 0.95, 0.05, 1), disc if rng.random() < 0.5 else bar)
    return torch.lerp(colour(rng, 0.3, 0.05, 1), image, c.inside(0.03, 0.97, 0.03, 0.97))


def books(rng: Random) -> Tensor:
    c = cells(rng, 4, int(rng.integers(10, 22)))
    spine = 0.1 + 0.8 * c.tones
    label = c.inside(0.25, 0.75, 0.4, 0.55) * 0.35
    shade = (1 - 0.75 * (c.v < 0.12 + 0.25 * c.tone).float()) * (1 - 0.5 * (c.u < 0.08).float())
    return (spine + label) * shade


def cloth(rng: Random) -> Tensor:
    a, b = cells(rng, 1, int(rng.integers(8, 30))), cells(rng, int(rng.integers(8, 30)), 1)
    return torch.lerp(colour(rng, 0.8), colour(rng, 0.8), 0.5 * (a.tone + b.tone)) * (1 + 0.1 * noise(rng, 32, 4))


def speckle(rng: Random) -> Tensor:
    spots = (noise(rng, int(rng.integers(10, 40)), 3) > 0.8).float()
    return torch.lerp(colour(rng, 0.5), colour(rng, 0.9), spots) * (1 + 0.06 * noise(rng))


def glass(rng: Random) -> Tensor:
    c = cells(rng, 1, 1)
    return torch.tensor([0.2, 0.25, 0.3])[:, None, None] * (0.5 + (1 - c.v) + 0.25 * noise(rng, 2, 4))


def paint(rng: Random) -> Tensor:
    """Car paint: one colour, a door line, a soft gradient."""
    c = cells(rng, 1, 2)
    body = colour(rng, float(rng.choice([0.1, 0.9])), 0.15, 0.95) * (1.15 - 0.4 * c.v + 0.02 * noise(rng))
    return body * (1 - 0.5 * (c.u < 0.012).float())


PAINTERS: dict[str, Callable[[Random], Tensor]] = {
    f.__name__: f
    for f in (plain, rough, stripes, checks, tiles, bricks, paving, windows, wood, leaves, grass, asphalt, road, poster)
    + (books, cloth, speckle, glass, paint)
}  # fmt: skip
VARIANTS = {
    "plain": 4,
    "rough": 4,
    "windows": 4,
    "paint": 4,
    "poster": 4,
    "bricks": 2,
    "wood": 2,
    "cloth": 2,
    "leaves": 2,
}


@dataclass(frozen=True)
class Atlas:
    """All textures of a world with their mip levels, as one list of texels; texture 0 is plain noise."""

    texels: Float[Tensor, "N 3"]
    names: tuple[str, ...]  # name of each texture; "photo" for given ones

    @property
    def device(self) -> torch.device:
        return self.texels.device


def atlas(rng: Random, device: str | torch.device = "cpu", photos: Tensor | None = None, count: int = 16) -> Atlas:
    """Paint one set of textures; up to `count` of the photos (N, 3, 256, 256) go in, drawn at random."""
    names, images = ["noise"], [(0.5 + 0.2 * noise(rng, 8, 5, 0.9)).expand(3, SIDE, SIDE)]
    for name, painter in PAINTERS.items():
        for _ in range(VARIANTS.get(name, 1)):
            names.append(name)
            images.append(painter(rng))
    stack = torch.stack(images).clamp(0, 1).to(device)
    if photos is not None:
        chosen = rng.permutation(len(photos))[:count]
        stack = torch.cat([stack, photos[torch.from_numpy(chosen).to(photos.device)].to(device)])
        names += ["photo"] * len(chosen)
    levels = [stack]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return Atlas(torch.cat([x.permute(0, 2, 3, 1).reshape(-1, 3) for x in levels]), tuple(names))


def texture_values(
    atlas: Atlas, texture: Int[Tensor, " P"], uv: Float[Tensor, "2 P"], level: Float[Tensor, " P"], smooth: bool = True
) -> Float[Tensor, "P 3"]:
    """Bilinear texture values at `uv` (1 = one tile, mirrored beyond), at a mip level; `smooth` blends two levels."""
    level = level.clamp(0, LEVELS - 1)
    if not smooth:
        return _at_level(atlas, texture, uv, level.round())
    low = level.floor()
    high = (low + 1).clamp_max(LEVELS - 1)
    return torch.lerp(_at_level(atlas, texture, uv, low), _at_level(atlas, texture, uv, high), (level - low)[:, None])


def _at_level(atlas: Atlas, texture: Tensor, uv: Tensor, level: Tensor) -> Tensor:
    count = len(atlas.names)
    side = torch.exp2(8 - level)
    xy = (uv - 2 * (uv * 0.5).floor() - 1).abs() * side - 0.5  # mirror: 0..2 -> 1..0..1
    base = xy.floor()
    fx, fy = (xy - base)[..., None]
    n = side.long()
    x0, y0 = base.long()
    # texels before this level: count * 4/3 (256^2 - side^2)
    start = count * ((4 * (SIDE * SIDE - n * n)) // 3) + texture * n * n
    last = n - 1
    x1, y1 = torch.minimum(x0 + 1, last), torch.minimum(y0 + 1, last)
    x0, y0 = x0.clamp_min(0), y0.clamp_min(0)
    r0, r1 = start + y0 * n, start + y1 * n
    t = [atlas.texels.index_select(0, row + x) for row in (r0, r1) for x in (x0, x1)]
    return torch.lerp(torch.lerp(t[0], t[1], fx), torch.lerp(t[2], t[3], fx), fy)


def textures(folder: str | Path) -> Float[Tensor, "N 3 256 256"] | None:
    """Photos of a folder (searched deeply), centre-cropped to squares of 256; None if there is none.

    Raises InputError if the folder does not exist.
    """
    import cv2

    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of textures; give an existing one")
    images = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        h, w = image.shape[:2]
        s = min(h, w)
        image = image[(h - s) // 2 : (h + s) // 2, (w - s) // 2 : (w + s) // 2, ::-1]
        image = cv2.resize(np.ascontiguousarray(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        images.append(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
    return torch.stack(images) if images else None
