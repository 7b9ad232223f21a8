"""Networks and matching on stacks of images: what comes out is what the network says, flow is where it should be."""

import cv2
import numpy as np
import torch

from glvid.networks import FlowConfig, FlowNet
from glvid.predict import (
    as_tensor,
    dis_flow,
    drawn,
    fine_dis_flow,
    first_guess,
    full_dis_flow,
    nearby,
    net_flow,
    smoothed,
)


def turned_pair(size=(192, 128)):
    """A painted surface, the same turned and shifted by a little, and the exact flow (1, 2, H, W)."""
    w, h = size
    rng = np.random.default_rng(0)
    image = sum(cv2.resize(rng.uniform(0, 255 / 4, (h // k, w // k, 3)), size, interpolation=2) for k in (2, 4, 8, 16))
    a = image.clip(0, 255).astype(np.uint8)
    turn = cv2.getRotationMatrix2D((w / 2, h / 2), 0.7, 1.004) + [[0, 0, 0.3], [0, 0, -0.6]]
    b = cv2.warpAffine(a, turn, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    y, x = np.mgrid[:h, :w].astype(np.float64)
    there = turn @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    flow = there.reshape(2, h, w) - [x, y]
    return a[None], b[None], torch.from_numpy(flow).float()[None]


def test_matching_down_to_full_resolution_follows_small_motion_closer():
    a, b, true = turned_pair()
    off = [(found(a, b) - true)[..., 8:-8, 8:-8].norm(dim=1).mean() for found in (full_dis_flow, dis_flow)]
    assert off[0] < 0.05 and off[0] < 0.8 * off[1]


def test_smoothing_draws_flow_to_the_truth():
    a, b, true = turned_pair()
    rough = true + 0.4 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0))
    kept = rough.clone()
    off = [(x - true)[..., 8:-8, 8:-8].norm(dim=1).mean() for x in (smoothed(a, b, rough), rough)]
    assert off[0] < 0.3 * off[1] and torch.equal(rough, kept)


def test_flow_is_looked_for_near_where_it_starts():
    """Half a px off everywhere is mended, which takes no motion; what is given is not written over."""
    a, b, true = turned_pair()
    rough = true + torch.tensor([0.4, -0.3])[:, None, None]
    kept = rough.clone()
    off = [(f(a, b, rough) - true)[..., 8:-8, 8:-8].norm(dim=1).mean() for f in (fine_dis_flow, dis_flow)]
    assert off[0] < 0.1 and off[1] < 0.2 and torch.equal(rough, kept)


def test_what_strays_is_not_believed():
    start = torch.zeros(1, 2, 4, 6)
    found = torch.cat([torch.full((1, 1, 4, 6), x) for x in (0.1, 0.0, 7.0)], 1)
    near, far = nearby(start, found), nearby(start, 60 * found)
    assert torch.allclose(near[:, :2], found[:, :2], atol=1e-4) and torch.equal(near[:, 2:], found[:, 2:])
    assert far[:, :2].abs().max() < 0.01


def test_points_are_drawn_to_what_they_look_like():
    a, b, true = turned_pair()
    y, x = np.mgrid[20:110:10, 20:170:10]
    xy = torch.from_numpy(np.stack([x, y], -1).reshape(1, -1, 2) + 0.5).float()
    there = xy + true[0][:, y.ravel(), x.ravel()].T
    off = torch.tensor([[0.9, -0.6]]).expand(xy.shape[1], 2).clone()
    off[:5] = 40.0  # lost altogether
    found = drawn(a, b, xy, there + off)
    assert (found - there)[0, 5:].norm(dim=-1).median() < 0.1
    assert (found - there - off)[0, :5].abs().max() < 3 and found.dtype == torch.float32


def test_the_network_as_a_matcher_says_its_flow_and_its_error():
    """From the same first guess as in training, in several batches, with the expected error as a third channel."""
    torch.manual_seed(0)
    net = FlowNet(FlowConfig(channels=(16, 16, 16, 16, 16), matched=16, hidden=32)).eval()
    net.fine[-1].bias.data[-1] = 0.4
    a, b, _ = turned_pair()
    stack_a, stack_b = np.concatenate([a, b, a]), np.concatenate([b, a, a])
    found = net_flow(net, batch=2)(stack_a, stack_b)
    with torch.no_grad():
        images = as_tensor(stack_a), as_tensor(stack_b)
        said = net(*images, first_guess(*images))
    assert found.shape == (3, 3, 128, 192)
    torch.testing.assert_close(found[:, :2], smoothed(stack_a, stack_b, said.flow), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found[:, 2:], torch.full_like(found[:, 2:], float(np.exp(0.4))), rtol=1e-4, atol=0)
