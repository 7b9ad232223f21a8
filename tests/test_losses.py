"""The objective where the truth is known: on two exact planes (two_planes.py) and on rendered worlds."""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from two_planes import SIZE, State, world

from glvid import losses
from glvid.geometry import epipolar_distance, inverse, pixel_grid, rigid_flow, se3_exp
from glvid.losses import CameraOffset, LossWeights, total, window_pairs
from glvid.synthetic import scene
from glvid.types import Intrinsics, Outputs, Pairs
from glvid.warp import visibility

TERMS = [f.name for f in fields(LossWeights) if f.name != "masked"]
NONE = LossWeights(**dict.fromkeys(TERMS, 0.0))


@pytest.fixture(scope="module")
def truth() -> State:
    return world()


@pytest.fixture(scope="module")
def crowd() -> State:
    return world(patch=True)


def terms(state: State, *names: str, moving: bool = True, **others) -> dict[str, Tensor]:
    """The named terms (of weight 1) with their gradients, each computed by `total` alone."""
    args = (state.images, state.depth, state.pairs, state.intrinsics, state.moving if moving else None)
    return {name: total(*args, replace(NONE, **{name: 1.0}), **others)[0] for name in names}


def ramp(h: int, w: int) -> Tensor:
    """A smooth, uneven field in -1..1: what errors of networks look like."""
    y, x = torch.meshgrid(torch.linspace(0, 3, h), torch.linspace(0, 4, w), indexing="ij")
    return ((x + 0.5).sin() * (y + 1).cos()).double()


def perturbed(state: State, what: str, s: Tensor | float) -> State:
    """The state with one of its parts wrong by `s` (0 = truth; 1 = plainly wrong), differentiable in s."""
    s = torch.as_tensor(s, dtype=torch.float64)
    pairs, K = state.pairs, state.intrinsics
    if what == "depth":
        error = ramp(*state.depth.shape[-2:]) * torch.tensor([1.0, -1.0, 0.5]).double()[:, None, None, None]
        return replace(state, depth=state.depth * (0.2 * s * error).exp())
    if what in ("turn", "move"):
        twist = {"turn": [0, 0, 0, 0.02, -0.03, 0.02], "move": [0.05, 0.08, -0.06, 0, 0, 0]}[what]
        sign = torch.where(pairs.i < pairs.j, 1.0, -1.0)[:, None]
        T = se3_exp(s * sign * torch.tensor(twist).double()) @ pairs.j_T_i
        return replace(state, pairs=replace(pairs, j_T_i=T))
    if what == "focal":
        return replace(state, intrinsics=replace(K, focal=K.focal * (0.3 * s).exp()))
    error = torch.stack([ramp(*state.depth.shape[-2:]), -ramp(*state.depth.shape[-2:]).flip(-1)])
    return replace(state, pairs=replace(pairs, flow_ij=pairs.flow_ij + 2 * s * error))


# geometric terms: the residue is that of interpolation across the crease between the planes; photometric: of
# interpolating the texture; smoothness: the crease itself
AT_TRUTH = {
    "structure": 5e-4,
    "epipolar": 1e-9,
    "flow_consistency": 5e-4,
    "photometric": 3e-3,
    "static_photometric": 2e-3,
    "depth_smooth": 5e-4,
    "flow_smooth": 1e-3,
}


@pytest.mark.parametrize("name", AT_TRUTH)
def test_about_zero_at_the_truth(truth, name):
    pairs = replace(truth.pairs, flow_ij=truth.pairs.flow_ij.clone().requires_grad_())
    assert 0 <= terms(replace(truth, pairs=pairs), name)[name] < AT_TRUTH[name]


