"""What geometry finds out about real clips, as rows to learn from beside rendered ones.

A network learns from refined depth what it would learn from the self-supervised objective, whose minimum that depth
is, but without a warp in the loop, and without the wrong minima (SfM-TTR, Izquierdo and Civera 2023, before test time).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glvid.data.frames import LEFT_OUT, Footage
from glvid.data.pool import row_type
from glvid.dense import Dense, full_depth, triangulate_shot
from glvid.files import atomic_write, published
from glvid.geometry import inverse
from glvid.predict import Flows, as_tensor, fine_dis_flow, predict_camera, predict_depth
from glvid.solve import PARALLAX, solve
from glvid.types import Intrinsics, Shot, Solution
from glvid.views import dense_prior
from glvid.warp import resize, visibility

LENGTH = 48  # frames solved together
SEGMENTS = 2  # at most, of one clip, spread over it
APART = (1, 2, 4)  # frames between the two of a row
COST = 0.4  # px^2: robust reprojection cost above which a solution is not believed
BELIEVED = 0.7  # log units: what differs more from the network's depth (2 times) more often moves than is a discovery
FOCAL_KNOWN = 0.05  # one standard deviation of log focal length, below which it is learned from
GUESS = 0.03  # how far depth counts where flow does not determine it: there it has the network's shape


@dataclass(frozen=True)
class Solved:
    """A segment of a clip as geometry sees it."""

    shot: Shot
    solution: Solution
    dense: Dense


def segments(shot: Int[np.ndarray, " N"]) -> list[np.ndarray]:
    """Numbers of the frames of up to SEGMENTS stretches without a cut, at most LENGTH frames each."""
    shots = [np.flatnonzero(shot == k) for k in np.unique(shot) if k != LEFT_OUT]
    parts = [part for shot in shots for part in np.array_split(shot, -(-len(shot) // LENGTH)) if len(part) >= 8]
    chosen = np.linspace(0, len(parts) - 1, min(SEGMENTS, len(parts))).round().astype(int)
    return [parts[k] for k in np.unique(chosen)]


def solved(
    images: np.ndarray,
    depth_net: nn.Module,
    camera_net: nn.Module,
    shape: tuple[int, int],
    camera: Intrinsics | None = None,
) -> Solved | str:
    """Camera and dense depth of frames (N, H, W, 3) uint8 of a clip of `shape`, or why they are not to be trusted.

    camera: the intrinsics where they are known; they stay as they are.
    """
    # what the network says of its error stays out: it would decide what it is taught
    shot = Shot(np.arange(len(images)) / 15.0, images, predict_depth(depth_net, images))
    start = predict_camera(camera_net, images[:-1:3], images[1::3], shape) if camera is None else camera
    flows = Flows(shot, fine_dis_flow)
    known = camera is not None
    solution = solve(shot, flows, start, given=known, fix=known)
    if solution.parallax < PARALLAX:
        return f"no parallax ({solution.parallax:.1f} px)"
    if solution.cost > COST:
        return f"matches do not fit one camera (cost {solution.cost:.2f})"
    return Solved(shot, solution, triangulate_shot(shot, solution, flows, solution.offsets, lambda n: None))


def sureness(found: Solved, n: int) -> Float[Tensor, "1 1 h w"]:
    """How far the depth of frame n is to be learned, GUESS..1, at refinement size."""
    change = torch.from_numpy(found.dense.depth[n]).log() - dense_prior(found.shot, found.solution, n)[0].log()
    believed = torch.sigmoid((BELIEVED - change.abs()) / (0.1 * BELIEVED))
    return (GUESS + (1 - GUESS) * torch.from_numpy(found.dense.sure[n]) * believed)[None, None]


def rows(found: Solved) -> Iterator[np.ndarray]:
    """Pairs of a solved segment in the form of rendered ones."""
    shot, camera = found.shot, found.solution.intrinsics
    for k in range(len(shot) - 1):
        pair = [k, min(k + APART[k % len(APART)], len(shot) - 1)]
        a, b = (np.asarray(shot.images[n : n + 1]) for n in pair)
        flow = torch.cat([fine_dis_flow(a, b), fine_dis_flow(b, a)])
        world_T_a, world_T_b = found.solution.world_T_cam[pair]
        row = np.zeros((), row_type(shot.size))
        row["image"] = shot.images[pair]
        for slot, n in enumerate(pair):
            depth = full_depth(shot, found.solution, found.dense, n, as_tensor(shot.images[n : n + 1]))
            row["depth"][slot] = depth[0, 0].clamp(1e-3, 6e4).numpy()
            row["sure"][slot] = (255 * resize(sureness(found, n), shot.size)[0, 0]).round().numpy()
        row["flow"] = flow.permute(0, 2, 3, 1).clamp(-6e4, 6e4).numpy()
        row["visible"] = visibility(flow[:1], flow[1:])[0, 0].numpy() > 0.5
        row["b_T_a"] = (inverse(world_T_b) @ world_T_a).numpy()
        row["known"] = found.solution.focal_sigma is not None and found.solution.focal_sigma < FOCAL_KNOWN
        row["focal"], row["center"] = camera.focal.numpy(), camera.center.numpy()
        yield row


def taught(clip: Footage, cache: Path, depth_net: nn.Module, camera_net: nn.Module) -> tuple[np.ndarray, list[str]]:
    """All rows of a clip, memory-mapped from `cache` (made there on first use), and a sentence for every segment."""
    store = cache / f"{clip.images.shape[2]}x{clip.images.shape[1]}-{clip.name}.npy"
    told = store.with_suffix(".txt")
    row = row_type((clip.images.shape[2], clip.images.shape[1]))
    if not told.exists() or np.load(store, mmap_mode="r").dtype != row:  # those of an older glvid are made anew
        cache.mkdir(parents=True, exist_ok=True)
        found, said = [np.zeros(0, row)], []
        for numbers in segments(clip.shot):
            part = solved(np.ascontiguousarray(clip.images[numbers]), depth_net, camera_net, clip.shape, clip.camera)
            where = f"{clip.name} {numbers[0]}..{numbers[-1]}"
            if isinstance(part, str):
                said.append(f"{where}: left out, {part}")
                continue
            found.append(np.stack(list(rows(part))))
            focal, sure = float(part.solution.intrinsics.focal[0]), found[-1]["sure"].mean() / 255
            how = "" if found[-1]["known"].all() else " not"
            seen = f"focal {focal:.0f} px{how} to be learned, parallax {part.solution.parallax:.0f} px, sure {sure:.2f}"
            said.append(f"{where}: {len(found[-1])} pairs, {seen}")
        with published(store) as part, open(part, "wb") as file:
            np.save(file, np.concatenate(found))
        atomic_write(told, "\n".join(said).encode())  # last: it says that the rows are complete
    return np.load(store, mmap_mode="r"), told.read_text().splitlines()
