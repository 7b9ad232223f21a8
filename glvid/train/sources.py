"""Where batches come from: rendered pairs, lessons of real clips, windows of real footage; all a function of the step.

Every sample has a random generator of its own, made of seed, step and the sample's number in the whole batch. So a
resumed run draws what it would have drawn, and processes that share a batch draw what one process would have.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from glvid import formats, weights
from glvid.data import frames
from glvid.data.frames import Footage
from glvid.data.pool import Batch, Pool, collate, draw, drawn, jittered, mirrored, told, window
from glvid.errors import InputError, UsageError
from glvid.files import cannot_write
from glvid.lessons import GUESS, taught
from glvid.networks import KINDS, DepthConfig
from glvid.predict import as_tensor, first_guess, predict_camera, working_size
from glvid.results import check_space
from glvid.synthetic.collage import Photo, collage, photos
from glvid.train.options import Options
from glvid.types import FlowPair, Intrinsics

WINDOW = 4  # pairs that one window of three frames costs as much as
REPLAY = 0.5  # share of rendered batches in stage `joint`
LESSONS = 0.5  # share of batches from real clips in the stages TAUGHT by them, where there are some
TAUGHT = {"depth", "camera"}
COLLAGES, UNTOLD = 0.6, 0.25  # shares in stage `flow`: of batches of collages, and of those without a first guess
HALVED = 0.4  # of those matched at half the size, as large pictures are: the blend alone sees them whole
SHADOWS = 0.25  # share of pairs in stages `depth` and `camera` that get shadows
SOFT = 0.5  # of collages made smaller and enlarged: films are softer than photos
PAIRS = 0.5  # share of batches from pairs with flow in stage `flow`, where there are some
ROW = 2_000_000  # bytes of a rendered pair at 384x224
CHECKPOINTS = 100_000_000  # bytes of checkpoints and weights, at most
LESSON = 100_000_000  # bytes that the lessons of a recording take, at most
CORES = os.cpu_count() or 1
UNTRAINED = {"depth": DepthConfig(spread=True)}  # what `--init none` begins with, where it is not the usual
LEAST_SURE = 0.03  # share of depth that flow must determine in a clip
TRAIN_SEED, HELD_SEED = 100_000, 800_000  # worlds trained on, worlds watched; those from 900,000 are for evaluation


@dataclass(frozen=True)
class Footing:
    """Real footage: what to learn from, and what to validate on."""

    learn: tuple[Footage, ...] = ()
    check: tuple[Footage, ...] = ()


@dataclass(frozen=True)
class Data:
    """What there is of one's own: decoded recordings, and pairs with flow."""

    clips: tuple[Footage, ...] = ()
    pairs: tuple[FlowPair, ...] = ()


@dataclass(frozen=True)
class Draw:
    """One step's batch. kind: depth, flow, lesson or joint; `batch` for all but joint."""

    kind: str
    with_camera: bool = False
    batch: Batch | None = None
    windows: Tensor | None = None  # (B, 3, 3, H, W), 0..1
    clips: Tensor | None = None  # (B,) which recording each window is of
    cameras: tuple[Intrinsics | None, ...] = ()

    def to(self, device: str | torch.device) -> "Draw":
        """The same on a device."""
        moved = {k: v.to(device) for k in ("batch", "windows", "clips") if (v := getattr(self, k)) is not None}
        return Draw(self.kind, self.with_camera, **moved, cameras=self.cameras)


NOTHING = Footing()
Note = Callable[[str], None]  # takes a sentence
Step = Callable[[str, int, int, dict[str, float]], None]  # stage, number of what was done, of how many, facts


def no_step(stage: str, number: int, total: int, facts: dict[str, float]) -> None:
    """Progress that nobody watches."""


def shapes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Picture sizes trained on: the given one, a driving strip, nearly square, portrait; multiples of 32."""
    w, h = size

    def near(x: float) -> int:
        return max(32, 32 * round(x / 32))

    return [(w, h), (w, near(w / 3)), (near(w * 0.83), near(w * 0.67)), (near(w * 0.67), near(w * 0.83))]


def generators(options: Options, step: int, samples: range) -> tuple[np.random.Generator, list[np.random.Generator]]:
    """The step's own random numbers, and those of every sample."""
    own = [np.random.default_rng([options.seed, step, 1 + k]) for k in samples]
    return np.random.default_rng([options.seed, step, 0]), own


