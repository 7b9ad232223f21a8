"""What an export can be asked for."""

import math
from dataclasses import dataclass

from glvid.errors import UsageError
from glvid.exports.cloud import MAX_POINTS


@dataclass(frozen=True)
class ExportOptions:
    """Options of `glvid export`, by the names of the command line."""

    frames: str | None = None  # A:B, rows A to B - 1
    stride: int = 1
    shot: int | None = None  # None: the longest, for formats of one world
    max_points: int = MAX_POINTS
    normals: bool = False  # of ply
    mesh: bool = False  # glb: a mesh instead of points
    exr_channel: str = "Z"
    png_step: float | None = None  # depth of a count of png16 and depth-video
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError for what the command line would not let through."""
        wrong = {"stride": self.stride, "max_points": self.max_points, "png_step": self.png_step}
        for name, value in wrong.items():
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} is {value}: give a number above 0")
