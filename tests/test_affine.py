"""Priors that are inverse depth up to scale and shift become depth, where the camera moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from glvid.geometry import inverse, rigid_flow
from glvid.predict import Flows, fine_dis_flow
from glvid.solve.affine import fitted, inverse_depths, straightened
from glvid.solve.matches import tracks
from glvid.store import Store
from glvid.types import Intrinsics, Shot, Solution

SIZE, FRAMES = (192, 128), 8


class TrueFlows(Flows):
    """Exact flow of a static scene."""

    def __init__(self, shot, depth, poses, camera):
        super().__init__(shot, fine_dis_flow)
        self.depth, self.poses, self.camera = depth, poses, camera

    def sharp(self, i, j):
        j_T_i = (inverse(self.poses[j]) @ self.poses[i]).float()
        lens = Intrinsics(self.camera.focal.expand(len(i), 2), self.camera.center.expand(len(i), 2), SIZE)
        return rigid_flow(self.depth[i], lens, j_T_i)[0]


def scene():
    """A slanted wall past which a camera goes sideways; its depth, its path, its camera, pictures of noise."""
    poses = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    poses[:, 0, 3] = 0.12 * torch.arange(FRAMES)
    camera = Intrinsics(torch.tensor([160.0, 160.0]), torch.tensor([96.0, 64.0]), SIZE)
    x, y = np.meshgrid((np.arange(SIZE[0]) + 0.5 - 96) / 160, (np.arange(SIZE[1]) + 0.5 - 64) / 160)
    along = 0.25 * x + 0.15 * y + 0.25  # normal . ray; the wall is where normal . X = 1
    depth = np.stack([(1 - 0.25 * float(t)) / along for t in poses[:, 0, 3]])[:, None].astype(np.float32)
    images = np.random.default_rng(0).integers(0, 255, (FRAMES, SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return torch.from_numpy(depth), poses, camera, images


def solution_of(poses, camera):
    ones = torch.ones(FRAMES, dtype=torch.float64)
    return Solution(camera, 0.0, True, "given", poses, ones, 10.0, 0.0, offsets=(1, 2))


def test_points_are_triangulated():
    depth, poses, camera, images = scene()
    shot = Shot(np.arange(FRAMES) / 15, images, depth[:, 0].numpy())
    found = tracks(shot, TrueFlows(shot, depth, poses, camera), (1,), 60)
    rho, known = inverse_depths(found, solution_of(poses, camera))
    n, m = 3, (found.weight[3] > 0.2).all(0) & (known[3] > 0)
    assert m.sum() > 20 and (known[n][~m] < known[n][m].max()).all()
    x, y = found.xy[n].long().T
    assert torch.allclose(rho[n][m], 1 / depth[n, 0, y, x].double()[m], rtol=0.05)


@pytest.mark.parametrize("shift", [-0.04, 0.0, 0.3])
def test_scale_and_shift_are_found_and_undone_in_every_frame(shift):
    depth, poses, camera, images = scene()
    scale = np.exp(0.1 * np.sin(np.arange(FRAMES)))[:, None, None]
    said = 3 * scale * (1 / depth[:, 0].numpy() + shift)  # inverse depth, of another unit in every frame
    shot = Shot(np.arange(FRAMES) / 15, images, (1 / said).astype(np.float32))
    unit = torch.from_numpy(np.median(said * depth[:, 0].numpy(), (1, 2))).double()  # as the solve would tie them
    before = replace(solution_of(poses, camera), depth_scale=unit)
    fixed, solved, found = straightened(shot, TrueFlows(shot, depth, poses, camera), before, Store())
    straight = fixed.depth * solved.depth_scale.numpy()[:, None, None]
    assert np.median(np.abs(straight / depth[:, 0].numpy() - 1)) < 0.02
    assert np.abs(straight / depth[:, 0].numpy() - 1).mean() < 0.03
    assert found == pytest.approx(-3 * shift, abs=0.06)


def test_what_moves_on_its_own_does_not_bend_the_fit():
    rng = torch.Generator().manual_seed(0)
    rho = 0.1 + torch.rand(400, generator=rng, dtype=torch.float64)
    said = (rho - 0.05) / 2
    rho[:100] *= 3
    assert torch.allclose(
        fitted(said, rho, torch.full_like(rho, 100), None), torch.tensor([2.0, 0.05]).double(), atol=5e-3
    )


def test_a_camera_that_rests_leaves_everything_as_it_is():
    depth, poses, camera, images = scene()
    poses = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    shot = Shot(np.arange(FRAMES) / 15, images, depth[:, 0].numpy())
    before = solution_of(poses, camera)
    assert straightened(shot, TrueFlows(shot, depth, poses, camera), before, Store()) == (shot, before, 0.0)


def test_a_frame_without_points_keeps_its_own_scale_and_takes_the_shift_of_the_others():
    """Nothing in the last frame has parallax, and the model speaks in another unit there."""
    depth, poses, camera, images = scene()
    unit = np.ones(FRAMES)
    unit[-1] = 3
    said = unit[:, None, None] * (1 / depth[:, 0].numpy() + 0.05)
    shot = Shot(np.arange(FRAMES) / 15, images, (1 / said).astype(np.float32))
    flows = TrueFlows(shot, depth.clone(), poses, camera)
    flows.depth[-1] = 1e4
    tied = torch.from_numpy(np.median(said * depth[:, 0].numpy(), (1, 2)))
    before = replace(solution_of(poses, camera), depth_scale=tied.double())
    fixed, solved, shift = straightened(shot, flows, before, Store())
    straight = fixed.depth[-1] * float(solved.depth_scale[-1])
    assert shift == pytest.approx(-0.05, abs=0.02)
    assert abs(np.median(straight / depth[-1, 0].numpy()) - 1) < 0.15


def test_a_shift_that_makes_no_sense_is_not_taken():
    """Truth is the same everywhere, whatever the model says: no scale explains that."""
    depth, poses, camera, images = scene()
    said = np.random.default_rng(0).uniform(0.5, 2, (FRAMES, SIZE[1], SIZE[0]))
    shot = Shot(np.arange(FRAMES) / 15, images, (1 / said).astype(np.float32))
    flat = torch.full_like(depth, 4.0)
    before = solution_of(poses, camera)
    after = straightened(shot, TrueFlows(shot, flat, poses, camera), before, Store())
    assert after[2] == 0.0 and after[0] is shot and after[1] is before
