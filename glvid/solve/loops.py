"""Places seen again: keyframes far apart in time that show the same place tie the path together.

What a chain of windows gains in length it loses in scale and direction, a little in each. Where two keyframes match,
their relative pose and scale say how much; a graph of similarities (Strasdat et al. 2010) spreads it along the path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from glvid.geometry import inverse, se3_exp, so3_log
from glvid.parallel import each
from glvid.solve.starts import two_view
from glvid.types import Shot, Solution

APART = 100  # frames between two keyframes that may close a loop: nearer ones bundle adjustment has tied already
MOVED, TURNED, LATER = 0.15, 0.14, 30  # median depths, radians or frames after which a new keyframe begins
MOST = 400  # keyframes: with many loops the graph's factors fill, and take memory with the square of these
WORDS = 32  # of the vocabulary that keyframes are compared by
TRIED = 3  # earlier keyframes that each is matched with, the most similar ones
MATCHES, SHARE = 25, 0.4  # matched features that a loop needs, and share of them that its pose explains
EXPLAINED = 0.02  # of the picture's width by which a match may be off
STEP_SIGMA = (0.005, 0.001, 0.002)  # of a step of one frame: place (median depths), direction (rad), log scale
LOOP_SIGMA = (0.1, 0.02, 0.1)  # of a loop, whose scale is the network's: only large drift is to be taken back
WRONG = 2.0  # sigmas off at which a loop is half believed, in the end
LOST = 1e8  # sigmas off at which a path is beyond mending; a solver of sparse systems may die of such, or of NaN
CONTRADICTED = 2.0  # sigmas by which half of the loops must be off before the path is touched, and less after


@dataclass(frozen=True)
class Keyframe:
    """Features of a frame: where (px), rays (z = 1), depth (path units), descriptors."""

    xy: Float32[np.ndarray, "F 2"]
    rays: Float64[np.ndarray, "F 2"]
    depth: Float64[np.ndarray, " F"]
    words: Float32[np.ndarray, "F 128"]


@dataclass(frozen=True)
class Graph:
    """Similarities j_S_i = (R, t, log scale) between keyframes i and j, each frame in a unit of its own."""

    i: Tensor  # (E,)
    j: Tensor
    R: Float64[Tensor, "E 3 3"]
    t: Float64[Tensor, "E 3"]
    log_scale: Float64[Tensor, " E"]
    sigma: Float64[Tensor, "E 7"]  # place in units of t, direction, log scale
    loop: Tensor  # (E,) bool: such an edge may be wrong


def closed(shot: Shot, solution: Solution) -> Solution:
    """The solution with its loops closed, where the shot has any that contradict it; else as it is."""
    if len(shot) <= APART or not solution.solved:
        return solution
    depth_of = cache(partial(typical_depth, shot, solution))  # of all frames it would be gigabytes to read
    keys = keyframes(solution, depth_of)
    loops = found_loops(shot, solution, keys)
    if not loops:
        return solution
    graph = graph_of(solution, keys, [depth_of(n) for n in keys], loops)
    change = relaxed(graph, len(keys))
    return solution if change is None else bent(solution, keys, change)


def typical_depth(shot: Shot, solution: Solution, n: int) -> float:
    """Median depth of a frame, path units."""
    return float(np.median(shot.depth[n][::8, ::8])) * float(solution.depth_scale[n])


def keyframes(solution: Solution, depth_of: Callable[[int], float]) -> list[int]:
    """The first frame, the last one, and every one that shows something else than the keyframe before."""
    at, R = solution.world_T_cam[:, :3, 3].numpy(), solution.world_T_cam[:, :3, :3].numpy()
    keys = [0]
    for n in range(1, len(at)):
        k = keys[-1]
        turned = np.arccos(np.clip((np.trace(R[k].T @ R[n]) - 1) / 2, -1, 1))
        if np.linalg.norm(at[n] - at[k]) > MOVED * depth_of(k) or turned > TURNED or n - k >= LATER:
            keys.append(n)
    keys = [keys[k] for k in np.unique(np.linspace(0, len(keys) - 1, min(MOST, len(keys))).round().astype(int))]
    return keys if keys[-1] == len(at) - 1 else [*keys, len(at) - 1]


# --- loops ------------------------------------------------------------------------------------------------------------


def found_loops(
    shot: Shot, solution: Solution, keys: Sequence[int]
) -> list[tuple[int, int, Float64[np.ndarray, "4 4"], float]]:
    """(a, b, pose, log scale): keyframe numbers a < b of the same place; b's points are scale * (R X_a + t)."""
    frames = list(each(lambda n: features(shot, solution, n), keys))
    described = descriptions(frames)
    if described is None:
        return []
    alike = described @ described.T
    tried = []
    for b in range(len(keys)):
        earlier = [a for a in range(b) if keys[b] - keys[a] >= APART]
        tried += [(a, b) for a in sorted(earlier, key=lambda a: -alike[a, b])[:TRIED]]
    found = each(lambda pair: matched(frames[pair[0]], frames[pair[1]], solution, shot.size[0]), tried)
    return [(a, b, *f) for (a, b), f in zip(tried, found, strict=True) if f is not None]


