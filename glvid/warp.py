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
    return F.avg_pool2d(torch.stack([gx * gx, gx * gy, gy * gy])[None], 5, 1, 2, count_include_pad=False)[0]


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


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean over a (2 radius + 1) window, borders counted by what is there."""
    k = 2 * radius + 1  # rows, then columns: 2 k instead of k^2 taps
    rows = F.avg_pool2d(x, (k, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, k), 1, (0, radius), count_include_pad=False)


def guided_upsample(
    x: Float[Tensor, "B C h w"],
    guide: Float[Tensor, "#B 3 H W"],
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
    mean_g, mean_x = _box(low, radius), _box(x, radius)
    variance = _box(low * low, radius) - mean_g * mean_g
    a = (_box(low * x, radius) - mean_g * mean_x) / (variance + eps)
    b = mean_x - a * mean_g
    return resize(_box(a, radius), size) * grey + resize(_box(b, radius), size)


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
) -> Float[Tensor, "1 h w"]:
    """x where it is certain, and elsewhere what its surroundings of the same colour say: a weighted least-squares
    smoother (Farbman et al. 2008) by conjugate gradients, from `push_pull` on."""
    right, down = (
        stiff * (LOOSE + torch.exp(-(image.diff(dim=d).square().sum(0, keepdim=True) / edge**2))) for d in (2, 1)
    )

    def times(y: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
        out = (weight + 1e-6) * y
        dx, dy = right * y.diff(dim=2), down * y.diff(dim=1)
        out[:, :, 1:] += dx
        out[:, :, :-1] -= dx
        out[:, 1:] += dy
        out[:, :-1] -= dy
        return out

    scale = F.pad(right, (1, 0)) + F.pad(right, (0, 1)) + F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    scale = 1 / (scale + weight + 1e-6)
    y = push_pull(x, weight)
    left = weight * x - times(y)
    step = scale * left
    size = (left * step).sum()
    for _ in range(ROUNDS):
        change = times(step)
        a = size / (step * change).sum().clamp_min(1e-20)
        y, left = y + a * step, left - a * change
        toward = scale * left
        before, size = size, (left * toward).sum()
        step = toward + size / before.clamp_min(1e-20) * step
    return y