def drawing(
    options: Options,
    stage: str,
    pool: Pool,
    lessons: Sequence[np.ndarray] = (),
    footing: Footing = NOTHING,
    pairs: Sequence[FlowPair] = (),
) -> Callable[[int, range, int], Draw]:
    """A function (step, samples of the batch, pairs of the pool to draw from) -> what the stage learns from."""
    sizes, odds = shapes(options.size), np.array([0.4, 0.3, 0.15, 0.15])
    often = told(lessons) if lessons else None

    def one(step: int, samples: range, upto: int) -> Draw:
        rng, own = generators(options, step, samples)
        target, dice, camera = sizes[rng.choice(len(sizes), p=odds)], rng.random(), bool(rng.random() < options.camera)
        if stage == "joint" and dice >= REPLAY:
            return _windows(footing, rng, [own[k - samples.start] for k in samples if k % WINDOW == 0])
        if stage in TAUGHT and lessons and dice < LESSONS:
            return Draw("lesson", camera, batch=drawn(lessons, own, target, often, SHADOWS))
        if stage == "flow":
            batch, guessed = flow_batch(options, pool, pairs, own, dice, target, upto), rng.random() > UNTOLD
            batch = guess(batch) if guessed else batch
            less = tuple(max(32, 32 * round(side / 64)) for side in target)
            return Draw("flow", batch=replace(batch, inner=less) if rng.random() < HALVED else batch)
        kind = stage if stage != "joint" else ("depth" if dice < 0.7 * REPLAY else "flow")
        batch = draw(pool, own, upto, target, 0.0 if kind == "flow" else SHADOWS)
        return Draw(kind, camera, guess(batch) if kind == "flow" else batch)

    return one


def flow_batch(
    options: Options,
    pool: Pool,
    pairs: Sequence[FlowPair],
    own: list[np.random.Generator],
    dice: float,
    target: tuple[int, int],
    upto: int,
) -> Batch:
    """Pairs with flow: of one's own where there are some, collages, rendered ones."""
    if pairs and dice < PAIRS:
        return collate([flow_item(pairs, r, target) for r in own], target)
    if dice < (PAIRS if pairs else 0) + COLLAGES * (1 - PAIRS if pairs else 1):
        return collate([collage_item(photos(options.textures), r, target) for r in own], target)
    return draw(pool, own, upto, target)


def guess(batch: Batch) -> Batch:
    """The same with DIS as the first guess of its flow."""
    return replace(batch, start=first_guess(batch.a, batch.b))


def collage_item(textures: Sequence[Photo], rng: np.random.Generator, target: tuple[int, int]) -> dict[str, np.ndarray]:
    """A collage recoloured as rendered pairs are, its frames unlike in exposure and noise."""
    soft = rng.uniform(1, 2.5) if rng.random() < SOFT else 1.0
    size = tuple(round(side / soft) for side in target)
    made = collage(rng, size, textures)
    a, b = (unlike(rng, image) for image in jittered(rng, [enlarged(x, target) for x in (made.a, made.b)]))
    flow, visible = (cv2.resize(x, target, interpolation=cv2.INTER_NEAREST) for x in (made.flow, made.visible))
    flow, visible = flow * (np.array(target, np.float32) / size), visible.astype(np.float32)
    return item_of(a, b, flow, np.ones(target[::-1], np.float32), visible, target)