@pytest.mark.parametrize("kind", ["handheld", "driving", "orbit"])
def test_about_zero_on_rendered_worlds(kind):
    """Rendered clips have depth edges, sky, movers and noise-like texture; a wrong convention costs far more."""
    clip = scene(3, kind, 4, size=(96, 64))
    path, K = clip.world_T_cam.float(), clip.intrinsics
    outputs = Outputs(
        clip.depth[None], clip.flow[None], clip.flow_back[None], (inverse(path[1:]) @ path[:-1])[None],
        clip.moving[None].float(), Intrinsics(K.focal[None], K.center[None], K.size),
    )  # fmt: skip
    pairs, cameras = window_pairs(outputs)
    _, found = total(clip.images, clip.depth, pairs, cameras, clip.moving.float(), LossWeights())
    assert found["epipolar"] < 1e-3
    assert found["structure"] < 0.025  # depth edges, where bilinear sampling mixes near and far
    wrong = replace(pairs, j_T_i=inverse(pairs.j_T_i))
    _, worse = total(clip.images, clip.depth, wrong, cameras, clip.moving.float(), LossWeights())
    for name in ("epipolar", "structure", "static_photometric"):
        assert worse[name] > found[name] * 1.3 + 1e-3


DEPENDS = [
    *[("photometric", what) for what in ("depth", "turn", "move", "focal")],
    *[("static_photometric", what) for what in ("depth", "turn", "move", "focal")],
    *[("structure", what) for what in ("depth", "turn", "move", "focal", "flow")],
    *[("epipolar", what) for what in ("turn", "move", "focal", "flow")],
    *[("flow_consistency", "flow"), ("flow_smooth", "flow"), ("depth_smooth", "depth")],
    *[("prior_depth", "depth"), ("prior_gradient", "depth")],
]


@pytest.mark.parametrize(("name", "what"), DEPENDS)
def test_grows_with_every_error_and_leads_back(truth, name, what):
    """Values rise along the error; the gradient agrees with finite differences, so it points back to the truth."""
    # flow is no hiding place here: what is tested is the rigid side of the adaptive term
    state = truth if name != "photometric" else perturbed(truth, "flow", 10.0)

    def value(s: Tensor | float) -> Tensor:
        # visibility fixed at the truth's: its steps are no part of the gradient
        now = perturbed(state, what, s)
        seen = replace(losses.observe(now.images, now.pairs), visible=visible)
        if name.startswith("flow"):
            now = replace(now, pairs=replace(now.pairs, flow_ij=now.pairs.flow_ij + 0 * torch.ones(1).requires_grad_()))
        return terms(now, name, initial_depth=truth.depth, seen=seen)[name]

    visible = losses.observe(truth.images, truth.pairs).visible
    zero, third, whole = (value(s).item() for s in (0.0, 0.3, 1.0))
    assert zero < third < whole
    s = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(s), s)
    numeric = (value(0.601) - value(0.599)) / 0.002
    assert slope > 0
    assert slope == pytest.approx(numeric.item(), rel=0.05)


def test_downhill_in_all_variables_at_once(truth):
    """A small step of every free variable against its gradient lowers every term."""
    state = perturbed(perturbed(perturbed(truth, "depth", 0.5), "turn", 0.3), "focal", 0.3)
    shapes = (state.depth.shape, (6, 6), (1,), state.pairs.flow_ij.shape)  # log depth, twists, log focal, flow

    def value(name: str, free: list[Tensor]) -> Tensor:
        d, twist, f, flow = free
        pairs = replace(state.pairs, j_T_i=se3_exp(twist) @ state.pairs.j_T_i, flow_ij=state.pairs.flow_ij + flow)
        K = replace(state.intrinsics, focal=state.intrinsics.focal * f.exp())
        now = replace(state, depth=state.depth * d.exp(), pairs=pairs, intrinsics=K)
        return terms(now, name, initial_depth=truth.depth)[name]

    for name in (*AT_TRUTH, "prior_depth", "prior_gradient"):
        free = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        before = value(name, free)
        grads = torch.autograd.grad(before, free, allow_unused=True, materialize_grads=True)
        assert all(g.isfinite().all() for g in grads), name
        square = sum(g.square().sum() for g in grads)
        assert square > 0, name
        step = 1e-4 * before.detach() / square  # lowers a linear function by 0.01 %
        after = value(name, [(x - step * g).detach().requires_grad_() for x, g in zip(free, grads, strict=True)])
        assert after < before, name


