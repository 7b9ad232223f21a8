"""Look-ups, resampling and the guided filter of warp.py."""

import pytest
import torch
import torch.nn.functional as F

from glvid import warp
from glvid.geometry import pixel_grid


def picture(count: int = 1, channels: int = 3, h: int = 20, w: int = 30) -> torch.Tensor:
    return torch.rand(count, channels, h, w, generator=torch.Generator().manual_seed(0))


def ramp(h: int = 20, w: int = 30) -> torch.Tensor:
    """Every pixel holds its own position (1, 2, h, w)."""
    return pixel_grid((w, h), torch.zeros(1))[None]


def test_sample_at_the_pixel_grid_is_the_image():
    image = picture()
    values, inside = warp.sample_at(image, ramp())
    assert torch.allclose(values, image, atol=1e-5) and bool(inside.all())


def test_sample_between_pixels_is_bilinear():
    xy = torch.tensor([7.25, 3.8])[None, :, None, None]
    values, _ = warp.sample_at(ramp(), xy)
    assert torch.allclose(values, xy, atol=1e-5)


def test_sample_outside_gives_the_border_and_says_so():
    image = picture()
    xy = torch.tensor([[-4.0, 2.5], [31.0, 2.5], [0.2, 2.5]]).T[None, :, None]
    values, inside = warp.sample_at(image, xy)
    assert inside.flatten().tolist() == [0, 0, 1]
    expected = torch.stack([image[0, :, 2, 0], image[0, :, 2, -1], image[0, :, 2, 0]], -1)
    assert torch.allclose(values[0, :, 0], expected, atol=1e-5)


def test_warp_follows_the_flow():
    image = picture()
    flow = torch.tensor([2.0, -1.0])[None, :, None, None].expand(1, 2, 20, 30)
    values, inside = warp.warp(image, flow)
    assert torch.allclose(values[..., 1:, :-2], image[..., :-1, 2:], atol=1e-5)
    assert inside[0, 0, 1:, :-2].all() and not inside[0, 0, 0].any() and not inside[..., -2:].any()


def test_visibility_needs_flows_that_agree():
    flow = torch.tensor([2.0, 0.0])[None, :, None, None].expand(1, 2, 20, 30)
    assert bool(warp.visibility(flow, -flow)[..., :-2].all())
    assert not warp.visibility(flow, -flow)[..., -2:].any()
    assert not warp.visibility(flow, 0 * flow).any()
    far = 40 * flow[..., :10] / 2
    wide = torch.cat([far, far, far, far, far, far, far], -1)  # 40 px over 70: an error of 1.5 px is below 5 %
    assert bool(warp.visibility(wide, -wide + 1.0)[..., :-41].all())


def test_resize_flow_scales_its_vectors():
    flow = torch.tensor([3.0, -2.0])[None, :, None, None].expand(1, 2, 20, 30)
    small = warp.resize_flow(flow, (15, 5))
    assert small.shape == (1, 2, 5, 15)
    assert torch.allclose(small, torch.tensor([1.5, -0.5])[None, :, None, None].expand(1, 2, 5, 15), atol=1e-6)
    assert torch.allclose(warp.resize_flow(small, (30, 20)), flow, atol=1e-6)


def test_resize_keeps_positions():
    """A ramp of positions, resampled, is the ramp of the new size: no half-pixel shift in either direction."""
    for size in ((60, 40), (15, 10)):
        new = warp.resize(ramp(), size) * (size[0] / 30)
        inner = (slice(None), slice(None), slice(3, -3), slice(3, -3))
        assert torch.allclose(new[inner], ramp(size[1], size[0])[inner], atol=1e-3)
    image = picture()
    assert warp.resize(image, (30, 20)) is image


def test_guided_upsample_keeps_constants():
    x = torch.full((1, 1, 10, 15), 3.7)
    assert torch.allclose(warp.guided_upsample(x, picture(h=40, w=60)), torch.full((1, 1, 40, 60), 3.7), atol=1e-4)


def test_guided_upsample_follows_the_edges_of_the_guide():
    """A step that lies between low-resolution pixels comes out at the guide's step, sharper than bilinear."""
    guide = torch.zeros(1, 3, 40, 60)
    guide[..., 30:] = 1
    truth = 1 + 4 * guide[:, :1]
    low = warp.resize(truth, (12, 8))
    sharp = (warp.guided_upsample(low, guide, eps=1e-5) - truth).abs()
    blurred = (warp.resize(low, (60, 40)) - truth).abs()
    assert sharp.max() < 0.1 and blurred.max() > 1.0


@pytest.mark.parametrize("size", [(20, 30), (1, 5), (3, 2), (1, 1)])
@pytest.mark.parametrize("radius", [1, 2, 3])
def test_box_means_count_what_is_there(size, radius):
    x = picture(2, 3, *size)
    padded = (F.pad(y, [radius] * 4) for y in (x, torch.ones_like(x)))
    sums, count = (F.unfold(y, 2 * radius + 1).reshape(2, 3, -1, *size).sum(2) for y in padded)
    assert torch.allclose(warp.box_mean(x, radius), sums / count, atol=1e-6)


@pytest.mark.parametrize("size", [(6, 7), (5, 1), (1, 6)])
def test_spreading_solves_its_equations(size):
    """Every pixel's own weight and its ties to the right and below, written out as a matrix."""
    (h, w), draw = size, torch.Generator().manual_seed(1)
    x, weight = (torch.rand(1, h, w, generator=draw) for _ in range(2))
    weight[weight < 0.5] = 0
    image = torch.rand(3, h, w, generator=draw) * 0.1
    A = torch.diag(weight.flatten() + 1e-6).double()
    for y in range(h):
        for k in range(w):
            for v, u in ((y, k + 1), (y + 1, k)):
                if v < h and u < w:
                    unlike = (image[:, y, k] - image[:, v, u]).square().sum() / warp.EDGE**2
                    tie, (i, j) = warp.STIFF * (warp.LOOSE + torch.exp(-unlike)), (y * w + k, v * w + u)
                    A[[i, j], [i, j]] += tie
                    A[[i, j], [j, i]] -= tie
    true = torch.linalg.solve(A, (weight * x).flatten().double()).reshape(1, h, w)
    assert torch.allclose(warp.spread(x, weight, image, rounds=200).double(), true, atol=1e-3)
