"""The data that flows through glvid, and the conventions it obeys, stated once.

Poses       `a_T_b` (4, 4) maps points of frame b into frame a: `a_points = a_T_b @ b_points`. No other spelling.
Axes        camera x right, y down, z forward; world = first camera of the shot.
Pixels      centres at .5: the image spans 0..W and 0..H, the top-left pixel's centre is (0.5, 0.5).
Depth       z along the optical axis, > 0; one unit for depth, path, cloud: "scene", "m" if something metric fixed it.
Flow        pixels of the image it goes with; `flow_ij[p]` takes pixel p of i to its match in j.
Images      float32 RGB 0..1, channels first. Times are seconds, from the container's presentation stamps.
Sizes       always (width, height); tensor shapes always (..., H, W).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Shaped, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """What `video.probe` found out about an input before decoding it."""

    path: Path
    width: int  # px, upright, square pixels
    height: int
    fps: float  # average rate; image folders: the rate asked for
    duration: float  # s; 0 when the container does not say
    frames: int | None  # None when the container does not say
    rotation: int = 0  # degrees that were applied to make frames upright: 0, 90, 180, 270
    names: tuple[str, ...] = ()  # image folders: source file names, natural order
    codec: str = ""
    pixel_aspect: float = 1.0  # sample aspect ratio of the stream, already resampled away in width x height
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One decoded frame: upright, square pixels."""

    index: int  # index in the source
    time: float  # s
    pixels: UInt8[np.ndarray, "H W 3"]  # RGB
    name: str = ""  # file name for image folders, else empty

    @property
    def image(self) -> Float[Tensor, "3 H W"]:
        """RGB 0..1, channels first."""
        return torch.from_numpy(np.ascontiguousarray(self.pixels.transpose(2, 0, 1))).float().div_(255)


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera(s); focal and center in px of an image of `size`."""

    focal: Float[Tensor, "*B 2"]  # fx, fy
    center: Float[Tensor, "*B 2"]  # cx, cy
    size: tuple[int, int]  # width, height

    @property
    def matrix(self) -> Float[Tensor, "*B 3 3"]:
        """K, in pixels with centres at .5."""
        K = torch.zeros(*self.focal.shape[:-1], 3, 3, dtype=self.focal.dtype, device=self.focal.device)
        K[..., 0, 0], K[..., 1, 1] = self.focal.unbind(-1)
        K[..., :2, 2] = self.center
        K[..., 2, 2] = 1
        return K

    def resized(self, size: tuple[int, int]) -> "Intrinsics":
        """The same camera for the same view resampled to `size`; each axis scales by its own ratio."""
        ratio = self.focal.new_tensor([size[0] / self.size[0], size[1] / self.size[1]])
        return Intrinsics(self.focal * ratio, self.center * ratio, tuple(size))

    def to(self, *args, **kwargs) -> "Intrinsics":
        """Moved or cast like `Tensor.to`."""
        return replace(self, focal=self.focal.to(*args, **kwargs), center=self.center.to(*args, **kwargs))

    @staticmethod
    def from_fov(degrees: float, size: tuple[int, int]) -> "Intrinsics":
        """Square pixels, centred; `degrees` is the horizontal field of view."""
        f = float(0.5 * size[0] / np.tan(np.radians(degrees) / 2))
        return Intrinsics(torch.tensor([f, f]), torch.tensor([size[0] / 2, size[1] / 2]), size)


@dataclass(frozen=True)
class Window:
    """Consecutive frames fed to the networks."""

    images: Float[Tensor, "B S 3 H W"]
    times: Float[Tensor, "B S"]
    intrinsics: Intrinsics | None = None  # (B, 2) where known


@dataclass(frozen=True)
class Pairs:
    """Frame pairs the objective is taken over; any baseline, either direction of time."""

    i: Int[Tensor, " P"]
    j: Int[Tensor, " P"]
    flow_ij: Float[Tensor, "P 2 H W"]
    flow_ji: Float[Tensor, "P 2 H W"]
    j_T_i: Float[Tensor, "P 4 4"]
    rolled: Float[Tensor, "P 2 H W"] | None = None  # what a rolling shutter adds to the flow i -> j of what rests


@dataclass(frozen=True)
class Outputs:
    """What the networks (or a refinement) say about windows of S frames."""

    depth: Float[Tensor, "B S 1 H W"]
    flow: Float[Tensor, "B S-1 2 H W"]  # s -> s+1
    flow_back: Float[Tensor, "B S-1 2 H W"]  # s+1 -> s
    next_T_this: Float[Tensor, "B S-1 4 4"]
    moving: Float[Tensor, "B S 1 H W"]  # probability of moving on its own
    intrinsics: Intrinsics  # (B, 2)


@dataclass(frozen=True)
class Shot:
    """One shot's frames at working size; arrays may be memory-mapped, so read slices.

    A working image covers the whole field of view; its pixels need not be square (fx != fy says so).
    """

    times: Float64[np.ndarray, " N"]
    images: Shaped[np.ndarray, "N H W 3"]  # uint8 RGB
    depth: Shaped[np.ndarray, "N H W"]  # float, the network's, up to scale
    ignored: Shaped[np.ndarray, "N H W"] | None = None  # > 0 where pixels are left out of everything
    sigma: Shaped[np.ndarray, "N H W"] | None = None  # how far off the network expects its log depth to be, if it says

    @property
    def size(self) -> tuple[int, int]:
        """Working size (width, height)."""
        return self.images.shape[2], self.images.shape[1]

    def part(self, first: int, last: int) -> "Shot":
        """Frames first..last-1 alone."""
        ignored, sigma = (None if x is None else x[first:last] for x in (self.ignored, self.sigma))
        return Shot(self.times[first:last], self.images[first:last], self.depth[first:last], ignored, sigma)

    def __len__(self) -> int:
        return len(self.times)


GLOBAL_SHUTTER = 0.03  # readouts below are none: four clips of cameras that read all rows at once came to 0.02


@dataclass(frozen=True)
class Solution:
    """The camera of one shot, from geometry (solve.py), at the shot's working size."""

    intrinsics: Intrinsics  # (2,) one camera
    focal_sigma: float | None  # one standard deviation of log focal; None when unknown, 0 when given and fixed
    observable: bool  # did this shot determine the focal length
    source: str  # "predicted", "solved", "given"
    world_T_cam: Float64[Tensor, "N 4 4"]
    depth_scale: Float64[Tensor, " N"]  # network depth of frame n times this is in the path's unit
    parallax: float  # px (per 640 px of width) by which turning alone does not explain what is seen
    cost: float  # mean robust reprojection cost, px
    offsets: tuple[int, ...] = (1, 2, 4, 8)  # frames apart, of the pairs that were matched
    readout: float = 0.0  # of a rolling shutter: first to last row, in times between frames; poses are the middle row's
    resting: bool = False  # the camera was seen to rest: what moves in the image moves on its own
    warnings: tuple[str, ...] = ()

    @property
    def solved(self) -> bool:
        """Do the poses come from matches? If not, nothing is known of the camera but, maybe, that it rests."""
        return self.parallax > 0 or self.cost > 0


