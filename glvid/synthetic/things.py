"""Furniture of the worlds: each function returns the parts of one thing, at the origin on the ground y = 0 (y down)."""

import numpy as np

from glvid.synthetic.surfaces import Random
from glvid.synthetic.world import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    PRISM,
    TAPER,
    Part,
    Surface,
    Thing,
    placed,
    solid,
    surface,
    yaw,
)

ALONG_X = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # turns the axis of a cylinder from y to x
ANY = ("rough", "stripes", "checks", "wood", "speckle", "cloth", "plain", "poster", "tiles")


def box(x: float, y: float, z: float, a: float, b: float, c: float, look: Surface, **faces: Surface) -> Part:
    """A box centred at (x, y, z) with half sizes (a, b, c)."""
    return solid(BOX, (x, y, z), (a, b, c), look, **faces)


def ball(x: float, y: float, z: float, a: float, b: float, c: float, look: Surface) -> Part:
    return solid(ELLIPSOID, (x, y, z), (a, b, c), look)


def post(x: float, z: float, low: float, high: float, radius: float, look: Surface) -> Part:
    """A vertical cylinder from height `low` to `high` above the ground."""
    return solid(CYLINDER, (x, -(low + high) / 2, z), (radius, (high - low) / 2, radius), look)


def car(rng: Random, paint: Surface | None = None) -> Thing:
    """About 4 m long, pointing along +z: body, cabin with a roof, bonnet, wheels, lights, number plate."""
    paint, pane = paint or surface(rng, "paint", 0), surface(rng, "glass", 0, 0.4)
    tyre = Surface("plain", (0.5, 0.5), (0.15, 0.15, 0.16))
    dark = Surface("plain", (0.5, 0.5), (0.22, 0.22, 0.24))
    length, roof = rng.uniform(1.85, 2.4), rng.uniform(1.38, 1.75)
    parts = [box(0, -0.66, 0, 0.86, 0.27, length, paint), box(0, -0.36, 0, 0.84, 0.12, length * 0.97, dark)]
    kind = rng.random()
    if kind < 0.2:  # van
        parts.append(solid(TAPER, (0, -1.35, -0.1), (0.86, 0.48, length * 1.15), paint, ends=pane))
        parts.append(box(0, -1.3, -0.35, 0.84, 0.5, length * 0.8, paint))
    else:
        back = -0.25 if kind < 0.6 else -0.12 * length
        cabin = length * (0.68 if kind < 0.6 else 0.85)
        parts.append(solid(TAPER, (0, -0.5 * (0.92 + roof), back), (0.82, 0.5 * (roof - 0.92), cabin), pane, top=paint))
        parts.append(box(0, -roof, back, 0.5, 0.03, cabin * 0.6, paint))
        parts.append(solid(TAPER, (0, -0.93, 0.62 * length), (0.82, 0.06, 0.36 * length), paint))
    for x in (-0.84, 0.84):
        for z in (-0.62 * length, 0.62 * length):
            parts.append(solid(CYLINDER, (x, -0.32, z), (0.32, 0.1, 0.32), tyre, ALONG_X))
            parts.append(
                solid(
                    CYLINDER,
                    (x * 1.02, -0.32, z),
                    (0.19, 0.1, 0.19),
                    Surface("plain", (1, 1), (0.8, 0.8, 0.8)),
                    ALONG_X,
                )
            )
    for x in (-0.66, 0.66):
        parts.append(box(x, -0.74, -length, 0.16, 0.08, 0.03, Surface("plain", (1, 1), (1.2, 0.2, 0.15))))
        parts.append(box(x, -0.7, length, 0.18, 0.08, 0.03, Surface("plain", (1, 1), (1.4, 1.4, 1.2))))
    parts.append(box(0, -0.5, -length, 0.28, 0.07, 0.025, Surface("poster", (0, 0), (1.2, 1.2, 1.2))))
    return parts


def bonnet(rng: Random) -> Thing:
    """The front of one's own car as its dashcam sees it, in the camera's frame: it never moves in the image."""
    paint, y = surface(rng, "paint", 0), rng.uniform(0.25, 0.6)
    parts = [ball(0, y + 0.5, 1.3, 0.9, 0.5, 0.9, paint)]
    if rng.random() < 0.5:
        parts.append(box(0, y + 0.55, 0.75, 1.2, 0.3, 0.15, surface(rng, "plain", 1, 0.8)))
    return parts


