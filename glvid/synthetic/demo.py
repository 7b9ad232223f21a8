"""The clip that is shipped: a village square in afternoon light, a car driving by, the camera gliding and turning."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glvid.files import atomic_write
from glvid.synthetic import things as make
from glvid.synthetic.scenes import Motion, ahead, steady
from glvid.synthetic.surfaces import Random, atlas
from glvid.synthetic.truth import Truth, render
from glvid.synthetic.world import CYLINDER, Surface, Thing, World, packed, placed, solid
from glvid.types import Intrinsics
from glvid.video import write_video

FRAMES, FPS, SIZE = 72, 24.0, (640, 360)
PLASTER = ((1.6, 1.35, 0.95), (1.55, 1.5, 1.35), (1.5, 1.05, 0.85), (1.1, 1.3, 1.5), (1.5, 1.4, 1.1))
FOLIAGE = ((1.15, 1.0, 0.75), (0.95, 0.95, 0.8), (1.3, 1.15, 0.7))
STEP, SMALL = 6, (160, 90)  # every 6th frame's depth, at 160 x 90


def square(rng: Random) -> list[Thing]:
    """Houses around a paved square with trees, a wall, lamps, a well, people, parked cars."""
    paved, grass = Surface("paving", (2.6, 2.6), (1.35, 1.28, 1.15)), Surface("grass", (6, 6), (1, 1.05, 0.9))
    things = [[make.box(0, 20, 0, 600, 20, 600, grass)], [make.box(0, 4.98, 12, 16, 5, 15, paved)]]
    lane = Surface("road", (6.4, 9.0), (0.95, 0.95, 0.95))
    things.append(placed([make.box(0, 4.96, 0, 3.2, 5, 300, lane)], 0, 17.5, np.pi / 2))
    for n, (x, z, turn, half, height) in enumerate((
        (-15, 19, np.pi / 2, (4, 6), 5.6), (-9.5, 29, 0.0, (5, 4), 6.2), (1.5, 31, 0.08, (4.4, 4.5), 8.6),
        (12, 28.5, -0.12, (4.6, 4), 5.4), (19, 17, np.pi / 2, (6, 4), 6.4), (27, 33, 0.2, (6, 5), 9),
        (-25, 36, 0.1, (7, 5), 11),
    )):  # fmt: skip
        things.append(placed(_cottage(PLASTER[n % len(PLASTER)], half, height), x, z, turn))
    for x, z, size in (
        (-6.2, 11.5, 1.15),
        (7.6, 12.4, 1.3),
        (12.6, 20.5, 1.2),
        (-13, 11.5, 1.4),
        (-3.2, 24, 0.9),
        (22, 24, 1.7),
    ):
        things.append(placed(_tree(rng), x, z, rng.uniform(0, 6), scale=size))
    for x in np.linspace(-60, 60, 13):
        things.append(placed(_tree(rng), x + rng.uniform(-3, 3), 52 + rng.uniform(-6, 6), scale=2.4))
    things += [placed(_lamp(), 4.3, 13.8), placed(_lamp(), -8.2, 14.2), placed(_lamp(), 11, 14.0)]
    things += [placed(_bush(rng), 5.6, 9.0), placed(_bush(rng), -5.0, 8.2)]
    things += [placed(make.car(rng), 6.8, 22.6, np.pi / 2), placed(make.car(rng), -4.3, 22.4, -np.pi / 2)]
    things += [placed(make.person(rng), -2.6, 13.2, 2.4), placed(make.person(rng), -2.0, 13.6, -1.2)]
    return [*things, _well(), *_cafe(rng)]


def _cottage(tint: tuple[float, float, float], half: tuple[float, float], height: float) -> Thing:
    """A plastered house with a pitched roof, a door to the square, a chimney."""
    wall = Surface("windows", (8.5, 8.5), tint)
    roof = Surface("bricks", (2.4, 2.4), (1.15, 0.8, 0.7))
    a, c = half
    door = Surface("wood", (0, 0), (0.8, 0.7, 0.6))
    return [
        make.box(0, -height / 2, 0, a, height / 2, c, wall),
        make.gable(a * 1.1, 2.6, c * 1.06, height - 0.05, roof),
        make.box(a * 0.45, -height - 1.7, c * 0.3, 0.35, 1.0, 0.35, Surface("bricks", (1.2, 1.2))),
        make.box(0.15 * a, -1.1, -c, 0.6, 1.1, 0.08, door),
        make.box(0, -0.25, 0, a + 0.05, 0.25, c + 0.05, Surface("paving", (1.5, 1.5))),
    ]


def _tree(rng: Random) -> Thing:
    """A trunk and a crown of many small balls."""
    bark = Surface("wood", (0.8, 1.5), (0.6, 0.55, 0.5))
    parts = [make.post(0, 0, 0, 2.6, 0.13, bark)]
    for n in range(16):
        up, turn = 1 - 2 * (n + 0.5) / 16, 2.4 * n
        side = (1 - up * up) ** 0.5
        x, y, z = np.array([side * np.sin(turn), up, side * np.cos(turn)]) * 0.85 + rng.normal(0, 0.1, 3)
        r = rng.uniform(0.4, 0.62)
        parts.append(make.ball(x, -3.2 - 0.8 * y, z, r, 0.85 * r, r, Surface("leaves", (1.6, 1.6), FOLIAGE[n % 3])))
    return parts


def _bush(rng: Random) -> Thing:
    return [
        make.ball(x, -0.35, z, r, 0.85 * r, r, Surface("leaves", (1.2, 1.2), FOLIAGE[n % 3]))
        for n, (x, z, r) in enumerate(np.stack([*rng.normal(0, 0.4, (2, 7)), rng.uniform(0.3, 0.55, 7)], 1))
    ]


def _lamp() -> Thing:
    iron, light = Surface("plain", (1, 1), (0.3, 0.34, 0.34)), Surface("plain", (1, 1), (1.6, 1.5, 1.2))
    return [
        make.post(0, 0, 0, 3.3, 0.05, iron),
        make.post(0, 0, 0, 0.5, 0.11, iron),
        make.ball(0, -3.5, 0, 0.22, 0.24, 0.22, light),
        make.post(0, 0, 3.7, 3.78, 0.2, iron),
    ]


def _well() -> Thing:
    stone, wood = Surface("bricks", (1.2, 1.2), (0.95, 1.0, 1.05)), Surface("wood", (0.8, 0.8))
    return placed(
        [
            solid(CYLINDER, (0, -0.45, 0), (0.9, 0.45, 0.9), stone, top=Surface("plain", (1, 1), (0.85, 0.85, 0.8))),
            make.post(0, 0, 0.5, 0.91, 0.72, Surface("plain", (1, 1), (0.06, 0.07, 0.09))),
            make.post(-0.75, 0, 0.9, 2.3, 0.06, wood),
            make.post(0.75, 0, 0.9, 2.3, 0.06, wood),
            make.gable(1.3, 0.7, 0.8, 2.2, Surface("bricks", (1.2, 1.2), (1.1, 0.75, 0.65))),
        ],
        1.7, 10.2, 0.5,
    )  # fmt: skip


def _cafe(rng: Random) -> list[Thing]:
    """Two tables with chairs and parasols."""
    out = []
    for x, z, cloth in ((8.6, 8.2, (1.2, 0.5, 0.4)), (10.6, 10.0, (1.2, 1.1, 0.8))):
        shade = Surface("stripes", (0.9, 0.9), cloth)
        stand = [make.post(0, 0, 0, 2.4, 0.03, Surface("wood", (1, 1))), make.gable(1.4, 0.45, 1.4, 2.1, shade)]
        out += [placed(make.table(rng, 0.5, 0.5), x, z), placed(stand, x + 0.1, z + 0.1, 0.4)]
        out += [placed(make.chair(rng), x + 0.8 * np.sin(k), z + 0.8 * np.cos(k), k) for k in (0.3, 2.2, 4.4)]
    return out


def path(frames: int) -> Motion:
    """A glide to the right and forward, rising a little, looking round the square."""
    s = np.linspace(0, 1, frames)
    ease = s - np.sin(2 * np.pi * s) / (4 * np.pi)
    at = np.stack([-3.0 + 5.6 * ease, -1.7 - 0.7 * ease, 0.4 + 2.6 * ease], 1)
    turn = 0.16 - 0.34 * ease + 0.05 * np.sin(2 * np.pi * s)
    return Motion(at, turn, -0.02 - 0.07 * np.sin(np.pi * s), 0.012 * np.sin(2 * np.pi * s))


def demo_world(frames: int = FRAMES, size: tuple[int, int] = SIZE, shadow_side: int = 1024) -> World:
    """The shipped scene; always the same."""
    rng = np.random.default_rng([2019, 4])
    paints = atlas(rng)
    car = ahead(steady(frames, (-8.6, 0, 16.0), np.pi / 2), np.full(frames, 13.0 / frames))
    movers = [(make.car(np.random.default_rng(3), Surface("plain", (1.5, 1.5), (1.5, 0.32, 0.25))), car)]
    things = square(rng)
    solids = packed([[p for t in things for p in t], *(t for t, _ in movers)], paints, rng)
    focal = 0.5 * size[0] / np.tan(np.radians(62) / 2)
    sun = torch.tensor([-0.55, -0.6, -0.6])
    return World(
        **solids,
        world_T_group=torch.from_numpy(
            np.stack([np.tile(np.eye(4), (frames, 1, 1)), *(m.matrices() for _, m in movers)])
        ),
        world_T_cam=torch.from_numpy(path(frames).matrices()),
        intrinsics=Intrinsics(torch.tensor([focal, focal]).float(), torch.tensor(size) / 2, size),
        times=torch.arange(frames) / FPS,
        atlas=paints,
        sun=sun / sun.norm(),
        sky=torch.tensor([[0.36, 0.57, 0.88], [0.86, 0.9, 0.95]]),
        ambient=0.42,
        haze=0.0012,
        shadow_side=shadow_side,
    )


def _bytes(images: Tensor) -> Iterator[np.ndarray]:
    for image in images:
        yield (image.permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)


def write_demo(folder: str | Path) -> None:
    """Write demo.mp4 and demo_truth.npz (see `write_truth`) into an existing folder. Raises OutputError."""
    truth = render(demo_world(), samples_per_pixel=4, batch=1)
    write_video(Path(folder) / "demo.mp4", _bytes(truth.images), FPS)
    write_truth(Path(folder) / "demo_truth.npz", truth)


def write_truth(path: Path, truth: Truth) -> None:
    """frames (F,) and their depth (F, 90, 160) float16 m (sampled, 1000 = sky); world_T_cam (S, 4, 4); fx fy cx cy of
    640 x 360 (pixel centres at .5); moving: one packed bit per pixel of (S, 90, 160), row by row; times (S,)."""
    k = SIZE[0] // SMALL[0]
    frames = np.arange(0, len(truth.times), STEP)
    K = truth.intrinsics
    file = io.BytesIO()
    np.savez_compressed(
        file,
        frames=frames,
        depth=truth.depth[frames, 0, k // 2 :: k, k // 2 :: k].numpy().astype(np.float16),
        world_T_cam=truth.world_T_cam.numpy(),
        camera=np.array([*K.focal.tolist(), *K.center.tolist()]),
        moving=np.packbits(truth.moving[:, 0, k // 2 :: k, k // 2 :: k].numpy() > 0.5, axis=-1),
        times=truth.times.numpy(),
    )
    atomic_write(path, file.getvalue())
