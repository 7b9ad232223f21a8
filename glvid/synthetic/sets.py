"""Rooms and streets of meshes: what stands where, the light, the camera and its motion; drawn from a seed."""

from collections.abc import Sequence

import numpy as np
import torch

from glvid.synthetic.meshes import Caster, Lamp, Light, pair, rays_of
from glvid.synthetic.models import Model, box, joined, moved, quad, solid, turned
from glvid.synthetic.props import (
    Library,
    Plot,
    Random,
    animal,
    at,
    ground_of,
    person,
    round_thing,
    shade,
    thing,
    turn,
)
from glvid.synthetic.truth import Truth
from glvid.types import Intrinsics

FURNITURE = (
    "Bed ChairA ChairD CoffeeTable BalconyTable KitchenCabinet KitchenTable NightStand ReadingDesk Refrigerator "
    "ShoeRack SofaB SofaC Sofa TVCabinet Trash Wardrobe FitnessEquipment AirconditionerB Dumbbell Ball fridge_body "
    "cafe_table habitat_chair table_marble DeskC TrashCanC Bucket ShelfD ShelfE Lamp barrel ClutteringC"
).split()
SMALL = "Vase Tableware KitchenUtensils DeskPortrait Tablet cordless_drill Pillow fuze CookingBench".split()
HUNG = "Portrait AirconditionerA RoomWindow Curtain Door FoldingDoor TV_ Board Rangehood".split()
LOW_HUNG = ("Door", "FoldingDoor", "Curtain")  # these reach the floor
CEILING = "Chandelier LightC".split()
BUILDINGS = (
    "apartment collapsed fast_food fire_station gas_station grocery_store house_1 house_2 house_3 law_office "
    "office_building osrf_first_office police_station post_office salon school thrift_shop gazebo"
).split()
VEHICLES = "ambulance bus fire_truck hatchback pickup prius_hybrid suv CesiumMilkTruck".split()
TREES = "oak_tree pine_tree".split()
POLES = "lamp_post telephone_pole stop_sign speed_limit_sign bus_stop_head".split()
STREET = (
    "postbox mailbox fire_hydrant standpipe dumpster construction_barrel construction_cone jersey_barrier cinder_block "
    "euro_pallet brick_box fountain playground nist_stairs cannon cardboard_box drc_practice"
).split()
QUEUES = 0.35  # share of streets filmed from a car that stands or drives in dense traffic
SUBJECTS = 0.45  # share of worlds in which somebody, an animal or a thing is to be filmed, if there is room


# --- rooms -----------------------------------------------------------------------------------------------------------


