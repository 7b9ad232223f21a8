"""How good a stage has become, on worlds and footage that it does not learn from."""

import numpy as np
import torch
from torch import nn

from glvid.data import frames
from glvid.data.pool import collate, drawn, fill, whole
from glvid.predict import as_tensor
from glvid.train.joint import predicted, together, unlikeness
from glvid.train.options import Options
from glvid.train.sources import HELD_SEED, Footing, guess, held_pool
from glvid.train.supervised import SUPERVISED, abs_rel
from glvid.types import Intrinsics

METRIC = {"flow": "epe", "depth": "abs_rel", "camera": "motion", "joint": "unlike"}  # what decides which is the best
PICTURES = 8  # windows of every recording to validate on


def validated(
    mean: nn.ModuleDict, stage: str, options: Options, device: torch.device, watched: list[np.ndarray], footing: Footing
) -> dict[str, float]:
    """Figures of the mean networks. Rendered worlds: Abs Rel after median scaling (also that of one depth everywhere,
    `abs_rel_constant`, which says how hard they are), end-point error, loss parts.

    Real clips: `abs_rel_real` against depth that geometry found (`watched`), `unlike` of frames warped by depth and
    camera (stage joint, see `unlikeness`).
    """
    figures: dict[str, float] = {}
    with torch.inference_mode():
        if stage == "joint" and footing.check:
            figures["unlike"] = _unlike(mean, footing, device)
        figures |= _rendered(mean, stage, options, device)
        real = [drawn([t], [np.random.default_rng(k) for k in range(8)], options.size).to(device) for t in watched]
        if real and "depth" in mean:
            figures["abs_rel_real"] = float(np.mean([abs_rel(mean["depth"].depth(batch.a), batch) for batch in real]))
    return {name: round(float(value), 5) for name, value in figures.items()}


def _rendered(mean: nn.ModuleDict, stage: str, options: Options, device: torch.device) -> dict[str, float]:
    pool = held_pool(options)
    if options.render:
        fill(pool, HELD_SEED, options.textures, count=options.held, assets=options.assets)
    ring, counter = pool.open()
    count, sums = min(int(counter[0]), options.held), {}
    for first in range(0, count, 8):
        some = range(first, min(first + 8, count))
        batch, found = collate([whole(ring[k], options.size) for k in some], options.size).to(device), {}
        if "flow" in mean:
            batch = guess(batch)
            found["epe_start"] = (batch.start - batch.flow).norm(dim=1).mean()
        for kind in mean:
            found |= SUPERVISED[kind](mean, batch, with_camera=False)[1]
        if "depth" in mean:
            found["abs_rel"] = abs_rel(mean["depth"].depth(batch.a), batch)
            found["abs_rel_constant"] = abs_rel(torch.ones_like(batch.depth), batch)
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(some) / count
    return sums


def _unlike(mean: nn.ModuleDict, footing: Footing, device: torch.device) -> float:
    found = []
    for clip, first in frames.in_order(footing.check, every=PICTURES):
        images = as_tensor(clip.images[first : first + 3], device)[None]
        found.append(float(unlikeness(predicted(mean, images, lens_of(mean, clip, images))[0], images)))
    return float(np.mean(found))


def lens_of(mean: nn.ModuleDict, clip: frames.Footage, images: torch.Tensor) -> Intrinsics:
    """The recording's own camera, (1, 2), or what the camera network says of it."""
    if clip.camera is not None:
        return together([clip.camera.to(images.device)])
    return mean["camera"](images[:, 0], images[:, 1])[2]
