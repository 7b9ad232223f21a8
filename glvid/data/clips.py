"""Real clips to learn from without labels: found, decoded once at working size, drawn as windows of three frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from glvid.data.pool import Random, jittered
from glvid.errors import UsageError
from glvid.types import Frame

VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
PICTURES = (".jpg", ".jpeg", ".png")
LONGEST = 240  # frames kept of one clip, so that one long drive does not crowd out the rest of the disk


@dataclass(frozen=True)
class Footage:
    """One clip's frames at working size, (N, H, W, 3) uint8, memory-mapped."""

    path: Path
    images: np.ndarray
    shape: tuple[int, int]  # of the clip itself, (w, h)
    fps: float

    @property
    def name(self) -> str:
        """The end of its path, as a file name."""
        return "-".join(self.path.absolute().parts[-4:])


def excluded(path: Path, patterns: Iterable[str]) -> bool:
    """Does any run of the path's parts match a pattern (`wild/lady_running*`, `rgbd/*`, `kitti_odom_07_a`)?"""
    parts = path.parts
    for pattern in patterns:
        n = pattern.count("/") + 1
        if any(fnmatch("/".join(parts[k : k + n]), pattern) for k in range(len(parts) - n + 1)):
            return True
    return False


def read_patterns(arguments: Iterable[str]) -> list[str]:
    """Patterns as given; `@FILE` stands for the lines of that file. Raises UsageError where it cannot be read."""
    patterns = []
    for text in arguments:
        if not text.startswith("@"):
            patterns.append(text)
            continue
        try:
            lines = Path(text[1:]).read_text().splitlines()
        except OSError as error:
            raise UsageError(f"cannot read the patterns in {text[1:]}: {error.strerror}; correct --exclude") from error
        patterns += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return patterns


def find(folders: Iterable[Path], exclude: Iterable[str]) -> list[Path]:
    """Videos, and folders of at least three pictures, anywhere below `folders`. Raises UsageError where none is."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no folder at {folder}: correct --data")
        below = [p for p in sorted(folder.rglob("*")) if not excluded(p.absolute(), exclude)]
        found += [p for p in below if p.suffix.lower() in VIDEOS]
        found += [p for p in [folder, *below] if p.is_dir() and _pictures(p) >= 3]
    if not found:
        raise UsageError(f"no clips left below {', '.join(map(str, folders))}: correct --data or --exclude")
    return found


def _pictures(folder: Path) -> int:
    """Colour or grey pictures in a folder; 16-bit ones (depth) do not count."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES]
    first = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED) if files else None
    return len(files) if first is not None and first.dtype == np.uint8 else 0


def footage(path: Path, cache: Path, size_of: Callable[[tuple[int, int]], tuple[int, int]]) -> Footage:
    """The clip decoded into `cache` at the size (w, h) that `size_of` makes of its own, or what lies there already."""
    from glvid import video  # PyAV: only for those who decode

    clip = video.probe(path)
    size = size_of((clip.width, clip.height))
    name = Footage(path, np.empty(0), size, clip.fps).name
    store = cache / f"{name}-{size[0]}-{size[1]}.npy"
    if not store.exists():
        cache.mkdir(parents=True, exist_ok=True)
        images = []
        for item in video.frames(clip, max_size=2 * max(size)):
            if isinstance(item, Frame):
                image = (item.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
                images.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
            if len(images) == LONGEST:
                break
        np.save(store, np.stack(images))
    return Footage(path, np.load(store, mmap_mode="r"), (clip.width, clip.height), clip.fps)


def windows(clips: list[Footage], rng: Random, batch: int, most: int = 4) -> UInt8[np.ndarray, "B 3 H W C"]:
    """`batch` windows of three frames, 1 to `most` apart, of clips of one size; mirrored and recoloured at random."""
    first = clips[int(rng.integers(len(clips)))]
    alike = [c for c in clips if c.images.shape[1:] == first.images.shape[1:]]
    out = []
    for clip in [first, *(alike[int(rng.integers(len(alike)))] for _ in range(batch - 1))]:
        gap = int(rng.integers(1, max(1, min(most, (len(clip.images) - 1) // 2)) + 1))
        start = int(rng.integers(len(clip.images) - 2 * gap))
        frames = [np.asarray(clip.images[start + k * gap]) for k in range(3)]
        frames = jittered(rng, [f[:, ::-1] for f in frames] if rng.random() < 0.5 else frames)
        out.append(np.stack(frames))
    return np.stack(out)
