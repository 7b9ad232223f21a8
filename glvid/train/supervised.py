"""Learning from truth: rendered pairs (depth, flow, camera), and real ones that geometry solved (depth)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glvid.data.pool import TOGETHER, Batch
from glvid.geometry import rigid_flow
from glvid.types import Intrinsics
from glvid.warp import resize, resize_flow

FAR_OFF = 1.5  # log units: being too far by more than this adds nothing to the relative error
SPREAD = 0.1  # weight of the loss of what flow says of its own error
NEAR = 0.5  # log units: what differs more from a picture's median says nothing of its scale
CAP = 200.0  # m; truth beyond (sky above all) counts as this far


def exact(like: Tensor) -> torch.autocast:
    """Geometry and losses in single precision: bf16 would be a third of a pixel off. Networks alone may take less."""
    return torch.autocast(like.device.type, enabled=False)


def depth_loss(
    disparities: list[Tensor], depth: Tensor, sure: Tensor, log_focal: Tensor | None = None
) -> dict[str, Tensor]:
    """Log-depth against truth: L1 after the median offset is taken away, slopes over several steps, a little absolute.

    Scale-invariant because one picture does not show its scale (Eigen et al. 2014); gradients keep edges sharp
    (Li and Snavely 2018). The relative part is Abs Rel, which asks to be rather too near than too far where that is
    open. The absolute part makes neighbouring frames agree on one scale: that of depth over the focal length
    (`log_focal` (B,), of the long side), as a picture shows how large things look. `sure` (0..1) weighs pixels; sky
    counts a third.
    """
    truth = depth.clamp(0.1, CAP).log()
    weight = sure * torch.where(depth < CAP, 1.0, 0.33)
    parts = {name: depth.new_zeros(()) for name in ("value", "relative", "slope", "scale")}
    zoom = 0.0 if log_focal is None else log_focal[:, None, None, None]
    for k, disparity in enumerate(disparities):
        t, v = truth[..., :: 2**k, :: 2**k], weight[..., :: 2**k, :: 2**k]
        e = -disparity.log() - t
        share = 0.5**k / 1.875  # 1, 1/2, 1/4, 1/8, normalised
        parts["scale"] = parts["scale"] + share * (v * (e + zoom)).flatten(1).mean(1).abs().mean()
        e = unscaled(e, v)
        parts["value"] = parts["value"] + share * (v * e.abs()).mean()
        parts["relative"] = parts["relative"] + share * (v * (e.clamp(max=FAR_OFF).exp() - 1).abs()).mean()
        if k < 2:
            parts["slope"] = parts["slope"] + slopes(e, v) / 2
    return parts


def unscaled(e: Tensor, weight: Tensor) -> Tensor:
    """e without every image's median, and without any pull on it: gradients of what follows add up to 0.

    The median taken as a constant is not enough: that makes the loss blind to the scale, not its gradient. Abs Rel,
    steeper above than below, then pulls all of the picture nearer in every step, and none ever satisfies it.
    """
    mean = (weight * e).mean((1, 2, 3), keepdim=True) / weight.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return e - middle(e.detach(), weight) - (mean - mean.detach())


def middle(e: Tensor, weight: Tensor) -> Tensor:
    """Median (B, 1, 1, 1) of every image's pixels that weigh at least half of what its average pixel does."""
    usual = weight.mean((1, 2, 3), keepdim=True) / 2
    return torch.where(weight > usual, e, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0)[:, None, None, None]


def slopes(e: Tensor, weight: Tensor, scales: int = 4) -> Tensor:
    """Mean |difference| of e over steps of 1, 2, 4, 8 px; beyond 1 it counts no more (an edge a pixel off)."""
    mean = e.new_zeros(())
    for k in range(scales):
        s, v = e[..., :: 2**k, :: 2**k], weight[..., :: 2**k, :: 2**k]
        for dim in (-1, -2):
            if s.shape[dim] > 1:
                mean = mean + (v.narrow(dim, 1, v.shape[dim] - 1) * torch.tanh(s.diff(dim=dim).abs())).mean()
    return mean


