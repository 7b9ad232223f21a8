"""The one objective, of training and of both refinements: GLNet (Chen, Schmid, Sminchisescu, ICCV 2019), taken further.

Every term is a mean over pixels, 0 for the true depth, motion, camera and flow of a noise-free static scene
(photometric and smoothness terms nearly so), finite for finite input, and sends no gradient into its pixel weights.
`total` adds them up over frame pairs of any baseline; the pairs of three frames are a training window.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glvid.geometry import NEAR, backproject, inverse, pixel_grid, rigid_flow, transform
from glvid.types import Intrinsics, Outputs, Pairs
from glvid.warp import visibility, warp

FAR = 1e9  # depths beyond are clamped, so that squares stay finite
MARGIN = 1e-3  # a still image explains a pixel unless motion does better by this; rounding would decide ties
ABSENT = 2.0  # dissimilarity of a pixel with no match; above every true value (at most 1)


@dataclass(frozen=True)
class LossWeights:
    """What each term counts. 0 leaves the term out, uncomputed.

    "Measured" is: 10 (7) rendered frames of three worlds (handheld, driving, orbit), depth 14 %, directions of motion
    28 degrees and focal 10 % wrong, DIS flow, 80 (60) Adam steps over depth, poses and focal with exact motion masks.
    """

    photometric: float = 1.0  # the unit of all others; 0.01-0.1 on real footage
    static_photometric: float = 1.0  # same unit. Measured: without it directions of motion are off twice as far
    structure: float = 0.5  # relative depth error. Measured: depth 0.11, 0.13-0.14 without it; 2 is worse on all three
    epipolar: float = 0.02  # px. Measured: directions 0-6 % better than without on two worlds, one 3 % worse
    flow_consistency: float = 0.02  # px: 1 px apart weighs less than the photometric gain of a true match
    depth_smooth: float = 0.05  # acts where images are flat. Measured: neutral on textured worlds, 0.5 hurts depth
    flow_smooth: float = 0.05  # as depth_smooth
    prior_depth: float = 0.05  # log units. Measured: neutral where there is parallax, 0.2 already holds depth back
    prior_gradient: float = 0.1  # the initial depth's shape is more reliable than its values
    prior_camera: float = 0.001  # one sigma away costs less than any visible photometric error
    masked: float = 1.0  # no term: how far the geometric ones leave out what moves on its own, where they are wrong


# GLNet's objective as published: the plain per-pixel minimum, geometric terms on moving pixels too, no priors. What the
# terms counted there is not known, so they count what ours do.
PAPER = LossWeights(static_photometric=0, prior_depth=0, prior_gradient=0, prior_camera=0, masked=0)


@dataclass(frozen=True)
class CameraOffset:
    """How far the camera has been moved from where it started (`total` pulls it back, gently)."""

    twist: Float[Tensor, "F 6"]  # se(3) offset per frame, translation first
    log_focal: Tensor  # log of focal / initial focal, any shape
    sigma: tuple[float, float, float] = (0.05, 0.02, 0.1)  # of translation (scene units), rotation (rad), log focal


@dataclass(frozen=True)
class Evidence:
    """What images and flow alone say; constant as long as the flows are, so compute it once (`observe`)."""

    visible: Float[Tensor, "P 1 H W"]  # 1 where forward-backward flow agrees; no gradient
    still: Float[Tensor, "N 1 H W"]  # dissimilarity to the best unwarped source frame; no gradient
    flowed: Float[Tensor, "P 1 H W"]  # dissimilarity under flow, ABSENT outside; carries the flow's gradient


# --- pixel measures -------------------------------------------------------------------------------------------------


class _Box3(torch.autograd.Function):
    """3x3 mean with reflected border, three times faster on CPUs than pad + avg_pool2d, forward and backward."""

    @staticmethod
    def _taps(x: Tensor, dim: int, onto: int) -> Tensor:
        """Sum of three neighbours along `dim`; the mirrored border tap (1 -> 0), or its adjoint (0 -> 1, onto=1)."""
        n = x.shape[dim]
        y = x.clone()
        y.narrow(dim, 1, n - 1).add_(x.narrow(dim, 0, n - 1))
        y.narrow(dim, 0, n - 1).add_(x.narrow(dim, 1, n - 1))
        y.select(dim, onto).add_(x.select(dim, 1 - onto))
        y.select(dim, n - 1 - onto).add_(x.select(dim, n - 2 + onto))
        return y

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _Box3._taps(_Box3._taps(x, -1, 0), -2, 0).div_(9)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Box3._taps(_Box3._taps(grad, -2, 1), -1, 1).div_(9)


def dissimilarity(a: Float[Tensor, "#B C H W"], b: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
    """s = 0.85 (1 - SSIM) / 2 + 0.15 |a - b| per pixel, in 0..1 (GLNet's weighted SSIM + L1; constants of Monodepth2).

    SSIM over reflect-padded 3x3 windows, mean over channels; images 0..1, at least 2 px wide and high. a may be one
    image for all of b.
    """
    box = _Box3.apply
    ma, mb = box(a), box(b)
    ab = ma * mb
    aa, bb = ma * ma, mb * mb
    above = (2 * ab + 0.01**2) * (2 * (box(a * b) - ab) + 0.03**2)
    below = (aa + bb + 0.01**2) * (box(a * a) + box(b * b) - aa - bb + 0.03**2)
    s = 0.425 * (1 - above / below) + 0.15 * (a - b).abs()
    return s.mean(1, keepdim=True)


def _charbonnier(x: Tensor, dim: int, eps: float) -> Tensor:
    """Length of x along `dim`, rounded off below `eps` so that its gradient exists at 0; 0 at 0."""
    return (x.square().sum(dim, keepdim=True) + eps * eps).sqrt() - eps


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean of x under `weight`, which receives no gradient; 0 where all weights are 0."""
    weight = weight.detach()
    return (x * weight).sum() / weight.sum().clamp_min(1)


def _best_source(s: Float[Tensor, "P 1 H W"], i: Int[Tensor, " P"], frames: int) -> Float[Tensor, "N 1 H W"]:
    """Minimum over the source frames of each target: over all pairs that share i. ABSENT where there is none."""
    index = i[:, None, None, None].expand_as(s)
    return s.new_full((frames, *s.shape[1:]), ABSENT).scatter_reduce(0, index, s, "amin")


def observe(images: Float[Tensor, "N C H W"], pairs: Pairs) -> Evidence:
    """Visibility, and how well an unwarped and a flow-warped source explains each target."""
    targets, sources = images[pairs.i], images[pairs.j]
    with torch.no_grad():
        visible = visibility(pairs.flow_ij, pairs.flow_ji)
        still = _best_source(dissimilarity(targets, sources), pairs.i, len(images))
    warped, inside = warp(sources, pairs.flow_ij)
    return Evidence(visible, still, torch.where(inside > 0, dissimilarity(targets, warped), ABSENT))


# --- terms ----------------------------------------------------------------------------------------------------------


def photometric_terms(
    rigid: Float[Tensor, "P 1 H W"], seen: Evidence, i: Int[Tensor, " P"], static: Float[Tensor, "N 1 H W"]
) -> tuple[Tensor, Tensor]:
    """Adaptive photometric term, and the rigid one on static pixels. `rigid`: s under rigid flow, ABSENT without match.

    Adaptive (GLNet, adaptive photometric loss): per pixel the smaller of s_rigid and s_flow, and of all sources. Where
    an unwarped source is better still (textureless, or moving with the camera), its value stands in, without gradient
    (Monodepth2's auto-mask), so that values before and after a step are means over the same pixels.
    Static: stopgrad(m) * visible * s_rigid, smallest over sources, on the pixels the auto-mask keeps; it feeds depth
    where flow wins the adaptive minimum.
    """
    frames = len(seen.still)
    adaptive = _best_source(torch.minimum(rigid, seen.flowed), i, frames)
    kept = (adaptive < seen.still - MARGIN).to(rigid.dtype)
    of_visible = _best_source(torch.where(seen.visible > 0, rigid, ABSENT), i, frames)
    weight = static * kept * (of_visible < ABSENT)
    targets = torch.zeros_like(static).index_fill(0, i, 1)
    return _mean(torch.minimum(adaptive, seen.still), targets), _mean(of_visible, weight)


def structure(
    depth_i: Float[Tensor, "P 1 H W"],
    depth_j: Float[Tensor, "P 1 H W"],
    flow_ij: Float[Tensor, "P 2 H W"],
    j_T_i: Float[Tensor, "P 4 4"],
    intrinsics: Intrinsics,
    weight: Float[Tensor, "P 1 H W"],
    rolled: Float[Tensor, "P 2 H W"] | None = None,
) -> Tensor:
    """Distance from R X_i(p) + t to X_j(p + F(p)), relative to depth (GLNet, multi-view 3-D structure consistency).

    rolled: what a rolling shutter adds to the flow; X_j is looked up where it is seen, and lies where it would be seen
    without.

    r = |difference| / mean depth of the two is free of scale, so no shrinking of the scene lowers it, and at most 2
    along the depth axis (cf. SC-SfMLearner's |D - D'| / (D + D')). The term is 0.25 log(1 + r / 0.25), so that pixels
    on depth edges, where r comes near 2 even at the truth, pull up to nine times less. X_j is looked up by sampling
    inverse depth, which is linear in the image on any plane, so planes have no interpolation error.
    """
    there = transform(j_T_i, backproject(depth_i.clamp(NEAR, FAR), intrinsics))
    nearness, inside = warp(depth_j.clamp(NEAR, FAR).reciprocal(), flow_ij)
    xy = pixel_grid(intrinsics.size, flow_ij) + (flow_ij if rolled is None else flow_ij - rolled)
    uv = (xy - intrinsics.center[..., None, None]) / intrinsics.focal[..., None, None]
    here = torch.cat([uv, torch.ones_like(nearness)], 1) / nearness
    z = there[:, 2:]
    apart = 2 * (there - here) / (z.clamp_min(NEAR) + here[:, 2:])
    return _mean(0.25 * torch.log1p(_charbonnier(apart, 1, 1e-3) / 0.25), weight * inside * (z > NEAR))


def epipolar_offset(
    flow: Float[Tensor, "P 2 H W"], intrinsics: Intrinsics, j_T_i: Float[Tensor, "P 4 4"]
) -> tuple[Float[Tensor, "P 1 H W"], Float[Tensor, "P 1 H W"]]:
    """Squared distance in px from p + F(p) to the epipolar ray of p, and the observed parallax in px.

    The ray starts where p would go under the rotation alone (a point at infinity) and leads to where nearer points go:
    the half of the epipolar line on which depth is positive. Independent of |t|; 0 for no translation, and fading to 0
    within 0.06 degrees of the epipole, where there is no line. Parallax: length of the flow less its rotational part,
    without gradient.
    """
    focal, center = intrinsics.focal[..., None, None], intrinsics.center[..., None, None]
    R_only = torch.cat([j_T_i[:, :, :3], torch.eye(4).to(j_T_i)[:, 3:].expand(len(j_T_i), 4, 1)], 2)
    far, _ = rigid_flow(torch.ones_like(flow[:, :1]), intrinsics, R_only)
    t = j_T_i[:, :3, 3]
    t = (t / (t.square().sum(-1, keepdim=True) + 1e-8).sqrt())[..., None, None]  # rounded off: no direction at t = 0
    infinity = (pixel_grid(intrinsics.size, flow) + far - center) / focal
    along = (t[:, :2] - infinity * t[:, 2:]) * (focal / focal.mean(-3, keepdim=True))  # d position / d inverse depth
    along = along / (along.square().sum(1, keepdim=True) + 1e-6).sqrt()
    gap = flow - far
    across = gap[:, :1] * along[:, 1:] - gap[:, 1:] * along[:, :1]
    behind = (gap * along).sum(1, keepdim=True).clamp_max(0)
    return across.square() + behind.square(), torch.hypot(*gap.detach().split(1, 1))


def epipolar(
    flow: Float[Tensor, "P 2 H W"],
    intrinsics: Intrinsics,
    j_T_i: Float[Tensor, "P 4 4"],
    weight: Float[Tensor, "P 1 H W"],
    bound: float = 4.0,
) -> Tensor:
    """Bounded distance (px) of flow matches from epipolar rays (GLNet, epipolar loss; point to line as in TrianFlow).

    The algebraic p'^T K^-T [t]x R K^-1 p is minimised by t -> 0; this is the same for every |t|. Pseudo-Huber (1 px),
    constant beyond `bound` px, where a pixel is taken for a moving object or a wrong match. The weight is multiplied by
    min(parallax / 1 px, 1): a match that the rotation alone explains lies on every line.
    """
    squared, parallax = epipolar_offset(flow, intrinsics, j_T_i)
    distance = (squared.clamp_max(bound * bound) + 1).sqrt() - 1
    return _mean(distance, weight * parallax.clamp_max(1))


def flow_consistency(
    flow_ij: Float[Tensor, "P 2 H W"], flow_ji: Float[Tensor, "P 2 H W"], weight: Float[Tensor, "P 1 H W"]
) -> Tensor:
    """|F(p) + F'(p + F(p))| in px: flow there and back ends where it began (GLNet, forward-backward consistency)."""
    back, inside = warp(flow_ji, flow_ij)
    return _mean(_charbonnier(flow_ij + back, 1, 0.1), weight * inside)


def _curvature(x: Float[Tensor, "B C H W"], image: Float[Tensor, "B G H W"]) -> Tensor:
    """Edge-aware second difference: mean of |x'' | exp(-10 |I'|) over both axes (edge factor of TrianFlow)."""
    total = x.new_zeros(())
    for dim in (-1, -2):
        n = image.shape[dim] - 2
        left, mid, right = (image.narrow(dim, k, n) for k in range(3))
        edge = torch.maximum((mid - left).abs(), (right - mid).abs()).mean(1, keepdim=True)
        bend = x.narrow(dim, 0, n) - 2 * x.narrow(dim, 1, n) + x.narrow(dim, 2, n)
        total = total + (_charbonnier(bend, 1, 1e-3) * (-10 * edge).exp()).mean()
    return total / 2


def depth_smoothness(depth: Float[Tensor, "N 1 H W"], image: Float[Tensor, "N C H W"]) -> Tensor:
    """Edge-aware curvature of mean-normalised inverse depth (GLNet, smoothness; normalised as in Wang et al. 2018).

    Second order: inverse depth is linear in the image on every plane, so slanted floors and walls are not flattened.
    """
    nearness = depth.clamp_min(NEAR).reciprocal()
    return _curvature(nearness / nearness.mean((-1, -2), keepdim=True), image)


def flow_smoothness(flow: Float[Tensor, "P 2 H W"], image: Float[Tensor, "P 3 H W"]) -> Tensor:
    """Edge-aware curvature of flow, in units of 1/40 of the long side (GLNet, smoothness; TrianFlow's 20 px of 832)."""
    return _curvature(flow * (40 / max(flow.shape[-2:])), image)


def prior_depth(depth: Float[Tensor, "N 1 H W"], initial: Float[Tensor, "N 1 H W"]) -> Tensor:
    """Scale-invariant distance to the initial depth: |e - mean e|, e = log D - log D0 (Eigen et al. 2014; robust)."""
    e = depth.clamp_min(NEAR).log() - initial.clamp_min(NEAR).log()
    return _charbonnier(e - e.mean((-1, -2), keepdim=True), 1, 0.01).mean()


def prior_gradient(depth: Float[Tensor, "N 1 H W"], initial: Float[Tensor, "N 1 H W"], scales: int = 4) -> Tensor:
    """Distance to the initial depth's shape: |grad e| over steps of 1, 2, 4, 8 px (Li and Snavely 2018)."""
    e = depth.clamp_min(NEAR).log() - initial.clamp_min(NEAR).log()
    total = e.new_zeros(())
    for k in range(scales):
        s = e[..., :: 2**k, :: 2**k]
        for dim in (-1, -2):
            if s.shape[dim] > 1:
                total = total + _charbonnier(s.diff(dim=dim), 1, 1e-3).mean()
    return total / scales


def prior_camera(offset: CameraOffset) -> Tensor:
    """Squared distance of cameras and focal from their start, in standard deviations (GLNet, output refinement)."""
    translation, rotation, log_focal = offset.sigma
    sigma = offset.twist.new_tensor([translation] * 3 + [rotation] * 3)
    return (offset.twist / sigma).square().sum(-1).mean() + (offset.log_focal / log_focal).square().mean()


# --- the objective --------------------------------------------------------------------------------------------------


def total(
    images: Float[Tensor, "N C H W"],
    depth: Float[Tensor, "N 1 H W"],
    pairs: Pairs,
    intrinsics: Intrinsics,
    moving: Float[Tensor, "N 1 H W"] | None,
    weights: LossWeights,
    initial_depth: Float[Tensor, "N 1 H W"] | None = None,
    camera: CameraOffset | None = None,
    seen: Evidence | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and every term by its field name in `LossWeights`, unweighted and detached.

    intrinsics: (2,) one camera, or (P, 2) one per pair. moving: probability of independent motion; None = all static.
    Left out, at no cost: terms of weight 0; flow_consistency and flow_smooth where flow needs no gradient; priors
    without `initial_depth` or `camera`. `seen`: `observe(images, pairs)` of the same flows, to be reused over steps
    that hold them fixed. Gradient reaches depth, j_T_i, intrinsics and the flows, never `moving`.
    """
    seen = observe(images, pairs) if seen is None else seen
    static = torch.ones_like(depth) if moving is None else 1 - moving
    static = static.detach()
    counted = 1 - weights.masked * (1 - static)
    terms = _geometric_terms(depth, pairs, intrinsics, counted[pairs.i] * seen.visible, weights)
    terms |= _image_terms(images, depth, pairs, intrinsics, static, weights, seen)
    if pairs.flow_ij.requires_grad:
        if weights.flow_consistency:
            terms["flow_consistency"] = flow_consistency(pairs.flow_ij, pairs.flow_ji, seen.visible)
        if weights.flow_smooth:
            terms["flow_smooth"] = flow_smoothness(pairs.flow_ij, images[pairs.i])
    if initial_depth is not None and weights.prior_depth:
        terms["prior_depth"] = prior_depth(depth, initial_depth)
    if initial_depth is not None and weights.prior_gradient:
        terms["prior_gradient"] = prior_gradient(depth, initial_depth)
    if camera is not None and weights.prior_camera:
        terms["prior_camera"] = prior_camera(camera)
    terms = {name: term for name, term in terms.items() if getattr(weights, name)}
    loss = sum((getattr(weights, name) * term for name, term in terms.items()), depth.new_zeros(()))
    return loss, {name: term.detach() for name, term in terms.items()}


def _geometric_terms(
    depth: Tensor, pairs: Pairs, intrinsics: Intrinsics, weight: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """Terms that compare depth, motion and flow with one another."""
    terms = {}
    flow = pairs.flow_ij if pairs.rolled is None else pairs.flow_ij - pairs.rolled
    if weights.structure:
        i, j = (depth.index_select(0, n) for n in (pairs.i, pairs.j))  # [n] would add gradients up in any order
        terms["structure"] = structure(i, j, pairs.flow_ij, pairs.j_T_i, intrinsics, weight, pairs.rolled)
    if weights.epipolar:
        terms["epipolar"] = epipolar(flow, intrinsics, pairs.j_T_i, weight)
    return terms


def _image_terms(
    images: Tensor,
    depth: Tensor,
    pairs: Pairs,
    intrinsics: Intrinsics,
    static: Tensor,
    weights: LossWeights,
    seen: Evidence,
) -> dict[str, Tensor]:
    """Terms that look at colours."""
    terms = {}
    if weights.photometric or weights.static_photometric:
        flow, z = rigid_flow(depth.index_select(0, pairs.i), intrinsics, pairs.j_T_i)
        flow = flow if pairs.rolled is None else flow + pairs.rolled
        warped, inside = warp(images[pairs.j], flow)
        rigid = torch.where(inside * (z > NEAR) > 0, dissimilarity(images[pairs.i], warped), ABSENT)
        terms["photometric"], terms["static_photometric"] = photometric_terms(rigid, seen, pairs.i, static)
    if weights.depth_smooth:
        terms["depth_smooth"] = depth_smoothness(depth, images)
    return terms


def window_pairs(outputs: Outputs) -> tuple[Pairs, Intrinsics]:
    """Neighbour pairs of every window, both ways, and their cameras: for three frames (0,1) (1,2) (1,0) (2,1).

    Frames are numbered over the flattened batch (frame s of window b is b S + s), so that
    `total(images.flatten(0, 1), outputs.depth.flatten(0, 1), pairs, intrinsics, ...)` takes them as they are.
    """
    windows, steps = outputs.flow.shape[:2]
    i = (torch.arange(windows)[:, None] * (steps + 1) + torch.arange(steps)).flatten().to(outputs.flow.device)
    ahead, back = outputs.flow.flatten(0, 1), outputs.flow_back.flatten(0, 1)
    T = outputs.next_T_this.flatten(0, 1)
    pairs = Pairs(
        torch.cat([i, i + 1]),
        torch.cat([i + 1, i]),
        torch.cat([ahead, back]),
        torch.cat([back, ahead]),
        torch.cat([T, inverse(T)]),
    )
    K = outputs.intrinsics
    focal, center = (x.repeat_interleave(steps, 0).repeat(2, 1) for x in (K.focal, K.center))
    return pairs, Intrinsics(focal, center, K.size)
