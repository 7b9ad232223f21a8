"""What the networks see, as pictures for TensorBoard: depth, flow, what moves, the frame rebuilt from the next."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from glvid.colors import color_range, depth_colors, flow_colors
from glvid.data import frames
from glvid.data.pool import augmented, collate
from glvid.geometry import rigid_flow
from glvid.predict import as_tensor, first_guess
from glvid.train.joint import predicted
from glvid.train.options import Options
from glvid.train.sources import Footing, held_pool
from glvid.train.validate import lens_of
from glvid.warp import warp

Picture = UInt8[np.ndarray, "H W 3"]


@torch.inference_mode()
def pictures(
    mean: nn.ModuleDict, stage: str, options: Options, device: torch.device, footing: Footing
) -> dict[str, Picture]:
    """By name: panels side by side of the first sample for validation, what is said and, where known, what is true."""
    if stage == "joint":
        return {"window": _window(mean, footing, device)} if footing.check else {}
    ring, counter = held_pool(options).open()
    if not counter[0]:
        return {}
    batch = collate([augmented(np.random.default_rng(0), ring[0], options.size)], options.size).to(device)
    out = {}
    if "depth" in mean:
        depth = _depth(mean["depth"].depth(batch.a)), _depth(batch.depth)
        out["depth"] = np.hstack([_image(batch.a[0]), *_painted(depth)])
    if "flow" in mean:
        said = mean["flow"](batch.a, batch.b, first_guess(batch.a, batch.b)).flow
        flow = [x[0].float().cpu().numpy() for x in (said, batch.flow)]
        radius = max(1.0, float(np.percentile(np.hypot(*flow[1]), 98)))
        out["flow"] = np.hstack([_image(batch.a[0]), *(flow_colors(x, radius) for x in flow)])
    return out


def _window(mean: nn.ModuleDict, footing: Footing, device: torch.device) -> Picture:
    """Frame, depth, flow to the next, what moves, and the frame rebuilt from the next by depth and camera."""
    clip, first = next(frames.in_order(footing.check))
    images = as_tensor(clip.images[first : first + 3], device)[None]
    lens = lens_of(mean, clip, images)
    outputs = predicted(mean, images, lens)[0]
    flow, _ = rigid_flow(outputs.depth[:, 1].float(), lens, outputs.next_T_this[:, 1].float())
    seen = outputs.flow[0, 1].float().cpu().numpy()
    moving = outputs.moving[0, 1, 0].float().cpu().numpy()
    return np.hstack([
        _image(images[0, 1]), *_painted((_depth(outputs.depth[:, 1]),)),
        flow_colors(seen, max(1.0, float(np.percentile(np.hypot(*seen), 98)))),
        np.repeat((255 * moving).astype(np.uint8)[..., None], 3, -1), _image(warp(images[:, 2], flow)[0][0]),
    ])  # fmt: skip


def _image(x: Tensor) -> Picture:
    return (255 * x.float().clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy()


def _depth(x: Tensor) -> np.ndarray:
    """The first map of a batch over its median: only the shape is shown."""
    return (x[0, 0] / x[0, 0].median()).float().cpu().numpy()


def _painted(maps: tuple[np.ndarray, ...]) -> list[Picture]:
    limits = color_range(maps[-1], np.ones(1))
    return [depth_colors(x, limits.near, limits.far) for x in maps]
