"""Round trips and hand-computed values of geometry.py."""

import pytest
import torch

from glvid import geometry
from glvid.types import Intrinsics

CAMERA = Intrinsics(torch.tensor([50.0, 60.0]), torch.tensor([31.0, 22.5]), (64, 48))


def twists(scale: float, count: int = 200) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=g, dtype=torch.float64)
    w = x[:, 3:] / x[:, 3:].norm(dim=-1, keepdim=True) * scale
    return torch.cat([x[:, :3], w], -1)


def motion(translation: tuple[float, float, float] = (0.3, -0.1, 0.2)) -> torch.Tensor:
    return geometry.se3_exp(torch.tensor([*translation, 0.02, -0.05, 0.03]))


def test_rolled_flow_is_what_rows_taken_one_after_another_see():
    """Against exact rolling-shutter projection: every row of either picture from the pose of its own time."""
    readout, size = 0.6, CAMERA.size

    def cam_T_world(t: torch.Tensor) -> torch.Tensor:
        t = torch.as_tensor(t).double()
        turn = torch.stack([0.06 * (0.5 * t).sin(), 0.08 * (0.4 * t).cos(), 0.02 * t], -1)
        return geometry.se3_exp(torch.cat([torch.stack([0.05 * t, 0.1 * (0.4 * t).sin(), 0.03 * t], -1), turn], -1))

    def moved(T: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
        return (T[:, :3, :3] @ X[..., None])[..., 0] + T[:, :3, 3]

    frames = cam_T_world(torch.arange(6))
    depth = 3 + torch.rand(1, size[1], size[0], generator=torch.Generator().manual_seed(1))
    pixels = geometry.pixel_grid(size, depth)
    row = (pixels[1] / size[1] - 0.5).flatten()
    X = geometry.backproject(depth, CAMERA).flatten(1).T.double()
    world = moved(geometry.inverse(cam_T_world(2 + readout * row)), X)
    for j in (3, 1, 4):
        y = pixels[1].flatten().double()
        for _ in range(8):  # the row in which a point is seen decides when, and so where
            seen = moved(cam_T_world(j + readout * (y / size[1] - 0.5)), world)
            xy = seen[:, :2] / seen[:, 2:] * CAMERA.focal + CAMERA.center
            y = xy[:, 1]
        exact = (xy.T - pixels.flatten(1)).float().unflatten(1, (size[1], size[0]))
        rigid, _ = geometry.rigid_flow(depth, CAMERA, (frames[j] @ geometry.inverse(frames[2])).float())
        rolled = geometry.rolled_flow(depth, CAMERA, frames, 2, [j], readout)[0]
        before, after = ((exact - flow).norm(dim=0).mean() for flow in (rigid, rigid + rolled))
        assert before > 0.1 and after < 0.2 * before
    assert not geometry.rolled_flow(depth, CAMERA, frames, 2, [3], 0.0).any()


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.009, 0.011, 1.0, 3.0, 3.1415])
def test_se3_round_trip(angle):
    x = twists(angle)
    T = geometry.se3_exp(x)
    assert torch.allclose(geometry.se3_log(T), x, atol=1e-6 if angle > 3.1 else 1e-9)
    assert torch.allclose(T[:, :3, :3] @ T[:, :3, :3].mT, torch.eye(3, dtype=T.dtype).expand(len(T), 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(T[:, :3, :3]), torch.ones(len(T), dtype=T.dtype))


def test_se3_exp_is_the_matrix_exponential():
    x = twists(1.3, 20)
    generator = torch.zeros(20, 4, 4, dtype=torch.float64)
    generator[:, :3, :3], generator[:, :3, 3] = geometry.hat(x[:, 3:]), x[:, :3]
    assert torch.allclose(geometry.se3_exp(x), torch.linalg.matrix_exp(generator), atol=1e-12)


def test_se3_gradient_is_finite_at_identity():
    x = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(geometry.se3_exp, (x,))
    small = torch.full((6,), 1e-3, dtype=torch.float64, requires_grad=True)
    (geometry.se3_log(geometry.se3_exp(small)) ** 2).sum().backward()
    assert torch.allclose(small.grad, 2 * small.detach(), atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.0, 3.14159])
def test_quaternion_round_trip(angle):
    R = geometry.se3_exp(twists(angle))[:, :3, :3]
    q = geometry.quaternion(R)
    assert torch.allclose(q.norm(dim=-1), torch.ones(len(q), dtype=q.dtype))
    assert torch.allclose(geometry.rotation(q), R, atol=1e-9)


