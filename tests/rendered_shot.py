"""A short rendered shot with its true camera, for `dense` and `refine`."""

import numpy as np
import torch

from glvid.predict import working_size
from glvid.synthetic import Truth, scene
from glvid.types import Shot, Solution
from glvid.warp import resize


def rendered_shot() -> tuple[Truth, Shot, Solution]:
    """A rendered shot with its true camera; the depth it starts from is a smooth distortion of the truth."""
    truth = scene(900001, "handheld", frames=6, size=(192, 128))
    size = working_size((192, 128), 192)
    images = (resize(truth.images, size).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    x = torch.linspace(0.7, 1.4, size[0])
    depth = (resize(truth.depth, size)[:, 0] * x).numpy()
    solution = Solution(
        truth.intrinsics.resized(size), 0.0, True, "given", truth.world_T_cam.double(),
        torch.ones(6, dtype=torch.float64), 20.0, 0.0,
    )  # fmt: skip
    return truth, Shot(np.arange(6) / 30, images, depth), solution


def change_of(depth: np.ndarray, prior: np.ndarray) -> float:
    """Mean change of log depth."""
    return float(np.abs(np.log(depth / prior)).mean())
