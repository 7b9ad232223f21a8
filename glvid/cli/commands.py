"""Commands that make something of footage, or tell about it: parse, call one function, report.

What is slow to import loads inside the command that needs it.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from glvid.cli import fleet
from glvid.cli.app import app
from glvid.cli.batch import Outcome, carried_out
from glvid.cli.ends import FINISHED_WITH_LOSSES, stoppable
from glvid.cli.options import (
    EVERYTHING,
    AllowPartial,
    ClipCpus,
    ClipGpus,
    Debug,
    DepthModel,
    Device,
    Distortion,
    End,
    Engine,
    FixIntrinsics,
    Flow,
    FlowFormat,
    Fps,
    Inputs,
    Intrinsics,
    Json,
    Keep,
    Kind,
    MaskPolarity,
    Masks,
    MaxPoints,
    MaxSize,
    Out,
    Overwrite,
    Precision,
    Quiet,
    Refine,
    Resume,
    Retries,
    ScaleFrom,
    Seed,
    Start,
    Steps,
    Stride,
    TemporalFilter,
)
from glvid.cli.screen import aligned, emit, progress, show_outcomes, show_summary, training_progress
from glvid.errors import ModelError, UsageError
from glvid.files import stem


@app.command()
def infer(
    context: typer.Context,
    inputs: Inputs,
    out: Out = None,
    refine: Refine = "none",
    steps: Steps = None,
    temporal_filter: TemporalFilter = False,
    intrinsics: Intrinsics = None,
    fix_intrinsics: FixIntrinsics = False,
    distortion: Distortion = None,
    depth_model: DepthModel = None,
    flow: Flow = "dis",
    flow_format: FlowFormat = "png",
    masks: Masks = None,
    mask_polarity: MaskPolarity = "ignore",
    keep: Keep = EVERYTHING,
    start: Start = None,
    end: End = None,
    stride: Stride = 1,
    fps: Fps = 10.0,
    max_size: MaxSize = 1280,
    device: Device = "auto",
    precision: Precision = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    allow_partial: AllowPartial = False,
    max_points: MaxPoints = 2_000_000,
    scale_from: ScaleFrom = None,
    report: Annotated[bool, typer.Option("--report", help="Write report.html into the run folder, too.")] = False,
    engine: Engine = None,
    clip_cpus: ClipCpus = 2,
    clip_gpus: ClipGpus = 0,
    retries: Retries = 3,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Depth, flow, moving objects, camera path, focal length and a point cloud of every frame of a clip."""
    kinds(keep)
    if engine is None:
        pairs = zip(inputs, run_folders(inputs, out), strict=True)
        outcomes = carried_out(inputs, [partial(infer_one, *pair, context.params) for pair in pairs], debug)
    else:
        share = fleet.Share(clip_cpus, clip_gpus, retries)
        inputs, outcomes = on_engine(engine, fleet.expanded(inputs), context.params, share)
    codes = [x.code or losses(x.document, allow_partial) for x in outcomes]
    if json_ and (len(inputs) > 1 or engine or outcomes[0].document):
        documents = [
            x.document or {"status": "failed", "input": {"path": str(source)}, "exit_code": x.code, "error": x.reason}
            for source, x in zip(inputs, outcomes, strict=False)
        ]
        emit(json.dumps(documents if len(inputs) > 1 or engine else documents[0], indent=2))
    elif len(inputs) > 1 and not quiet and not engine:
        show_outcomes(inputs, [x.reason or run_in_words(x.document) for x in outcomes], codes)
    return max(codes)