def room(rng: Random, of: Library) -> tuple[list[Model], Light, np.ndarray]:
    """A furnished room, its lamps, and a camera in it (world_T_cam)."""
    w, d, h = rng.uniform(2.6, 7.5), rng.uniform(2.6, 8.5), rng.uniform(2.3, 3.2)
    things, plot = shell(rng, of, w, d, h), Plot([])
    tops: list[Model] = []
    for _ in range(int(rng.integers(6, 26))):
        model = of.some(rng, FURNITURE) if rng.random() < 0.8 else furniture(rng, of)
        model = moved(model, turn(np.pi / 2 * rng.integers(4) + (rng.normal(0, 0.4) if rng.random() < 0.3 else 0)))
        size = model.size
        if size[0] > 0.9 * w or size[2] > 0.9 * d or size[1] > h:
            continue
        x, z = (rng.uniform(-(s - e) / 2, (s - e) / 2) for s, e in ((w, size[0]), (d, size[2])))
        if rng.random() < 0.7:  # along a wall
            if rng.random() < 0.5:
                x = float(rng.choice([-1, 1])) * (w - size[0] - 0.03) / 2
            else:
                z = float(rng.choice([-1, 1])) * (d - size[2] - 0.03) / 2
        model = moved(model, at(x, 0, z))
        if plot.claim(model):
            things.append(model)
            tops += [model] if 0.25 < size[1] < 1.5 else []
    for _ in range(int(rng.integers(3, 36)) if tops else 0):
        things.append(on_top(rng, of, tops[int(rng.integers(len(tops)))]))
    for _ in range(int(rng.integers(0, 8))):
        model = moved(
            thing(rng, of, rng.uniform(0.15, 0.6)), at(rng.uniform(-w, w) * 0.45, 0, rng.uniform(-d, d) * 0.45)
        )
        things += [model] if plot.claim(model) else []
    for _ in range(int(rng.choice([0, 1, 2], p=[0.75, 0.18, 0.07]))):
        model = moved(
            person(rng, of), at(rng.uniform(-w, w) * 0.4, 0, rng.uniform(-d, d) * 0.4) @ turn(rng.uniform(0, 6.3))
        )
        things += [model] if plot.claim(model) else []
    lamps = tuple(
        Lamp(
            np.array([rng.uniform(-w, w) * 0.4, -h + rng.uniform(0.1, 0.8), rng.uniform(-d, d) * 0.4]),
            rng.uniform(0.3, 1.6) * np.array([1, rng.uniform(0.85, 1), rng.uniform(0.6, 1)]),
            far=False,
        )
        for _ in range(int(rng.integers(1, 3)))
    )
    light = Light(lamps, rng.uniform(0.3, 0.75) * np.exp(rng.normal(0, 0.05, 3)), np.ones((2, 3)))
    if tops and rng.random() < 0.4:
        return things, light, close_up(rng, tops[int(rng.integers(len(tops)))], w, d)
    height = rng.uniform(0.7, 1.8)
    place = at(rng.uniform(-w, w) * 0.45, min(height, h - 0.3), rng.uniform(-d, d) * 0.45)
    # heights of about the furniture look level, tall ones look down
    pitch = rng.normal(-0.25 * (height - 0.8), 0.2)
    return things, light, place @ turn(rng.uniform(0, 2 * np.pi)) @ turn(pitch, "x") @ turn(rng.normal(0, 0.04), "z")


def close_up(rng: Random, model: Model, w: float, d: float) -> np.ndarray:
    """A camera that looks at what stands on a piece of furniture, from 0.5 to 2 m."""
    low, high = (f(model.corners, (0, 1)).astype(float) for f in (np.min, np.max))
    aim = np.array([rng.uniform(low[0], high[0]), low[1] - rng.uniform(-0.1, 0.15), rng.uniform(low[2], high[2])])
    angle, off = np.arctan2(-aim[0], -aim[2]) + rng.normal(0, 0.6), rng.uniform(0.5, 2)  # from the room's side
    x, z = np.clip(
        aim[[0, 2]] + off * np.array([np.sin(angle), np.cos(angle)]), [-w * 0.47, -d * 0.47], [w * 0.47, d * 0.47]
    )
    up = rng.uniform(0.1, 0.8)
    pitch = -np.arctan2(up, np.hypot(x - aim[0], z - aim[2]))
    yaw = np.arctan2(aim[0] - x, aim[2] - z)
    return at(x, up - aim[1], z) @ turn(yaw + rng.normal(0, 0.1)) @ turn(pitch + rng.normal(0, 0.1), "x")