def test_descent_recovers_depth_and_motion(truth):
    """Depth and motion from wrong starts, 50 Adam steps of the whole objective: the path back is open."""
    start = perturbed(perturbed(truth, "depth", 1.0), "move", 0.5)
    log_depth, twist = start.depth.log().requires_grad_(), torch.zeros(6, 6).double().requires_grad_()
    optimiser = torch.optim.Adam([{"params": [log_depth], "lr": 0.02}, {"params": [twist], "lr": 0.005}])
    seen = losses.observe(start.images, start.pairs)
    for _ in range(50):
        pairs = replace(start.pairs, j_T_i=se3_exp(twist) @ start.pairs.j_T_i)
        loss, _ = total(start.images, log_depth.exp(), pairs, start.intrinsics, None, LossWeights(), seen=seen)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    before, after = (losses.prior_depth(depth, truth.depth) for depth in (start.depth, log_depth.detach().exp()))
    assert after < 0.35 * before


def test_masks_receive_no_gradient(crowd):
    moving = crowd.moving.clone().requires_grad_()
    state = perturbed(crowd, "depth", torch.tensor(0.5, requires_grad=True))
    loss, _ = total(state.images, state.depth, state.pairs, state.intrinsics, moving, LossWeights())
    weight = torch.ones_like(state.depth[state.pairs.i], requires_grad=True)
    loss = loss + losses.epipolar(state.pairs.flow_ij, state.intrinsics, state.pairs.j_T_i, weight)
    assert torch.autograd.grad(loss, (moving, weight), allow_unused=True) == (None, None)


def test_moving_objects_are_excluded(crowd):
    """With the mask the truth costs nothing; without it the mover is taken for an error of depth and motion."""
    names = ("structure", "epipolar", "static_photometric")
    masked, bare = terms(crowd, *names), terms(crowd, *names, moving=False)
    for name in names:
        assert bare[name] > 2 * masked[name] + 2e-3, name
    depth = (crowd.depth * 1.1 ** ramp(48, 64)).requires_grad_()
    inner = -F.max_pool2d(-crowd.moving, 5, 1, 2)  # away from the rim, which background may be matched to
    for name in ("structure", "static_photometric"):
        (grad,) = torch.autograd.grad(terms(replace(crowd, depth=depth), name)[name], depth)
        assert grad.abs().sum() > 0 and (grad * inner).abs().max() == 0, name


def test_flow_cannot_starve_depth(truth):
    """Right flow hides wrong depth from the adaptive minimum; the static term still sees it (weak point of GLNet)."""
    wrong = perturbed(truth, "depth", 1.0)
    good, bad = (terms(x, "photometric", "static_photometric") for x in (truth, wrong))
    assert bad["photometric"] == pytest.approx(good["photometric"].item(), rel=0.05)
    assert bad["static_photometric"] > 3 * good["static_photometric"]


def test_a_rolling_shutter_is_taken_out_of_flow(truth):
    """Flow that rows taken one after another have changed costs nothing more, once it is known by how much."""
    names = ("structure", "epipolar")
    rolled = torch.zeros_like(truth.pairs.flow_ij)
    rolled[:, 0] = 0.7  # px: depth to the side is a little different
    seen = replace(truth.pairs, flow_ij=truth.pairs.flow_ij + rolled)
    exact, ignored = terms(truth, *names), terms(replace(truth, pairs=seen), *names)
    known = terms(replace(truth, pairs=replace(seen, rolled=rolled)), *names)
    for name in names:
        assert known[name] < 0.5 * ignored[name]
    assert known["epipolar"] == pytest.approx(exact["epipolar"].item())  # it knows no depth


