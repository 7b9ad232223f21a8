"""Procedural worlds with exact depth, flow, poses, intrinsics and masks: truth for tests, the demo and training."""

from glvid.synthetic.props import library
from glvid.synthetic.scenes import EVALUATION, KINDS, degrade, samples, scene, world
from glvid.synthetic.surfaces import textures
from glvid.synthetic.truth import Truth, render
from glvid.synthetic.world import SKY, World

__all__ = [
    "EVALUATION",
    "KINDS",
    "SKY",
    "Truth",
    "World",
    "degrade",
    "library",
    "render",
    "samples",
    "scene",
    "textures",
    "world",
]
