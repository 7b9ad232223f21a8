"""Worlds of meshes: files are read as they are meant, rays find what was built, flow and visibility are exact."""

import cv2
import numpy as np
import pytest
import torch
from glb import rectangle

from glvid.data.pool import SKY, Pool, fill
from glvid.errors import InputError
from glvid.synthetic import props, sets
from glvid.synthetic.meshes import Caster, Lamp, Light, pair, picture, rays_of
from glvid.synthetic.models import bilinear, box, joined, mipped, moved, quad, read_models, solid, turned
from glvid.types import Intrinsics

pytest.importorskip("open3d")

SIZE = (64, 48)
LENS = Intrinsics(torch.tensor([50.0, 50.0]), torch.tensor([32.0, 24.0]), SIZE)
GREY = [np.full((8, 8, 3), 128, np.uint8)]
EVEN = Light((), np.ones(3), np.ones((2, 3)))


def shift(x, y, z):
    out = np.eye(4)
    out[:3, 3] = x, y, z
    return out


def wall(z, texture=0, half=20.0):
    return solid(*quad((-half, -half, z), (half, -half, z), (-half, half, z)), texture)


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_glb_stands_upright_with_its_texture_the_right_way_up(tmp_path):
    """Upper half red, lower half blue: seen from the front, red is above."""
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:32], texture[32:] = (0, 0, 255), (255, 0, 0)
    rectangle(tmp_path / "board.glb", texture)
    images = []
    model = read_models(tmp_path, images)["board"]
    assert np.allclose(model.size, [2, 1, 0]) and np.isclose(model.corners[..., 1].max(), 0)
    facing = moved(model, shift(0, 0.5, 3) @ props.turn(np.pi))
    seen = picture(Caster([facing], mipped(images)), EVEN, LENS, np.eye(4))
    assert seen[20, 32, 0] > 0.7 > 0.1 > seen[20, 32, 2] and seen[28, 32, 2] > 0.7 > 0.1 > seen[28, 32, 0]


def test_clear_texels_are_holes_in_leaves_and_panes_elsewhere(tmp_path):
    texture = np.full((64, 64, 4), 255, np.uint8)
    texture[:, :32, 3] = 0
    for name in ("oak_tree", "car"):
        rectangle(tmp_path / f"{name}.glb", texture)
    images = []
    models = read_models(tmp_path, images)
    for name, left in (("oak_tree", 7.0), ("car", 3.0)):
        front = moved(models[name], shift(0, 0.5, 3) @ props.turn(np.pi))
        caster = Caster([front, wall(7)], mipped(images))
        along = caster.cast(rays_of(LENS, np.eye(4))).along.reshape(SIZE[::-1])
        sides = sorted([along[24, 24], along[24, 40]])
        assert np.allclose(sides, [3, left], atol=1e-3)


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(InputError, match="no GLB"):
        read_models(tmp_path, [])


def test_textures_repeat_and_are_exact_at_texel_centres():
    texels = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 4), dtype=np.uint8)
    uv = np.array([[0.125, 0.375], [1.125, -0.625], [0.25, 0.125]], np.float32)
    found = bilinear(texels, np.array([1, 1, 0], np.int32), uv) * 255
    assert np.allclose(found[0], texels[1, 1, 0]) and np.allclose(found[1], texels[1, 1, 0], atol=1e-3)
    assert np.allclose(found[2], (texels[0, 0, 0].astype(float) + texels[0, 0, 1]) / 2, atol=1e-3)


def test_far_textures_are_smooth():
    """A fine chequer is even grey from afar, and black and white from near."""
    chequer = [
        np.kron(np.indices((128, 128)).sum(0) % 2, np.ones((2, 2)))[..., None].repeat(3, 2).astype(np.uint8) * 255
    ]
    near, far = (picture(Caster([wall(z)], mipped(chequer)), EVEN, LENS, np.eye(4)) for z in (0.05, 12.0))
    assert near.min() < 0.05 and near.max() > 0.75 and far.std() < 0.03  # a wall gets 0.8 of what falls on a floor


