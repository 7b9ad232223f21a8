"""The prior, a network's depth, against what flow finds: how it must be bent to agree, and whether its shape is so good
that it is to be believed where flow is torn."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glvid.warp import spread

GRID = (6, 9)  # rows and columns of the control points that bend a prior
STIFF = 0.05  # how strongly neighbouring control points hold together, beside the matches a control point has
SHIFT = 3.0  # how far the constant may go, in median inverse depths
FIT_SIGMA = 0.3  # log depth that no match is believed to determine better, so that near things do not rule the fit
EVERY = 2  # px: the fit looks at one in so many
INFORMATION = 20.0  # 1 / log^2: what flow must say of a pixel to count as much as its surroundings

CLEAR = 0.3  # certainty from which a pixel is a witness
EVEN, TORN = 0.15, 0.25  # log depth by which flow's varies around a pixel in surfaces, at most; a step that is an edge
AROUND = 4  # px
OFF = 0.15  # log depth by which a prior is plainly wrong
WITNESSES = 50  # px a frame must have
WRONG, CREDIT = 0.07, 0.35  # see `believed`
SURE_SIGMA = 0.01  # log depth: no prior is believed to be better
EDGE, FOUND = 0.2, 0.2  # log depth: variation at which flow counts as torn; difference from which flow is right


def bent(
    prior: Float[Tensor, "1 h w"], ratio: Float[Tensor, "1 h w"], information: Float[Tensor, "1 h w"]
) -> Float[Tensor, "1 h w"]:
    """Log factor that makes `prior` agree with depth of log `ratio` to it, as far as bending can.

    Inverse depth times a bilinear surface through GRID control points (the deformation of Robust CVD, Kopf et al. 2021)
    plus a constant (networks know inverse depth up to an affine map, Ranftl et al. 2020). Relative errors of inverse
    depth, Cauchy with a scale that follows their median.
    """
    size = prior.shape[-2:]
    some = (..., slice(None, None, EVERY), slice(None, None, EVERY))
    p, gain = (x[some].flatten().double() for x in (prior / prior.median(), ratio.exp()))
    information = information[some].flatten().double()
    weight = information / (1 + information * FIT_SIGMA**2)
    surface = hats(size, p.device)[some[1:]].flatten(0, 1).double()
    A = torch.cat([surface * gain[:, None], (gain * p)[:, None]], 1)
    share = weight.sum() / surface.shape[1] + 1e-6
    hold = STIFF * share * stiffness(surface.shape[1] + 1)
    hold += 1e-4 * share * torch.eye(len(hold), dtype=hold.dtype)
    hold[-1, -1] += 0.01 * share * surface.shape[1] / SHIFT**2
    start = torch.ones(len(hold), dtype=hold.dtype)
    start[-1] = 0
    x, scale = start, FIT_SIGMA
    for k in range(6):
        error = A @ x - 1
        if k:
            counted = error.abs()[weight > 0.3 * weight.max()]
            scale = max(1.5 * float(counted.median()), 0.02) if len(counted) else scale
        w = (weight / (1 + (error / scale) ** 2))[:, None]
        x = torch.linalg.solve((A * w).T @ A + hold, (A * w).sum(0) + 1e-4 * share * start)
    x = x.float()
    factor = hats(size, prior.device) @ x[:-1] + x[-1] * (prior / prior.median())[0]
    return -factor.clamp(0.15, 8).log()[None]


def hats(size: tuple[int, int], device: torch.device) -> Float[Tensor, "h w n"]:
    """Bilinear weights of the control points at every pixel."""
    rows, columns = (
        (1 - (torch.linspace(0, points - 1, pixels, device=device)[:, None] - torch.arange(points)).abs()).clamp_min(0)
        for points, pixels in zip(GRID, size, strict=True)
    )
    return torch.einsum("yi,xj->yxij", rows, columns).flatten(2)


def stiffness(unknowns: int) -> Float[Tensor, "n n"]:
    """Quadratic form of the differences between neighbouring control points."""
    at = torch.arange(GRID[0] * GRID[1]).reshape(GRID)
    neighbours = ((at[1:], at[:-1]), (at[:, 1:], at[:, :-1]))
    pairs = torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in neighbours], 1)
    D = torch.zeros(pairs.shape[1], unknowns, dtype=torch.float64)
    D[torch.arange(len(D)), pairs[0]], D[torch.arange(len(D)), pairs[1]] = 1, -1
    return D.T @ D


@dataclass(frozen=True)
class Standing:
    """What the witnesses of one frame say of its prior, once it is bent."""

    wrong: float  # share of witnesses in even surfaces that find it `OFF`
    sharp: float  # its steepest step near edges that flow finds, as a part of flow's; flow's may be displaced
    sigma: float  # its error in even surfaces (log, one standard deviation)


def standing(
    prior: Float[Tensor, "1 h w"], ratio: Float[Tensor, "1 h w"], sure: Float[Tensor, "1 h w"]
) -> Standing | None:
    """How a frame's prior stands up to depth of log `ratio` to it; None where there are too few witnesses."""
    shape = bent(prior, ratio, information_of(sure))
    found, said = prior.log() + ratio, prior.log() + shape
    step = reach(found, 1)
    witness = sure > CLEAR
    even, torn = witness & (reach(found, AROUND) < EVEN), witness & (step > TORN)
    if min(int(even.sum()), int(torn.sum())) < WITNESSES:
        return None
    error, edges = (ratio - shape).abs()[even], largest(reach(said, 1), 2 * AROUND) / largest(step, AROUND)
    return Standing(
        float((error > OFF).float().mean()), float(edges[torn].clamp(max=1).mean()), float(1.48 * error.median())
    )