def shell(rng: Random, of: Library, w: float, d: float, h: float) -> list[Model]:
    """Floor, ceiling, walls with what hangs on them, skirting."""
    x, z = w / 2, d / 2
    same = of.texture(rng, "plain", "rough", "bricks", "tiles", "stripes", "wood", photos=0.08), shade(rng) * 0.3 + 0.75
    floor = of.texture(rng, "wood", "tiles", "checks", "cloth", "plain", "speckle", "rough", photos=0.05)
    parts = [solid(*quad((-x, 0, z), (x, 0, z), (-x, 0, -z)), floor, shade(rng), float(rng.uniform(0.6, 2.5)))]
    roof = of.texture(rng, "plain", photos=0)
    parts.append(solid(*quad((-x, -h, -z), (x, -h, -z), (-x, -h, z)), roof, shade(rng) * 0.2 + 0.85, 2.0))
    sides = [((-x, z), (x, z)), ((x, z), (x, -z)), ((x, -z), (-x, -z)), ((-x, -z), (-x, z))]
    tile = float(rng.uniform(0.8, 3))
    for k, ((x0, z0), (x1, z1)) in enumerate(sides):
        look = same if rng.random() < 0.7 else (of.texture(rng), shade(rng))
        parts.append(solid(*quad((x0, -h, z0), (x1, -h, z1), (x0, 0, z0)), *look, tile))
        along = d if k % 2 else w
        if rng.random() < 0.7:
            board = box((along, rng.uniform(0.05, 0.14), 0.02), of.painted["plain"][0], shade(rng))
            parts.append(moved(board, to_wall(k, x, z, 0.0, 0.0, 0.01)))
        for _ in range(int(rng.integers(0, 4))):
            parts += hung(rng, of, k, x, z, h, along)
    if rng.random() < 0.4:
        lamp = of.some(rng, CEILING)
        parts.append(moved(lamp, at(rng.uniform(-x, x) * 0.6, h - lamp.size[1], rng.uniform(-z, z) * 0.6)))
    return parts


def to_wall(k: int, x: float, z: float, along: float, height: float, off: float) -> np.ndarray:
    """From a frame whose z looks into wall k to the world, `along` it from its middle, `off` m in front."""
    reach = (z, x, z, x)[k]
    return turn(np.pi / 2 * k) @ at(along, height, reach - off)


def hung(rng: Random, of: Library, k: int, x: float, z: float, h: float, along: float) -> list[Model]:
    """A picture, poster, shelf, window, door or curtain on wall k; nothing where it would not fit."""
    kind = rng.random()
    if kind < 0.45:
        model = of.some(rng, HUNG)
        if model.size[0] < model.size[2]:  # its thin side to the wall
            model = moved(model, turn(np.pi / 2))
        low = model.size[1] > 1.6
    elif kind < 0.8:
        size = (rng.uniform(0.2, 1.4), rng.uniform(0.2, 1.2), 0.02)
        model, low = (
            box(size, of.texture(rng, "poster", "windows", "glass", photos=0.5), shade(rng) * 0.5 + 0.6, max(size)),
            False,
        )
    else:
        size = (rng.uniform(0.4, 1.4), rng.uniform(0.02, 0.05), rng.uniform(0.15, 0.35))
        board = box(size, of.texture(rng, "wood", "plain"), shade(rng))
        items = [on_top(rng, of, board) for _ in range(int(rng.integers(1, 7)))]
        model, low = joined([board, *items]), False
    wide, tall, deep = model.size
    room_up = h - tall - 0.05
    if wide > along - 0.1 or room_up < 0.02:
        return []
    height = 0.0 if low else rng.uniform(min(0.9, room_up), room_up)
    return [moved(model, to_wall(k, x, z, rng.uniform(-1, 1) * (along - wide) / 2, height, deep / 2 + 0.005))]


def on_top(rng: Random, of: Library, below: Model) -> Model:
    """Something small that stands on top of something."""
    low, high = (f(below.corners, (0, 1)).astype(float) for f in (np.min, np.max))
    model = of.some(rng, SMALL) if rng.random() < 0.4 else thing(rng, of, rng.uniform(0.08, 0.3))
    x, z = (rng.uniform(a + 0.1 * (b - a), b - 0.1 * (b - a)) for a, b in ((low[0], high[0]), (low[2], high[2])))
    return moved(model, at(x, -low[1], z) @ turn(rng.uniform(0, 6.3)))