def camera_loss(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Motion both ways against truth (0.2 m weigh like 0.02 rad), where it sends the true points, lens, matches.

    The points (in 1 % of the width, logarithmic) weigh rotation and translation as the picture does, but pull on hardly
    anything while the motion is still far off; the plain difference does that. Without the matches nothing is learned
    for long: motions of either sign are equally likely, so the best blind answer is none.
    """
    shift, seen = net.look(batch.a, batch.b)
    b_T_a, a_T_b, lens = net.answer(seen, batch.intrinsics.size)
    with exact(batch.a):
        said = shift.float(), b_T_a.float(), a_T_b.float(), lens.to(torch.float32)
        return _camera_parts(*said, batch, net.config.radius)


def _camera_parts(
    shift: Tensor, b_T_a: Tensor, a_T_b: Tensor, lens: Intrinsics, batch: Batch, radius: int
) -> dict[str, Tensor]:
    flow = F.avg_pool2d(batch.flow, 4)
    near = (flow.abs().amax(1, keepdim=True) < 4 * radius) * F.avg_pool2d(batch.visible, 4)
    depth, K = F.max_pool2d(batch.depth.clamp(0.3, CAP), 8), batch.intrinsics
    K = K.resized((depth.shape[-1], depth.shape[-2]))
    error = torch.cat([b_T_a - batch.b_T_a, a_T_b - torch.linalg.inv(batch.b_T_a)])[:, :3].abs()
    want, z = rigid_flow(depth, K, batch.b_T_a)
    have, y = rigid_flow(depth, K, b_T_a)
    apart = (100 / K.size[0]) * (have - want).norm(dim=1, keepdim=True).clamp_max(K.size[0])
    return {
        "motion": (((z > 0.2) & (y > 0.2)) * torch.log1p(apart)).mean(),
        "pose": (error[..., 3] / 0.2).mean() + (error[..., :3] / 0.02).mean(),
        "match": (near * (shift[: len(flow)] - flow).abs()).mean(),
    } | lens_parts(lens, batch)


def lens_parts(lens: Intrinsics, batch: Batch) -> dict[str, Tensor]:
    """How far off the intrinsics are, where they are known: log of the focal length; centre, in widths."""
    focal = (lens.focal.log() - batch.intrinsics.focal.log()).abs().mean(1)
    center = (lens.center - batch.intrinsics.center).abs().mean(1) / lens.size[0]
    return {"focal": (batch.known * focal).mean(), "center": (batch.known * center).mean()}


def flow_loss(flows: list[Tensor], truth: Tensor, known: Tensor) -> Tensor:
    """Robust end-point error over all levels, where truth is `known` (0..1); hidden pixels count too.

    A level of 1 / s of the size counts its px as sqrt(s) px: as px of full size, the coarsest would rule.
    """
    full = flows[0].shape[-1]
    loss = truth.new_zeros(())
    for k, flow in enumerate(flows):
        size = (flow.shape[-1], flow.shape[-2])
        error = (flow - resize_flow(truth, size)).norm(dim=1, keepdim=True) * (full / size[0]) ** 0.5
        loss = loss + 0.8**k * (resize(known, size) * (error + 0.01).pow(0.7)).mean()
    return loss


DEPTH_WEIGHTS = {"value": 0.5, "relative": 0.5, "slope": 0.5, "scale": 0.1, "agree": 0.3, "spread": SPREAD}
CAMERA_WEIGHTS = {"motion": 0.05, "pose": 0.05, "match": 0.05, "focal": 0.05, "center": 0.05}


def weighted(parts: dict[str, Tensor]) -> Tensor:
    """The loss that parts add up to."""
    return sum((DEPTH_WEIGHTS | CAMERA_WEIGHTS)[k] * v for k, v in parts.items())


def depth_stage(nets: nn.ModuleDict, batch: Batch, with_camera: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Depth, and camera, from rendered truth."""
    parts = depth_parts(nets["depth"], batch)
    if with_camera:
        parts |= camera_loss(nets["camera"], batch)
    return weighted(parts), parts


def log_focal_of(batch: Batch) -> Tensor:
    """Log of the focal length over the long side, of what is usual (0.8), of every picture (B,)."""
    return (batch.intrinsics.focal.mean(-1) / (0.8 * max(batch.intrinsics.size))).log()


def disagreement(disparity: Tensor, batch: Batch, log_focal: Tensor) -> Tensor:
    """How far the scales of pictures of one clip are apart; TOGETHER neighbours in the batch are of one.

    The scale is a mean about the median, as a median alone would pull on one pixel only.
    """
    group = math.gcd(len(disparity), TOGETHER)
    e = -disparity.log() - batch.depth.clamp(0.1, CAP).log() + log_focal[:, None, None, None]
    weight = batch.sure * (batch.depth < CAP)
    center = middle(e.detach(), weight)
    near = weight * (e - center).clamp(-NEAR, NEAR)
    scale = center.flatten() + near.sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)
    scale = scale.view(-1, group)
    return (scale - scale.detach().mean(1, keepdim=True)).abs().mean()