def features(shot: Shot, solution: Solution, n: int) -> Keyframe:
    """SIFT features (Lowe 2004) of a frame, root-normalised (Arandjelovic and Zisserman 2012)."""
    grey = cv2.cvtColor(np.ascontiguousarray(shot.images[n]), cv2.COLOR_RGB2GRAY)
    points, words = cv2.SIFT_create(600, contrastThreshold=0.02).detectAndCompute(grey, None)
    if not points:
        return Keyframe(np.zeros((0, 2), np.float32), np.zeros((0, 2)), np.zeros(0), np.zeros((0, 128), np.float32))
    xy = np.float32([p.pt for p in points]) + np.float32(0.5)  # OpenCV counts from the centre of the first pixel
    depth = shot.depth[n][xy[:, 1].astype(int), xy[:, 0].astype(int)] * float(solution.depth_scale[n])
    camera = solution.intrinsics
    rays = (xy - camera.center.numpy()) / camera.focal.numpy()
    words = np.sqrt(words / np.maximum(words.sum(1, keepdims=True), 1e-9))
    return Keyframe(xy, rays.astype(np.float64), depth.astype(np.float64), words.astype(np.float32))


def descriptions(frames: Sequence[Keyframe]) -> Float32[np.ndarray, "K D"] | None:
    """One vector a keyframe, of unit length: where its features lie beside the words of the clip's own vocabulary
    (VLAD, Jegou et al. 2010). None where there are too few features."""
    everything = np.concatenate([f.words for f in frames])
    if len(everything) < 10 * WORDS:
        return None
    sample = everything[np.linspace(0, len(everything) - 1, min(len(everything), 20_000)).astype(int)]
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-3)
    _, _, centres = cv2.kmeans(sample, WORDS, None, stop, 1, cv2.KMEANS_PP_CENTERS)
    out = np.zeros((len(frames), WORDS, 128), np.float32)
    for k, frame in enumerate(frames):
        if len(frame.words):
            word = (frame.words @ centres.T - 0.5 * (centres**2).sum(1)).argmax(1)
            np.add.at(out[k], word, frame.words - centres[word])
    out = (np.sign(out) * np.sqrt(np.abs(out))).reshape(len(frames), -1)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def matched(
    a: Keyframe, b: Keyframe, solution: Solution, width: int
) -> tuple[Float64[np.ndarray, "4 4"], float] | None:
    """Pose b_T_a in a's unit and log of b's unit over a's; None where the two do not show the same place."""
    if min(len(a.words), len(b.words)) < MATCHES:
        return None
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    there, back = matcher.knnMatch(a.words, b.words, 2), matcher.match(b.words, a.words)
    pairs = [m for m, other in there if m.distance < 0.8 * other.distance and back[m.trainIdx].trainIdx == m.queryIdx]
    if len(pairs) < MATCHES:
        return None
    p, q = (np.array([getattr(m, side) for m in pairs]) for side in ("queryIdx", "trainIdx"))
    focal = float(solution.intrinsics.focal[0])
    pose = two_view(a.rays[p], b.rays[q], a.depth[p], 2.0 / focal)
    points = np.c_[a.rays[p], np.ones(len(p))] * a.depth[p][:, None] @ pose[:3, :3].T + pose[:3, 3]
    seen = points[:, :2] / np.maximum(points[:, 2:], 1e-6)
    near = (np.linalg.norm(seen - b.rays[q], axis=1) * focal < EXPLAINED * width) & (points[:, 2] > 0)
    if near.sum() < MATCHES or near.mean() < SHARE:
        return None
    return pose, float(np.median(np.log(b.depth[q][near] / points[near, 2])))


