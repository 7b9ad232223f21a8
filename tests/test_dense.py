"""Pixel by pixel: exact where flow is exact, the network's where it is not, what moves and what is near are found."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rendered_shot import change_of, rendered_shot

from glvid import dense as D
from glvid import moving as M
from glvid import refine as R
from glvid import views as V
from glvid.geometry import rigid_flow, se3_exp
from glvid.networks import DepthNet
from glvid.predict import Flows, dense_size, dis_flow, fine_dis_flow, working_size
from glvid.store import Store
from glvid.synthetic import scene
from glvid.types import Intrinsics, Shot, Solution
from glvid.warp import push_pull, resize, resize_flow, spread

SIZE = (96, 64)


@pytest.fixture(scope="module")
def room():
    return rendered_shot()


def seen_by(image, images, flow, there_T_here):
    """Views in which all is visible."""
    unlike = V.matched_unlikeness(image, images, flow)
    return V.Views(V.texture_of(image), images, flow, torch.ones_like(unlike), there_T_here, unlike)


def camera() -> Intrinsics:
    return Intrinsics.from_fov(60, SIZE)


def test_triangulation_is_exact_for_exact_flow():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 96), indexing="ij")
    depth = (3 + x + 0.5 * y)[None]
    there_T_here = se3_exp(torch.tensor([[0.2, 0, 0, 0, 0.02, 0], [-0.1, 0.1, 0.1, 0.01, 0, 0]]))
    flow = torch.cat([rigid_flow(depth[None], camera(), T[None])[0] for T in there_T_here])
    views = V.Views(
        torch.ones(3, 64, 96),
        torch.zeros(2, 3, 64, 96),
        flow,
        torch.ones(2, 1, 64, 96),
        there_T_here,
        torch.zeros(2, 1, 64, 96),
    )
    found, information, errors = D.triangulate(torch.full_like(depth, 5.0), views, camera(), sigma_depth=100.0)
    assert (found / depth - 1).abs().max() < 1e-3 and errors.max() < 1e-2 and (information > 0).all()


def test_triangulation_keeps_the_start_where_nothing_is_seen():
    views = V.Views(
        torch.ones(3, 64, 96),
        torch.zeros(1, 3, 64, 96),
        torch.zeros(1, 2, 64, 96),
        torch.zeros(1, 1, 64, 96),
        torch.eye(4)[None],
        torch.zeros(1, 1, 64, 96),
    )
    start = torch.rand(1, 64, 96) + 1
    found, information, _ = D.triangulate(start, views, camera())
    assert torch.allclose(found, start) and information.max() == 0


def test_push_pull_keeps_known_and_extends_it():
    x = torch.full((1, 20, 30), 7.0)
    x[:, :, 15:] = 3.0
    weight = torch.zeros_like(x)
    weight[:, :, :10] = 1
    filled = push_pull(x, weight)
    assert torch.allclose(filled[:, :, :10], x[:, :, :10]) and torch.allclose(
        filled, torch.full_like(x, 7.0), atol=1e-4
    )


def passing(k: int, pole: bool) -> torch.Tensor:
    """Grey noise at depth 10 and, if asked for, a pole of noise at depth 2, seen k steps further to the right."""
    rng = np.random.default_rng(0)
    wall, post = (torch.from_numpy(rng.uniform(0, 1, (64, 200)).astype(np.float32)) for _ in range(2))
    wall, post = (F.avg_pool2d(x[None, None], 3, 1, 1)[0, 0] for x in (wall, post))
    image = wall[:, 50 + 2 * k : 146 + 2 * k].clone()
    if pole:
        left = 50 - 10 * k
        image[:, left : left + 8] = post[:, :8]
    return image.expand(3, -1, -1)


def test_a_pole_that_flow_misses_is_swept_up():
    """Flow and network see the wall behind only; the cameras say where a near pole must be, and there it is."""
    steps = (1, -1, 2, -2)
    there_T_here = torch.eye(4).repeat(4, 1, 1)
    there_T_here[:, 0, 3] = torch.tensor([-0.2 * k for k in steps])
    camera = Intrinsics(torch.tensor([100.0, 100.0]), torch.tensor([48.0, 32.0]), (96, 64))
    wall = torch.full((1, 64, 96), 10.0)
    flow = torch.zeros(4, 2, 64, 96)
    flow[:, 0] = torch.tensor([-2.0 * k for k in steps])[:, None, None]
    at_pole = torch.zeros(64, 96, dtype=torch.bool)
    at_pole[2:-2, 51:57] = True
    for pole in (True, False):
        image = passing(0, pole)
        images = torch.stack([passing(k, pole) for k in steps])
        views = seen_by(image, images, flow, there_T_here)
        near, found = D.sweep(wall, wall, image, views, camera)
        if pole:
            assert found[0][at_pole].mean() > 0.8 and (near[0][at_pole] / 2).log().abs().median() < 0.05
        assert found[0, :, :40].max() < 0.2 and (pole or found[:, 2:-2, 4:-4].max() < 0.2)


def test_what_flow_explains_is_not_swept():
    """A square that falls is no near thing: its flow explains it, and no line of the cameras does."""
    steps = (1, -1, 2, -2)
    there_T_here = torch.eye(4).repeat(4, 1, 1)
    there_T_here[:, 0, 3] = torch.tensor([-0.2 * k for k in steps])
    camera = Intrinsics(torch.tensor([100.0, 100.0]), torch.tensor([48.0, 32.0]), (96, 64))
    square = F.avg_pool2d(torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)), 3, 1, 1)[0, 0]

    def falling(k: int) -> torch.Tensor:
        image = passing(k, False).clone()
        image[:, 24 + 6 * k : 40 + 6 * k, 40:56] = square
        return image

    flow = torch.zeros(4, 2, 64, 96)
    flow[:, 0] = torch.tensor([-2.0 * k for k in steps])[:, None, None]
    flow[:, :, 24:40, 40:56] = torch.tensor([[0.0, 6 * k] for k in steps])[:, :, None, None]
    views = seen_by(falling(0), torch.stack([falling(k) for k in steps]), flow, there_T_here)
    wall = torch.full((1, 64, 96), 10.0)
    _, found = D.sweep(wall, wall, falling(0), views, camera)
    assert found[0, 26:38, 42:54].max() < 0.1


def test_steadied_depth_is_truer_than_that_of_single_frames(room):
    """What a network says anew of every frame, at random, averages out; what all its frames say stays."""
    truth, shot, solution = room
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.2, (6, 4, 6)).astype(np.float32).repeat(32, 1).repeat(32, 2)
    assert noise.shape == shot.depth.shape
    noisy = replace(shot, depth=shot.depth * np.exp(noise))
    prior, before = (np.stack([V.dense_prior(s, solution, n)[0].numpy() for n in range(6)]) for s in (shot, noisy))
    after = D.steadied(noisy, solution, Flows(noisy, dis_flow), Store())
    inner = slice(2, 4)  # frames with two others on either side
    assert change_of(after[inner], prior[inner]) < 0.7 * change_of(before[inner], prior[inner])
    assert change_of(after[:1], before[:1]) < 1e-6  # the first has none before it
    clean = D.steadied(shot, solution, Flows(shot, dis_flow), Store())
    assert change_of(clean, prior) < 0.02


def test_what_passes_a_resting_camera_is_found(room):
    """A textured square crosses a still picture; depth stays the network's."""
    _, shot, solution = room
    images = np.repeat(shot.images[:1], 6, 0)
    passing = np.random.default_rng(0).integers(0, 255, (12, 14, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    real = np.zeros(images.shape[:3], bool)
    for k in range(6):
        images[k, 40:88, 30 + 6 * k : 86 + 6 * k], real[k, 40:88, 30 + 6 * k : 86 + 6 * k] = passing, True
    eye = torch.eye(4, dtype=torch.float64).repeat(6, 1, 1)
    still = replace(solution, world_T_cam=eye, parallax=0.0, observable=False, resting=True)
    watched = replace(shot, images=images)
    _, dense, _, _ = R.refine(watched, still, Flows(watched, dis_flow), DepthNet(), R.Plan("none", 0), lambda n: None)
    there = resize(torch.from_numpy(real).float()[:, None], dense_size(shot.size))[:, 0].numpy() > 0.5
    found = dense.moving > 0.5
    assert (found & there).sum() > 0.6 * (found | there).sum()
    kept = np.stack([V.dense_prior(watched, still, n)[0].numpy() for n in range(6)])
    assert np.array_equal(dense.depth, kept)
    lost = R.refine(
        watched, replace(still, resting=False), Flows(watched, dis_flow), DepthNet(), R.Plan("none", 0), lambda n: None
    )[1]
    assert lost.moving.max() == 0  # an unknown camera says nothing about what moves


def test_every_pair_of_frames_is_matched_once(room):
    _, shot, solution = room
    asked = []

    def flow(a, b, start=None):
        asked.extend((x.tobytes(), y.tobytes()) for x, y in zip(a, b, strict=True))
        return dis_flow(a, b)

    flows = Flows(shot, flow)
    for _ in range(2):
        D.triangulate_shot(shot, solution, flows, (1, 2), lambda n: None)
    assert len(asked) == len(set(asked)) == 2 * (5 + 4)


def test_kept_flow_is_that_between_its_frames(room):
    _, shot, _ = room
    flows = Flows(shot, dis_flow)
    part = flows.part(1, 6)
    part.sharp(np.array([1]), np.array([0]))
    assert [there.tolist() for _, there in flows.kept.values()] == [[False, False, True, False, False, False]]
    i, j = np.array([2, 2, 5, 1, 4]), np.array([3, 1, 4, 2, 3])
    expected = resize_flow(dis_flow(shot.images[i], shot.images[j]), dense_size(shot.size))
    for _ in range(2):
        assert (flows(i, j) - expected).abs().max() <= Flows.STEP / 2
        assert torch.equal(part(i - 1, j - 1), flows(i, j))
    assert torch.equal(part([0, 4, 0], [2, 1, 4]), flows([1, 5, 1], [3, 2, 5]))


def test_flow_to_the_next_frame_is_kept_at_working_size(room):
    _, shot, _ = room
    asked = []

    def flow(a, b):
        asked.append(len(a))
        return fine_dis_flow(a, b)

    flows = Flows(shot, flow, back=dis_flow)
    flows(np.arange(4), np.arange(1, 5))
    found = fine_dis_flow(shot.images[2:3], shot.images[3:4])
    assert torch.allclose(flows.onward(2), found, atol=Flows.STEP)
    assert torch.equal(flows.part(1, 5).onward(1), flows.onward(2)) and sum(asked) == 4
    flows.onward(4)
    assert sum(asked) == 5
    back = dis_flow(shot.images[3:4], shot.images[2:3])
    assert torch.equal(flows.sharp(np.array([3]), np.array([2])), back) and sum(asked) == 5


@pytest.mark.parametrize("match", [dis_flow, fine_dis_flow])
@pytest.mark.parametrize("polished", [True, False])
def test_flow_to_far_frames_is_put_together_on_the_way(match, polished):
    """A surface that moves on by 14.3 px a frame: no matching finds it 6 frames on, 86 px away."""
    rng, (w, h), step = np.random.default_rng(0), (192, 96), (14.3, -1.2)
    wall = sum(cv2.resize(rng.uniform(0, 64, (h // k, w // k, 3)), (3 * w, 2 * h), interpolation=2) for k in (2, 4, 8))
    turns = [np.float64([[1, 0, step[0] * n - w], [0, 1, step[1] * n - h / 2]]) for n in range(7)]
    images = np.stack([cv2.warpAffine(wall, t, (w, h), flags=cv2.INTER_CUBIC) for t in turns]).clip(0, 255)
    shot = Shot(np.arange(7.0), images.astype(np.uint8), np.ones((7, h, w), np.float32))
    flows = Flows(shot, match, polished=polished)

    def off(i, j, flow):
        flow, true = resize_flow(flow, (w, h)), torch.tensor(step)[:, None, None] * (j - i)
        x, y = np.meshgrid(np.arange(w) + float(true[0]), np.arange(h) + float(true[1]))
        stays = torch.from_numpy((x > 8) & (x < w - 8) & (y > 8) & (y < h - 8))
        return (flow[0] - true).norm(dim=0)[stays].median()

    for i, j in ((0, 6), (6, 0), (0, 5), (3, 1)):
        there, whole = flows(i, j), flows.sharp(np.array([i]), np.array([j]))
        assert off(i, j, whole) < 0.3 and torch.allclose(there, resize_flow(whole, flows.size), atol=Flows.STEP)
        xy = torch.tensor([[[96.0, 48.0], [5.0 if j < i else 187.0, 30.5]]])
        led, within = flows.led(xy, np.array([i]), j - i)
        assert (led - xy - torch.tensor(step) * (j - i))[0, 0].norm() < 0.5
        assert within.tolist() == [[1.0, 0.0]]
    assert off(0, 6, match(shot.images[:1], shot.images[6:])) > 10


def test_adaptive_flow_takes_the_better_one():
    """Left, depth and camera are right; right, flow is; in between a square that moves on its own keeps its flow."""
    truth = scene(900001, "handheld", frames=2, size=(192, 128))
    here, there = truth.images[:1], truth.images[1:]
    true = truth.flow[:1].nan_to_num(0)
    wrong = true + torch.tensor([3.0, -2.0])[:, None, None]
    left = (torch.arange(192) < 96).expand(1, 1, 128, 192)
    rigid, seen = torch.where(left, true, wrong), torch.where(left, wrong, true)
    moving = torch.zeros(1, 1, 128, 192)
    moving[..., 48:80, 32:64] = 1
    found = D.adaptive_flow(seen, rigid, here, there, moving)
    off = (found - true).norm(dim=1, keepdim=True)
    assert torch.equal(found[:, :, 48:80, 32:64], seen[:, :, 48:80, 32:64])
    visible = (truth.visible[:1] > 0.5) & (moving == 0)
    for side in (left, ~left):
        inner = visible & side & ~((torch.arange(192) - 96).abs() < 8)
        assert off[inner].mean() < 0.5 * float(torch.tensor([3.0, 2.0]).norm())


def test_rigid_flow_far_out_of_the_picture_is_not_taken():
    here = torch.zeros(1, 3, 64, 96)
    seen, rigid = torch.full((1, 2, 64, 96), 2.0), torch.full((1, 2, 64, 96), 3.0)
    rigid[..., :20] = 900.0  # a depth next to nothing
    found = D.adaptive_flow(seen, rigid, here, here, torch.zeros(1, 1, 64, 96))
    assert torch.equal(found[..., :20], seen[..., :20]) and (found[..., 30:60] > 2.5).all()


def test_moving_object_is_found():
    truth = scene(900002, "handheld", frames=10, size=(320, 192))
    assert truth.moving.any()
    size = working_size((320, 192))
    images = (resize(truth.images, size).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    shot = Shot(np.arange(10) / 30, images, resize(truth.depth, size)[:, 0].numpy())
    solution = Solution(
        truth.intrinsics.resized(size), 0.0, True, "given", truth.world_T_cam.double(),
        torch.ones(10, dtype=torch.float64), 20.0, 0.0,
    )  # fmt: skip
    dense = D.triangulate_shot(shot, solution, Flows(shot, dis_flow), (1, 2, 4), lambda n: None)
    real = resize(truth.moving, dense_size(size))[:, 0].numpy() > 0.5
    assert dense.moving[real].mean() > 3 * dense.moving[~real].mean()
    assert dense.moving[~real].mean() < 0.1


def test_where_depth_is_known_only_what_moves_is_asked_for(room, monkeypatch):
    _, shot, solution = room
    flows = Flows(shot, dis_flow)
    monkeypatch.setattr(D, "ASKED_OF", 1)
    whole, known = (
        D.triangulate_shot(shot, solution, flows, (1, 2), lambda n: None, searched=False, known=k)
        for k in (False, True)
    )
    assert np.array_equal(whole.moving, known.moving) and np.array_equal(whole.sure, known.sure)
    assert not np.allclose(whole.depth, known.depth)
    assert np.array_equal(known.depth[2], D.dense_prior(shot, solution, 2)[0].numpy())


def test_where_depth_is_known_frames_between_hear_what_moves(room, monkeypatch):
    """The picture stands still; frames 0, 2, 4 and the last one are asked, and see a square."""
    _, shot, solution = room
    (h, w), asked, steps = dense_size(shot.size)[::-1], [], []
    shot = replace(shot, images=np.repeat(shot.images[:1], 6, 0))
    square = torch.zeros(1, h, w)
    square[:, 20:40, 30:60] = 1

    def stub(shot, solution, flows, offsets, searched, n):
        asked.append(n)
        return D.Matched(0 * square, 0 * square + 0.5, square, torch.ones(2, h, w), 0.0)

    monkeypatch.setattr(D, "matched", stub)
    flows = Flows(shot, dis_flow)
    found = D.triangulate_shot(shot, solution, flows, (1, 2), steps.append, searched=False, known=True)
    assert sorted(asked) == [0, 2, 4, 5] and sum(steps) == 6
    for moving, sure in zip(found.moving > 0.5, found.sure, strict=True):
        assert (moving == (square[0] > 0.5).numpy()).mean() > 0.95
        assert sure[5:15, 5:20] == pytest.approx(0.5, abs=0.01)


def test_movers_are_found_where_the_camera_only_turns_and_not_where_nothing_is_known_of_it(room):
    """Turning leaves exactly no parallax; so does a guess, but that fits no matches."""
    _, shot, solution = room
    found = {}
    for cost in (0.1, 0.0):
        still = replace(solution, parallax=0.0, cost=cost)
        found[cost] = D.matched(shot, still, Flows(shot, dis_flow), (1, 2), False, 2)
    whole = D.matched(shot, solution, Flows(shot, dis_flow), (1, 2), False, 2)
    assert torch.equal(found[0.1].moving, whole.moving) and torch.equal(found[0.1].sure, whole.sure)
    assert whole.sure.max() > 0.5 and found[0.0].sure.max() == 0


def test_depth_is_not_taken_from_torn_flow(room, monkeypatch):
    """What is taken for torn in the left half is uncertain there, and no object; the right half stays as it was."""
    _, shot, solution = room
    flows = Flows(shot, dis_flow)
    before = D.matched(shot, solution, flows, (1, 2), False, 2)
    found = M.objects

    def torn_on_the_left(*known):
        moving, torn = found(*known)
        torn = torch.zeros_like(torn)
        torn[..., : torn.shape[2] // 2] = 1.0
        return torch.zeros_like(moving), torn

    monkeypatch.setattr(D, "objects", torn_on_the_left)
    after = D.matched(shot, solution, flows, (1, 2), False, 2)
    half = after.sure.shape[2] // 2
    assert after.sure[..., :half].max() == 0 and before.sure[..., :half].mean() > 0.1 and after.moving.max() == 0
    assert (
        torch.equal(after.ratio, before.ratio) and after.sure[..., half:].mean() > 0.9 * before.sure[..., half:].mean()
    )


def test_depth_spreads_along_colour_and_not_across():
    """Left of an edge of colour the border is known to be 2, right of it to be 5; distance alone would mix them."""
    x, weight, image = torch.zeros(1, 24, 30), torch.zeros(1, 24, 30), torch.zeros(3, 24, 30)
    image[0, :, 20:] = 0.5
    x[:, :, :3], weight[:, :, :3] = 2.0, 1.0
    x[:, :, -3:], weight[:, :, -3:] = 5.0, 1.0
    filled = spread(x, weight, image)
    assert (filled[:, :, :19] - 2).abs().max() < 0.2 and (filled[:, :, 21:] - 5).abs().max() < 0.2
    assert (spread(x, weight, 0 * image)[:, :, 18] - 2).abs().max() > 0.5


def falling_square(k: int, even: bool) -> torch.Tensor:
    """The wall of `passing` and a square that falls 6 px a step before it; `even`: all of one colour."""
    rng = np.random.default_rng(1)
    square = F.avg_pool2d(torch.from_numpy(rng.uniform(0, 1, (1, 1, 20, 20)).astype(np.float32)), 3, 1, 1)[0, 0]
    image = passing(k, False).clone()
    image[:, 20 + 6 * k : 40 + 6 * k, 40:60] = 0.9 if even else square
    return image


@pytest.mark.parametrize("even", [False, True])
def test_objects_are_whole(even):
    """A falling square is one object, also where it has no texture and so looks the same wherever it is."""
    steps = (1, -1, 2, -2)
    there_T_here = torch.eye(4).repeat(4, 1, 1)
    there_T_here[:, 0, 3] = torch.tensor([-0.2 * k for k in steps])
    lens = Intrinsics(torch.tensor([100.0, 100.0]), torch.tensor([48.0, 32.0]), (96, 64))
    true = torch.zeros(64, 96, dtype=torch.bool)
    true[20:40, 40:60] = True
    flow = torch.zeros(4, 2, 64, 96)
    flow[:, 0] = torch.tensor([-2.0 * k for k in steps])[:, None, None]
    for k, step in enumerate(steps):
        flow[k, :, true] = torch.tensor([[0.0], [6.0 * step]])
    image, images = falling_square(0, even), torch.stack([falling_square(k, even) for k in steps])
    seen = seen_by(image, images, flow, there_T_here)
    wall = torch.full((1, 64, 96), 10.0)
    found, _, errors = D.triangulate(wall, seen, lens)
    worse = M.betrayed(image, (wall, found), seen, lens)

    def moves(views, between=True):
        return M.objects(errors, (found / wall).log(), worse, M.unsteadiness(views, wall, lens, between), views)

    p, torn = (x[0] > 0.5 for x in moves(seen))
    assert (p & true).sum() / (p | true).sum() > 0.8 and not torn.any()
    hidden = replace(seen, visible=torch.cat([0.3 * seen.visible[:2], seen.visible[2:]]))
    jerky = replace(seen, flow=seen.flow * torch.tensor([1.0, 2.5, 1.0, 1.0])[:, None, None, None])
    for views in (hidden, jerky):  # flow went wrong there
        p, torn = (x[0] > 0.5 for x in moves(views))
        assert not p.any() and (torn & true).sum() / true.sum() > 0.8
    assert moves(jerky, between=False)[0].max() > 0.5  # the first frame has no other side
    flow = torch.zeros_like(flow)
    flow[:, 0] = torch.tensor([-2.0 * k for k in steps])[:, None, None]
    at_rest = seen_by(image, images, flow, there_T_here)
    found, _, errors = D.triangulate(wall, at_rest, lens)
    worse = M.betrayed(image, (wall, found), at_rest, lens)
    still = moves(at_rest)
    assert max(x.max() for x in still) < 0.1


def passing_square() -> tuple[np.ndarray, Flows]:
    """Where a square is that moves 3 px a frame, and its flow between neighbours."""
    true = np.zeros((6, 40, 60), np.float32)
    for n in range(6):
        true[n, 10:20, 5 + 3 * n : 15 + 3 * n] = 1
    flows = Flows(Shot(np.arange(6.0), np.zeros((6, 80, 120, 3), np.uint8), np.ones((6, 80, 120))), dis_flow)
    for n in range(5):
        for a, b in ((n, n + 1), (n + 1, n)):
            step = np.stack([3 * (b - a) * true[a], 0 * true[a]])
            flows.keep(np.array([a]), np.array([b]), torch.from_numpy(step)[None])
    return true, flows


def test_a_vote_fills_the_frame_that_missed_an_object():
    """Frame 2 did not see it and frame 4 saw something where nothing is."""
    true, flows = passing_square()
    said = true.copy()
    said[2] = 0
    said[4, 30:36, 30:36] = 1
    found = M.voted(said, np.ones((6, 2, 40, 60), np.float32), flows) > M.MAJORITY
    assert (found == (true > 0.5)).mean((1, 2)).min() > 0.97
    assert not found[4, 30:36, 30:36].any() and found[2][true[2] > 0].mean() > 0.9


def test_a_vote_tells_the_frames_between_those_that_know():
    true, flows = passing_square()
    said = true.copy()
    said[[1, 3]] = 0  # 5 is the last one, which is asked
    found = M.voted(said, np.ones((6, 2, 40, 60), np.float32), flows, every=2) > M.MAJORITY
    assert (found == (true > 0.5)).mean((1, 2)).min() > 0.97
    assert not M.voted(0 * said, np.ones((6, 2, 40, 60), np.float32), flows, every=2).any()


def test_outlines_are_sought_around_objects_alone(monkeypatch):
    image, said = torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 60, 90)
    said[:, 20:35, 30:50] = 1
    part = M.snapped(said, image)
    monkeypatch.setattr(M, "around", lambda wanted, margin: (slice(None),) * 3)
    whole = M.snapped(said, image)
    assert torch.allclose(part, whole, atol=1e-3) and 0.1 < (part - said).abs().max()
    monkeypatch.undo()
    assert M.around(said[0], 3) == (slice(None), slice(17, 38), slice(27, 53))
    assert M.around(torch.zeros(4, 4), 3) == (slice(None),) * 3


def test_outlines_snap_to_colours():
    image, said = torch.zeros(3, 40, 60), torch.zeros(1, 40, 60)
    image[:, 10:30, 20:40] = 0.6
    said[:, 8:29, 21:42] = 0.8
    found = M.snapped(said, image)[0] > 0.5
    true = image[0] > 0.3
    assert (found & true).sum() / (found | true).sum() > 0.97


def test_the_temporal_filter_takes_flicker_and_keeps_truth(room):
    truth, shot, solution = room
    true = resize(truth.depth, dense_size(shot.size))[:, 0].numpy()
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal((6, 1, 1))).astype(np.float32)
    flows, still = Flows(shot, dis_flow), np.zeros_like(true)

    def error(depth):
        return np.abs(np.log(D.filtered(shot, solution, D.Dense(depth, still, still), flows, Store()) / true))

    flicker = np.abs(np.log(noise)).mean()
    assert error(true * noise).mean() < 0.7 * flicker
    assert np.median(error(true)) < 0.004 and error(true).mean() < 0.2 * flicker
    alone = shot.part(2, 3)
    one = D.Dense(true[2:3], still[:1], still[:1])
    part = replace(solution, world_T_cam=solution.world_T_cam[2:3], depth_scale=solution.depth_scale[2:3])
    assert np.allclose(D.filtered(alone, part, one, Flows(alone, dis_flow), Store()), true[2:3])
