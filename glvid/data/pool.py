"""Frame pairs with depth, flow and motion on disk: rendered ones, which one process keeps adding while training draws,
or real ones that geometry solved (`lessons`)."""

import fcntl
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch

from glvid.errors import GlvidError, UsageError
from glvid.files import atomic_write, cannot_write, published
from glvid.parallel import cores
from glvid.types import Intrinsics

Random = np.random.Generator
NICE = 19  # niceness of rendering beside training: what training leaves over where cores are scarce
TOGETHER = 4  # samples of a batch from one clip
ENOUGH = 0.3  # share of sure depth from which on a clip is drawn as often as any
SKY = 900.0  # m; what is farther has been rendered as sky


def row_type(size: tuple[int, int]) -> np.dtype:
    """One pair a, b: images, depth (m if rendered), how sure it is, flow both ways (px), where a is visible in b,
    motion, camera (px)."""
    w, h = size
    return np.dtype(
        [
            ("image", "u1", (2, h, w, 3)),
            ("depth", "f2", (2, h, w)),
            ("sure", "u1", (2, h, w)),  # 0..255; rendered depth is sure everywhere
            ("flow", "f2", (2, h, w, 2)),
            ("visible", "u1", (h, w)),
            ("b_T_a", "f4", (4, 4)),
            ("focal", "f4", (2,)),
            ("center", "f4", (2,)),
            ("known", "u1"),  # 1 where the intrinsics are true, or found well enough to learn from
        ]
    )