def test_best_source_wins(truth):
    """A target seen in one good and one spoilt source is explained by the good one alone."""
    images = truth.images.clone()
    images[0] = 0.5
    found = {}
    for sources in ([0], [2], [0, 2]):
        take = torch.tensor([{0: 1, 2: 2}[j] for j in sources])  # pairs 1 and 2 of the scene: 1 -> 0 and 1 -> 2
        fields_ = {f.name: x[take] for f in fields(Pairs) if (x := getattr(truth.pairs, f.name)) is not None}
        assert fields_["i"].unique().tolist() == [1] and fields_["j"].tolist() == sources
        found[len(sources), sources[0]] = terms(
            replace(truth, images=images, pairs=Pairs(**fields_)), "photometric", "static_photometric"
        )
    spoilt, good, both = found[1, 0], found[1, 2], found[2, 0]
    assert both["photometric"] <= good["photometric"] + 1e-12 < 0.1 * spoilt["photometric"]
    assert spoilt["static_photometric"] == 0  # motion explains grey no better than standing still: masked
    assert both["static_photometric"] == pytest.approx(good["static_photometric"].item(), rel=0.1)


def test_auto_mask_leaves_out_what_stands_still_in_the_image(truth):
    """Equal frames: whatever depth and motion say, nothing is learned (a bonnet, a car of one's own speed)."""
    images = truth.images[:1].expand(3, -1, -1, -1)
    none = torch.zeros_like(truth.pairs.flow_ij)
    pairs = replace(truth.pairs, flow_ij=none, flow_ji=none)
    depth = truth.depth.clone().requires_grad_()
    found = terms(replace(truth, images=images, depth=depth, pairs=pairs), "photometric", "static_photometric")
    assert abs(found["photometric"]) < 1e-12 and found["static_photometric"] == 0
    (grad,) = torch.autograd.grad(sum(found.values()), depth)
    assert grad.abs().max() == 0


def test_epipolar_offset_is_the_point_to_line_distance(truth):
    """Off the line by a known distance; behind the ray's start (negative depth), the distance to that start."""
    wrong = perturbed(truth, "turn", 0.3)
    squared, _ = losses.epipolar_offset(wrong.pairs.flow_ij, truth.intrinsics, wrong.pairs.j_T_i)
    distance = epipolar_distance(wrong.pairs.flow_ij, truth.intrinsics, wrong.pairs.j_T_i)
    assert (squared.sqrt() >= distance - 1e-3).all()
    assert ((squared.sqrt() - distance).abs() < 1e-2 * distance + 1e-3).double().mean() > 0.9
    reverse = truth.pairs.j_T_i.clone()
    reverse[:, :3, 3] *= -1
    squared, parallax = losses.epipolar_offset(truth.pairs.flow_ij, truth.intrinsics, reverse)
    far = parallax > 0.5
    assert torch.allclose(squared.sqrt()[far], parallax[far], rtol=1e-3)


def test_epipolar_is_not_minimised_by_no_translation(truth):
    """Neither its value nor its gradient leads towards t = 0, unlike the algebraic form."""
    state = perturbed(truth, "turn", 0.5)
    weight = torch.ones_like(state.depth[state.pairs.i])

    def value(scale: Tensor) -> Tensor:
        T = torch.cat([state.pairs.j_T_i[..., :3], state.pairs.j_T_i[..., 3:] * scale], -1)
        return losses.epipolar(state.pairs.flow_ij, state.intrinsics, T, weight)

    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    scale = torch.cat([one.expand(3), torch.ones(1).double()])[:, None]
    (slope,) = torch.autograd.grad(value(scale), one)
    assert abs(slope) < 1e-5
    tenth = torch.tensor([0.1, 0.1, 0.1, 1.0]).double()[:, None]
    assert value(tenth) == pytest.approx(value(scale).item(), rel=1e-3)
    assert value(scale) > 0.05


def test_epipolar_forgives_what_is_beyond_its_bound(truth):
    """A wild match costs a constant and pulls at nothing."""
    flow = (truth.pairs.flow_ij + torch.tensor([0.0, 40.0])[:, None, None]).requires_grad_()
    value = losses.epipolar(flow, truth.intrinsics, truth.pairs.j_T_i, torch.ones_like(truth.depth[truth.pairs.i]))
    (grad,) = torch.autograd.grad(value, flow)
    assert value.item() == pytest.approx((4.0**2 + 1) ** 0.5 - 1)
    assert (grad == 0).double().mean() > 0.8


