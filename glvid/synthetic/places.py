"""Places: everything that stands still around a camera at the origin looking along +z, and where things may move."""

import numpy as np

from glvid.synthetic import things as make
from glvid.synthetic.surfaces import Random
from glvid.synthetic.world import ROOM, Surface, Thing, placed, solid, surface


def ground(rng: Random, texture: str) -> Thing:
    return [make.box(0, 20, 0, 600, 20, 600, surface(rng, texture, rng.uniform(5, 9)))]


def street(rng: Random) -> tuple[list[Thing], float]:
    """A street along z with pavements, buildings or greenery, parked cars; and the half width of its road (m)."""
    half = rng.uniform(3.2, 6.5)
    walk = rng.uniform(1.2, 3.5)
    lane = Surface("road", (2 * half, rng.uniform(7, 14)), (1, 1, 1))
    side = surface(rng, "paving", 3)
    green = rng.random() < 0.35
    out = [ground(rng, "grass" if green else str(rng.choice(["asphalt", "paving", "grass"])))]
    out.append([make.box(0, 4.98, 100, half, 5, 400, lane)])
    for s in (-1, 1):
        out.append([make.box(s * (half + walk / 2), 4.87, 100, walk / 2, 5, 400, side)])
        out += _row(rng, s, half, walk, 0.25 if green else rng.uniform(0.7, 1))
        out += _kerb(rng, s, half, walk)
    if rng.random() < 0.6:
        out.append(placed(make.house(rng, (30, 8), rng.uniform(6, 20)), rng.uniform(-10, 10), rng.uniform(70, 200)))
    return out, half


def _row(rng: Random, s: int, half: float, walk: float, built: float) -> list[Thing]:
    """Buildings, walls and trees along one side."""
    out, z = [], rng.uniform(-25, -5)
    back = rng.uniform(0, 6)
    while z < 150:
        a, c = rng.uniform(4, 7), rng.uniform(4, 14)
        x = s * (half + walk + back + a + rng.uniform(0, 1.5))
        if rng.random() < built:
            out.append(placed(make.house(rng, (a, c)), x, z + c))
        else:
            for _ in range(3):
                out.append(
                    placed(make.tree(rng), x + rng.uniform(-a, a), z + rng.uniform(0, 2 * c), scale=rng.uniform(0.9, 2))
                )
        if rng.random() < 0.4:
            out.append(placed(make.wall(rng, c), s * (half + walk + 0.3), z + c))
        z += 2 * c + (rng.uniform(0, 2) if rng.random() < 0.7 else rng.uniform(4, 14))
    return out


def _kerb(rng: Random, s: int, half: float, walk: float) -> list[Thing]:
    """Parked cars, trees, poles, signs, people at the edge of the road."""
    out, z = [], rng.uniform(-6, 6)
    busy = rng.uniform(0.1, 0.8)
    while z < 90:
        if rng.random() < busy:
            thing = make.truck(rng) if rng.random() < 0.07 else make.car(rng)
            out.append(placed(thing, s * (half - 1.1), z, np.pi * (rng.random() < 0.5) + rng.normal(0, 0.03)))
        spot = s * (half + rng.uniform(0.3, 0.6))
        kind = rng.random()
        if kind < 0.2:
            out.append(placed(make.tree(rng), spot, z + 2.5))
        elif kind < 0.4:
            out.append(placed(make.lamp_post(rng), spot, z + 3, np.pi * (s > 0)))
        elif kind < 0.55:
            out.append(placed(make.sign(rng), spot, z + 3))
        elif kind < 0.7:
            out.append(
                placed(
                    make.person(rng), s * (half + rng.uniform(0.5, walk)), z + rng.uniform(0, 4), rng.uniform(0, 6.3)
                )
            )
        z += rng.uniform(5, 9)
    return out


def room(rng: Random) -> tuple[list[Thing], np.ndarray]:
    """A furnished room with its floor at y = 0, centred at the origin; and its half sizes (x, z)."""
    half = rng.uniform(1.6, 4.0, 2)
    h = rng.uniform(2.3, 3.2)
    floor = surface(rng, str(rng.choice(["wood", "tiles", "cloth", "checks", "rough", "speckle"])), rng.uniform(0.8, 2))
    side = surface(rng, str(rng.choice(["plain", "plain", "rough", "stripes", "bricks", "cloth"])), rng.uniform(1, 3))
    roof = surface(rng, str(rng.choice(["plain", "plain", "tiles", "wood"])), 2)
    out = [[solid(ROOM, (0, -h / 2, 0), (half[0], h / 2, half[1]), side, top=roof, bottom=floor)]]
    for wall in range(4):
        out += _wall(rng, wall, half, h)
    if rng.random() < 0.6:
        a, c = half * rng.uniform(0.3, 0.6, 2)
        out.append(
            [
                make.box(
                    rng.uniform(-0.4, 0.4),
                    -0.005,
                    rng.uniform(-0.4, 0.4),
                    a,
                    0.005,
                    c,
                    surface(rng, str(rng.choice(make.ANY)), 1.2),
                )
            ]
        )
    for _ in range(int(rng.integers(1, 3))):
        out += _dinner(rng, half)
    for _ in range(int(rng.integers(2, 7))):
        x, z = half * rng.uniform(-0.9, 0.9, 2)
        out.append(placed(make.crate(rng, rng.uniform(0.12, 0.4)), x, z))
    return out, half