def truck(rng: Random) -> Thing:
    paint, load = surface(rng, "paint", 0), surface(rng, str(rng.choice(["poster", "plain", "stripes"])), 0)
    tyre = Surface("plain", (0.5, 0.5), (0.15, 0.15, 0.16))
    parts = [
        box(0, -1.9, -0.8, 1.2, 1.3, 2.8, load),
        box(0, -1.4, 2.7, 1.1, 1.0, 0.7, paint, ends=surface(rng, "glass", 0)),
    ]
    for x in (-1.05, 1.05):
        for z in (-2.6, -1.4, 2.4):
            parts.append(solid(CYLINDER, (x, -0.45, z), (0.45, 0.14, 0.45), tyre, ALONG_X))
    return parts


def tree(rng: Random) -> Thing:
    height = rng.uniform(1.5, 4.5)
    radius = height * rng.uniform(0.25, 0.5)
    bark = Surface("wood", (0.8, 1.5), (0.6, 0.55, 0.5))
    crown = Surface("leaves", (rng.uniform(1.2, 3),) * 2, tuple(float(x) for x in rng.uniform(0.6, 1.3, 3)))
    parts = [post(0, 0, 0, height * 1.1, rng.uniform(0.1, 0.25), bark)]
    for _ in range(int(rng.integers(3, 7))):
        x, z = rng.normal(0, radius * 0.45, 2)
        r = radius * rng.uniform(0.55, 1)
        parts.append(ball(x, -height - rng.uniform(0, 1.2) * radius, z, r, r * rng.uniform(0.6, 1.1), r, crown))
    return parts


def bush(rng: Random) -> Thing:
    crown = surface(rng, "leaves", 1.5)
    r = rng.uniform(0.3, 0.9)
    return [
        ball(x, -0.6 * r, z, r * rng.uniform(0.6, 1), r * rng.uniform(0.6, 1), r * rng.uniform(0.6, 1), crown)
        for x, z in rng.normal(0, 0.5 * r, (3, 2))
    ]


def person(rng: Random) -> Thing:
    """Legs, torso, arms, head; 1.5 to 1.9 m."""
    coat, trousers = (
        surface(rng, str(rng.choice(["cloth", "plain", "stripes"])), 0.6, 0.5),
        surface(rng, "plain", 0.6, 0.5),
    )
    skin = Surface("plain", (1, 1), (0.95, 0.72, 0.6))
    step = rng.uniform(0.05, 0.25)
    lean = np.array([[1.0, 0, 0], [0, 1, 0], [0, step, 1]])
    parts = [ball(0, -1.2, 0, 0.23, 0.36, 0.15, coat), ball(0, -0.92, 0, 0.19, 0.18, 0.15, trousers)]
    for side in (-1, 1):
        parts.append(solid(CYLINDER, (side * 0.1, -0.44, side * step * 0.4), (0.085, 0.44, 0.095), trousers, lean))
        parts.append(solid(CYLINDER, (side * 0.27, -1.15, -side * step * 0.3), (0.055, 0.3, 0.06), coat, lean))
        parts.append(box(side * 0.1, -0.04, 0.06, 0.06, 0.04, 0.13, Surface("plain", (1, 1), (0.2, 0.15, 0.1))))
    parts += [ball(0, -1.66, 0, 0.1, 0.14, 0.12, skin)]
    parts += [ball(0, -1.72, -0.015, 0.11, 0.12, 0.125, Surface("plain", (1, 1), (0.25, 0.18, 0.12)))]
    return placed(parts, 0, 0, 0, 0, rng.uniform(0.85, 1.08))


def gable(width: float, height: float, depth: float, base: float, look: Surface) -> Part:
    """A pitched roof over 2 width x 2 depth, its eaves at `base` above the ground, the ridge along z."""
    return solid(PRISM, (0, -base - height / 2, 0), (width, height / 2, depth), look)