def furniture(rng: Random, of: Library) -> Model:
    """A table, cupboard or shelf of boxes."""
    w, h, d = rng.uniform([0.4, 0.35, 0.3], [1.8, 2.0, 0.9])
    look = (of.texture(rng, "wood", "plain", "paint", "rough"), shade(rng), 0.8)
    if h > 1.1:
        parts = [moved(box((w, 0.03, d), *look), at(0, h * k / 4, 0)) for k in range(5)]
        parts += [moved(box((0.03, h, d), *look), at(s * w / 2, 0, 0)) for s in (-1, 1)]
        for k in range(4):
            board = moved(box((w * 0.9, 0.03, d * 0.8), *look), at(0, h * k / 4, 0))
            parts += [on_top(rng, of, board) for _ in range(int(rng.integers(0, 5)))]
        return joined(parts)
    if rng.random() < 0.5:
        return box((w, h, d), *look)
    legs = [moved(box((0.05, h, 0.05), *look), at(a * w * 0.45, 0, b * d * 0.45)) for a in (-1, 1) for b in (-1, 1)]
    return joined([moved(box((w, 0.04, d), *look), at(0, h - 0.04, 0)), *legs])


# --- streets ---------------------------------------------------------------------------------------------------------


def street(rng: Random, of: Library) -> tuple[list[Model], np.ndarray, Light, np.ndarray]:
    """A street along z, what moves on it (motions by thing), daylight, and a camera in a car, on foot or higher up."""
    lane, lanes = rng.uniform(2.6, 3.8), int(rng.integers(1, 4))
    half, walk = lane * lanes / 2 + rng.uniform(0, 2.4), rng.choice([0.0, rng.uniform(1.2, 4)], p=[0.2, 0.8])
    long = 160.0
    things, plot = ground(rng, of, half, walk, lane, lanes, long), Plot([])
    motions = [np.eye(4)] * len(things)

    def put(model: Model, x: float, z: float, motion: np.ndarray | None = None, gap: float = 0.1) -> None:
        height = 0.12 if walk and half < abs(x) < half + walk else 0.0
        model = moved(model, at(x, height, z))
        if plot.claim(model, gap):
            things.append(model)
            motions.append(np.eye(4) if motion is None else motion)

    kind = rng.choice(4, p=[0.2, 0.65, 0.1, 0.05])
    camera, place = viewpoint(rng, int(kind), half, walk, lane, lanes, long)
    plot.taken.append((place[0] - 1.2, place[1] - 2.5, place[0] + 1.2, place[1] + 3.0))
    dense = rng.beta(1.2, 1.2)
    for side in (-1, 1):
        edge, z = half + walk + rng.choice([0.3, rng.uniform(0.5, 9)]), -10.0
        while z < long:
            model = building(rng, of) if rng.random() < 0.25 + 0.75 * dense else None
            if model is None:
                z += rng.uniform(3, 18)
                continue
            put(model, side * (edge + model.size[0] / 2), z + model.size[2] / 2)
            z += model.size[2] + rng.choice([0.0, rng.uniform(0.5, 14)], p=[0.4, 0.6])
        for _ in range(rng.poisson(6 + 14 * rng.random())):
            model = of.some(rng, TREES) if rng.random() < 0.75 else bush(rng, of)
            scale = np.exp(rng.normal(0, 0.35))
            model = moved(model, turn(rng.uniform(0, 6.3)) @ np.diag([scale, scale, scale, 1]))
            put(
                model,
                side * (half + rng.choice([0.5 * walk + 0.4, walk + rng.uniform(1, 15)])),
                rng.uniform(0, long),
                gap=-0.6,
            )
        for _ in range(rng.poisson(5)):
            model = moved(of.some(rng, POLES), turn(np.pi / 2 * rng.integers(4)))
            put(model, side * (half + rng.uniform(0.3, max(0.5, walk))), rng.uniform(0, long), gap=-0.3)
        for _ in range(rng.poisson(4)):
            put(
                moved(of.some(rng, STREET), turn(rng.uniform(0, 6.3))),
                side * (half + rng.uniform(0.2, 4)),
                rng.uniform(0, long),
            )
        if rng.random() < 0.7:  # parked cars
            z, share = 0.0, rng.random()
            while z < long:
                model = vehicle(rng, of) if rng.random() < share else None
                if model is not None:
                    put(model, side * (half - 1.1 + rng.normal(0, 0.12)), z)
                z += rng.uniform(5, 9)
        for _ in range(rng.poisson(3 * rng.random())):
            body, speed = person(rng, of), rng.choice([0.0, rng.uniform(0.03, 0.2)])
            angle = float(rng.choice([0, np.pi, rng.uniform(0, 6.3)], p=[0.4, 0.4, 0.2]))
            go = at(*(speed * (turn(angle) @ [0, 0, 1, 0])[[0, 1, 2]]))
            put(moved(body, turn(angle)), side * (half + rng.uniform(-2, 0.8 * walk + 0.5)), rng.uniform(2, 60), go)
    for _ in range(rng.poisson(4 * rng.random())):  # traffic
        number = int(rng.integers(lanes))
        x, ahead = (number + 0.5 - lanes / 2) * lane, 1 if (number + 0.5 > lanes / 2) else -1
        put(vehicle(rng, of, ahead), x, rng.uniform(4, 90), at(0, 0, ahead * rng.choice([0, rng.uniform(0.1, 1.6)])))
    if kind == 1 and rng.random() < QUEUES:
        speed, filled = rng.choice([0, rng.uniform(0.05, 1.2)]), rng.uniform(0.4, 1)
        for number in range(lanes):
            x, ahead = (number + 0.5 - lanes / 2) * lane, 1 if number + 0.5 > lanes / 2 or rng.random() < 0.5 else -1
            z, lorries = place[1] - rng.uniform(0, 8), rng.choice([0.1, 0.5])
            while z < place[1] + 90:
                model = lorry(rng, of, ahead) if rng.random() < lorries else vehicle(rng, of, ahead)
                if rng.random() < filled:
                    go = at(0, 0, ahead * speed * np.exp(rng.normal(0, 0.15)))
                    put(model, x + rng.normal(0, 0.15), z + model.size[2] / 2, go)
                z += model.size[2] + rng.uniform(1.5, 9)
    return things, np.stack(motions), daylight(rng), camera


