"""What rooms and streets are furnished with: a library of models and paintings, and people, animals, small things."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from glvid.synthetic.models import Model, Numbers, Paints, box, joined, mipped, moved, read_models, turned
from glvid.synthetic.surfaces import PAINTERS

Random = np.random.Generator

VARIANTS = 6  # paintings of every kind


@dataclass(frozen=True)
class Library:
    """Models by name, their textures and painted ones (numbers by kind of painting), and numbers of photos."""

    models: dict[str, Model]
    paints: Paints
    painted: dict[str, tuple[int, ...]]
    photos: tuple[int, ...]

    def some(self, rng: Random, names: Sequence[str]) -> Model:
        """A model whose name contains one of `names`, every one of them as likely; tinted a little."""
        for name in rng.permutation(names):
            fitting = [name] if name in self.models else [key for key in self.models if name in key]
            if fitting:
                return tinted(rng, self.models[fitting[int(rng.integers(len(fitting)))]])
        return thing(rng, self)

    def texture(self, rng: Random, *kinds: str, photos: float = 0.15) -> int:
        """The number of a painting of one of these kinds (none: of any), or of a photo."""
        if self.photos and rng.random() < photos:
            return int(rng.choice(self.photos))
        return int(rng.choice(self.painted[str(rng.choice(kinds or tuple(self.painted)))]))


@lru_cache(maxsize=2)
def library(models: Path, photos: Path | None = None) -> Library:
    """Everything that worlds are made of. Raises InputError where there are no models."""
    from glvid.synthetic.collage import photos as read

    rng, images, painted = np.random.default_rng(0), [], {}
    for name, painter in PAINTERS.items():
        made = [(painter(rng).clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8) for _ in range(VARIANTS)]
        painted[name] = tuple(range(len(images), len(images) + VARIANTS))
        images += made
    found = read_models(models, images)
    first = len(images)
    images += read(photos) if photos else ()
    return Library(found, mipped(images), painted, tuple(range(first, len(images))))


def tinted(rng: Random, model: Model) -> Model:
    """Brighter or darker, a little of another colour."""
    tint = np.float32(np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.08, 3)))
    return Model(model.corners, model.uv, model.texture, model.tint * tint)


def shade(rng: Random) -> np.ndarray:
    """A tint: any brightness, any colour."""
    return rng.uniform(0.25, 1.2) * np.exp(rng.normal(0, 0.25, 3))


def thing(rng: Random, of: Library, size: float = 0.25) -> Model:
    """A box, book, can, bottle, bowl or ball of about `size` m, of any surface."""
    s, kind, tile = size * np.exp(rng.normal(0, 0.4)), int(rng.integers(5)), float(rng.uniform(0.1, 0.6))
    look = (of.texture(rng, photos=0.4), shade(rng), tile)
    if kind < 2:
        return box(s * rng.uniform([0.3, 0.15, 0.3], 1.0), *look)
    if kind == 2:
        r, h = s * rng.uniform(0.15, 0.4), s * rng.uniform(0.5, 1.2)
        return turned([(0, h), (r, h), (r, 0), (0, 0)], *look)
    if kind == 3:
        r, h = s * rng.uniform(0.15, 0.3), s * rng.uniform(0.8, 1.4)
        return turned([(0, h), (0.35 * r, h), (0.4 * r, 0.7 * h), (r, 0.5 * h), (r, 0), (0, 0)], *look)
    angle = np.linspace(np.pi / 2, -np.pi / 2, 9)
    return turned([(s / 2 * max(0.0, np.cos(t)), s / 2 * (1 + np.sin(t))) for t in angle], *look)


def person(rng: Random, of: Library) -> Model:
    """Legs, trunk, arms and head of somebody of 1.5 to 1.9 m, standing or walking along z."""
    cloth, legs = of.texture(rng, "cloth", "plain", "stripes", "checks"), of.texture(rng, "plain", "cloth")
    skin, plain = (0.9, 0.7, 0.58), of.painted["plain"][0]
    coat, trousers, step = shade(rng), shade(rng) * 0.7, rng.uniform(0, 0.35)
    parts = [
        round_thing((0.21, 0.33, 0.13), (0, 1.2, 0), cloth, coat),
        round_thing((0.1, 0.14, 0.12), (0, 1.66, 0), plain, skin),
    ]
    parts.append(
        round_thing((0.115, 0.1, 0.125), (0, 1.73, -0.02), plain, rng.uniform(0.1, 0.6) * np.array([1, 0.8, 0.6]))
    )
    for side in (-1, 1):
        limb = turned([(0, 0.9), (0.09, 0.85), (0.065, 0.05), (0.1, 0), (0, 0)], legs, trousers, 0.3, 10)
        parts.append(moved(limb, turn(side * step, "x") @ at(side * 0.1, 0, 0)))
        arm = turned([(0, 0.62), (0.055, 0.6), (0.04, 0.05), (0, 0)], cloth, coat, 0.3, 10)
        parts.append(moved(arm, at(side * 0.25, 0.8, 0) @ turn(-side * step, "x")))
    scale = rng.uniform(0.88, 1.1)
    return moved(joined(parts), np.diag([scale, scale, scale, 1]))


def animal(rng: Random, of: Library) -> Model:
    """Body, neck, head, ears, tail and legs of an animal, 0.4 to 2 m long or high, that stands, or lies, along z."""
    kinds, tile = ("cloth", "rough", "speckle", "plain", "stripes", "leaves"), float(rng.uniform(0.2, 1))
    look, legs = (of.texture(rng, *kinds, photos=0.3), shade(rng)), rng.uniform(0.15, 0.55)
    lies, thick, neck = rng.random() < 0.3, rng.uniform(0.12, 0.24), rng.uniform(0.0, 0.3)
    tall = thick * rng.uniform(0.9, 1.2)
    up = tall if lies else legs + tall
    head = np.array([rng.normal(0, 0.08), up + 0.08 + neck, 0.45 + rng.uniform(0, 0.1)])
    parts = [
        round_thing((thick, tall, 0.42), (0, up, 0), *look),
        round_thing((0.09, 0.1 + neck / 2, 0.1), (head[0] / 2, up + 0.04 + neck / 2, 0.38), *look),
        round_thing((0.1, 0.1, rng.uniform(0.11, 0.2)), head, *look),
        round_thing((0.03, 0.03, rng.uniform(0.1, 0.3)), (0, up + rng.uniform(-0.1, 0.15), -0.5), *look),
    ]
    parts += [
        round_thing((0.03, 0.08, 0.02), (head[0] + s * 0.07, head[1] + 0.1, head[2] - 0.04), *look) for s in (-1, 1)
    ]
    for side in () if lies else (-1, 1):
        for end in (-1, 1):
            limb = turned([(0, up), (0.08, up - 0.04), (0.045, 0.05), (0.05, 0), (0, 0)], *look, tile, 8)
            parts.append(moved(limb, at(side * thick * 0.6, 0, end * 0.28) @ turn(rng.normal(0, 0.15), "x")))
    scale = float(np.exp(rng.uniform(np.log(0.3), np.log(1.5))))
    return moved(joined(parts), np.diag([scale, scale, scale, 1]))


def round_thing(radii: Numbers, middle: Numbers, texture: int, tint: Numbers) -> Model:
    """An ellipsoid with its middle at x, height, z."""
    angle = np.linspace(np.pi / 2, -np.pi / 2, 9)
    ball = turned([(max(0.0, np.cos(t)), np.sin(t)) for t in angle], texture, tint, 1.0, 14)
    return moved(ball, at(*middle) @ np.diag([*radii, 1]))


def at(x: float, height: float, z: float) -> np.ndarray:
    """A shift; heights are up, so against y."""
    out = np.eye(4)
    out[:3, 3] = x, -height, z
    return out


def turn(angle: float, axis: str = "y") -> np.ndarray:
    """A rotation about an axis: about y, 90 degrees turn z to x; about x, up is positive."""
    c, s, out = np.cos(angle), np.sin(angle), np.eye(4)
    i, j = {"y": (2, 0), "x": (1, 2), "z": (0, 1)}[axis]
    out[i, i] = out[j, j] = c
    out[j, i], out[i, j] = s, -s
    return out


def ground_of(model: Model, gap: float = 0.0) -> tuple[float, float, float, float]:
    """x0, z0, x1, z1 of the ground below a model, and a gap around it."""
    low, high = model.corners.min((0, 1)) - gap, model.corners.max((0, 1)) + gap
    return float(low[0]), float(low[2]), float(high[0]), float(high[2])


@dataclass(frozen=True)
class Plot:
    """Ground that is taken: x0, z0, x1, z1 of everything that stands."""

    taken: list[tuple[float, float, float, float]]

    def claim(self, model: Model, gap: float = 0.02) -> bool:
        """Take the ground below a model, if it is free."""
        mine = ground_of(model, gap)
        for x0, z0, x1, z1 in self.taken:
            if mine[0] < x1 and mine[2] > x0 and mine[1] < z1 and mine[3] > z0:
                return False
        self.taken.append(mine)
        return True
