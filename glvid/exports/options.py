"""What an export can be asked for."""

from dataclasses import dataclass

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