def test_epipolar_ignores_pixels_without_parallax(truth):
    """Half of the image matched as by the rotation alone: the same as if that half were masked."""
    state = perturbed(truth, "turn", 0.5)
    T = torch.cat([state.pairs.j_T_i[..., :3], torch.eye(4)[:, 3:].expand(6, 4, 1)], -1)
    turned, _ = rigid_flow(state.depth[state.pairs.i], state.intrinsics, T)
    left = (pixel_grid(SIZE, turned)[:1] < 32).double().expand(6, 1, -1, -1)
    args = (left * turned + (1 - left) * state.pairs.flow_ij, state.intrinsics, state.pairs.j_T_i)
    assert losses.epipolar(*args, 1 - left) > 0.01
    assert torch.allclose(losses.epipolar(*args, torch.ones_like(left)), losses.epipolar(*args, 1 - left))


def test_prior_depth_ignores_scale_and_gradient_ignores_nothing_else(truth):
    assert losses.prior_depth(truth.depth * 7, truth.depth) < 1e-9
    assert losses.prior_gradient(truth.depth * 7, truth.depth) < 1e-9
    lifted = truth.depth * torch.where(pixel_grid(SIZE, truth.depth)[:1] < 32, 1.0, 1.1)
    half = 0.5 * torch.log(torch.tensor(1.1)).item()
    assert losses.prior_depth(lifted, truth.depth) == pytest.approx((half**2 + 1e-4) ** 0.5 - 0.01, rel=1e-6)
    # one step of log 1.1 in each row: 1 of 63, 31, 15, 7 neighbours; charbonnier 1e-3
    step = ((2 * half) ** 2 + 1e-6) ** 0.5 - 1e-3
    expected = step * sum(1 / n for n in (63, 31, 15, 7)) / 4
    assert losses.prior_gradient(lifted, truth.depth) == pytest.approx(expected, rel=1e-6)


def test_prior_camera_counts_standard_deviations(truth):
    twist = torch.zeros(4, 6).double()
    assert losses.prior_camera(CameraOffset(twist, torch.zeros(()))) == 0
    twist[0] = torch.tensor([0.05, 0, 0, 0, 0.02, 0])
    offset = CameraOffset(twist.requires_grad_(), torch.tensor(0.2).double(), (0.05, 0.02, 0.1))
    assert losses.prior_camera(offset).item() == pytest.approx(2 / 4 + 4)
    _, found = total(truth.images, truth.depth, truth.pairs, truth.intrinsics, None, LossWeights(), camera=offset)
    assert found["prior_camera"] == pytest.approx(4.5)


def test_total_is_the_weighted_sum_of_what_is_asked_for(truth, monkeypatch):
    state = perturbed(truth, "depth", 1.0)
    weights = LossWeights(structure=0.7, epipolar=0.0)
    loss, found = total(state.images, state.depth, state.pairs, state.intrinsics, None, weights, truth.depth)
    assert set(found) == set("photometric static_photometric structure depth_smooth prior_depth prior_gradient".split())
    assert loss == pytest.approx(sum(getattr(weights, k) * float(v) for k, v in found.items()))
    assert not any(v.requires_grad for v in found.values())
    for name in ("dissimilarity", "structure", "epipolar", "depth_smoothness", "prior_depth", "flow_smoothness"):
        monkeypatch.setattr(losses, name, None)  # calling any of them fails: weight 0 costs nothing
    seen = losses.Evidence(state.moving[state.pairs.i], state.moving, state.moving[state.pairs.i])
    loss, found = total(state.images, state.depth, state.pairs, state.intrinsics, None, NONE, seen=seen)
    assert loss == 0 and found == {}


def test_evidence_can_be_reused_and_cameras_given_per_pair(truth):
    state = perturbed(truth, "focal", 0.5)
    args = (state.images, state.depth, state.pairs)
    plain, _ = total(*args, state.intrinsics, None, LossWeights())
    K = state.intrinsics
    per_pair = Intrinsics(K.focal.expand(6, 2), K.center.expand(6, 2), K.size)
    again, _ = total(*args, per_pair, None, LossWeights(), seen=losses.observe(state.images, state.pairs))
    assert again == pytest.approx(float(plain), rel=1e-12)


