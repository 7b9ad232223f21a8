"""Where bundle adjustment starts: relative poses of neighbours from their matches, chained."""

from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from glvid.solve.bundle import Problem, State
from glvid.solve.matches import Tracks
from glvid.types import Intrinsics


def two_view(a: np.ndarray, b: np.ndarray, depth: np.ndarray, tolerance: float) -> Float64[np.ndarray, "4 4"]:
    """Relative pose b_T_a of matched rays (z = 1) a, b (M, 2); translation in the unit of `depth` (M,).

    Essential matrix by USAC (Ivashechkin et al. 2021). Of its two rotations the smaller is right: neighbouring frames
    of a video never turn by 90 degrees, whereas cheirality, the usual test, fails where parallax is small.
    """
    pose, eye, none = np.eye(4), np.eye(3), np.zeros(5)
    if len(a) < 12:
        return pose
    params = cv2.UsacParams()
    params.confidence, params.maxIterations, params.randomGeneratorState, params.threshold = 0.999, 1000, 0, tolerance
    params.score, params.loMethod, params.sampler = (
        cv2.SCORE_METHOD_MSAC,
        cv2.LOCAL_OPTIM_INNER_LO,
        cv2.SAMPLING_UNIFORM,
    )
    E, _ = cv2.findEssentialMat(a, b, eye, eye, none, none, params)
    if E is None or E.shape != (3, 3):
        return pose
    R1, R2, t = cv2.decomposeEssentialMat(E)
    R, t = max(R1, R2, key=np.trace), t[:, 0]
    turned, seen = np.c_[a, np.ones(len(a))] @ R.T, np.c_[b, np.ones(len(b))]
    # seen ~ turned + rho t  =>  seen x turned = -rho seen x t
    p, q = np.cross(seen, turned), np.cross(seen, t)
    rho = -(p * q).sum(1) / ((q * q).sum(1) + 1e-12)
    speed = np.median(rho * depth)  # rho is in units of 1 / |t|
    pose[:3, :3], pose[:3, 3] = R, t * speed
    return pose


def two_view_chain(tracks: Tracks, camera: Intrinsics) -> Float64[Tensor, "N 4 4"]:
    """Start poses cam_T_world: relative poses of neighbours, one after the other, scaled by the network's depth."""
    poses, forward = [np.eye(4)], tracks.offsets.index(1)
    rays = [((x - camera.center) / camera.focal).double().numpy() for x in (tracks.xy, tracks.target[:, forward])]
    for n in range(len(tracks.xy) - 1):
        ok = (tracks.weight[n, forward] > 0.3).numpy()
        step = two_view(rays[0][n][ok], rays[1][n][ok], tracks.depth[n].numpy()[ok], 1.0 / float(camera.focal[0]))
        poses.append(step @ poses[-1])
    return torch.from_numpy(np.stack(poses))


def start(problem: Problem) -> State:
    """State at the base focal length: chained two-view poses, the network's depth."""
    poses = two_view_chain(problem.tracks, problem.base)
    return State(poses, -problem.tracks.depth.log(), torch.zeros((), dtype=torch.float64))


def resting(problem: Problem) -> State:
    """State of a camera that rests, at the base focal length, with the network's depth."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(problem.tracks.xy), 1, 1)
    return State(poses, -problem.tracks.depth.log(), torch.zeros((), dtype=torch.float64))


def portion(tracks: Tracks, first: int, last: int) -> Tracks:
    """Tracks of frames first..last-1 alone."""
    part = Tracks(
        tracks.offsets, *(getattr(tracks, k)[first:last] for k in ("xy", "target", "weight", "depth", "root"))
    )
    part = replace(part, sigma=None if tracks.sigma is None else tracks.sigma[first:last])
    seen = torch.arange(last - first)[:, None] + torch.tensor(tracks.offsets)
    return replace(part, weight=part.weight * ((seen >= 0) & (seen < last - first))[..., None])


def thinned(tracks: Tracks, every: int) -> Tracks:
    """Every so-many-th point alone."""
    xy, target, weight, depth = tracks.xy, tracks.target, tracks.weight, tracks.depth
    return Tracks(
        tracks.offsets,
        xy[:, ::every],
        target[:, :, ::every],
        weight[:, :, ::every],
        depth[:, ::every],
        tracks.root[:, ::every],
        sigma=None if tracks.sigma is None else tracks.sigma[:, ::every],
    )


def thickened(problem: Problem, state: State, every: int) -> State:
    """A state of `thinned` points as one of all: the others take the network's depth, scaled as theirs is."""
    network = problem.tracks.depth.log()
    scale = (state.log_rho + network[:, ::every]).median(dim=1, keepdim=True).values
    log_rho = scale - network
    log_rho[:, ::every] = state.log_rho
    return replace(state, log_rho=log_rho)