def on_engine(
    engine: str, inputs: Sequence[Path], params: dict[str, Any], share: fleet.Share
) -> tuple[list[Path], list[Outcome]]:
    """Every clip, and its outcome by an engine; the run folders lie in --out, with a table of all of them."""
    name, _, address = engine.partition(":")
    address = engine if address.startswith("//") else address  # Ray's own way to name a cluster from outside
    if name != "ray":
        raise UsageError(f"--engine {engine}: there is ray, or ray:ADDRESS of one that runs")
    out = params["out"] or Path()
    quiet = params | {"quiet": True, "resume": not params["overwrite"], "out": out}
    clips = [
        fleet.Clip(source, folder, partial(infer_one, source, folder, quiet), fleet.asked(source, quiet))
        for source, folder in zip(inputs, run_folders(inputs, out, alone=False), strict=True)
    ]
    return list(inputs), fleet.on_ray(address, clips, share, out / fleet.TABLE, params["quiet"], params["debug"])


def infer_one(source: Path, folder: Path, params: dict[str, Any]) -> dict[str, Any]:
    """One input of `infer`; returns run.json's content."""
    from glvid import bench, video
    from glvid.inference import InferOptions, run
    from glvid.page import write_page
    from glvid.report import expectation
    from glvid.results import REPORT, open_run

    names = InferOptions.__dataclass_fields__.keys() & params.keys()
    options = InferOptions(**{name: params[name] for name in names} | {"keep": kinds(params["keep"])})
    plan = bench.plan(video.probe(source, options.fps), options)
    with progress(params["quiet"]) as told, stoppable(told, params["quiet"]) as report:
        report.note(f"{source}: {plan.frames or 'unknown'} frames, takes about {expectation(plan.seconds, plan.bytes)}")
        document = run(source, folder, options, report)
        if params["report"]:
            report.stage("report", None)
            write_page(open_run(folder), folder / REPORT)
    if not params["quiet"]:
        show_summary(document, folder)
    return document


@app.command()
def train(
    context: typer.Context,
    data: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Folder of footage: KITTI, TUM, videos, frames; repeatable.")
    ] = [],  # noqa: B006 (typer's way of a repeatable option)
    exclude: Annotated[
        list[str], typer.Option(metavar="PATTERN", help="Paths to keep out; @FILE reads patterns; repeatable.")
    ] = [],  # noqa: B006
    split: Annotated[
        str | None, typer.Option(metavar="eigen|all|FILE", help="Drives of KITTI raw.", show_default="eigen")
    ] = None,
    stage: Annotated[Literal["flow", "depth", "camera", "joint", "all"], typer.Option(help="What to learn.")] = "all",
    init: Annotated[str, typer.Option(metavar="shipped|none|DIR", help="Weights to start from.")] = "shipped",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything that training writes.")] = Path(
        "glvid-train"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Steps of every stage.")] = 20_000,
    batch: Annotated[int, typer.Option(min=1, help="Samples a step, over all processes.")] = 8,
    size: Annotated[str, typer.Option(metavar="WxH", help="Picture size to train at; multiples of 32.")] = "384x224",
    textures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos for the surfaces of rendered worlds.")
    ] = None,
    assets: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Models (GLB) that rooms and streets are made of.")
    ] = None,
    kind: Kind = None,
    objective: Annotated[
        Literal["glvid", "paper"], typer.Option(help="Loss weights of stage joint: ours, or GLNet's as published.")
    ] = "glvid",
    rate: Annotated[float, typer.Option(help="Learning rate; a twentieth for depth and flow in stage joint.")] = 4e-4,
    device: Device = "auto",
    precision: Precision = "auto",
    seed: Seed = 0,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Options in TOML; the command line wins.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train the networks: flow and depth from rendered worlds, all of it from your footage."""
    from glvid.train import Options, Watcher, configured, from_values
    from glvid.train import train as run

    given = {
        name: value
        for name, value in context.params.items()
        if name in Options.__dataclass_fields__ and str(context.get_parameter_source(name)).endswith("COMMANDLINE")
    }
    plain = {name: [str(x) for x in v] if isinstance(v, (list, tuple)) else v for name, v in given.items()}
    plain |= {name: str(plain[name]) for name in ("out", "textures", "assets") if name in plain}
    kept = Path(plain.get("out", Options.out)) / "options.toml"
    file = config or (kept if resume and kept.exists() else None)  # a run goes on as it began
    options = from_values(plain, configured(file, Options()) if file else Options(), "the command line")
    with training_progress(quiet, options.batch) as (note, step):
        folder = run(options, Watcher(note, step))
    weights = sorted(str(path) for path in (folder / "weights").glob("*.safetensors"))
    emit(json.dumps({"folder": str(folder), "weights": weights}, indent=2) if json_ else str(folder))


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    number: Annotated[int, typer.Option("-n", min=1, help="Clips.")] = 10,
    layout: Annotated[
        Literal["kitti-raw", "kitti-odometry", "tum", "sintel", "frames", "kitti-flow", "chairs", "middlebury"],
        typer.Option(help="How they are laid out."),
    ] = "kitti-raw",
    kind: Kind = None,
    frames: Annotated[int, typer.Option(min=2, help="Frames of a clip.")] = 24,
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the pictures.")] = "640x192",
    textures: Annotated[Path | None, typer.Option(metavar="DIR", help="Photos for the surfaces.")] = None,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Render clips with exact truth (depth, poses, flow, camera) in the layout of a known data set."""
    from glvid.synth import synth as write
    from glvid.synthetic import textures as photos
    from glvid.train.options import size_of

    with progress(quiet) as report:
        report.stage("render", number)
        told = lambda sentence: report.advance(1)  # noqa: E731
        write(out, number, layout, kind, frames, size_of(size), seed, photos(textures) if textures else None, told)
    if json_:
        emit(json.dumps({"folder": str(out), "clips": number, "layout": layout}, indent=2))