@dataclass(frozen=True)
class Prediction:
    """One frame, for users."""

    index: int
    time: float
    depth: Float[Tensor, "H W"]
    flow: Float[Tensor, "2 H W"] | None  # to the next row's frame; None for the last row of a shot
    moving: Float[Tensor, "H W"]
    world_T_cam: Float64[Tensor, "4 4"]
    intrinsics: Intrinsics


@dataclass(frozen=True)
class Trajectory:
    """Camera path, camera to world."""

    times: Float64[np.ndarray, " N"]  # s
    world_T_cam: Float64[np.ndarray, "N 4 4"]
    unit: str = "scene"


@dataclass(frozen=True)
class Recording:
    """Pictures of one camera in the order they were taken, and what its data set knows of them.

    Depth maps are 16-bit PNGs, `depth_unit` metres a count, 0 where nothing was measured, or Sintel's `.dpt`; `lidar`
    are raw scans (float32 x y z reflectance) with `lidar_camera`, (3, 4), from homogeneous scanner coordinates to
    pixels times depth (KITTI's numbers: pixel centres at integers). Poses are camera to world, NaN where unknown.
    """

    kind: str
    name: str
    path: Path  # a video, or the folder of the pictures
    pictures: tuple[Path, ...] = ()  # none for a video
    camera: Intrinsics | None = None  # at the size of the pictures; None: unknown
    poses: Float64[np.ndarray, "N 4 4"] | None = None
    times: Float64[np.ndarray, " N"] | None = None  # s
    depth: tuple[Path | None, ...] = ()
    depth_unit: float = 1.0
    lidar: tuple[Path | None, ...] = ()
    lidar_camera: Float64[np.ndarray, "3 4"] | None = None


@dataclass(frozen=True)
class FlowPair:
    """Two pictures and the file of the flow between them; `invalid` (255) and `occluded` (255) are masks beside it."""

    kind: str
    name: str
    first: Path
    second: Path
    flow: Path
    invalid: Path | None = None
    visible: Path | None = None  # flow of what is visible in both (KITTI's noc)