def enlarged(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture at another size; one that has it, as it is."""
    return picture if picture.shape[1::-1] == size else cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)


def unlike(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A frame with a little exposure and noise of its own."""
    gain, spread = np.exp(rng.normal(0, 0.04)), rng.exponential(2.5)
    noise = rng.standard_normal(image.shape, np.float32)
    return (
        (image * np.float32(gain) + np.float32(spread) * noise + np.float32(rng.normal(0, 2)))
        .clip(0, 255)
        .astype(np.uint8)
    )


def item_of(
    a: np.ndarray, b: np.ndarray, flow: np.ndarray, known: np.ndarray, visible: np.ndarray, target: tuple[int, int]
) -> dict[str, np.ndarray]:
    """What is known of a pair of which only flow is known, as `augmented` gives it."""
    item = {"a": a, "b": b, "depth": np.ones(target[::-1], np.float32), "sure": known, "flow": flow, "visible": visible}
    focal, center = np.full(2, target[0], np.float32), np.array(target) / 2
    return item | {"b_T_a": np.eye(4, dtype=np.float32), "focal": focal, "center": center, "known": 0}


def flow_item(pairs: Sequence[FlowPair], rng: np.random.Generator, target: tuple[int, int]) -> dict[str, np.ndarray]:
    """A random pair with flow, cropped, mirrored, recoloured as rendered ones are; `sure` where flow is known."""
    pair = pairs[int(rng.integers(len(pairs)))]
    a, b = (formats.read_image(path) for path in (pair.first, pair.second))
    flow = formats.read_flow(pair.flow).transpose(1, 2, 0)
    h, w = flow.shape[:2]
    x, y, cw, ch = window(rng, (w, h), target)
    ratio = np.array([target[0] / cw, target[1] / ch], np.float32)
    known = np.isfinite(flow).all(-1)
    a, b, flow, known = (
        cv2.resize(np.ascontiguousarray(m[y : y + ch, x : x + cw]), target, interpolation=how)
        for m, how in (
            (a, cv2.INTER_AREA), (b, cv2.INTER_AREA), (np.nan_to_num(flow), cv2.INTER_NEAREST),
            (known.astype(np.float32), cv2.INTER_NEAREST),
        )
    )  # fmt: skip
    a, b = jittered(rng, [a, b])
    item = item_of(a, b, flow * ratio, known, np.ones(target[::-1], np.float32), target)
    return mirrored(item) if rng.random() < 0.5 else item


def _windows(footing: Footing, rng: np.random.Generator, own: list[np.random.Generator]) -> Draw:
    found = frames.windows(footing.learn, own, rng)
    images = as_tensor(found.images.reshape(-1, *found.images.shape[2:])).unflatten(0, (-1, 3))
    return Draw("joint", windows=images, clips=torch.tensor(found.clips), cameras=found.cameras)


def ahead(draw: Callable[[int], Draw], first: int, last: int, workers: int | None = None) -> Iterator[tuple[int, Draw]]:
    """(step, its batch) for first..last-1; the next ones are drawn by other processes while one is learned from.

    On few cores (None: on fewer than four) nothing is drawn ahead: learning uses them all.
    """
    workers = CORES // 4 if workers is None else workers
    more = {"multiprocessing_context": "fork", "worker_init_fn": alone, "prefetch_factor": 4} if workers else {}
    loader = DataLoader(Drawing(draw), None, sampler=range(first, last), num_workers=workers, **more)
    yield from zip(range(first, last), loader, strict=True)


@dataclass(frozen=True)
class Drawing(Dataset):
    """Batches by the number of their step."""

    draw: Callable[[int], Draw]

    def __getitem__(self, step: int) -> Draw:
        return self.draw(step)


def alone(worker: int) -> None:
    """A drawing process keeps to one core; OpenCV's threads do not survive a fork."""
    cv2.setNumThreads(0)


# --- what there is to draw from ---------------------------------------------------------------------------------------


def training_pool(options: Options) -> Pool:
    """Rendered pairs to train on."""
    return Pool(options.out / "pool" / "train.bin", options.rendered, options.rows, options.kind)


def held_pool(options: Options) -> Pool:
    """Rendered pairs to validate on."""
    return Pool(options.out / "pool" / "held.bin", options.rendered, options.held, options.kind)


def run_bytes(options: Options) -> int:
    """What a run writes beside what it makes of films: checkpoints, and pools unless they are there."""
    w, h = options.rendered
    there = (options.out / "pool").exists()
    return CHECKPOINTS + (0 if there else int(ROW * (options.rows + options.held) * w * h / (384 * 224)))


def uses_films(options: Options) -> bool:
    """Stage joint learns from footage, those that can be taught where there is some."""
    return "joint" in options.stages or (bool(options.data) and not TAUGHT.isdisjoint(options.stages))


def cache_of(options: Options) -> Path:
    """Where decoded frames of this size lie."""
    return options.out / "frames" / str(options.size[0])


def found_data(options: Options, note: Note, step: Step = no_step) -> Data:
    """Everything below `data` but what is excluded or for testing, decoded; says what was found and what it takes.

    Without `data`, what the cache already holds (on a machine without the films). Raises UsageError where nothing is
    left, InputError for what is broken, OutputError where the disk is too small for the frames.
    """
    cache = cache_of(options)
    if not options.data:
        return Data(tuple(frames.opened(path) for path in sorted(cache.glob("*.json"))), ())
    from glvid import video  # PyAV: only for those who decode
    from glvid.data.layouts import read_patterns, survey
    from glvid.data.splits import listed_frames, training

    found = survey(options.data, read_patterns(options.exclude))
    for sentence in found.said:
        note(sentence)
    recordings = training(found.recordings, options.split, note) if uses_films(options) else ()
    if not recordings and not found.pairs and uses_films(options):
        where = ", ".join(map(str, options.data))
        raise UsageError(f"no film left below {where}: correct --data, --exclude or --split")
    size_of = partial(working_size, long_side=options.size[0], flat=1.0)
    new, clips = [], []
    for recording in recordings:
        if not (cache / f"{frames.name_of(recording.path)}.json").exists():
            try:
                clips.append(video.probe(recording.path))
                new.append(recording)
            except InputError as error:  # one broken file among many
                note(f"skipped, {error}")
                recordings = [r for r in recordings if r is not recording]
    counts = [(c.frames or round(c.duration * c.fps) or 1, c.fps, (c.width, c.height)) for c in clips]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if new:
            needed = frames.expected_bytes(counts, size_of)
            lessons = 0 if TAUGHT.isdisjoint(options.stages) else LESSON * len(new)
            said = f"at most {needed / 1e9:.2f} GB" + (f", and {lessons / 1e9:.2f} GB of lessons" if lessons else "")
            note(f"decoding {len(new)} of {len(recordings)} recordings into {cache}: {said}")
            check_space(cache, needed + lessons + run_bytes(options))
        clips = []
        with ThreadPoolExecutor(CORES, "glvid-decode") as workers:
            for clip in workers.map(partial(frames.stored, cache=cache, size_of=size_of), recordings):
                clips.append(clip)
                step("decoding", len(clips) - 1, len(recordings), {})
        kept = [listed_frames(recording, options.split) for recording in recordings]
        return Data(tuple(frames.limited(c, k) for c, k in zip(clips, kept, strict=True)), found.pairs)
    except OSError as error:
        raise cannot_write(cache, error) from error


def footing_of(data: Data, options: Options, note: Note) -> Footing:
    """Footage split into two sides, kept in `split.json`."""
    clips = [clip for clip in data.clips if frames.starts(clip, 1).size]
    if not clips:
        raise UsageError("no recording holds three frames between which something moves: give other --data")
    learn, check = frames.split(clips, options.out / "split.json")
    windows = [sum(frames.starts(clip, 1).size for clip in side) for side in (learn, check)]
    note(f"{windows[0]} windows to learn from, of {len(learn)} recordings; {windows[1]} to check, of {len(check)}")
    return Footing(tuple(learn), tuple(check))


def first_network(kind: str, init: str | Path) -> nn.Module:
    """A network to start from, in training mode: shipped, none, a folder of weights or a file of this kind.

    Raises ModelError where there is none.
    """
    if init == "none":
        return KINDS[kind][0](UNTRAINED.get(kind)).train()
    name, path = weights.DEFAULTS[kind], Path(init)
    source = name if init == "shipped" else path if path.is_file() else path / f"{name}.safetensors"
    return weights.load(source, kind)[0].train()


def first_focal(clip: Footage, camera_net: nn.Module) -> float:
    """Log of the focal length over the long side that a recording starts from: its own, or the camera network's."""
    if clip.camera is not None:
        lens = clip.camera.resized(clip.shape)
    else:
        at = frames.starts(clip, 1)[:: max(1, frames.starts(clip, 1).size // 8)]
        lens = predict_camera(camera_net, clip.images[at], clip.images[at + 1], clip.shape).resized(clip.shape)
    return float(lens.focal.mean().log() - np.log(max(clip.shape)))


def teachers(init: str | Path) -> str | Path:
    """The networks that lessons are made with: those the stage starts from, if they have learned depth; else the
    shipped ones."""
    if init in ("none", "shipped"):
        return "shipped"
    name, path = weights.DEFAULTS["depth"], Path(init)
    facts = weights.load(path if path.is_file() else path / f"{name}.safetensors", "depth")[1]
    return "shipped" if facts.get("trained", {}).get("steps") == 0 else init


def lesson_tables(
    footing: Footing, options: Options, init: str | Path, note: Note, step: Step = no_step
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of all clips that teach something: to learn from, and to check, of the same sides as everything else.

    Solved with `teachers`; what became of every clip is in `clips.txt`.
    """
    nets = [first_network(kind, teachers(init)).eval() for kind in ("depth", "camera")]
    sides, told = [], []
    for name in ("learn", "check"):
        tables = []
        for k, clip in enumerate(getattr(footing, name)):
            try:
                rows, said = taught(clip, options.out / "lessons" / name, *nets)
            except OSError as error:
                raise cannot_write(options.out / "lessons", error) from error
            told += said
            note(f"lesson ({name}): {'; '.join(said)}")
            step(f"lessons to {name}", k, len(getattr(footing, name)), {})
            if len(rows) and rows["sure"].mean() > 255 * (GUESS + LEAST_SURE):
                tables.append(rows)
        sides.append(tables)
    frames.replaced(options.out / "clips.txt", "\n".join(told) + "\n")
    return sides[0], sides[1]


def cameras_file(options: Options, footing: Footing, log_focal: Tensor) -> None:
    """Write the focal length learned for every recording, px of its own pictures, as `cameras.json`."""
    found = {c.name: round(float(f.exp()) * max(c.shape), 2) for c, f in zip(footing.learn, log_focal, strict=True)}
    frames.replaced(options.out / "cameras.json", json.dumps(found, indent=1) + "\n")