def house(rng: Random, half: tuple[float, float] | None = None, height: float | None = None) -> Thing:
    """A building with windows on all sides, a door on -z, a pitched or flat roof."""
    a, c = half or tuple(rng.uniform(3, 7, 2))
    h = height or rng.uniform(3, 14)
    tile = rng.uniform(8, 13)
    wall = Surface("windows", (tile, tile), tuple(float(x) for x in rng.uniform(0.8, 1.2, 3)))
    roof = surface(rng, str(rng.choice(["tiles", "bricks", "stripes"])), 3, 0.4)
    parts = [box(0, -h / 2, 0, a, h / 2, c, wall, top=roof)]
    if rng.random() < 0.6 and h < 10:
        rise = min(a, 3.5) * rng.uniform(0.5, 0.9)
        hip = solid(TAPER, (0, -h - 0.3 * rise, 0), (a * 1.08, 0.3 * rise, c * 1.06), roof)
        parts.append(gable(a * 1.12, rise, c * 1.06, h, roof) if rng.random() < 0.7 else hip)
        parts.append(box(a * 0.4, -h - 1.6, c * 0.3, 0.35, 1.0, 0.35, surface(rng, "bricks", 1)))
    else:
        parts.append(box(0, -h, 0, a + 0.25, 0.2, c + 0.25, surface(rng, "plain")))
    door = surface(rng, "wood", 0, 0.5)
    parts.append(box(a * rng.uniform(-0.6, 0.6), -1.05, -c, 0.55, 1.05, 0.06, door))
    parts.append(box(a, -1.05, c * rng.uniform(-0.6, 0.6), 0.06, 1.05, 0.55, door))
    if rng.random() < 0.5:  # a plinth and balconies give the facade relief
        parts.append(box(0, -0.3, 0, a + 0.1, 0.3, c + 0.1, surface(rng, "paving", 1.5)))
        for side in (-1, 1):
            for level in range(1, int(h // 3)):
                z = c * rng.uniform(-0.7, 0.7)
                parts.append(box(side * a, -3 * level, z, 0.7, 0.5, rng.uniform(0.8, 1.8), surface(rng, "stripes", 1)))
    return parts


def lamp_post(rng: Random) -> Thing:
    h, metal = rng.uniform(3.5, 7), surface(rng, "plain", 1, 0.4)
    return [post(0, 0, 0, h, 0.07, metal), box(0.5, -h, 0, 0.6, 0.06, 0.12, metal)]


def sign(rng: Random) -> Thing:
    h, metal = rng.uniform(1.8, 2.8), Surface("plain", (1, 1), (0.7, 0.7, 0.7))
    face = Surface("poster", (0, 0), (1.1, 1.1, 1.1))
    plate = [box(0, -h, -0.05, rng.uniform(0.25, 0.7), rng.uniform(0.2, 0.45), 0.02, face)]
    if rng.random() < 0.4:
        plate = [
            solid(CYLINDER, (0, -h, -0.05), (0.35, 0.02, 0.35), face, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))
        ]
    return [post(0, 0, 0, h + 0.2, 0.04, metal), *plate]


def wall(rng: Random, length: float, height: float | None = None) -> Thing:
    """A wall, hedge or fence along z."""
    h = height or rng.uniform(0.7, 2.2)
    kind = str(rng.choice(["bricks", "leaves", "wood", "paving", "rough"]))
    if kind == "wood":
        look = surface(rng, "wood", 0.6)
        posts = [box(0, -h / 2, z, 0.03, h / 2, 0.06, look) for z in np.arange(-length, length, max(0.5, length / 8))]
        return [*posts, box(0, -h * 0.8, 0, 0.025, 0.06, length, look), box(0, -h * 0.3, 0, 0.025, 0.06, length, look)]
    return [box(0, -h / 2, 0, 0.4 if kind == "leaves" else 0.12, h / 2, length, surface(rng, kind, 1.6))]


def table(rng: Random, a: float = 0.7, c: float = 0.45, h: float = 0.74) -> Thing:
    look = surface(rng, str(rng.choice(["wood", "plain", "speckle"])), 1.2)
    legs = [post(x, z, 0, h, 0.03, look) for x in (-a * 0.9, a * 0.9) for z in (-c * 0.9, c * 0.9)]
    if rng.random() < 0.3:
        legs = [post(0, 0, 0, h, 0.05, look), solid(CYLINDER, (0, -0.02, 0), (0.35, 0.02, 0.35), look)]
    return [box(0, -h, 0, a, 0.02, c, look), *legs]


def chair(rng: Random) -> Thing:
    look, legs = surface(rng, str(rng.choice(["wood", "cloth", "plain"])), 0.6, 0.5), surface(rng, "wood", 0.5)
    feet = [post(x, z, 0, 0.45, 0.02, legs) for x in (-0.19, 0.19) for z in (-0.19, 0.19)]
    return [box(0, -0.46, 0, 0.22, 0.025, 0.22, look), box(0, -0.75, 0.21, 0.22, 0.24, 0.02, look), *feet]


def shelf(rng: Random) -> Thing:
    """A bookcase whose front is -z."""
    a, h = rng.uniform(0.4, 1.0), rng.uniform(1.0, 2.1)
    look, n = surface(rng, "wood", 1), int(rng.integers(3, 6))
    parts = [box(0, -h / 2, 0.16, a, h / 2, 0.015, look)]
    parts += [box(x, -h / 2, 0, 0.02, h / 2, 0.17, look) for x in (-a, a)]
    parts += [box(0, -h * k / n, 0, a, 0.015, 0.17, look) for k in range(n + 1)]
    for k in range(n):
        width, tall = a * rng.uniform(0.3, 0.95), h / n * rng.uniform(0.3, 0.42)
        x = rng.uniform(width - a, a - width)
        parts.append(
            box(x, -h * k / n - tall, 0.03, width, tall, 0.12, Surface("books", (0.9, 4 * 2 * tall), (1, 1, 1)))
        )
    return parts


def cabinets(rng: Random, length: float) -> Thing:
    """A kitchen row whose front is -z: counter, doors, upper cabinets, things on the counter."""
    look, top = (
        surface(rng, str(rng.choice(["wood", "plain"])), 1),
        surface(rng, str(rng.choice(["speckle", "plain"])), 1),
    )
    parts = [box(0, -0.43, 0, length, 0.43, 0.3, look), box(0, -0.89, -0.01, length + 0.02, 0.02, 0.33, top)]
    for x in np.arange(-length + 0.3, length - 0.2, 0.6):
        door = surface(rng, "wood" if rng.random() < 0.5 else "plain", 0)
        parts.append(box(x, -0.45, -0.3, 0.28, 0.38, 0.012, door))
        parts.append(box(x + 0.2, -0.6, -0.33, 0.01, 0.06, 0.012, Surface("plain", (1, 1), (0.5, 0.5, 0.5))))
        if rng.random() < 0.7:
            parts.append(box(x, -1.75, 0.1, 0.28, rng.uniform(0.25, 0.4), 0.17, door))
        parts += placed(clutter(rng), x + rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15), rng.uniform(0, 6), -0.91)
    return parts


