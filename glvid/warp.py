"""Looking things up in another image, and spreading them over this one. The only file that calls `grid_sample`."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glvid.geometry import pixel_grid


def sample_at(
    image: Float[Tensor, "B C H W"], xy: Float[Tensor, "B 2 h w"]
) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B 1 h w"]]:
    """Bilinear values of `image` at pixel positions `xy` (centres at .5), and 1 where xy lies inside the image.

    Outside, the border pixel is returned. Sampling at `pixel_grid` gives the image back exactly.
    """
    h, w = image.shape[-2:]
    x, y = xy[:, 0], xy[:, 1]
    grid = torch.stack([2 * x / w - 1, 2 * y / h - 1], -1)
    values = F.grid_sample(image, grid.to(image.dtype), "bilinear", "border", align_corners=False)
    inside = (x > 0) & (x < w) & (y > 0) & (y < h)
    return values, inside[:, None].to(image.dtype)


def warp(
    image: Float[Tensor, "B C H W"], flow: Float[Tensor, "B 2 H W"]
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B 1 H W"]]:
    """image(p + flow(p)) and 1 where the target lies inside."""
    size = (flow.shape[-1], flow.shape[-2])
    return sample_at(image, pixel_grid(size, flow) + flow)


def visibility(
    flow_ij: Float[Tensor, "B 2 H W"], flow_ji: Float[Tensor, "B 2 H W"], floor: float = 1.0, ratio: float = 0.05
) -> Float[Tensor, "B 1 H W"]:
    """1 where |F(p) + F'(p + F(p))| < max(floor, ratio |F|) and the target is inside (GeoNet's rule), else 0."""
    back, inside = warp(flow_ji, flow_ij)
    gap = length(flow_ij + back)
    return inside * (gap < (ratio * length(flow_ij)).clamp_min(floor)).to(inside.dtype)


def length(flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Length of every vector; on a CPU many times faster than `norm` over a strided dimension."""
    return torch.hypot(flow[:, :1], flow[:, 1:])


def texture_of(image: Float[Tensor, "C h w"]) -> Float[Tensor, "3 h w"]:
    """Structure tensor (gx^2, gx gy, gy^2) of brightness, averaged over 5x5 px."""
    gy, gx = torch.gradient(image.mean(0))
    return box_mean(torch.stack([gx * gx, gx * gy, gy * gy])[None], 2)[0]