# --- the graph --------------------------------------------------------------------------------------------------------


def graph_of(
    solution: Solution,
    keys: Sequence[int],
    depth: Sequence[float],
    loops: Sequence[tuple[int, int, Float64[np.ndarray, "4 4"], float]],
) -> Graph:
    """The path's own steps between keyframes, and the loops; depth: typical of each keyframe, path units."""
    cam_T_world = inverse(solution.world_T_cam[list(keys)])
    step = cam_T_world[1:] @ inverse(cam_T_world[:-1])
    n, m = len(step), len(loops)
    i = torch.tensor([*range(n), *(a for a, *_ in loops)])
    j = torch.tensor([*range(1, n + 1), *(b for _, b, *_ in loops)])
    scale = torch.tensor([*[0.0] * n, *(s for *_, s in loops)], dtype=torch.float64)
    pose = torch.cat([step, torch.tensor(np.array([T for _, _, T, _ in loops]))])
    long = torch.tensor(list(keys), dtype=torch.float64).diff().sqrt()  # drift grows as a random walk
    place, angle, size = (torch.cat([a * long, b * torch.ones(m)]) for a, b in zip(STEP_SIGMA, LOOP_SIGMA, strict=True))
    far = torch.tensor(list(depth), dtype=torch.float64)[j]
    sigma = torch.cat([(place * far)[:, None].expand(-1, 3), angle[:, None].expand(-1, 3), size[:, None]], 1)
    t = pose[:, :3, 3] * scale.exp()[:, None]  # in j's unit
    return Graph(i, j, pose[:, :3, :3], t, scale, sigma.double(), torch.arange(n + m) >= n)


@dataclass(frozen=True)
class Similarities:
    """Where keyframes are: X_world = scale R X + t."""

    R: Float64[Tensor, "K 3 3"]
    t: Float64[Tensor, "K 3"]
    log_scale: Float64[Tensor, " K"]

    def moved(self, step: Float64[Tensor, "K 7"]) -> "Similarities":
        """Each changed by a small similarity in its own frame: place, direction, log scale."""
        T = se3_exp(step[:, :6])
        t = self.t + self.log_scale.exp()[:, None] * (self.R @ T[:, :3, 3:])[..., 0]
        return Similarities(self.R @ T[:, :3, :3], t, self.log_scale + step[:, 6])


def residuals(graph: Graph, now: Similarities) -> Float64[Tensor, "E 7"]:
    """By how many sigmas the measured j_S_i are off."""
    i, j = graph.i, graph.j
    Rj = now.R[j].transpose(1, 2)
    t = (Rj @ (now.t[i] - now.t[j])[..., None])[..., 0] / now.log_scale[j].exp()[:, None]
    off = graph.R.transpose(1, 2) @ Rj @ now.R[i]
    turned = (off - off.transpose(1, 2))[:, (2, 0, 1), (1, 2, 0)] / 2  # the sine: smooth at 0, unlike the angle
    scale = now.log_scale[i] - now.log_scale[j] - graph.log_scale
    return torch.cat([t - graph.t, turned, scale[:, None]], 1) / graph.sigma


def worst(r: Float64[Tensor, "E 7"]) -> Float64[Tensor, " E"]:
    """Sigmas by which edges are off in place, direction or scale, whichever is most."""
    return torch.stack([r[:, :3].square().mean(1), r[:, 3:6].square().mean(1), r[:, 6].square()]).amax(0).sqrt()


def weights(graph: Graph, r: Float64[Tensor, "E 7"], softness: float) -> Float64[Tensor, " E"]:
    """Of edges: 1 for steps of the path; loops may be wrong (Geman-McClure, softened)."""
    return torch.where(graph.loop, (softness / (softness + (r**2).mean(1) / WRONG**2)) ** 2, 1.0)


def relaxed(graph: Graph, keyframes: int) -> Similarities | None:
    """The similarities that steps and loops agree upon best; None if the loops say nothing new, or contradict each
    other.

    Gauss-Newton on a sparse system, the first keyframe held. A loop is as far off as the path has drifted, whether it
    is right or wrong; so all are believed first, and gradually only those that the others bear out (graduated
    non-convexity, Yang et al. 2020).
    """
    now = chained(graph, keyframes)
    r = residuals(graph, now)
    if float(worst(r[graph.loop]).median()) < CONTRADICTED:
        return None
    softness = max(1.0, float((r[graph.loop] ** 2).mean(1).max()) / WRONG**2)
    while True:
        for _ in range(2):
            r = residuals(graph, now)
            if not r.abs().max() < LOST:
                return None
            now = now.moved(newton_step(graph, now, weights(graph, r, softness), keyframes))
        if softness == 1:
            break
        softness = max(1.0, softness / 2)
    return now if float(worst(residuals(graph, now)[graph.loop]).median()) < CONTRADICTED else None