def depth_parts(net: nn.Module, batch: Batch, together: bool = False) -> dict[str, Tensor]:
    """Loss parts of depth, of what the network says of its error where it does, and, where neighbours in the batch are
    `together` of one clip, of how far their scales are apart."""
    disparities, log_spread = net.look(batch.a)
    disparities = [x.float() for x in disparities]
    with exact(batch.a):
        log_focal = log_focal_of(batch)
        parts = depth_loss(disparities, batch.depth, batch.sure, log_focal)
        if together:
            parts["agree"] = disagreement(disparities[0], batch, log_focal)
        if log_spread is not None:
            off = -disparities[0].detach().log() - batch.depth.clamp(0.1, CAP).log()
            near = batch.sure * (batch.depth < CAP)
            parts["spread"] = spread_loss(log_spread.float(), (off - middle(off, near)).abs(), near)
    return parts


def flow_stage(nets: nn.ModuleDict, batch: Batch, with_camera: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Flow from rendered truth; vectors longer than half the picture are cut (they leave it anyway)."""
    bound = batch.flow.shape[-1] / 2
    truth = batch.flow.clamp(-bound, bound)
    found = nets["flow"](batch.a, batch.b, batch.start, batch.inner)
    with exact(batch.a):
        flows, log_spread = [x.float() for x in found.flows], found.log_spread.float()
        apart = (flows[0] - truth).norm(dim=1, keepdim=True)
        parts = {"loss_flow": flow_loss(flows, truth, batch.sure), "spread": spread_loss(log_spread, apart, batch.sure)}
        loss = parts["loss_flow"] + SPREAD * parts["spread"]
        return loss, parts | {"epe": (batch.sure * apart).sum() / batch.sure.sum().clamp_min(1)}


def spread_loss(log_spread: Tensor, apart: Tensor, known: Tensor) -> Tensor:
    """Negative log likelihood, but for constants, of errors whose length is exponential with mean exp(log_spread).

    Least where that is the expected error. Flow itself does not learn from it: it would care less for what is hard
    (Seitzer et al. 2022).
    """
    return (known * (log_spread + apart.detach() * (-log_spread).exp())).mean()


def camera_stage(nets: nn.ModuleDict, batch: Batch, with_camera: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Camera alone, from rendered truth."""
    parts = camera_loss(nets["camera"], batch)
    return weighted(parts), parts


def lesson_stage(nets: nn.ModuleDict, batch: Batch, with_camera: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Depth and lens from what geometry found out about real clips; their scale is a guess, so it is not learned, but
    that a clip has one is."""
    parts = depth_parts(nets["depth"], batch, together=True) if "depth" in nets else {}
    if with_camera or "depth" not in nets:
        lens = nets["camera"](batch.a, batch.b)[2]
        with exact(batch.a):
            parts |= lens_parts(lens.to(torch.float32), batch)
    learned = {k: v for k, v in parts.items() if k != "scale"}
    return weighted(learned), {f"real_{k}": v for k, v in parts.items()}


SUPERVISED = {"depth": depth_stage, "camera": camera_stage, "flow": flow_stage}


def abs_rel(depth: Tensor, batch: Batch) -> float:
    """Mean |D - D*| / D* of sure depths below 80 m, each picture scaled by its median."""
    near, errors = (batch.depth < 80) & (batch.sure > 0.5), []
    for d, t, ok in zip(depth, batch.depth, near, strict=True):
        if ok.any():
            d, t = d[ok], t[ok]
            errors.append(float(((d * (t.median() / d.median()) - t).abs() / t).mean()))
    return float(np.mean(errors))