@dataclass(frozen=True)
class Pool:
    """`rows` pairs in a ring at `path` (memory-mapped); `path`.count holds how many were ever written.

    Pair k is always the same world, and lies in row k % rows. Who draws says up to which pair (`hold`): the newest four
    fifths before it stay, the rest may be written over. So what is drawn depends on that number alone, not on how far
    rendering has got, and a training run that was killed goes on as if it had not been.
    """

    path: Path
    size: tuple[int, int]
    rows: int
    kind: str | None = None  # of worlds (synthetic.KINDS); None: all of them

    @property
    def usable(self) -> int:
        """Pairs to draw from once the ring is full."""
        return self.rows - self.rows // 5

    def hold(self, upto: int) -> None:
        """From now on, pairs from `upto` - usable on are kept."""
        atomic_write(self.path.with_suffix(".held"), str(upto).encode())

    @property
    def held(self) -> int:
        """What `hold` said last; 0 before."""
        file = self.path.with_suffix(".held")
        return int(file.read_text() or 0) if file.exists() else 0

    def free(self, pair: int) -> bool:
        """May this pair be written: is its row not held by one that may still be drawn?"""
        return pair - self.rows < max(0, self.held - self.usable)

    def open(self) -> tuple[np.memmap, np.memmap]:
        """The ring and its counter, made on first use. Raises OutputError."""
        counter, row = self.path.with_suffix(".count"), row_type(self.size)
        if not counter.exists():
            self._make(counter, row.itemsize * self.rows)
        elif self.path.stat().st_size != row.itemsize * self.rows:
            raise UsageError(
                f"{self.path}: holds pairs of another size or number; remove the folder {self.path.parent}"
            )
        ring = np.memmap(self.path, row, "r+", shape=(self.rows,))
        return ring, np.memmap(counter, np.int64, "r+", shape=(1,))

    def _make(self, counter: Path, size: int) -> None:
        """Makes both files, in one process while others wait: none may take the place of what another has mapped."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            turn = os.open(self.path.parent, os.O_RDONLY)
        except OSError as error:
            raise cannot_write(self.path, error, size) from error
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if not counter.exists():  # the whole ring now: a disk full later would kill who writes through the map
                with published(self.path, size) as part, open(part, "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
                atomic_write(counter, bytes(8))
        finally:
            os.close(turn)


def row_of(truth) -> np.ndarray:
    """A rendered pair (`synthetic.Truth` of two frames) as a row."""
    h, w = truth.images.shape[-2:]
    row = np.zeros((), row_type((w, h)))
    row["image"] = (truth.images.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()
    row["depth"], row["sure"] = truth.depth[:, 0].clamp(1e-3, 6e4).cpu().numpy(), 255
    flows = torch.cat([truth.flow, truth.flow_back]).permute(0, 2, 3, 1)
    row["flow"] = flows.nan_to_num(0).clamp(-6e4, 6e4).cpu().numpy()
    row["visible"] = truth.visible[0, 0].cpu().numpy() > 0.5
    a, b = truth.world_T_cam.double().cpu()
    row["b_T_a"] = (torch.linalg.inv(b) @ a).numpy()
    row["known"] = 1
    row["focal"], row["center"] = truth.intrinsics.focal.cpu().numpy(), truth.intrinsics.center.cpu().numpy()
    return row


def fill(
    pool: Pool,
    seed: int,
    textures: Path | None,
    count: int | None = None,
    rest: float = 0.0,
    device: str = "cpu",
    beside: float = 0.0,
    assets: Path | None = None,
) -> None:
    """Render into the pool, `count` pairs or without end, waiting where pairs are held that would be written over.

    With `assets`, a folder of models (GLB), three of four worlds are built of those (`synthetic.sets`).

    Once full, sleep `rest` times the time of a pair after each, before that `beside` times. Pair k of the pool is world
    `seed + k`, so an interrupted pool goes on with worlds not seen before; one that was lost begins with those that
    are held.
    """
    from glvid import synthetic  # not needed by those who only read a pool
    from glvid.synthetic.scenes import RESERVED

    ring, counter = pool.open()
    photos, parent = synthetic.textures(textures) if textures else None, multiprocessing.parent_process()
    furnished = synthetic.library(assets, textures) if assets else None

    def orphaned() -> bool:  # training was killed
        return parent is not None and not parent.is_alive()

    with open(pool.path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # an orphan may still be at its last pair
        if not counter[0]:
            counter[0] = max(0, pool.held - pool.usable)
        first = seed + int(counter[0])
        left = RESERVED - first if count is None else count - int(counter[0])
        began = time.monotonic()
        for truth in synthetic.samples(first, max(0, left), 2, pool.size, device, photos, pool.kind, furnished):
            while parent is not None and not pool.free(int(counter[0])) and not orphaned():
                time.sleep(0.2)
            if orphaned():
                return
            ring[counter[0] % pool.rows] = row_of(truth)
            counter[0] += 1
            time.sleep((rest if counter[0] > pool.rows else beside) * (time.monotonic() - began))
            began = time.monotonic()


def render(
    pool: Pool,
    seed: int,
    textures: Path | None,
    rest: float,
    device: str,
    beside: float = 0.0,
    assets: Path | None = None,
) -> None:
    """`fill` without end, as a process of its own, on one core or on a GPU.

    Training goes first (`nice`): of its threads, all wait for the one whose core rendering has taken.
    """
    os.nice(NICE)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    fill(pool, seed, textures, None, rest, device, beside, assets)


@contextmanager
def filling(
    pool: Pool,
    seed: int,
    textures: Path | None,
    rest: float = 3.0,
    least: int = 64,
    device: str = "cpu",
    assets: Path | None = None,
) -> Iterator[Pool]:
    """A second process fills the pool while the block runs, which begins once pair `least` is there.

    Where training takes every core, rendering rests half of the time, lest it cost training a third of its speed.
    """
    spare = device != "cpu" or torch.get_num_threads() < cores()
    worker = multiprocessing.get_context("spawn").Process(
        target=render,
        args=(pool, seed, textures, rest, device, 0.0 if spare else 1.0, assets),
        daemon=True,
        name="glvid-render",
    )
    worker.start()
    _, counter = pool.open()
    try:
        while counter[0] < least:
            if not worker.is_alive():
                raise GlvidError(f"rendering into {pool.path} stopped: render one pair alone to see why (pool.fill)")
            time.sleep(0.2)
        yield pool
    finally:
        worker.terminate()
        worker.join()


@dataclass(frozen=True)
class Batch:
    """B pairs at training size: images, depth, how sure it is (0..1), flow a -> b, visibility, b_T_a, camera, and where
    there is one, a first guess of the flow; float32, channels first."""

    a: torch.Tensor
    b: torch.Tensor
    depth: torch.Tensor
    sure: torch.Tensor
    flow: torch.Tensor
    visible: torch.Tensor
    b_T_a: torch.Tensor
    intrinsics: Intrinsics
    known: torch.Tensor  # (B,), 0 or 1: are the intrinsics to be learned?
    start: torch.Tensor | None = None
    inner: tuple[int, int] | None = None  # size at which flow is to be found; None: the network's own choice

    def to(self, device: str | torch.device) -> "Batch":
        """The same pairs on a device."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: x.to(device) if hasattr(x, "to") else x for name, x in parts.items()})