def test_quaternion_of_a_quarter_turn_about_z():
    R = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert torch.allclose(geometry.quaternion(R), torch.tensor([0.0, 0, 0.5**0.5, 0.5**0.5]))


def test_inverse_and_transform():
    T = geometry.se3_exp(twists(1.0, 5)).float()
    assert torch.allclose(geometry.inverse(T) @ T, torch.eye(4).expand(5, 4, 4), atol=1e-6)
    points = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(geometry.transform(geometry.inverse(T), geometry.transform(T, points)), points, atol=1e-5)


def test_rigid_takes_rounding_back():
    T = geometry.se3_exp(twists(3.0, 50))
    assert torch.allclose(geometry.rigid(T), T, atol=1e-14)
    worn = T.clone()
    worn[:, :3, :3] *= 1.001
    worn[:, 0, 0] += 1e-4
    R = geometry.rigid(worn)[:, :3, :3]
    assert torch.allclose(R.transpose(1, 2) @ R, torch.eye(3).double().expand(50, 3, 3), atol=1e-14)
    assert torch.allclose(geometry.rigid(worn), T, atol=2e-4)


def test_pixel_grid_has_centres_at_one_half():
    grid = geometry.pixel_grid((3, 2), torch.zeros(1))
    assert grid[0].tolist() == [[0.5, 1.5, 2.5]] * 2
    assert grid[1].tolist() == [[0.5] * 3, [1.5] * 3]


def test_project_inverts_backproject():
    depth = 1 + torch.rand(2, 1, 48, 64, generator=torch.Generator().manual_seed(1))
    camera = Intrinsics(CAMERA.focal.expand(2, 2), CAMERA.center.expand(2, 2), CAMERA.size)
    points = geometry.backproject(depth, camera)
    assert torch.allclose(points[:, 2:], depth)
    assert torch.allclose(
        geometry.project(points, camera), geometry.pixel_grid(CAMERA.size, depth).expand(2, 2, 48, 64), atol=1e-4
    )


def test_rigid_flow_of_a_sideways_step():
    j_T_i = torch.eye(4)
    j_T_i[0, 3] = 0.5  # points move 0.5 to the right: the camera went left
    flow, z = geometry.rigid_flow(torch.full((1, 48, 64), 5.0), CAMERA, j_T_i)
    assert torch.allclose(flow[0], torch.full((48, 64), 50 * 0.5 / 5.0), atol=1e-4)
    assert torch.allclose(flow[1], torch.zeros(48, 64), atol=1e-4)
    assert torch.allclose(z, torch.full((1, 48, 64), 5.0))


def test_epipolar_distance_is_zero_at_the_truth_and_pixels_off_it():
    depth = 2 + 3 * torch.rand(1, 48, 64, generator=torch.Generator().manual_seed(2))
    flow, _ = geometry.rigid_flow(depth, CAMERA, motion())
    assert geometry.epipolar_distance(flow, CAMERA, motion()).max() < 2e-4
    assert geometry.epipolar_distance(flow, CAMERA, motion((0.6, -0.2, 0.4))).max() < 2e-4  # length of t is free
    sideways = torch.eye(4)
    sideways[0, 3] = 1.0  # epipolar lines are rows
    off = torch.tensor([4.0, 3.0])[:, None, None].expand(2, 48, 64)
    assert torch.allclose(geometry.epipolar_distance(off, CAMERA, sideways), torch.full((1, 48, 64), 3.0), atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.3, 7.0])
def test_umeyama_recovers_a_similarity(scale):
    g = torch.Generator().manual_seed(5)
    a = torch.randn(30, 3, generator=g, dtype=torch.float64)
    T = geometry.se3_exp(twists(2.0, 1)[0])
    b = scale * a @ T[:3, :3].T + T[:3, 3]
    s, R, t = geometry.umeyama(a, b)
    assert abs(s - scale) < 1e-9
    assert torch.allclose(R, T[:3, :3], atol=1e-9) and torch.allclose(t, T[:3, 3], atol=1e-9)
    s, R, _ = geometry.umeyama(a, b, with_scale=False)
    assert s == 1 and torch.allclose(R, T[:3, :3], atol=1e-9)


def test_umeyama_gives_a_rotation_for_mirrored_points():
    a = torch.randn(30, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    _, R, _ = geometry.umeyama(a, a * torch.tensor([1.0, 1, -1]))
    assert abs(torch.linalg.det(R) - 1) < 1e-9