def chained(graph: Graph, keyframes: int) -> Similarities:
    """Where the steps alone lead, from the origin."""
    R, t = [torch.eye(3, dtype=torch.float64)], [torch.zeros(3, dtype=torch.float64)]
    for step, shift in zip(graph.R[~graph.loop], graph.t[~graph.loop], strict=True):
        R.append(R[-1] @ step.T)
        t.append(t[-1] - R[-1] @ shift)
    return Similarities(torch.stack(R), torch.stack(t), torch.zeros(keyframes, dtype=torch.float64))


def newton_step(graph: Graph, now: Similarities, w: Float64[Tensor, " E"], keyframes: int) -> Float64[Tensor, "K 7"]:
    """The change of all similarities that lowers the weighted squares most, to first order."""
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    n = len(graph.i)
    ends = Similarities(*(torch.cat([x[graph.i], x[graph.j]]) for x in (now.R, now.t, now.log_scale)))
    local = replace(graph, i=torch.arange(n), j=torch.arange(n, 2 * n))
    columns, small = [], 1e-6
    for k in range(14):  # an edge depends on its own two ends alone: one derivative of all edges at once
        change = torch.zeros(2 * n, 7, dtype=torch.float64)
        change[(k // 7) * n : (k // 7 + 1) * n, k % 7] = small
        up, down = (residuals(local, ends.moved(sign * change)) for sign in (1, -1))
        columns.append((up - down) / (2 * small))
    r, J = residuals(local, ends), torch.stack(columns, -1)  # (E, 7), (E, 7, 14)
    index = 7 * torch.stack([graph.i, graph.j], 1)[..., None] + torch.arange(7)
    rows, across = torch.broadcast_tensors(torch.arange(7 * n).reshape(n, 7, 1), index.reshape(n, 1, 14))
    root = w.sqrt()[:, None]
    A = sparse.coo_array(
        ((J * root[..., None]).flatten().numpy(), (rows.flatten().numpy(), across.flatten().numpy())),
        shape=(7 * n, 7 * keyframes),
    ).tocsc()[:, 7:]
    b = (r * root).flatten().numpy()
    x = spsolve((A.T @ A + 1e-9 * sparse.eye_array(A.shape[1])).tocsc(), -(A.T @ b))
    return torch.cat([torch.zeros(7, dtype=torch.float64), torch.from_numpy(x)]).reshape(-1, 7)


def bent(solution: Solution, keys: Sequence[int], now: Similarities) -> Solution:
    """The solution with its keyframes where `now` has them, the frames between them in between."""
    frames = torch.arange(len(solution.world_T_cam))
    index = torch.tensor(list(keys))
    right = torch.searchsorted(index, frames, right=True).clamp(1, len(index) - 1)
    left = right - 1
    share = ((frames - index[left]) / (index[right] - index[left])).double()
    at = []
    for end in (left, right):  # every frame as it lies beside either keyframe
        step = inverse(solution.world_T_cam[index[end]]) @ solution.world_T_cam
        scale = now.log_scale[end].exp()
        at.append((now.R[end] @ step[:, :3, :3], now.t[end] + scale[:, None] * (now.R[end] @ step[:, :3, 3:])[..., 0]))
    (Ra, ta), (Rb, tb) = at
    twist = torch.cat([torch.zeros(len(frames), 3, dtype=torch.float64), so3_log(Ra.transpose(1, 2) @ Rb)], 1)
    path = torch.eye(4, dtype=torch.float64).repeat(len(frames), 1, 1)
    path[:, :3, :3] = Ra @ se3_exp(share[:, None] * twist)[:, :3, :3]
    path[:, :3, 3] = torch.lerp(ta, tb, share[:, None])
    scale = torch.lerp(now.log_scale[left], now.log_scale[right], share).exp()
    return replace(solution, world_T_cam=path, depth_scale=solution.depth_scale * scale)