def viewpoint(
    rng: Random, kind: int, half: float, walk: float, lane: float, lanes: int, long: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """A camera (world_T_cam) on foot (0), in a car (1), from a window or drone (2), or anywhere (3); its x, z."""
    z = rng.uniform(0, 0.35 * long)
    if kind == 1:
        x, height = (rng.integers(lanes) + 0.5 - lanes / 2) * lane + rng.normal(0, 0.25), rng.uniform(1.15, 1.9)
        yaw, pitch = rng.normal(0, 0.05), rng.normal(-0.01, 0.035)
        if rng.random() < 0.15:
            yaw = rng.normal(0, 0.6)
    elif kind == 0:
        x, height = float(rng.choice([-1, 1])) * (half + walk * rng.random()), rng.uniform(1.2, 1.8)
        yaw, pitch = rng.normal(0, 0.7), rng.normal(-0.03, 0.12)
    else:
        x, height = rng.uniform(-half, half), rng.uniform(3, 14)
        yaw, pitch = (
            (rng.normal(0, 0.7), rng.normal(-0.3, 0.15)) if kind == 2 else (rng.uniform(0, 6.3), rng.normal(-0.2, 0.2))
        )
    return at(x, height, z) @ turn(yaw) @ turn(pitch, "x") @ turn(rng.normal(0, 0.02), "z"), (x, z)


def ground(rng: Random, of: Library, half: float, walk: float, lane: float, lanes: int, long: float) -> list[Model]:
    """Road with its marks, pavements, what lies beyond; sometimes hills."""
    z0, z1, wide = -60.0, long + 140, 90.0
    tile = float(rng.uniform(3, 8))
    road = of.texture(rng, "asphalt", "road", "rough", "speckle", photos=0.03), np.full(3, rng.uniform(0.6, 1.2))
    parts = [solid(*quad((-half, 0, z1), (half, 0, z1), (-half, 0, z0)), *road, tile)]
    lawn = of.texture(rng, "grass", "paving", "rough", "asphalt", photos=0.03), shade(rng) * 0.3 + 0.7
    pave = of.texture(rng, "paving", "tiles", "asphalt", "bricks", photos=0), np.full(3, rng.uniform(0.6, 1.1))
    for s in (-1, 1):
        if walk:
            slab = moved(
                box((walk, 0.12, z1 - z0), *pave, float(rng.uniform(1.5, 4))),
                at(s * (half + walk / 2), 0, (z0 + z1) / 2),
            )
            parts.append(slab)
        inner, outer = s * (half + walk), s * (half + walk + wide)
        rise = -0.0 if rng.random() < 0.6 else -rng.uniform(0.5, 8)
        edge = -0.02 if walk else 0.0  # a step without a side would show the sky below
        a, b, c = (inner, edge, z1), (outer, rise, z1), (inner, edge, z0)
        parts.append(solid(*quad(a, b, c), *lawn, float(rng.uniform(3, 8))))
    white = of.painted["plain"][0], np.full(3, rng.uniform(0.7, 1.15))
    for k in range(lanes + 1) if rng.random() < 0.8 else ():
        x, dashed = (k - lanes / 2) * lane, 0 < k < lanes
        starts = np.arange(z0, z1, rng.uniform(6, 12)) if dashed else [z0]
        for z in starts:
            end = z + (rng.uniform(2.5, 3.5) if dashed else z1 - z0)
            parts.append(solid(*quad((x - 0.07, -0.006, end), (x + 0.07, -0.006, end), (x - 0.07, -0.006, z)), *white))
    return [joined(parts)]


def building(rng: Random, of: Library) -> Model:
    """A modelled building, any side to the street, or a box of facades."""
    if rng.random() < 0.55:
        model = moved(of.some(rng, BUILDINGS), turn(np.pi / 2 * rng.integers(4)))
        return model if max(model.size[0], model.size[2]) < 32 else moved(model, np.diag([0.7, 0.7, 0.7, 1]))
    size = rng.uniform([6, 3.5, 6], [16, 18, 26])
    facade = of.texture(rng, "windows", "bricks", "rough", "plain", photos=0.15), shade(rng) * 0.5 + 0.6
    return box(size, *facade, float(rng.uniform(3, 14)))


def vehicle(rng: Random, of: Library, ahead: int = 0) -> Model:
    """A car, seldom a bus or truck, along z: driving that way (or, 0, either); repainted."""
    names = ("hatchback", "suv", "pickup", "prius_hybrid")
    model = of.some(rng, names if rng.random() < 0.85 else VEHICLES)
    if model.size[0] > model.size[2]:
        model = moved(model, turn(np.pi / 2))
    tint = np.float32(shade(rng) + 0.15)
    model = Model(model.corners, model.uv, model.texture, model.tint * tint)
    back = ahead < 0 or (ahead == 0 and rng.random() < 0.5)
    return moved(model, turn(np.pi)) if back else model


def lorry(rng: Random, of: Library, ahead: int = 1) -> Model:
    """A cab, and behind it a box, a tank, or a bed with a load on wheels; along z, driving that way or the other."""
    w, h, long, bed = rng.uniform([2.0, 1.5, 2.5, 0.6], [2.55, 3.0, 11, 1.3])
    look = of.texture(rng, "plain", "paint", "rough", "stripes", "poster", "speckle", photos=0.2), shade(rng)
    tile, paint, dark = float(rng.uniform(1, 5)), shade(rng), np.full(3, 0.12)
    plain, pane = of.painted["plain"][0], of.painted["glass"][0]
    load = int(rng.integers(3))
    if load == 0:
        parts = [moved(box((w, h, long), *look, tile), at(0, bed, 0))]
    elif load == 1:
        r = min(w, h) / 2
        tank = turned(
            [(0, long), (0.8 * r, long), (r, 0.96 * long), (r, 0.04 * long), (0.8 * r, 0), (0, 0)], *look, tile
        )
        parts = [moved(tank, at(0, bed + r, -long / 2) @ turn(-np.pi / 2, "x"))]
    else:
        size = (w * rng.uniform(0.6, 1), h * rng.uniform(0.15, 0.8), long * rng.uniform(0.4, 1))
        parts = [moved(box(size, *look, tile), at(0, bed, 0))]
    parts.append(moved(box((0.9 * w, 0.25, long), plain, dark), at(0, bed - 0.25, 0)))
    deep, tall = rng.uniform(1.5, 2.3), rng.uniform(1.7, 2.8)
    front = long / 2 + deep / 2 + rng.uniform(0.1, 0.6)
    parts.append(moved(box((w, tall, deep), plain, paint), at(0, 0.4, front)))
    parts.append(
        moved(box((1.01 * w, 0.3 * tall, 0.7 * deep), pane, paint), at(0, 0.4 + 0.6 * tall, front + 0.2 * deep))
    )
    for z in (front, *np.linspace(-0.4 * long, -0.4 * long + 1.3 * (long > 5), 1 + (long > 5))):
        for side in (-1, 1):
            wheel = turned([(0, 0.3), (0.48, 0.3), (0.48, 0), (0, 0)], plain, dark, 1.0, 12)
            parts.append(moved(wheel, at(side * (w / 2 - 0.16) + 0.15, 0.48, z) @ turn(np.pi / 2, "z")))
    for side in (-1, 1):
        lamp = box((0.25, 0.12, 0.02), plain, np.array([0.9, 0.08, 0.05]))
        parts.append(moved(lamp, at(side * 0.4 * w, bed - 0.2, -long / 2 - 0.02)))
    model = joined(parts)
    return moved(model, turn(np.pi)) if ahead < 0 else model


def bush(rng: Random, of: Library) -> Model:
    """A few balls of leaves."""
    r, look = rng.uniform(0.3, 1.2), (of.texture(rng, "leaves", "grass", photos=0), shade(rng) * 0.4 + 0.6)
    middles = rng.normal(0, 0.5 * r, (4, 2))
    return joined([round_thing(r * rng.uniform(0.6, 1, 3), (x, 0.6 * r, z), *look) for x, z in middles])


def daylight(rng: Random) -> Light:
    """Sun or clouds, sky, haze."""
    low, angle, cover = rng.uniform(0.2, 1.4), rng.uniform(0, 6.3), rng.random()
    sun = np.array([np.cos(low) * np.sin(angle), -np.sin(low), np.cos(low) * np.cos(angle)])
    warm = np.array([1, 0.95, 0.85]) ** rng.uniform(0.3, 2)
    strength = 0.0 if cover > 0.6 else rng.uniform(0.4, 0.9)
    blue = np.array([0.35, 0.55, 0.9]) * rng.uniform(0.7, 1.1)
    zenith = blue + (rng.uniform(0.6, 0.97) - blue) * cover
    horizon = zenith + (np.array([0.85, 0.9, 0.95]) - zenith) * rng.random()
    ambient = (0.85 - 0.55 * strength) * rng.uniform(0.85, 1.1) * np.array([0.95, 1.0, 1.06])
    haze = float(rng.choice([0.0, 0.001, 0.004, 0.012], p=[0.4, 0.3, 0.2, 0.1]))
    return Light((Lamp(sun, strength * warm, far=True),), ambient, np.stack([zenith, horizon]).clip(0, 1), haze)


# --- pairs -----------------------------------------------------------------------------------------------------------


def sample(seed: int, of: Library, size: tuple[int, int]) -> Truth:
    """A pair of frames of the room or street of a seed; images not degraded yet."""
    indoors = np.random.default_rng([seed, 19]).random() < 0.5
    for attempt in range(20):
        rng = np.random.default_rng([seed, 17, attempt])
        if indoors:
            things, light, camera = room(rng, of)
            motions = np.tile(np.eye(4), (len(things), 1, 1))
        else:
            things, motions, light, camera = street(rng, of)
        degrees = float(rng.triangular(35, 62, 110))
        focal = 0.5 * max(size) / np.tan(np.radians(degrees) / 2)
        lens = Intrinsics(torch.tensor([focal] * 2).float(), torch.tensor(size) / 2, tuple(size))
        step, near = motion(rng, indoors), 0.25 if indoors else 0.8
        there = camera @ step @ turn(rng.normal(0, 0.006), "z")
        if rng.random() < SUBJECTS:
            things, motions = with_subject(rng, of, things, motions, (camera, there), indoors)
        first = Caster(things, of.paints)
        if clear_view(first, lens, camera, near) and clear_view(first, lens, there, near):
            break
    return pair(first, motions, light, lens, camera, there, rng.uniform(0.3, 0.55))


def motion(rng: Random, indoors: bool) -> np.ndarray:
    """How the camera moves from the first frame to the second, in its own axes: by hand, or driving."""
    if indoors or rng.random() < 0.35:
        shift = at(*rng.normal(0, rng.uniform(0.005, 0.12), 3))
        return shift @ turn(rng.normal(0, 0.03)) @ turn(rng.normal(0, 0.02), "x")
    ahead = rng.choice([0.0, rng.uniform(0.1, 1.8)], p=[0.1, 0.9])
    return at(0, rng.normal(0, 0.01), ahead) @ turn(rng.normal(0, 0.012))


def with_subject(
    rng: Random, of: Library, things: list[Model], motions: np.ndarray, cameras: Sequence[np.ndarray], indoors: bool
) -> tuple[list[Model], np.ndarray]:
    """Things and their motions with what is filmed among them: somebody, an animal or a thing on free ground before
    both cameras (world_T_cam), which may move; without, where there is no place for it."""
    kind, (camera, there) = rng.random(), cameras
    if kind < 0.5:
        body = person(rng, of)
    elif kind < 0.85:
        body = animal(rng, of)
    else:
        body = of.some(rng, FURNITURE) if rng.random() < 0.5 else thing(rng, of, rng.uniform(0.3, 1))
    body, half = moved(body, turn(rng.uniform(0, 6.3))), max(body.size[0], body.size[2]) / 2
    plot = Plot([ground_of(m) for m in things[1:] if m.corners[..., 1].max() > -2])  # not what hangs above
    ahead = float(np.linalg.norm(there[:3, 3] - camera[:3, 3]))
    for _ in range(6):
        off = ahead + half + float(np.exp(rng.uniform(np.log(0.7), np.log(4 if indoors else 8))))
        yaw = np.arctan2(camera[0, 2], camera[2, 2]) + rng.normal(0, 0.22)
        x, z = camera[[0, 2], 3] + off * np.array([np.sin(yaw), np.cos(yaw)])
        height = height_at(things[0], x, z)
        placed = None if height is None else moved(body, at(x, height, z))
        if placed is not None and plot.claim(placed):
            step = at(rng.normal(0, 0.03), 0, rng.normal(0, 0.03)) if rng.random() < 0.5 else np.eye(4)
            return [*things, placed], np.concatenate([motions, step[None]])
    return things, motions


def height_at(ground: Model, x: float, z: float) -> float | None:
    """Height of the uppermost of the ground's triangles above (x, z); None beside them all."""
    a, b, c = (ground.corners[:, k].astype(float) for k in range(3))
    u, v, w = (p[:, [0, 2]] for p in (b - a, c - a, [x, 0, z] - a))
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    flat = np.where(np.abs(area) < 1e-9, np.inf, area)  # those that stand upright
    s, t = (w[:, 0] * v[:, 1] - w[:, 1] * v[:, 0]) / flat, (u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]) / flat
    inside = (np.abs(area) >= 1e-9) & (s >= 0) & (t >= 0) & (s + t <= 1)
    y = a[:, 1] + s * (b - a)[:, 1] + t * (c - a)[:, 1]
    return float(-y[inside].min()) if inside.any() else None


def clear_view(caster: Caster, lens: Intrinsics, camera: np.ndarray, near: float) -> bool:
    """Is nothing right before the lens, and several things of different distances to be seen?"""
    hit = caster.cast(rays_of(lens.resized((48, 28)), camera))
    found, along = np.isfinite(hit.along), hit.along
    if found.mean() < 0.35 or (along < near).mean() > 0.03 or along.min() < 0.2 * near:
        return False
    seen = np.bincount(caster.thing[hit.triangle[found]])
    return bool((seen > 0.01 * along.size).sum() >= 5 and np.log(along[found]).std() > 0.2)