def test_solids_have_their_size_and_stand_on_the_ground():
    assert np.allclose(box((1, 2, 3), 0).size, [1, 2, 3])
    bottle = turned([(0, 0.5), (0.1, 0.5), (0.2, 0), (0, 0)], 0)
    assert np.allclose(bottle.size, [0.4, 0.5, 0.4], atol=0.02)
    for model in (box((1, 2, 3), 0), bottle):
        assert np.isclose(model.corners[..., 1].max(), 0) and model.corners[..., 1].min() < 0
    assert len(joined([bottle, bottle]).corners) == 2 * len(bottle.corners)


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_depth_flow_and_visibility_of_a_board_that_moves_before_a_wall():
    """Camera steps 0.2 m to the right, a board at 2 m moves 0.4 m to the left, the wall at 8 m rests."""
    board = moved(box((1.0, 1.0, 0.02), 0), shift(0, 0.5, 2.01))
    there = np.stack([shift(-0.4, 0, 0), np.eye(4)])
    found = pair(Caster([board, wall(8)], mipped(GREY)), there, EVEN, LENS, np.eye(4), shift(0.2, 0, 0))
    on = found.moving[0, 0].bool()
    assert torch.allclose(found.depth[0, 0][on], torch.tensor(2.0), atol=1e-3)
    assert torch.allclose(found.depth[0, 0][~on], torch.tensor(8.0), atol=1e-3)
    assert int(on.sum()) == 26 * 26 or abs(int(on.sum()) - 25 * 25) < 60
    assert torch.allclose(found.flow[0, 0][on], torch.tensor(-0.6 / 2 * 50), atol=1e-2)
    assert torch.allclose(found.flow[0, 0][~on], torch.tensor(-0.2 / 8 * 50), atol=1e-2)
    assert torch.allclose(found.flow_back[0, 0][found.moving[1, 0].bool()], torch.tensor(15.0), atol=1e-2)
    hidden = found.visible[0, 0] < 0.5
    columns = torch.where((hidden & ~on)[24])[0]
    assert found.visible[0, 0][on].all()  # it stays in the picture
    assert len(columns) and columns.max() < torch.where(on[24])[0].min()  # wall that the board comes to cover
    assert torch.allclose(found.world_T_cam[1], torch.from_numpy(shift(0.2, 0, 0)))


def test_sky_is_far_and_only_turns():
    found = pair(Caster([wall(-5)], mipped(GREY)), np.eye(4)[None], EVEN, LENS, np.eye(4), shift(3, 0, 0))
    assert (found.depth > SKY).all() and found.flow.abs().max() < 0.2


def test_a_lamp_lights_what_it_sees_and_shadows_are_dark():
    lamp = Light((Lamp(np.array([0.0, -3, 2]), np.ones(3) * 9, far=False),), np.full(3, 0.1), np.ones((2, 3)))
    floor = solid(*quad((-9, 1, 9), (9, 1, 9), (-9, 1, -1)), 0)
    board = moved(box((0.8, 0.02, 0.8), 0), shift(0, -0.5, 3))
    open_air, shaded = (picture(Caster(t, mipped(GREY)), lamp, LENS, np.eye(4)) for t in ([floor], [floor, board]))
    darker = open_air - shaded
    below = darker[30:]  # of the horizon
    assert below.max() > 0.2 and (np.abs(below) < 0.02).mean() > 0.5


# --- sets ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    for name in ("house_Bed_01", "hatchback", "oak_tree", "house_1", "house_Vase_01"):
        texture = cv2.resize(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), (64, 64))
        rectangle(folder / f"{name}.glb", texture, 3.0, 1.5)
    return folder


def test_turns_and_shifts_follow_the_conventions():
    assert np.allclose(props.turn(np.pi / 2) @ [0, 0, 1, 1], [1, 0, 0, 1])  # to the right
    assert (props.turn(0.1, "x") @ [0, 0, 1, 1])[1] < 0  # up
    assert np.allclose(props.at(1, 2, 3) @ [0, 0, 0, 1], [1, -2, 3, 1])


def test_a_plot_is_claimed_once():
    plot = props.Plot([])
    assert plot.claim(box((1, 1, 1), 0)) and not plot.claim(box((0.5, 1, 0.5), 0))
    assert plot.claim(moved(box((1, 1, 1), 0), props.at(1.1, 0, 0)))


@pytest.mark.parametrize("seed", range(4))
def test_worlds_are_worth_looking_at_and_their_flow_leads_to_the_same_colours(seed, furnished):
    of = props.library(furnished)
    found = sets.sample(seed, of, (96, 64))
    assert found.images.shape == (2, 3, 64, 96) and 0.2 < found.images[0].mean() < 0.6
    depth = found.depth[0][found.depth[0] < SKY]
    assert len(depth) > 0.3 * 64 * 96 and depth.log().std() > 0.15
    y, x = np.mgrid[:64, :96].astype(np.float32)
    flow = found.flow[0].numpy()
    a, b = (cv2.GaussianBlur(i.permute(1, 2, 0).numpy(), (0, 0), 1) for i in found.images)
    apart = np.abs(cv2.remap(b, x + flow[0], y + flow[1], cv2.INTER_LINEAR) - a).mean(-1)
    assert np.median(apart[found.visible[0, 0].numpy() > 0]) < 0.02
    again = sets.sample(seed, of, (96, 64))
    assert torch.equal(found.images, again.images) and torch.equal(found.flow, again.flow)