def sofa(rng: Random) -> Thing:
    look, a = surface(rng, str(rng.choice(["cloth", "plain", "rough"])), 0.8, 0.5), rng.uniform(0.5, 1.1)
    parts = [box(0, -0.22, 0, a, 0.2, 0.4, look), box(0, -0.5, 0.36, a, 0.36, 0.1, look)]
    parts += [box(x, -0.32, 0, 0.1, 0.3, 0.42, look) for x in (-a, a)]
    cushion = surface(rng, str(rng.choice(ANY)), 0.5, 0.5)
    return [*parts, ball(rng.uniform(-0.6, 0.6) * a, -0.58, 0.2, 0.22, 0.2, 0.1, cushion)]


def clutter(rng: Random) -> Thing:
    """One small thing: box, ball, tin, bottle, cup, lamp, screen."""
    look = surface(rng, str(rng.choice(ANY)), 0.25, 0.5)
    s, kind = rng.uniform(0.04, 0.13), int(rng.integers(0, 7))
    if kind == 0:
        return [ball(0, -s, 0, s, s, s, look)]
    if kind == 1:
        return [post(0, 0, 0, 2 * s, 0.6 * s, look)]
    if kind == 2:
        return [post(0, 0, 0, 0.2, 0.035, look), post(0, 0, 0.2, 0.28, 0.014, look)]
    if kind == 3:
        shade = solid(TAPER, (0, -0.4, 0), (0.14, 0.1, 0.14), surface(rng, "plain", 0.5))
        return [post(0, 0, 0, 0.35, 0.012, look), post(0, 0, 0, 0.02, 0.08, look), shade]
    if kind == 4:
        frame = Surface("plain", (1, 1), (0.2, 0.2, 0.2))
        screen = surface(rng, "poster", 0)
        return [box(0, -0.25, 0, 0.28, 0.17, 0.015, frame, ends=screen), post(0, 0.03, 0, 0.2, 0.03, frame)]
    if kind == 5:
        return [box(0, -0.02 - 0.04 * k, 0, s, 0.02, 1.3 * s, surface(rng, "plain", 0.5, 0.6)) for k in range(3)]
    return [box(0, -s, 0, s * rng.uniform(0.4, 1.5), s, s * rng.uniform(0.4, 1.5), look)]


def crate(rng: Random, size: float = 0.4) -> Thing:
    """A box or ball of any look, up to about 2 `size`."""
    a, b, c = size * rng.uniform(0.4, 1.2, 3)
    look = surface(rng, str(rng.choice(ANY)), size * 2, 0.5)
    turn = yaw(rng.uniform(0, 6.3))
    kind = int(rng.choice([BOX, BOX, TAPER, ELLIPSOID, CYLINDER]))
    return [solid(kind, (0, -b, 0), (a, b, c), look, turn)]
