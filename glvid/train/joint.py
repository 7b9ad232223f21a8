"""Learning without truth: the self-supervised objective on windows of real frames, cameras learned with the rest."""

from dataclasses import fields, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glvid.geometry import inverse, rigid_flow
from glvid.losses import PAPER, LossWeights, dissimilarity, total, window_pairs
from glvid.predict import first_guess
from glvid.train.supervised import exact
from glvid.types import Intrinsics, Outputs
from glvid.warp import warp

# Unlike refinement: the camera network's motion is rough, so geometry counts less and the shape of the start more.
OBJECTIVES = {
    "glvid": LossWeights(structure=0.1, epipolar=0.005, prior_depth=0.2, prior_gradient=0.4),
    "paper": PAPER,
}
LENS = 0.05  # weight of the log focal length that the camera network says, against the recording's
FOLLOW = 0.5  # weight of `astray`; 2 wanders at first and ends no lower


class Lenses(nn.Module):
    """One log focal length for every recording whose camera is unknown, over the long side of its pictures.

    Square pixels and a centred axis are assumed: one clip seldom shows more (Gordon et al. 2019 learn four numbers of
    every frame; a recording has one camera, so ours are shared by its frames).
    """

    def __init__(self, count: int, start: Tensor | None = None):
        super().__init__()
        self.log_focal = nn.Parameter(torch.full((count,), -0.22) if start is None else start.clone())

    def forward(self, which: Tensor, shape: Tensor, size: tuple[int, int]) -> Intrinsics:
        """Cameras (B, 2) at `size` of recordings `which` (B,) whose pictures are of `shape` (B, 2)."""
        focal = self.log_focal[which].exp() * shape.amax(1)
        ratio = focal.new_tensor(size) / shape
        center = focal.new_tensor(size).expand(len(which), 2) / 2
        return Intrinsics(focal[:, None] * ratio, center, size)


def predicted(
    nets: nn.ModuleDict, images: Tensor, lens: Intrinsics
) -> tuple[Outputs, Float[Tensor, "B steps 4 4"], Intrinsics]:
    """All three networks on windows (B, S, 3, H, W) seen through `lens` (B, 2).

    Also this_T_next, which the camera network says on its own, and the lens that it says.
    """
    windows, steps = images.shape[0], images.shape[1] - 1
    a, b = images[:, :-1].flatten(0, 1), images[:, 1:].flatten(0, 1)
    depth = nets["depth"].depth(images.flatten(0, 1)).float().unflatten(0, (windows, steps + 1))
    ways = torch.cat([a, b]), torch.cat([b, a])
    flow, back = nets["flow"](*ways, first_guess(*ways)).flow.float().unflatten(0, (2, windows, steps))
    motion, this_T_next, said = nets["camera"](a, b)
    said = Intrinsics(*(x.float().unflatten(0, (windows, steps)).mean(1) for x in (said.focal, said.center)), said.size)
    motion, this_T_next = (x.float().unflatten(0, (windows, steps)) for x in (motion, this_T_next))
    with exact(images):
        moving = disagreement(depth[:, :-1], flow, motion, lens)
    return Outputs(depth, flow, back, motion, torch.cat([moving, moving[:, -1:]], 1), lens), this_T_next, said


@torch.no_grad()
def disagreement(depth: Tensor, flow: Tensor, motion: Tensor, lens: Intrinsics) -> Tensor:
    """Probability (B, S - 1, 1, H, W) that a pixel moves on its own: rigid and seen flow differ more than most."""
    each = Intrinsics(lens.focal[:, None], lens.center[:, None], lens.size)
    rigid, _ = rigid_flow(depth, each, motion)
    gap = (rigid - flow).norm(dim=2, keepdim=True) / (1 + 0.2 * flow.norm(dim=2, keepdim=True))
    usual = gap.flatten(2).median(2).values[..., None, None, None]
    return torch.sigmoid(2 * (gap / usual.clamp_min(0.5) - 3))