def test_rooms_are_closed_and_streets_have_a_sky(furnished):
    of, rng = props.library(furnished), np.random.default_rng(3)
    things, _, camera = sets.room(rng, of)
    assert np.isfinite(Caster(things, of.paints).cast(rays_of(LENS, camera)).along).all()
    things, motions, light, _ = sets.street(rng, of)
    assert len(things) == len(motions) and (light.sky <= 1).all()
    up = props.at(0, 30, 0) @ props.turn(0.6, "x")
    assert not np.isfinite(Caster(things, of.paints).cast(rays_of(LENS, up)).along).all()


def test_traffic_queues_before_the_camera(furnished, monkeypatch):
    """Long things stand in the camera's lane, and hardly any where there is no queue."""
    of, number = props.library(furnished), {}
    for share in (1.0, 0.0):
        monkeypatch.setattr(sets, "QUEUES", share)
        lanes = []
        for seed in range(12):
            things, _, _, camera = sets.street(np.random.default_rng(seed), of)
            for body in (thing.corners.reshape(-1, 3) for thing in things[1:]):
                x, _, z = body.mean(0) - camera[:3, 3]
                if abs(x) < 2 and 2 < z < 60 and np.ptp(body[:, 2]) > 3 and abs(body[:, 1].max()) < 0.01:
                    lanes.append(z)
        number[share] = len(lanes)
    assert number[1.0] > number[0.0] + 4


@pytest.mark.parametrize("seed", range(9))
def test_lorries_stand_on_their_wheels(seed, furnished):
    of = props.library(furnished)
    ahead, back = (sets.lorry(np.random.default_rng(seed), of, way) for way in (1, -1))
    low, high = ahead.corners.min((0, 1)), ahead.corners.max((0, 1))
    assert high[1] == pytest.approx(0, abs=0.01)  # y down
    assert 2 <= high[0] - low[0] < 3.2 and 1.8 < high[1] - low[1] < 4.5 and 4 < high[2] - low[2] < 15
    assert np.allclose(back.corners.min((0, 1))[2], -high[2], atol=1e-5)


def test_who_is_filmed_stands_on_free_ground_before_the_camera(furnished):
    of, here = props.library(furnished), props.at(2, 1.4, 5) @ props.turn(1.0)
    there, kerb = here @ props.at(0, 0, 1.5), moved(box((9, 0.12, 9), 0), props.at(6.4, 0, 7.8))
    found = 0
    for seed in range(20):
        floor = joined([*sets.shell(np.random.default_rng(0), of, 40, 40, 3)[:1], kerb])
        crate = moved(box((1.5, 1, 1.5), 0), props.at(5.4, 0, 7.2))  # in its way
        rng = np.random.default_rng(seed)
        things, motions = sets.with_subject(rng, of, [floor, crate], np.eye(4)[None].repeat(2, 0), (here, there), False)
        assert len(things) == len(motions) and (motions[:, 1, 3] == 0).all()
        for thing in things[2:]:
            body = thing.corners.reshape(-1, 3)
            x, _, z = np.linalg.inv(there)[:3, :3] @ (body.mean(0) - there[:3, 3])
            assert 0.5 < z < 11 and abs(x) < 2 * z
            low, high = body.min(0), body.max(0)
            assert not (low[0] < 6.1 and high[0] > 4.7 and low[2] < 7.9 and high[2] > 6.5)
            middle = (low + high) / 2
            on_kerb = abs(middle[0] - 6.4) < 4.4 and abs(middle[2] - 7.8) < 4.4
            off_kerb = abs(middle[0] - 6.4) > 4.6 or abs(middle[2] - 7.8) > 4.6
            if on_kerb or off_kerb:
                assert abs(high[1] + (0.12 if on_kerb else 0)) < 0.06
                found += 1
    assert found > 10


def test_a_pool_holds_three_worlds_of_models_to_one_of_solids(tmp_path, furnished):
    plain, mixed = (Pool(tmp_path / name / "pool.bin", (64, 64), 10) for name in ("a", "b"))
    fill(plain, 4, None, count=4)
    fill(mixed, 4, None, count=4, assets=furnished)
    rings = [pool.open()[0] for pool in (plain, mixed)]
    same = [np.array_equal(rings[0][k]["depth"], rings[1][k]["depth"]) for k in range(4)]
    assert same == [True, False, False, False]