def _wall(rng: Random, wall: int, half: np.ndarray, h: float) -> list[Thing]:
    """Furniture along one wall, facing the room, and pictures, windows, a door on it."""
    turn = wall * np.pi / 2
    depth, width = (half[1], half[0]) if wall % 2 == 0 else (half[0], half[1])
    out, x = [], -width + 0.5

    def at(thing: Thing, x: float, back: float) -> Thing:
        z = depth - back
        return placed(thing, x * np.cos(turn) + z * np.sin(turn), z * np.cos(turn) - x * np.sin(turn), turn)

    if rng.random() < 0.35:
        out.append(at(make.cabinets(rng, width * 0.8), 0, 0.31))
        x = width
    while x < width - 0.5:
        kind, w = rng.random(), rng.uniform(0.5, 1.1)
        if kind < 0.3:
            out.append(at(make.shelf(rng), x + w, 0.2))
        elif kind < 0.5:
            out.append(at(make.sofa(rng), x + w, 0.5))
        elif kind < 0.6:
            desk = make.table(rng, 0.6, 0.35) + placed(make.clutter(rng), 0.2, 0, rng.uniform(-0.4, 0.4), -0.76)
            out.append(at(desk, x + w, 0.4))
        elif kind < 0.75:
            out.append(at([make.box(0, -1, 0, 0.45, 1.02, 0.03, surface(rng, "wood", 0, 0.4))], x + w, 0.02))
        x += 2 * w
    for _ in range(int(rng.integers(1, 4))):
        a, b = rng.uniform(0.2, 0.7), rng.uniform(0.2, 0.55)
        look = surface(rng, str(rng.choice(["poster", "poster", "glass", "windows", "books"])), 0, 0.4)
        frame = surface(rng, "plain", 1, 0.6)
        y = -min(h - b - 0.1, rng.uniform(1.3, 1.9))
        out.append(at([make.box(0, y, 0, a, b, 0.02, frame, ends=look)], rng.uniform(-0.8, 0.8) * width, 0.02))
    return out


def _dinner(rng: Random, half: np.ndarray) -> list[Thing]:
    """A table with clutter on it and chairs around."""
    x, z = half * rng.uniform(-0.6, 0.6, 2)
    a, c, turn, h = rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.5), rng.uniform(0, 6.3), rng.choice([0.42, 0.74])
    thing = make.table(rng, a, c, h)
    for _ in range(int(rng.integers(2, 8))):
        thing = thing + placed(make.clutter(rng), *(rng.uniform(-0.8, 0.8, 2) * (a, c)), rng.uniform(0, 6.3), -h - 0.02)
    out = [placed(thing, x, z, turn)]
    for _ in range(int(rng.integers(0, 4))):
        angle = rng.uniform(0, 6.3)
        r = max(a, c) + 0.25
        out.append(placed(make.chair(rng), x + r * np.sin(angle), z + r * np.cos(angle), angle + rng.normal(0, 0.3)))
    return out


def park(rng: Random, radius: float = 30.0) -> list[Thing]:
    """Open ground with trees, people, walls, houses at a distance, benches and boxes."""
    out = [ground(rng, str(rng.choice(["grass", "paving", "asphalt", "rough"])))]
    if rng.random() < 0.5:
        out.append([make.box(rng.uniform(-3, 3), 0.99, 0, rng.uniform(1, 2.5), 1, 300, surface(rng, "paving", 2))])
    for _ in range(int(rng.integers(3, 9))):
        r, a = rng.uniform(0.5, 2) * radius, rng.uniform(0, 6.3)
        out.append(placed(make.house(rng), r * np.sin(a), r * np.cos(a), rng.uniform(0, 6.3)))
    makers = (make.tree, make.tree, make.bush, make.person, make.sign, make.lamp_post, make.crate, make.chair, make.car)
    for _ in range(int(rng.integers(25, 50))):
        r, a = radius * rng.uniform(0.1, 1) ** 1.5, rng.uniform(0, 6.3)
        thing = makers[int(rng.integers(len(makers)))](rng)
        out.append(placed(thing, r * np.sin(a), r * np.cos(a), rng.uniform(0, 6.3)))
    for _ in range(int(rng.integers(1, 5))):
        r, a = radius * rng.uniform(0.2, 0.8), rng.uniform(0, 6.3)
        out.append(placed(make.wall(rng, rng.uniform(2, 8)), r * np.sin(a), r * np.cos(a), rng.uniform(0, 6.3)))
    return out


def town(rng: Random, radius: float = 60.0) -> list[Thing]:
    """Many houses and trees on the ground, as a drone sees them."""
    out = [ground(rng, str(rng.choice(["grass", "asphalt", "paving", "rough"])))]
    lane = Surface("road", (7.0, 11.0), (1, 1, 1))
    for k in range(int(rng.integers(1, 4))):
        angle = np.pi / 2 * (k % 2) + rng.normal(0, 0.1)
        strip = [make.box(0, 1 - 0.02 * (k + 1), 0, 3.5, 1, 400, lane)]
        out.append(placed(strip, rng.uniform(-20, 20), rng.uniform(-20, 20), angle))
    for _ in range(int(rng.integers(10, 25))):
        x, z = rng.uniform(-radius, radius, 2)
        out.append(
            placed(make.house(rng, None, rng.uniform(3, 11)), x, z, rng.choice([0, np.pi / 2]) + rng.normal(0, 0.1))
        )
    for _ in range(int(rng.integers(10, 25))):
        x, z = rng.uniform(-radius, radius, 2)
        thing = make.tree(rng) if rng.random() < 0.7 else make.car(rng)
        out.append(placed(thing, x, z, rng.uniform(0, 6.3), scale=rng.uniform(1, 1.6)))
    return out