def test_window_pairs_are_neighbours_both_ways(truth):
    T, flow = truth.pairs.j_T_i, truth.pairs.flow_ij  # pairs 0..3 of the scene are 01 10 12 21
    both = lambda x: torch.stack([x, 2 * x])  # noqa: E731 two windows
    K = truth.intrinsics
    motion = torch.stack([T[[0, 2]], T[[1, 3]]])
    cameras = Intrinsics(both(K.focal), both(K.center), K.size)
    outputs = Outputs(both(truth.depth), both(flow[[0, 2]]), both(flow[[1, 3]]), motion, both(truth.moving), cameras)
    pairs, cameras = window_pairs(outputs)
    assert list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == [
        (0, 1), (1, 2), (3, 4), (4, 5), (1, 0), (2, 1), (4, 3), (5, 4)]  # fmt: skip
    expected = torch.cat([flow[[0, 2]], 2 * flow[[0, 2]], flow[[1, 3]], 2 * flow[[1, 3]]])
    assert torch.equal(pairs.flow_ij, expected) and torch.equal(pairs.flow_ji, expected.roll(4, 0))
    assert torch.allclose(pairs.j_T_i[:2], T[[0, 2]]) and torch.allclose(pairs.j_T_i[4:6], T[[1, 3]], atol=1e-12)
    assert torch.allclose(pairs.j_T_i[:4] @ pairs.j_T_i[4:], torch.eye(4).double().expand(4, 4, 4), atol=1e-12)
    assert (cameras.focal[:, 0] / K.focal[0]).tolist() == [1, 1, 2, 2, 1, 1, 2, 2]


def test_dissimilarity_by_hand(truth):
    """Constant images: SSIM is its luminance term; and against the definition with pad and avg_pool2d."""
    a, b = torch.full((1, 3, 5, 6), 0.2), torch.full((1, 3, 5, 6), 0.6)
    ssim = (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)
    assert torch.allclose(losses.dissimilarity(a, b), torch.tensor(0.425 * (1 - ssim) + 0.15 * 0.4), atol=1e-5)
    assert losses.dissimilarity(truth.images, truth.images).abs().max() < 1e-12

    def box(x):
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "reflect"), 3, 1)

    a, b = truth.images, truth.images.roll(1, 0).clone().requires_grad_()
    ma, mb = box(a), box(b)
    va, vb, cov = box(a * a) - ma**2, box(b * b) - mb**2, box(a * b) - ma * mb
    ssim = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    expected = (0.85 * (1 - ssim) / 2 + 0.15 * (a - b).abs()).mean(1, keepdim=True)
    found = losses.dissimilarity(a, b)
    assert torch.allclose(found, expected, atol=1e-12)
    g = torch.rand(found.shape, generator=torch.Generator().manual_seed(0)).double()
    (x,), (y,) = (torch.autograd.grad(v, b, g) for v in (found, expected))
    assert torch.allclose(x, y, atol=1e-10)


def test_smoothness_spares_planes_and_edges():
    """Slanted planes cost nothing; a step costs less where the image has an edge too."""
    x = pixel_grid(SIZE, torch.zeros(()))[:1][None]
    grey = torch.full((1, 3, 48, 64), 0.5)
    assert losses.depth_smoothness(1 / (0.1 + 0.01 * x), grey) < 1e-6
    step = torch.where(x < 32, 1.0, 2.0)
    edge = (step - 1).expand(1, 3, -1, -1)
    assert losses.depth_smoothness(step, edge) < 0.01 * losses.depth_smoothness(step, grey)
    assert torch.allclose(losses.depth_smoothness(3 * step, grey), losses.depth_smoothness(step, grey), rtol=1e-5)
    assert losses.flow_smoothness(torch.cat([x, 2 * x], 1), grey) < 1e-6