def joint_stage(
    nets: nn.ModuleDict, images: Tensor, lens: Intrinsics, teacher: nn.Module, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective on windows (B, 3, 3, H, W) of real frames; depth is held near the shape the start gave it.

    The camera network learns to say the lens that the objective found or the data set knows. The auto-mask, which keeps
    what moves along with the camera from sinking to infinity, also hides all pixels of a camera at rest, and a motion
    far off is seen by hardly any pixel: so the motions also learn to follow flow (`astray`; GLNet as published: no).
    """
    outputs, back, said = predicted(nets, images, lens)
    with torch.no_grad():
        initial = teacher.depth(images.flatten(0, 1)).float().unflatten(0, images.shape[:2])
    with exact(images):
        # window by window: terms are means under masks, and a batch shared by processes must mean the same
        each = [
            total(images[k], out.depth[0], *window_pairs(out), out.moving[0], weights, initial_depth=initial[k])
            for k, out in enumerate(alone(outputs))
        ]
        off = (said.focal.log() - lens.focal.detach().log()).abs().mean()
        losses, parts = zip(*each, strict=True)
        means = {name: torch.stack([p[name] for p in parts]).mean() for name in parts[0]}
        loss = torch.stack(losses).mean() + LENS * off
        if weights != PAPER:
            means["astray"] = astray(outputs, back)
            loss = loss + FOLLOW * means["astray"]
        return loss, {name: value.detach() for name, value in means.items()} | {"focal": off.detach()}


def astray(outputs: Outputs, this_T_next: Float[Tensor, "B steps 4 4"]) -> Tensor:
    """How far motions (there, and `this_T_next` back) send pixels from where flow sees them go: log(1 + gap).

    In 1 % of the width, logarithmic, so that what moves on its own pulls little. Only the motions learn from it.
    """
    lens = outputs.intrinsics
    each = Intrinsics(lens.focal.detach()[:, None], lens.center.detach()[:, None], lens.size)
    depth, apart = outputs.depth.detach(), []
    ways = (depth[:, :-1], outputs.next_T_this, outputs.flow), (depth[:, 1:], this_T_next, outputs.flow_back)
    for start, motion, flow in ways:
        gap = rigid_flow(start, each, motion)[0] - flow.detach()
        apart.append(torch.log1p((100 / lens.size[0]) * (gap.square().sum(2) + 1e-4).sqrt()).mean())
    return torch.stack(apart).mean()


def alone(outputs: Outputs) -> list[Outputs]:
    """Each window of a batch as a batch of its own."""
    lens = outputs.intrinsics
    return [
        Outputs(
            *(getattr(outputs, f.name)[k : k + 1] for f in fields(outputs) if f.name != "intrinsics"),
            Intrinsics(lens.focal[k : k + 1], lens.center[k : k + 1], lens.size),
        )
        for k in range(len(outputs.depth))
    ]


def unlikeness(outputs: Outputs, images: Tensor) -> Tensor:
    """Mean dissimilarity of windows (B, 3, 3, H, W) and their neighbours warped by depth and camera, the better one.

    What networks could lower it by, other than depth and motion (masks, flow), does not count.
    """
    middle, ahead = images[:, 1], outputs.next_T_this
    unlike = []
    for there, motion in ((2, ahead[:, 1]), (0, inverse(ahead[:, 0]))):
        flow, _ = rigid_flow(outputs.depth[:, 1], outputs.intrinsics, motion)
        unlike.append(dissimilarity(middle, warp(images[:, there], flow)[0]))
    return torch.minimum(*unlike).mean()


def together(lenses: list[Intrinsics]) -> Intrinsics:
    """Single cameras of one size as a batch (B, 2)."""
    focal, center = (torch.stack([getattr(x, name) for x in lenses]) for name in ("focal", "center"))
    return replace(lenses[0], focal=focal, center=center)
