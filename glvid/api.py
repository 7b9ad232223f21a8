"""Everything from Python: `glvid.infer(path)` gives a `Run`, whose arrays are read when they are asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from glvid import exports, inference, metric, results
from glvid.results import Row, RunFolder


@dataclass(frozen=True)
class Frames(Sequence):
    """N maps of a run, read when asked for: `[k]` is one of them, `[a:b]` a stack of several, NaN where there is none.

    Raises UsageError where the run holds none, InputError where a file is missing or damaged.
    """

    rows: tuple[Row, ...]
    read: Callable[[Row], np.ndarray | None]
    shape: tuple[int, ...]  # of one
    kind: type = np.float32

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, k: int | slice) -> np.ndarray | None:
        if not isinstance(k, slice):
            return self.read(self.rows[k])
        chosen = self.rows[k]
        stack = np.empty((len(chosen), *self.shape), self.kind)
        for place, row in zip(stack, chosen, strict=True):
            found = self.read(row)
            place[:] = np.nan if found is None else found
        return stack

    def __iter__(self) -> Iterator[np.ndarray | None]:
        return map(self.read, self.rows)


@dataclass(frozen=True)
class Run:
    """A finished run of N frames of (H, W) px, from Python. Nothing is read before it is asked for.

    Axes: camera x right, y down, z forward; world = first camera of a shot. Pixel centres at .5. Depth, path and cloud
    share `unit`: "m", or "scene" where nothing says how large the world is.
    """

    folder: RunFolder

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def info(self) -> dict[str, Any]:
        """run.json."""
        return self.folder.info

    @property
    def unit(self) -> str:
        """ "m" or "scene"."""
        return self.info["depth"]["unit"]

    def __len__(self) -> int:
        return len(self.folder.rows)

    @property
    def times(self) -> Float64[np.ndarray, " N"]:
        """Seconds, by the presentation stamps of the clip."""
        return np.array([row.time_s for row in self.folder.rows])

    @property
    def shots(self) -> np.ndarray:
        """(N,) number of every frame's shot; each has a world of its own."""
        return np.array([row.shot for row in self.folder.rows])

    @property
    def _shape(self) -> tuple[int, int]:
        return self.folder.size[1], self.folder.size[0]

    @property
    def depth(self) -> Frames:
        """(H, W) float32 each, z along the optical axis in `unit`; NaN where nothing is known."""
        return Frames(self.folder.rows, self.folder.depth, self._shape)

    @property
    def flow(self) -> Frames:
        """(2, H, W) float32 each, px to the next frame, NaN where unknown; None for the last frame of a shot."""
        return Frames(self.folder.rows, self.folder.flow, (2, *self._shape))

    @property
    def moving(self) -> Frames:
        """(H, W) float32 each, 0..1: the probability that a pixel moves on its own."""
        return Frames(self.folder.rows, self.folder.mask, self._shape)

    @property
    def images(self) -> Frames:
        """(H, W, 3) uint8 RGB each."""
        return Frames(self.folder.rows, self.folder.image, (*self._shape, 3), np.uint8)

    @cached_property
    def poses(self) -> Float64[np.ndarray, "N 4 4"]:
        """Camera to world."""
        return self.folder.trajectory().world_T_cam

    @property
    def K(self) -> Float64[np.ndarray, "3 3"]:
        """Intrinsics in px of the maps; one camera for the clip."""
        return self.folder.intrinsics.matrix.numpy()

    @cached_property
    def _cloud(self) -> exports.Cloud:
        return exports.fuse(self.folder)

    @property
    def cloud(self) -> Float32[np.ndarray, "M 3"]:
        """Points of the static scene of the longest shot, in its world and `unit`; at most two million."""
        return self._cloud.points

    @property
    def colors(self) -> UInt8[np.ndarray, "M 3"]:
        """RGB of the cloud's points."""
        return self._cloud.colors

    def metric(self, spec: str) -> "Run":
        """The same in metres: `camera-height=1.65`, `distance=FRAME:x,y:METRES` (px of the source), `path=FILE`.

        Raises UsageError where the measurement is no use for this run.
        """
        return Run(metric.in_metres(self.folder, spec))

    def export(self, formats: str, out: Path | str, **options: Any) -> dict[str, list[str]]:
        """Files for other programs, `out/<format>/...`: formats as in `glvid export --to`, options by their names.

        Returns the files of every format. Raises UsageError, OutputError.
        """
        return exports.export(self.folder, formats.split(","), Path(out), exports.ExportOptions(**options))


def infer(path: Path | str, out: Path | str | None = None, **options: Any) -> Run:
    """Everything glvid says about a video file or a folder of pictures; `options` by the names of `glvid infer`.

    The run folder is `out`, or `<stem>.glvid` in the current folder; a run that is there already, of the same input and
    options, is opened. Raises GlvidError children (`glvid.errors`); TypeError for an option that does not exist.
    """
    source = Path(path)
    folder = Path(out) if out is not None else inference.run_folder(source)
    inference.run(source, folder, inference.InferOptions(**options))
    return open_run(folder)


def open_run(path: Path | str) -> Run:
    """A finished run folder. Raises UsageError for what is none."""
    return Run(results.open_run(path))