def resize(x: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """Resample to `size` (width, height): area average when shrinking, bilinear when growing."""
    h, w = x.shape[-2:]
    if (w, h) == tuple(size):
        return x
    shrink = size[0] < w or size[1] < h
    return F.interpolate(x, (size[1], size[0]), mode="bilinear", align_corners=False, antialias=shrink)


def resize_flow(flow: Float[Tensor, "B 2 H W"], size: tuple[int, int]) -> Float[Tensor, "B 2 h w"]:
    """Resample a flow field; its vectors scale with the image."""
    h, w = flow.shape[-2:]
    return resize(flow, size) * flow.new_tensor([size[0] / w, size[1] / h])[:, None, None]


def box_mean(x: Float[Tensor, "B C H W"], radius: int) -> Float[Tensor, "B C H W"]:
    """Mean over a (2 radius + 1) window, borders counted by what is there; on a CPU ten times faster than pooling."""
    sums = _sums(_sums(x, radius, -2), radius, -1)
    rows, columns = (1 / _count(n, radius, x) for n in x.shape[-2:])
    return sums.mul_(rows[:, None] * columns)


def _sums(x: Tensor, radius: int, dim: int) -> Tensor:
    """Of what is within `radius` along `dim`."""
    n, out = x.shape[dim], x.clone()
    for s in range(1, min(radius, n - 1) + 1):
        out.narrow(dim, s, n - s).add_(x.narrow(dim, 0, n - s))
        out.narrow(dim, 0, n - s).add_(x.narrow(dim, s, n - s))
    return out


def _count(n: int, radius: int, like: Tensor) -> Tensor:
    """How many of n places are within `radius` of each."""
    at = torch.arange(n, dtype=like.dtype, device=like.device)
    return at.clamp_max(radius) + (n - 1 - at).clamp_max(radius) + 1


def guided_upsample(
    x: Float[Tensor, "B C h w"],
    guide: Float[Tensor, "#B _c H W"],
    radius: int = 2,
    eps: float = 1e-3,
) -> Float[Tensor, "B C H W"]:
    """Edge-aware upsampling of `x` to the guide's size: fast guided filter (He and Sun 2015, eq. 3-6), grey guide.

    x is fitted as a local linear function of the guide at low resolution; the coefficients are brought up and applied
    to the full-resolution guide, so that edges of x follow edges of the image. One guide may serve all of x.
    """
    size = (guide.shape[-1], guide.shape[-2])
    grey = guide.mean(1, keepdim=True)
    low = resize(grey, (x.shape[-1], x.shape[-2]))
    mean_g, mean_x = box_mean(low, radius), box_mean(x, radius)
    variance = box_mean(low * low, radius) - mean_g * mean_g
    a = (box_mean(low * x, radius) - mean_g * mean_x) / (variance + eps)
    b = mean_x - a * mean_g
    return resize(box_mean(a, radius), size) * grey + resize(box_mean(b, radius), size)


def push_pull(x: Float[Tensor, "1 h w"], weight: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """x where weight is 1, the smooth extension of its surroundings where weight is 0 (pyramid of weighted means)."""
    h, w = x.shape[-2:]
    if min(h, w) < 4:
        return ((x * weight).sum() / weight.sum().clamp_min(1e-6)).expand_as(x)
    size = (-(-w // 2), -(-h // 2))
    coarse_w = resize(weight[None], size)[0]
    coarse = resize((x * weight)[None], size)[0] / coarse_w.clamp_min(1e-6)
    below = resize(push_pull(coarse, coarse_w.clamp_max(1))[None], (w, h))[0]
    return weight * x + (1 - weight) * below


STIFF = 2.0  # how strongly neighbours of one colour hold together, beside a depth that is certain (1)
EDGE = 0.03  # difference of colour at which they hold together by 1/e
LOOSE = 1e-3  # share of that which any two neighbours keep
ROUNDS = 40  # of conjugate gradients: 20 more change depth by 0.03 % on average


def spread(
    x: Float[Tensor, "1 h w"],
    weight: Float[Tensor, "1 h w"],
    image: Float[Tensor, "3 h w"],
    stiff: float = STIFF,
    edge: float = EDGE,
    rounds: int = ROUNDS,
) -> Float[Tensor, "1 h w"]:
    """x where it is certain, and elsewhere what its surroundings of the same colour say: a weighted least-squares
    smoother (Farbman et al. 2008) by conjugate gradients, from `push_pull` on."""
    (h, w), start = x.shape[-2:], push_pull(x, weight)
    right, down = (
        stiff * (LOOSE + torch.exp(-(image.diff(dim=d).square().sum(0, keepdim=True) / edge**2))) for d in (2, 1)
    )
    ties = ((F.pad(right, (0, 1)).flatten()[:-1], 1), (down.flatten(), w))  # to the next pixel, and to the next row's
    x, own, y = x.flatten(), weight.flatten() + 1e-6, start.flatten().clone()
    scale, across = own.clone(), torch.empty_like(own)
    for tie, far in ties:
        scale[far:].add_(tie)
        scale[:-far].add_(tie)

    def times(y: Float[Tensor, " n"], out: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        torch.mul(own, y, out=out)
        for tie, far in ties:
            part = across[far:]
            torch.sub(y[far:], y[:-far], out=part).mul_(tie)
            out[far:].add_(part)
            out[:-far].sub_(part)
        return out

    change = torch.empty_like(own)
    left = weight.flatten() * x - times(y, change)
    toward = left / scale
    step, size = toward.clone(), torch.dot(left, toward)
    scale = 1 / scale
    for _ in range(rounds):  # in place and without rows: maps are small, making new ones takes longer than filling them
        a = size / torch.dot(step, times(step, change)).clamp_min(1e-20)
        y.addcmul_(step, a)
        left.addcmul_(change, a, value=-1)
        torch.mul(scale, left, out=toward)
        before, size = size, torch.dot(left, toward)
        step.mul_(size / before.clamp_min(1e-20)).add_(toward)
    return y.reshape(1, h, w)
