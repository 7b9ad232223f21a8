"""What a run will take, before anything is decoded: frames, sizes, seconds, bytes."""

import os
from dataclasses import dataclass

from glvid import results, video
from glvid.inference import InferOptions, selected
from glvid.predict import working_size
from glvid.refine import STEPS
from glvid.types import Clip

# Seconds per frame on two cores of a server CPU, measured on the demo clip and the evaluation scenes.
NETWORKS_AND_SOLVE = {"none": 0.35, "params": 0.85, "output": 0.85, "both": 1.2}
STEP = {"none": 0.0, "params": 0.09, "output": 0.02, "both": 0.11}  # of refinement, per frame and step of a span
MEGAPIXEL = 0.5  # decoding, upsampling and writing, per megapixel stored
START = 5.0  # loading torch and the weights, preview and cloud


@dataclass(frozen=True)
class Plan:
    """What `infer` would do to a clip; None where the file does not say how many frames it has."""

    frames: int | None
    size: tuple[int, int]  # of the stored maps, px
    working: tuple[int, int]  # of networks, camera and refinement, px
    seconds: float | None
    bytes: int | None


def plan(clip: Clip, options: InferOptions) -> Plan:
    """Time (roughly: machines differ) and disk (on the safe side) that a run of `clip` takes."""
    size = video.stored_size((clip.width, clip.height), options.max_size)
    frames = selected(clip, options)
    if frames is None:
        return Plan(None, size, working_size(size), None, None)
    space = results.estimate(frames, size, options.keep, options.flow_format, working=working_size(size))
    return Plan(frames, size, working_size(size), START + frames * seconds_per_frame(size, options), space)


def seconds_per_frame(size: tuple[int, int], options: InferOptions) -> float:
    """Measured on two cores; more of them help, but not in proportion."""
    steps = options.steps or STEPS[options.refine]
    compute = NETWORKS_AND_SOLVE[options.refine] + steps * STEP[options.refine]
    return (compute + MEGAPIXEL * size[0] * size[1] / 1e6) * (2 / (os.cpu_count() or 2)) ** 0.5
