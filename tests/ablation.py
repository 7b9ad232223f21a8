"""What each term of the objective is worth: refinement with one left out at a time, on rendered clips with truth.

`python tests/ablation.py [--frames 10] [--steps 20]` prints a Markdown table: Abs Rel (median scaling per frame) after
`params` and after `output`, and how far directions of motion are off; means over three worlds that nothing was trained
or tuned on. "paper" is GLNet's objective as published: plain per-pixel minimum, geometric terms on moving pixels too,
no priors.
"""

import argparse
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from glvid import weights
from glvid.dense import Dense, triangulate_shot
from glvid.losses import PAPER, LossWeights
from glvid.predict import Flows, fine_dis_flow, predict_camera, predict_depth, working_size
from glvid.refine import Plan, refine_outputs, refine_parameters
from glvid.solve import solve
from glvid.synthetic import Truth, scene
from glvid.types import Shot, Solution
from glvid.warp import resize

WORLDS = (("handheld", 870_001), ("driving", 870_002), ("walk", 870_003))
SIZE = (384, 224)


@dataclass(frozen=True)
class Case:
    """A clip solved and triangulated, ready to be refined."""

    truth: Truth
    shot: Shot
    solution: Solution
    dense: Dense


def case(kind: str, seed: int, frames: int) -> Case:
    """The world of a seed as `infer` sees it before refinement."""
    truth, size = scene(seed, kind, frames, SIZE), working_size(SIZE)
    images = (resize(truth.images, size).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    depth, camera = (weights.load(f"{name}-small", name)[0] for name in ("depth", "camera"))
    shot = Shot(np.arange(frames) / 10, images, predict_depth(depth, images))
    flows = Flows(shot, fine_dis_flow)
    solution = solve(shot, flows, predict_camera(camera, images[:-1], images[1:], SIZE))
    return Case(truth, shot, solution, triangulate_shot(shot, solution, flows, solution.offsets, lambda n: None))


def abs_rel(depth: np.ndarray, truth: Truth) -> float:
    """Mean over frames, of depths below 80 m."""
    true = resize(truth.depth, (depth.shape[2], depth.shape[1]))[:, 0].numpy()
    errors = []
    for p, g in zip(depth, true, strict=True):
        near = g < 80
        p, g = p[near], g[near]
        errors.append(np.mean(np.abs(p * np.median(g) / np.median(p) - g) / g))
    return float(np.mean(errors))


def turned(solution: Solution, truth: Truth) -> float:
    """Mean angle between the true directions of motion and those of the path, degrees."""
    angles = []
    for n in range(len(truth.images) - 1):
        a, b = ((torch.linalg.inv(T[n]) @ T[n + 1])[:3, 3] for T in (solution.world_T_cam, truth.world_T_cam.double()))
        if b.norm() > 1e-6:
            angles.append(float(torch.rad2deg(torch.acos((a @ b / (a.norm() * b.norm() + 1e-12)).clamp(-1, 1)))))
    return float(np.mean(angles))


def refined(c: Case, objective: LossWeights, steps: int) -> tuple[float, float, float]:
    """Abs Rel after `params` and after `output`, and directions of motion after `output`."""
    net = weights.load("depth-small", "depth")[0]
    plan = Plan("params", steps, weights=objective)
    tuned, _ = refine_parameters(c.shot, c.solution, c.dense, Flows(c.shot, fine_dis_flow), net, plan, lambda n: None)
    plan = replace(plan, mode="output")
    dense, solution, _ = refine_outputs(c.shot, c.solution, c.dense, Flows(c.shot, fine_dis_flow), plan, lambda n: None)
    return abs_rel(tuned.depth, c.truth), abs_rel(dense.depth, c.truth), turned(solution, c.truth)


def objectives() -> dict[str, LossWeights]:
    """Ours, ours with one term left out, and the paper's."""
    ours = LossWeights()
    terms = [
        f.name for f in fields(ours) if getattr(ours, f.name) and f.name not in ("flow_consistency", "flow_smooth")
    ]
    named = {f"without {name}": replace(ours, **{name: 0.0}) for name in terms}
    named["not masked"] = named.pop("without masked")
    return {"all terms": ours, **named, "paper": PAPER}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    cases = [case(kind, seed, given.frames) for kind, seed in WORLDS]
    start = [
        (abs_rel(c.shot.depth, c.truth), abs_rel(c.dense.depth, c.truth), turned(c.solution, c.truth)) for c in cases
    ]
    print("| objective | Abs Rel, params | Abs Rel, output | direction of motion, output |\n|---|---|---|---|")
    rows = [("before", np.mean(start, 0))]
    print(line(*rows[0]), flush=True)
    for name, objective in objectives().items():
        print(line(name, np.mean([refined(c, objective, given.steps) for c in cases], 0)), flush=True)


def line(name: str, numbers: np.ndarray) -> str:
    return f"| {name} | {numbers[0]:.4f} | {numbers[1]:.4f} | {numbers[2]:.2f} deg |"


if __name__ == "__main__":
    main()
