"""The whole way of one clip: decode → predict → solve → refine → results.

The clip is decoded twice: once to working size, which is all that networks, solve and refinement see, and once more
while the maps are written at full size. So memory does not depend on the stored size. What is known in between lies in
working files, from which another process may go on.
"""

import time
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from glvid import claim, given, metric, quality, refine, results, video
from glvid.errors import MemoryExhausted, UsageError
from glvid.files import stem
from glvid.inference.decode import decode
from glvid.inference.job import (
    Clock,
    Decoded,
    InferOptions,
    Job,
    Report,
    Solved,
    fixed,
    identity,
    load_networks,
    made_by,
    selected,
)
from glvid.inference.work import Work
from glvid.inference.write import write
from glvid.networks import hub
from glvid.predict import (
    Flows,
    chosen_device,
    chosen_precision,
    is_of_memory,
    predict_camera,
    rough_dis_flow,
    working_size,
)
from glvid.solve import PARALLAX, solve
from glvid.solve.affine import straightened
from glvid.store import digest
from glvid.types import Intrinsics, Shot, Solution


def run_folder(source: Path) -> Path:
    """Where a run goes if nobody says where: `<stem>.glvid` in the current folder, never hidden, never an option."""
    return Path(f"{stem(source)}.glvid")


def run(source: Path, out: Path | None, options: InferOptions, report: Report | None = None) -> dict[str, Any]:
    """Everything glvid says about one clip, written to a run folder (`out`, or `<stem>.glvid` in the current folder).

    Returns run.json's content. Raises GlvidError children with the exit codes of the contract.
    """
    report, source = report or Report(), Path(source)
    out = Path(out) if out is not None else run_folder(source)
    clip = video.probe(source, options.fps)
    size = video.stored_size((clip.width, clip.height), options.max_size)
    camera = given.intrinsics(options.intrinsics, (clip.width, clip.height)) if options.intrinsics else None
    if options.temporal_filter and options.refine not in ("output", "both"):
        raise UsageError("--temporal-filter: averages refined depth; use it with --refine output or both")
    if options.fix_intrinsics and camera is None:
        raise UsageError("--fix-intrinsics: there is nothing to fix; give --intrinsics too")
    undistort = given.rectifier(options.distortion, camera.resized(size) if camera else None)
    masks = given.mask_files(options.masks, clip)
    given.checked_masks(masks, size, options.mask_polarity)
    known = None if options.scale_from is None else metric.parsed(options.scale_from)
    device = chosen_device(options.device)
    precision = chosen_precision(options.precision, device)
    networks = load_networks(options, device, precision)
    if isinstance(networks.depth, hub.HubDepth):
        report.note("depth by {name}, licence: {licence}".format(**networks.facts["depth"]))
    expected = results.estimate(
        selected(clip, options) or 1, size, options.keep, options.flow_format, options.max_points, working_size(size)
    )
    stated = identity(clip, options, networks, masks)
    with claim.claimed(out, stated, options.resume, options.overwrite) as verdict:
        if verdict == "done":
            report.note(f"{out}: already done")
            return results.read_info(out)
        results.check_space(out, expected - (occupied(out) if verdict == "resume" else 0))
        inputs = (camera, undistort, masks, known)
        try:
            with Work(out / results.WORK, {"run": stated, "by": made_by(device, precision)}) as work:
                if verdict == "resume" and not work.continues:
                    report.note(f"{out}: was begun by other versions or on another machine; begins again")
                job = Job(clip, out, options, report, networks, device, precision, size, *inputs, Clock(), work)
                document = job_done(job)
                work.remove()
                return document
        except (RuntimeError, MemoryError, OSError, cv2.error) as error:
            if not is_of_memory(error):
                raise
            way = "a smaller --max-size" + ("" if device == "cpu" else " or --device cpu") + ", with --resume"
            raise MemoryExhausted(
                f"{source}: out of memory on {device}, also in the smallest parts ({brief(error)}); try {way}"
            ) from error


def brief(error: BaseException) -> str:
    """The first sentence of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0][:100]


def occupied(folder: Path) -> int:
    """Bytes on disk that a run that goes on holds already."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def job_done(job: Job) -> dict[str, Any]:
    """Decode, predict, solve, refine, write."""
    decoded = decode(job)
    return write(job, decoded, solve_shots(job, decoded))