HARD = "no motion|no flow|no texture|tiny depth|huge depth|behind|all outside|epipole on a pixel|all moving".split("|")


@pytest.mark.parametrize("case", HARD)
def test_never_nan(truth, case):
    """float32; value and every gradient are finite, whatever degenerates."""
    images, depth = truth.images.float(), truth.depth.float()
    flow, back = truth.pairs.flow_ij.float(), truth.pairs.flow_ji.float()
    twist, focal = torch.zeros(6, 6), torch.tensor(56.0)
    moving, center = torch.zeros_like(depth), torch.tensor([32.0, 24.0])
    T = truth.pairs.j_T_i.float()
    if case == "no motion":
        T = torch.eye(4).expand(6, 4, 4)
    elif case == "no flow":
        flow, back = torch.zeros_like(flow), torch.zeros_like(back)
    elif case == "no texture":
        images = torch.zeros_like(images)
    elif case in ("tiny depth", "huge depth"):
        depth = torch.full_like(depth, 1e-20 if case == "tiny depth" else 1e20)
    elif case == "behind":
        T = se3_exp(torch.tensor([0, 0, 0, 0, 3.0, 0])).expand(6, 4, 4)
    elif case == "all outside":
        T, flow = se3_exp(torch.tensor([500.0, 0, 0, 0, 0, 0])).expand(6, 4, 4), flow + 1e4
    elif case == "epipole on a pixel":
        T, center = se3_exp(torch.tensor([0, 0, 0.5, 0, 0, 0])).expand(6, 4, 4), torch.tensor([32.5, 23.5])
        flow = flow * 0
    else:
        moving = torch.ones_like(depth)
    free = [x.clone().requires_grad_() for x in (depth, flow, back, twist, focal)]
    d, f, b, w, k = free
    pairs = Pairs(truth.pairs.i, truth.pairs.j, f, b, se3_exp(w) @ T)
    offset = CameraOffset(w, torch.log(k / 56.0))
    loss, found = total(
        images, d, pairs, Intrinsics(torch.stack([k, k]), center, SIZE), moving, LossWeights(), depth, offset
    )
    assert set(found) == set(TERMS)
    assert all(v.isfinite() for v in found.values()), found
    for grad in torch.autograd.grad(loss, free):
        assert grad.isfinite().all()


def test_points_behind_the_camera_and_outside_are_left_out(truth):
    """Turned right round, no pixel has a rigid match: what is left of the objective does not depend on depth."""
    away, pairs, everywhere = truth.pairs.flow_ij + 100, truth.pairs, torch.ones_like(truth.depth[truth.pairs.i])
    assert losses.flow_consistency(away, pairs.flow_ji, everywhere) == 0
    depths = truth.depth[pairs.i], truth.depth[pairs.j]
    assert losses.structure(*depths, away, pairs.j_T_i, truth.intrinsics, everywhere) == 0
    T = se3_exp(torch.tensor([0, 0, 0, 0, 3.0, 0]).double()).expand(6, 4, 4)
    depth = truth.depth.clone().requires_grad_()
    state = replace(truth, depth=depth, pairs=replace(truth.pairs, j_T_i=T))
    found = terms(state, "static_photometric", "structure", "photometric")
    assert found["static_photometric"] == 0 and found["structure"] == 0
    for value in found.values():
        (grad,) = torch.autograd.grad(value, depth, allow_unused=True)
        assert grad is None or grad.abs().max() == 0


def test_truth_of_the_test_scene(truth, crowd):
    """The scene itself: flows agree both ways, warped points meet, the patch moves by more than a pixel."""
    assert visibility(truth.pairs.flow_ij, truth.pairs.flow_ji).mean() > 0.8
    flow, z = rigid_flow(crowd.depth[crowd.pairs.i], crowd.intrinsics, crowd.pairs.j_T_i)
    apart = (flow - crowd.pairs.flow_ij).norm(dim=1, keepdim=True)
    on = crowd.moving[crowd.pairs.i] > 0
    assert z.min() > 0 and apart[on].min() > 1 and apart[~on].max() < 1e-9