def believed(frames: list[Standing]) -> float | None:
    """Sigma (log) of a prior that is to be believed, by the means of several frames; None if it is not.

    It is, if it has the edges that flow finds and is not wrong where flow has none: then flow, not the prior, is the
    wrong one where they differ, most of all at the edges of things, which flow takes along. Credit is its sharpness
    times the part of WRONG that it does not use: 0.5 to 0.9 for true depth that was bent, stretched and made noisy, on
    8 clips (two of 7-Scenes, six rendered); below 0.15 for the shipped network on the same.
    """
    if not frames:
        return None
    wrong, sharp, sigma = torch.tensor([[s.wrong, s.sharp, s.sigma] for s in frames]).mean(dim=0).tolist()
    return max(sigma, SURE_SIGMA) if sharp * (1 - wrong / WRONG) > CREDIT else None


def upheld(
    prior: Float[Tensor, "1 h w"],
    ratio: Float[Tensor, "1 h w"],
    sure: Float[Tensor, "1 h w"],
    image: Float[Tensor, "3 h w"],
    sigma: float,
) -> Float[Tensor, "1 h w"]:
    """Log ratio to a believed prior: it is bent, and then only leaves that where flow finds something else than it
    says amid an even surface."""
    information = information_of(sure)
    shape = bent(prior, ratio, information)
    even = torch.exp(-((reach(prior.log() + ratio, AROUND) / EDGE) ** 2))
    information, away = information * even, ratio - shape
    held = 1 / sigma**2 / (1 + (away * even / FOUND) ** 2)
    both = information + held
    return shape + spread(information * away / both, both / (both + INFORMATION), image)


def information_of(sure: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Information (1 / log^2) behind a certainty of 0..1."""
    return INFORMATION * sure / (1 - sure).clamp_min(1e-3)


def reach(x: Float[Tensor, "1 h w"], radius: int) -> Float[Tensor, "1 h w"]:
    """Largest less smallest value within a square around every pixel."""
    return largest(x, radius) + largest(-x, radius)


def largest(x: Float[Tensor, "1 h w"], radius: int) -> Float[Tensor, "1 h w"]:
    """Largest value within a square around every pixel."""
    return F.max_pool2d(x[None], 2 * radius + 1, 1, radius)[0]