def solve_shots(job: Job, decoded: Decoded) -> list[Solved]:
    """Every shot solved and refined; one camera for the clip: the first one found observable, longest shots first."""
    full = job.options.refine != "none"
    shots = sorted(decoded.bounds(), key=lambda b: b[0] - b[1])
    since = time.perf_counter()
    job.report.stage("camera", sum(b - a for a, b in shots))
    start = starting_camera(job, decoded)
    stores = {b: job.work.rows(*b, len(decoded.times)) for b in shots}
    back = rough_dis_flow if job.options.flow == "dis" and not full else None
    flows = {b: Flows(decoded.shot(b), job.networks.flow, stores[b], full, back) for b in shots}
    solutions: dict[tuple[int, int], Solution] = {}
    for bounds in shots[:3]:
        solution = camera_of(job, decoded.shot(bounds), flows[bounds], start, job.given is not None, fixed(job))
        solutions[bounds] = solution
        if solution.observable or fixed(job):
            break
    chosen = next((s for s in solutions.values() if s.observable), solutions[shots[0]])
    for bounds in shots:
        if solutions.get(bounds) is not chosen:
            again = camera_of(job, decoded.shot(bounds), flows[bounds], chosen.intrinsics, True, True)
            solutions[bounds] = replace(
                again, source=chosen.source, focal_sigma=chosen.focal_sigma, observable=chosen.observable
            )
    ready = {bounds: (decoded.shot(bounds), solutions[bounds], job.networks.depth) for bounds in shots}
    if isinstance(job.networks.depth, hub.HubDepth) and job.networks.depth.relative:
        ready = {bounds: straight(job, *ready[bounds], flows[bounds]) for bounds in shots}
    since = job.clock.add("solve", since)
    steps = job.options.steps or refine.STEPS[job.options.refine]
    job.report.stage("refine" if full else "moving objects", refine.work(decoded.bounds(), job.options.refine, steps))
    solved, filtered = [], job.options.temporal_filter
    for bounds in decoded.bounds():
        shot, solution, net = ready[bounds]
        matches, store = flows.pop(bounds), stores[bounds]
        plan = refine.Plan(
            job.options.refine, steps, job.device, store=store, filtered=filtered, precision=job.precision
        )
        shot, dense, solution, progress = refine.refine(shot, solution, matches, net, plan, job.report.advance)
        of_shot = partial(quality.of_shot, shot, solution, dense, matches, job.size)
        found = store.once("quality", lambda of_shot=of_shot: astuple(of_shot()))
        solved.append(Solved(bounds, shot, matches, solution, dense, progress, quality.Quality(*found)))
    job.clock.add("refine", since)
    return solved


def camera_of(job: Job, shot: Shot, flows: Flows, start: Intrinsics, given: bool, fix: bool) -> Solution:
    """Camera of a shot; where no rigid scene fits what is seen, that which the network and near pairs of frames tell.

    In dense traffic all of it fits far pairs as badly, and is the worse the longer they are: on KITTI drive 0052, focal
    length 30 instead of 6 % off, scales of frames spread by 0.43 instead of 0.04.
    """
    full = job.options.refine != "none"

    def solved() -> Solution:
        solution = solve(shot, flows, start, given, fix, full, job.report.advance)
        if not full or solution.cost <= refine.CONTRADICTED:
            return solution
        return replace(solve(shot, flows, start, given, fix, False), cost=solution.cost)

    return flows.store.once(f"camera-{digest(start, given, fix)}", solved)


def straight(
    job: Job, shot: Shot, solution: Solution, net: hub.HubDepth, flows: Flows
) -> tuple[Shot, Solution, hub.HubDepth]:
    """A shot whose depth, a relative model's, is known up to a shift, with the shift that geometry finds; and the model
    with that shift."""
    if solution.parallax < PARALLAX:
        return shot, solution, net
    shot, solution, shift = straightened(shot, flows, solution, flows.store)
    return shot, solution, hub.HubDepth(net.model, net.images, True, hub.SHIFT + shift)


def starting_camera(job: Job, decoded: Decoded) -> Intrinsics:
    """The given camera, or the camera network's median over pairs spread over the clip, at working size."""
    small = working_size(job.size)
    if job.given is not None:
        return job.given.resized(small).to(torch.float32)
    inside = [n for a, b in decoded.bounds() for n in range(a, b - 1)]
    pairs = np.array(inside or [0])[:: max(1, len(inside) // 8)]
    after = np.minimum(pairs + 1, len(decoded.times) - 1)
    return predict_camera(job.networks.camera, decoded.images[pairs], decoded.images[after], job.size, job.device)