def window(rng: Random, size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """A crop x, y, w, h of an image of `size` for a picture of `target`: its aspect within 12 %, up to 1.9 x zoom.

    Half of the crops are as large as fits: the field of view of a whole frame is what networks mostly see.
    """
    aspect = target[0] / target[1] * np.exp(rng.uniform(-0.12, 0.12))
    w, h = min(size[0], size[1] * aspect), min(size[1], size[0] / aspect)
    zoom = 1.0 if rng.random() < 0.5 else rng.uniform(1, 1.9)
    w, h = int(round(w / zoom)), int(round(h / zoom))
    return int(rng.integers(size[0] - w + 1)), int(rng.integers(size[1] - h + 1)), w, h


def jittered(rng: Random, images: list[np.ndarray]) -> list[np.ndarray]:
    """The same random change of exposure, contrast, colour, blur and compression for all `images` (uint8 RGB)."""
    gain, gamma = np.exp(rng.uniform(-0.15, 0.25)), np.exp(rng.uniform(-0.25, 0.2))
    tint = np.exp(rng.uniform(-0.12, 0.12, 3))
    curve = np.arange(256)[:, None] / 255.0
    table = np.clip(255 * tint * gain * curve**gamma + rng.uniform(-20, 20), 0, 255).astype(np.uint8)
    grey, blur, quality = rng.random() < 0.15, rng.random() < 0.2, int(rng.integers(25, 95))
    out = []
    for image in images:
        if grey:
            image = np.repeat(image.mean(2, keepdims=True).astype(np.uint8), 3, 2)
        image = np.stack([cv2.LUT(image[..., c], table[:, c]) for c in range(3)], -1)
        if blur:
            image = cv2.GaussianBlur(image, (3, 3), 0)
        if quality < 70:
            image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
        out.append(image)
    return out


def clear_sky(rng: Random, image: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The rendered sky, always clouded, replaced by a plain vertical ramp from any blue or grey to a paler one."""
    blue, grey = rng.uniform([10, 70, 150], [120, 170, 255]), rng.uniform(110, 255)
    top = blue + rng.random() ** 2 * (grey - blue)
    low = top + rng.random() * (np.array([235, 240, 245]) - top)
    ramp = np.linspace(0, rng.uniform(1, 2.5), len(image)).clip(0, 1)[:, None, None]
    return np.where(depth[..., None] > SKY, (top + ramp * (low - top)).astype(np.uint8), image)


def shadowed(rng: Random, a: np.ndarray, b: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures under the same shadows, in b moved by `shift` (px): dark patches of any outline, hard or soft.

    Networks otherwise take what a tree or a bridge throws on a road for something that stands there.
    """
    from glvid.synthetic.collage import outline  # not needed by those who only read a pool

    h, w = a.shape[:2]
    light, share = np.ones((h, w), np.float32), rng.uniform(0.3, 0.8)
    for _ in range(int(rng.integers(1, 5))):
        box = tuple(int(side * rng.uniform(0.15, 1.2)) + 8 for side in (w, h))
        left, top = (int(rng.uniform(-0.5 * s, side - 0.5 * s)) for s, side in zip(box, (w, h), strict=True))
        cover = outline(rng, box)[max(0, -top) : h - top, max(0, -left) : w - left]
        part = light[max(0, top) :, max(0, left) :][: cover.shape[0], : cover.shape[1]]
        np.minimum(part, 1 - share * cover.astype(np.float32) / 255, out=part)
    if rng.random() < 0.7:
        light = cv2.GaussianBlur(light, (0, 0), float(rng.uniform(0.5, 4)))
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    there = cv2.warpAffine(light, move, (w, h), borderMode=cv2.BORDER_REFLECT)
    blue = 1 + rng.random() * np.array([0.1, 0.0, -0.15], np.float32)  # the sky lights shadows
    first, second = ((i * x[..., None] ** blue).clip(0, 255).astype(np.uint8) for i, x in ((a, light), (b, there)))
    return first, second


def augmented(
    rng: Random, row: np.void | np.ndarray, target: tuple[int, int], shadows: float = 0.0
) -> dict[str, np.ndarray]:
    """One row cropped, resampled to `target` (w, h), perhaps reversed in time, mirrored, recoloured; all agree.

    shadows: share of the pairs that get some.
    """
    h, w = row["visible"].shape
    out = cropped(row, window(rng, (w, h), target), target, int(rng.random() < 0.5))
    if rng.random() < 0.4:
        seed = int(rng.integers(2**32))  # one sky for both
        for image, depth in (("a", "depth"), ("b", "depth_b")):
            out[image] = clear_sky(np.random.default_rng(seed), out[image], out[depth])
    if rng.random() < shadows:
        out["a"], out["b"] = shadowed(rng, out["a"], out["b"], np.median(out["flow"].reshape(-1, 2), axis=0))
    out["a"], out["b"] = jittered(rng, [out["a"], out["b"]])
    del out["depth_b"]
    return mirrored(out) if rng.random() < 0.5 else out


def whole(row: np.void | np.ndarray, target: tuple[int, int]) -> dict[str, np.ndarray]:
    """One row as it was rendered, resampled to `target` (w, h): to validate on."""
    h, w = row["visible"].shape
    out = cropped(row, (0, 0, w, h), target, 0)
    del out["depth_b"]
    return out


def cropped(
    row: np.void | np.ndarray, box: tuple[int, int, int, int], target: tuple[int, int], first: int
) -> dict[str, np.ndarray]:
    """A crop (x, y, w, h) of one row at `target` size, its frame `first` as a: with 1, time runs backwards."""
    x, y, cw, ch = box
    ratio = np.array([target[0] / cw, target[1] / ch], np.float32)

    def cut(field: np.ndarray, how: int = cv2.INTER_NEAREST) -> np.ndarray:
        return cv2.resize(np.ascontiguousarray(field[y : y + ch, x : x + cw]), target, interpolation=how)

    how = cv2.INTER_AREA if ratio.min() < 1 else cv2.INTER_LINEAR
    return {
        "a": cut(row["image"][first], how),
        "b": cut(row["image"][1 - first], how),
        "depth": cut(row["depth"][first].astype(np.float32)),
        "depth_b": cut(row["depth"][1 - first].astype(np.float32)),
        "sure": cut(row["sure"][first]).astype(np.float32) / 255,
        "flow": cut(row["flow"][first].astype(np.float32)) * ratio,
        "visible": cut(row["visible"] | np.uint8(first)).astype(np.float32),
        "b_T_a": np.linalg.inv(row["b_T_a"]) if first else row["b_T_a"],
        "focal": row["focal"] * ratio,
        "center": (row["center"] - [x, y]) * ratio,
        "known": row["known"],
    }


def mirrored(item: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Left and right exchanged; its own inverse."""
    flip = np.diag([-1.0, 1, 1, 1])
    out = {k: v[:, ::-1] for k, v in item.items() if k in ("a", "b", "depth", "sure", "visible")}
    width = item["depth"].shape[1]
    return out | {
        "flow": item["flow"][:, ::-1] * np.array([-1, 1], np.float32),
        "b_T_a": flip @ item["b_T_a"] @ flip,
        "focal": item["focal"],
        "center": np.array([width - item["center"][0], item["center"][1]]),
        "known": item["known"],
    }


def draw(pool: Pool, rngs: list[Random], upto: int, target: tuple[int, int], shadows: float = 0.0) -> Batch:
    """Augmented pairs at `target` size, one for each generator, of the newest before pair `upto`."""
    ring, _ = pool.open()
    first = max(0, upto - pool.usable)
    picks = [ring[int(rng.integers(first, upto)) % pool.rows] for rng in rngs]
    return collate([augmented(rng, row, target, shadows) for rng, row in zip(rngs, picks, strict=True)], target)


def told(tables: list[np.ndarray]) -> np.ndarray:
    """How often to draw from each table of real pairs: as often as any, unless hardly any of its depth is sure."""
    odds = np.array([min(ENOUGH, float(table["sure"].mean()) / 255) for table in tables])
    return odds / odds.sum()


def drawn(
    tables: list[np.ndarray],
    rngs: list[Random],
    target: tuple[int, int],
    odds: np.ndarray | None = None,
    shadows: float = 0.0,
) -> Batch:
    """Augmented pairs at `target` size, one for each generator, from rows of any size; tables by their odds (`told`).

    TOGETHER neighbours are of one table, so that a network can be asked to see a clip at one scale.
    """
    picks = [int(rng.choice(len(tables), p=odds)) for rng in rngs]
    tables = [tables[picks[k - k % TOGETHER]] for k in range(len(picks))]
    rows = [table[rng.integers(len(table))] for rng, table in zip(rngs, tables, strict=True)]
    return collate([augmented(rng, row, target, shadows) for rng, row in zip(rngs, rows, strict=True)], target)


def collate(items: list[dict[str, np.ndarray]], size: tuple[int, int]) -> Batch:
    """Items of `augmented` as tensors."""
    t = {k: torch.from_numpy(np.stack([np.asarray(i[k], np.float32) for i in items])) for k in items[0]}
    images = {k: t[k].permute(0, 3, 1, 2) / 255 for k in "ab"}
    return Batch(
        **images,
        depth=t["depth"][:, None],
        sure=t["sure"][:, None],
        flow=t["flow"].permute(0, 3, 1, 2),
        visible=t["visible"][:, None],
        b_T_a=t["b_T_a"],
        intrinsics=Intrinsics(t["focal"], t["center"], size),
        known=t["known"],
    )
