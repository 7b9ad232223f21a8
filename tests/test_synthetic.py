"""Procedural worlds: depth against marching, flow against pictures and geometry, masks, the shipped truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glvid import geometry, synthetic, warp
from glvid.errors import InputError, UsageError
from glvid.synthetic.demo import demo_world
from glvid.synthetic.raycast import cast
from glvid.synthetic.surfaces import SIDE, Atlas
from glvid.synthetic.world import BOX, CYLINDER, ELLIPSOID, PRISM, ROOM, TAPER, Surface, clear, packed, solid
from glvid.types import Intrinsics

SIZE = (128, 80)
ASSETS = Path(__file__).parent.parent / "assets"
CASES = [("handheld", 1), ("driving", 2), ("orbit", 3), ("drone", 3), ("walk", 4), ("static", 2)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def truth(request) -> synthetic.Truth:
    kind, seed = request.param
    return synthetic.scene(seed, kind, 3, SIZE)


def relative(truth: synthetic.Truth) -> torch.Tensor:
    """next_T_this (S-1, 4, 4)."""
    return (geometry.inverse(truth.world_T_cam[1:]) @ truth.world_T_cam[:-1]).float()


def cameras(truth: synthetic.Truth) -> Intrinsics:
    K, S = truth.intrinsics, len(truth.flow)
    return Intrinsics(K.focal.expand(S, 2), K.center.expand(S, 2), K.size)


def inside(shape: int, x: torch.Tensor) -> torch.Tensor:
    """The definition of every solid in its own frame; x (..., 3)."""
    a, y = x.abs(), x[..., 1]
    if shape in (BOX, ROOM):
        return (a <= 1).all(-1)
    if shape == ELLIPSOID:
        return (x * x).sum(-1) <= 1
    if shape == CYLINDER:
        return (x[..., 0] ** 2 + x[..., 2] ** 2 <= 1) & (a[..., 1] <= 1)
    kx, kz = {TAPER: (0.2, 0.2), PRISM: (0.5, 0.0)}[shape]
    return (a[..., 1] <= 1) & (a[..., 0] <= 1 - kx + kx * y) & (a[..., 2] <= 1 - kz + kz * y)


def alone(shape: int) -> synthetic.World:
    """One solid, turned and stretched, before (a room: around) a camera."""
    paints = Atlas(torch.full((4 * SIDE * SIDE // 3, 3), 0.5), ("noise", "plain"))
    turn = geometry.se3_exp(torch.tensor([0.0, 0, 0, 0.4, -0.7, 0.2])).numpy()[:3, :3].astype(float)
    at = (0.1, -0.2, 0.4) if shape == ROOM else (0.2, -0.1, 4.0)
    part = solid(shape, at, (1.2, 0.8, 1.0), Surface("plain"), turn)
    return replace(
        demo_world(1, SIZE, 0), **packed([[part]], paints, np.random.default_rng(0)), atlas=paints,
        world_T_group=torch.eye(4, dtype=torch.float64)[None, None],
        world_T_cam=torch.eye(4, dtype=torch.float64)[None],
    )  # fmt: skip


@pytest.mark.parametrize("shape", [BOX, ROOM, TAPER, PRISM, ELLIPSOID, CYLINDER])
def test_depth_agrees_with_marching_along_rays(shape):
    world = alone(shape)
    hits = cast(world, torch.zeros(1, dtype=torch.int64), world.world_T_cam, world.intrinsics)
    ray = geometry.rays(world.intrinsics).double()
    state = torch.zeros(SIZE[1], SIZE[0], dtype=torch.bool)
    first = torch.full((SIZE[1], SIZE[0]), synthetic.SKY, dtype=torch.float64)
    step = 0.02
    for t in torch.arange(step, 7, step).tolist():
        local = ((t * ray).permute(1, 2, 0) - world.offset[0]) @ torch.linalg.inv(world.affine[0]).T
        now = inside(shape, local) != (shape == ROOM)
        first = torch.where(now & ~state, t, first)
        state |= now
    depth = hits.depth[0].double()
    gap = first - depth
    share = (state == (hits.solid[0] == 0)).double().mean()
    assert share > 0.995  # rays that graze an edge between two steps
    both = state & (hits.solid[0] == 0)
    assert both.double().mean() > 0.04
    assert (gap[both] > -1e-5).double().mean() > 0.999 and (gap[both] < step + 1e-5).double().mean() > 0.99


def test_shapes_and_range(truth):
    S, (w, h) = 3, SIZE
    assert truth.images.shape == (S, 3, h, w) and truth.depth.shape == truth.moving.shape == (S, 1, h, w)
    assert truth.flow.shape == truth.flow_back.shape == (S - 1, 2, h, w) and truth.visible.shape == (S - 1, 1, h, w)
    assert truth.images.min() >= 0 and truth.images.max() <= 1 and truth.images.std() > 0.05
    assert truth.depth.min() > 0 and truth.depth.max() <= synthetic.SKY
    assert set(truth.visible.unique().tolist()) | set(truth.moving.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(truth.world_T_cam[0], torch.eye(4, dtype=torch.float64))
    assert bool((truth.times.diff() > 0).all())


def test_next_image_warped_by_the_flow_is_this_image(truth):
    warped, _ = warp.warp(truth.images[1:], truth.flow)
    error = (warped - truth.images[:-1]).abs().mean(1, keepdim=True)
    seen = truth.visible > 0
    assert seen.float().mean() > 0.5
    assert error[seen].mean() < 0.025
    moved = (truth.images[1:] - truth.images[:-1]).abs().mean(1, keepdim=True)
    assert error[seen].mean() < 0.6 * moved[seen].mean()


def test_flow_of_static_pixels_is_the_camera_s(truth):
    flow, _ = geometry.rigid_flow(truth.depth[:-1], cameras(truth), relative(truth))
    error = (flow - truth.flow).norm(dim=1, keepdim=True)
    assert error[truth.moving[:-1] == 0].max() < 1e-2
    back, _ = geometry.rigid_flow(truth.depth[1:], cameras(truth), geometry.inverse(relative(truth)))
    assert (back - truth.flow_back).norm(dim=1, keepdim=True)[truth.moving[1:] == 0].max() < 1e-2


def test_flow_and_back_agree_where_visible(truth):
    back, _ = warp.warp(truth.flow_back, truth.flow)
    gap = (truth.flow + back).norm(dim=1, keepdim=True)[truth.visible > 0]
    assert gap.median() < 0.01 and (gap > 0.5).float().mean() < 0.03


def test_depth_of_visible_points_is_found_in_the_next_frame(truth):
    """Visible: the four pixels around show that depth. Hidden, though inside: something nearer is there."""
    _, z = geometry.rigid_flow(truth.depth[:-1], cameras(truth), relative(truth))
    x, y = (geometry.pixel_grid(SIZE, z) + truth.flow).unbind(1)
    within = ((x > 1) & (x < SIZE[0] - 1) & (y > 1) & (y < SIZE[1] - 1))[:, None]
    x, y = (x - 0.5).long().clamp(0, SIZE[0] - 2), (y - 0.5).long().clamp(0, SIZE[1] - 2)
    s = torch.arange(2)[:, None, None]
    around = torch.stack([truth.depth[1:, 0][s, y + j, x + i] for i in (0, 1) for j in (0, 1)], 1)
    nearest, farthest = around.amin(1, keepdim=True), around.amax(1, keepdim=True)
    static = (truth.moving[:-1] == 0) & (truth.depth[:-1] < synthetic.SKY) & within
    seen, hidden = static & (truth.visible > 0), static & (truth.visible == 0)
    assert ((nearest < 1.02 * z) & (farthest > 0.98 * z))[seen].float().mean() > 0.99
    if hidden.sum() > 20:
        assert (nearest < z)[hidden].float().mean() > 0.99


@pytest.mark.parametrize("kind, seed", [("handheld", 1), ("driving", 5), ("static", 2)])
def test_mask_marks_what_the_camera_does_not_explain(kind, seed):
    truth = synthetic.scene(seed, kind, 3, SIZE)
    flow, _ = geometry.rigid_flow(truth.depth[:-1], cameras(truth), relative(truth))
    unexplained = (flow - truth.flow).norm(dim=1, keepdim=True) > 0.01
    moving = truth.moving[:-1] > 0
    assert 0.002 < moving.float().mean() < 0.5
    assert not bool((unexplained & ~moving).any())
    assert unexplained[moving].float().mean() > 0.9


def test_the_same_seed_is_the_same_world_and_leaves_the_global_generators_alone():
    torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    a, b, c = (synthetic.scene(s, "walk", 2, SIZE) for s in (5, 5, 6))
    for x, y in ((a.images, b.images), (a.flow, b.flow), (a.world_T_cam, b.world_T_cam)):
        assert torch.equal(x, y)
    assert not torch.equal(a.images, c.images)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_rendering_in_pieces_changes_nothing():
    world = synthetic.world(3, "driving", 4, SIZE)
    whole, pieces = synthetic.render(world, batch=4), synthetic.render(world, batch=1)
    for name in ("images", "depth", "flow", "flow_back", "visible", "moving", "world_T_cam"):
        assert torch.allclose(getattr(whole, name), getattr(pieces, name), atol=1e-4), name


def test_static_camera_stands_still_and_hand_held_ones_turn():
    still = synthetic.world(1, "static", 24, SIZE).world_T_cam
    assert torch.allclose(still, still[:1].expand_as(still), atol=1e-12)
    for kind in ("handheld", "orbit", "walk"):
        poses = synthetic.world(2, kind, 24, SIZE).world_T_cam
        turn = geometry.so3_log(poses[:1, :3, :3].mT @ poses[:, :3, :3]).norm(dim=1).max()
        assert turn > np.radians(5), kind


@pytest.mark.parametrize("size", [SIZE, SIZE[::-1]])
def test_field_of_view_is_of_the_long_side(size):
    K = synthetic.world(1, "walk", 1, size, fov=90.0).intrinsics
    assert K.focal.tolist() == pytest.approx([64, 64]) and K.center.tolist() == [size[0] / 2, size[1] / 2]


def test_one_frame_has_no_flow():
    truth = synthetic.scene(1, "orbit", 1, SIZE)
    assert len(truth.images) == 1 and truth.flow.shape == (0, 2, 80, 128) and truth.visible.shape == (0, 1, 80, 128)


def test_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="handheld"):
        synthetic.world(1, "submarine")


def test_samples_differ_and_keep_away_from_evaluation():
    drawn = list(synthetic.samples(40, 3, 2, (64, 40)))
    assert len(drawn) == 3 and all(t.images.min() >= 0 and t.images.max() <= 1 for t in drawn)
    assert len({float(t.intrinsics.focal[0]) for t in drawn}) == 3
    again = list(synthetic.samples(41, 1, 2, (64, 40)))[0]
    assert torch.equal(again.images, drawn[1].images)
    (drive,) = synthetic.samples(41, 1, 2, (64, 40), kind="driving")
    fov = 2 * np.degrees(np.arctan(32 / float(again.intrinsics.focal[0])))  # the seed's, whatever is filmed
    same = synthetic.scene(41, "driving", 2, (64, 40), fov=float(fov))
    assert (drive.depth / same.depth - 1).abs().median() < 1e-3
    for seed, count in ((899_999, 2), (900_001, 1), (-1, 1)):
        with pytest.raises(UsageError):
            next(synthetic.samples(seed, count, 2, (64, 40)))
    assert len(synthetic.EVALUATION) == 6 and all(seed >= 900_000 for _, seed in synthetic.EVALUATION)


def test_degrade_changes_a_copy():
    images = torch.rand(3, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    out = synthetic.degrade(images, torch.Generator().manual_seed(1))
    assert torch.equal(images, before) and out.shape == images.shape
    assert not torch.equal(out, images) and out.min() >= 0 and out.max() <= 1
    assert torch.equal(out, synthetic.degrade(images, torch.Generator().manual_seed(1)))


def test_photos_are_read_and_used(tmp_path):
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "deep").mkdir()
    red = np.zeros((300, 400, 3), np.uint8)
    red[..., 2] = 255
    cv2.imwrite(str(tmp_path / "deep" / "a.png"), red)
    photos = synthetic.textures(tmp_path)
    assert photos.shape == (1, 3, 256, 256)
    assert torch.equal(photos[0].mean((1, 2)), torch.tensor([1.0, 0, 0]))
    assert "photo" in synthetic.world(1, "orbit", 1, SIZE, textures=photos).atlas.names
    assert synthetic.textures(tmp_path / "deep").shape[0] == 1
    (tmp_path / "empty").mkdir()
    assert synthetic.textures(tmp_path / "empty") is None
    with pytest.raises(InputError, match="nowhere"):
        synthetic.textures(tmp_path / "nowhere")


def test_clear_keeps_the_path_free():
    near = [solid(BOX, (0, 0, 5), (1, 1, 1), Surface("plain"))]
    far = [solid(ELLIPSOID, (5, 0, 5), (1, 1, 1), Surface("plain"))]
    room = [solid(ROOM, (0, 0, 5), (9, 9, 9), Surface("plain"))]
    path = np.array([[0.0, 0, 0], [0, 0, 3.8]])
    assert clear([near, far, room], path, 0.1) == [near, far, room]
    assert clear([near, far, room], path, 0.3) == [far, room]


def test_shipped_truth_is_the_demo_s():
    stored = np.load(ASSETS / "demo_truth.npz")
    world = demo_world()
    pick = [0, 36]
    few = replace(
        world, world_T_cam=world.world_T_cam[pick], world_T_group=world.world_T_group[:, pick], times=world.times[pick]
    )
    truth = synthetic.render(replace(few, shadow_side=0))
    rows = [stored["frames"].tolist().index(k) for k in pick]
    depth = truth.depth[:, 0, 2::4, 2::4].numpy()
    assert (np.abs(stored["depth"][rows] / depth - 1) < 1e-3).mean() > 0.999
    assert np.allclose(stored["world_T_cam"][pick], truth.world_T_cam.numpy())
    assert np.allclose(stored["camera"], [*truth.intrinsics.focal.tolist(), 320, 180])
    moving = np.unpackbits(stored["moving"], axis=-1)[pick]
    assert (moving == truth.moving[:, 0, 2::4, 2::4].numpy()).mean() > 0.999 and moving.mean() > 0.005
