"""A prior that was bent, and one that has no edges, against flow that carries edges too far."""

import pytest
import torch
import torch.nn.functional as F

from glvid.prior import Standing, believed, bent, standing, upheld

SIZE = (96, 128)


def truth() -> torch.Tensor:
    """Depth (1, h, w): a box in front of a slanted wall."""
    y, x = torch.meshgrid(torch.linspace(0, 1, SIZE[0]), torch.linspace(0, 1, SIZE[1]), indexing="ij")
    depth = 4 + 2 * x + y
    depth[30:70, 40:90] = 1.5
    return depth[None]


def twisted(depth: torch.Tensor, shift: float) -> torch.Tensor:
    """Inverse depth bent smoothly by up to 20 %, and shifted."""
    g = torch.Generator().manual_seed(1)
    bend = F.interpolate(0.4 * torch.rand(1, 1, 3, 4, generator=g) - 0.2, SIZE, mode="bilinear", align_corners=True)[0]
    return 1 / ((1 + bend) / depth + shift / depth.median())


def with_halo(depth: torch.Tensor, px: int = 3) -> torch.Tensor:
    """What flow makes of it: near things have grown."""
    return -F.max_pool2d(-depth[None], 2 * px + 1, 1, px)[0]


def far_off(found: torch.Tensor) -> float:
    """Abs Rel after median scaling."""
    found = found * (truth() / found).median()
    return float(((found - truth()).abs() / truth()).mean())


@pytest.mark.parametrize("shift", [-0.15, 0.0, 0.3])
def test_bending_undoes_what_was_bent(shift):
    prior = twisted(truth(), shift)
    information = torch.full_like(prior, 300.0)
    before, after = far_off(prior), far_off(prior * bent(prior, (truth() / prior).log(), information).exp())
    assert before > 0.03
    assert after < 0.2 * before


def test_where_nothing_is_known_nothing_is_bent():
    prior = truth()
    assert bent(prior, torch.ones_like(prior), torch.zeros_like(prior)).abs().max() < 1e-3


def test_a_prior_with_the_edges_of_the_scene_is_believed_and_one_without_them_is_not():
    sure = torch.full((1, *SIZE), 0.9)
    sharp = twisted(truth(), 0.1)
    soft = F.avg_pool2d(sharp[None], 31, 1, 15, count_include_pad=False)[0]
    flat = torch.full_like(sharp, 3.0)
    found = with_halo(truth())
    sigma, *others = (believed([standing(p, (found / p).log(), sure)]) for p in (sharp, soft, flat))
    assert sigma is not None and sigma < 0.1
    assert others == [None, None]


def test_a_sharp_prior_that_is_wrong_in_even_places_is_not_believed():
    sure, found = torch.full((1, *SIZE), 0.9), truth()
    wrong = found.clone()
    wrong[:, 5:25, 10:100] = 1.5  # a box that is not there
    assert believed([standing(wrong, (found / wrong).log(), sure)]) is None


def test_without_witnesses_nothing_is_believed():
    prior = truth()
    assert standing(prior, torch.zeros_like(prior), torch.zeros_like(prior)) is None
    assert believed([]) is None
    assert believed([Standing(0.0, 1.0, 0.001)]) == pytest.approx(0.01)


def test_a_believed_prior_keeps_its_edges_where_flow_takes_them_along():
    prior, found = twisted(truth(), 0.1), with_halo(truth())
    image = torch.full((3, *SIZE), 0.5)
    depth = prior * upheld(prior, (found / prior).log(), torch.full_like(prior, 0.9), image, 0.02).exp()
    assert far_off(found) > 0.03
    assert far_off(depth) < 0.015


def test_a_believed_prior_yields_to_flow_amid_a_surface():
    prior, found = truth(), truth()
    prior[:, 5:25, 10:100] *= 1.6  # wrong there, by more than a prior may be
    image = torch.full((3, *SIZE), 0.5)
    image[:, 5:25, 10:100] = 0.8
    depth = prior * upheld(prior, (found / prior).log(), torch.full_like(prior, 0.99), image, 0.02).exp()
    assert far_off(depth) < 0.5 * far_off(prior)