@app.command("eval")
def evaluate(
    target: Annotated[str, typer.Argument(metavar="PROTOCOL|RUN", help="A protocol's name, or a run folder.")],
    data: Annotated[list[Path], typer.Option(metavar="DIR", help="Where a protocol finds its clips; repeatable.")] = [],  # noqa: B006
    truth: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Data set that a run's clip is of; repeatable.")
    ] = [],  # noqa: B006
    exclude: Annotated[
        list[str], typer.Option(metavar="PATTERN", help="Paths to keep out; @FILE reads patterns.")
    ] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder.", show_default="<protocol>.eval")] = None,
    refine: Refine = "none",
    steps: Steps = None,
    depth_model: DepthModel = None,
    flow: Flow = "dis",
    max_size: MaxSize = 1280,
    device: Device = "auto",
    precision: Precision = "auto",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score a run against truth, or a whole benchmark: kitti-eigen, kitti-improved, kitti-odometry, kitti-flow,
    sintel-flow, flow, tum, video-depth, consistency, intrinsics."""
    from glvid.evaluate import NAMES, benchmark, scored
    from glvid.inference import InferOptions
    from glvid.results import open_run

    if target not in NAMES:
        found = {name: scores.summary for name, scores in scored(open_run(target), truth, exclude).items()}
        emit(json.dumps(found, indent=1) if json_ else scores_in_words(found))
        return
    if not data:
        raise UsageError(f"eval {target}: give the data set with --data DIR")
    folder = out or Path(f"{target}.eval")
    chosen = dict(refine=refine, steps=steps, depth_model=depth_model, flow=flow, max_size=max_size)
    with progress(quiet) as report:
        options = InferOptions(**chosen, device=device, precision=precision)
        benchmark(target, data, folder, options, exclude, report)
    emit((folder / ("summary.json" if json_ else "table.md")).read_text().rstrip())


def scores_in_words(found: dict[str, dict[str, float]]) -> str:
    """One block per protocol."""
    blocks = [aligned([(key, f"{value:.5g}") for key, value in numbers.items()]) for numbers in found.values()]
    return "\n\n".join(f"{name}\n{block}" for name, block in zip(found, blocks, strict=True))


@app.command()
def probe(
    inputs: Inputs,
    refine: Refine = "none",
    steps: Steps = None,
    keep: Keep = EVERYTHING,
    start: Start = None,
    end: End = None,
    stride: Stride = 1,
    fps: Fps = 10.0,
    max_size: MaxSize = 1280,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """What `infer` would do to a file: its frames, sizes, time, disk and problems."""
    chosen = dict(refine=refine, steps=steps, keep=kinds(keep), start=start, end=end)
    chosen |= dict(stride=stride, fps=fps, max_size=max_size)
    calls = [partial(probe_one, source, chosen, json_) for source in inputs]
    outcomes = carried_out(inputs, calls, debug, each=len(calls))  # one process: to start it takes longer than a probe
    codes = [x.code for x in outcomes]
    if json_:
        found = [
            x.document or {"path": str(source), "exit_code": x.code, "error": x.reason}
            for source, x in zip(inputs, outcomes, strict=False)
        ]
        emit(json.dumps(found if len(inputs) > 1 else found[0], indent=2))
    elif len(inputs) > 1 and not quiet:
        show_outcomes(inputs, [x.reason or clip_in_words(x.document) for x in outcomes], codes)
    return max(codes)


def probe_one(source: Path, chosen: dict[str, Any], json_: bool) -> dict[str, Any]:
    """One input of `probe`: facts about it, on stdout unless they go there as JSON later."""
    from glvid import bench, report, video
    from glvid.inference import InferOptions

    options = InferOptions(**chosen)
    clip = video.probe(source, options.fps)
    facts = report.outlook(clip, bench.plan(clip, options), shutil.disk_usage(Path.cwd()).free)
    if not json_:
        emit(aligned(report.described(facts)))
    return facts


@app.command()
def doctor(json_: Json = False, quiet: Quiet = False, debug: Debug = False) -> int:
    """This machine: versions, devices, memory, disk, decoders, Open3D, weights (4 where they are refused)."""
    from glvid.doctor import machine
    from glvid.report import diagnosis

    facts = machine(Path.cwd())
    emit(json.dumps(facts, indent=2) if json_ else aligned(diagnosis(facts)))
    return ModelError.exit_code if facts["refused"] else 0


@app.command()
def models(json_: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """The weights that are installed."""
    from glvid.doctor import models as installed
    from glvid.report import catalogue

    found = installed()
    emit(json.dumps(found, indent=2) if json_ else catalogue(found))


# ---------------------------------------------------------------- parsing


def kinds(text: str) -> tuple[str, ...]:
    """--keep as a tuple, in the usual order. Raises UsageError for anything else."""
    known = EVERYTHING.split(",")
    words = {word.strip() for word in text.split(",") if word.strip()}
    if words - set(known):
        raise UsageError(f"--keep {text}: knows no {sorted(words - set(known))[0]}; choose from {EVERYTHING}")
    return tuple(kind for kind in known if kind in words)


def run_folders(inputs: Sequence[Path], out: Path | None, alone: bool = True) -> list[Path]:
    """The run folder of every input: --out for a single one that may be `alone`, else <stem>.glvid in it (-2, -3 where
    stems clash)."""
    if len(inputs) == 1 and out is not None and alone:
        return [out]
    names: dict[str, None] = {}
    numbers: dict[str, Iterator[int]] = {}
    for name in map(stem, inputs):
        numbered = (f"{name}-{number}" for number in numbers.setdefault(name, count(2)))
        names[name if name not in names else next(other for other in numbered if other not in names)] = None
    return [(out or Path()) / f"{name}.glvid" for name in names]


def run_in_words(document: dict[str, Any]) -> str:
    """What became of a run that ended, for the table of several."""
    frames, lost = (len(document["frames"]), document["input"]["lost"])
    return f"{document['status']}, {frames} frames" + (f"; lost: {', '.join(map(str, lost))}" if lost else "")


def clip_in_words(facts: dict[str, Any]) -> str:
    """What became of a file that was looked at, for the table of several."""
    problems = len(facts["problems"])
    return f"{facts['kept_frames'] or 'unknown number of'} frames" + (f", problems: {problems}" if problems else "")


def losses(document: dict[str, Any], allowed: bool) -> int:
    """Exit code of a run that ended: 7 when frames were lost and that is not allowed."""
    return FINISHED_WITH_LOSSES if document["status"] == "partial" and not allowed else 0
