"""The command line: parse, call one function, report. What is slow to import loads inside the command that needs it."""

import ctypes
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from glvid import __version__
from glvid.errors import GlvidError, MemoryExhausted, ModelError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from glvid.inference import InferOptions, Report

EVERYTHING = "depth,flow,mask,image"
FINISHED_WITH_LOSSES = 7
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

Inputs = Annotated[list[Path], typer.Argument(help="Video files or image folders.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Run folder; for several inputs, where they go.", show_default="<stem>.glvid"),
]
Refine = Annotated[Literal["none", "params", "output", "both"], typer.Option(help="Online refinement on this clip.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Refinement steps.", show_default="by mode")]
Intrinsics = Annotated[
    str | None, typer.Option(metavar="SPEC", help="Known camera: fx,fy,cx,cy in source pixels, fov=DEG or a JSON file.")
]
TemporalFilter = Annotated[
    bool, typer.Option("--temporal-filter", help="With refine output or both: average depth along flow.")
]
FixIntrinsics = Annotated[bool, typer.Option("--fix-intrinsics", help="Do not improve the given camera.")]
Distortion = Annotated[str | None, typer.Option(metavar="k1,k2,p1,p2[,k3]", help="Known lens distortion.")]
DepthModel = Annotated[
    str | None, typer.Option(metavar="NAME|PATH|hf:ID", help="Depth network.", show_default="shipped")
]
Flow = Annotated[
    Literal["net", "dis"], typer.Option(help="Optical flow: the network, or OpenCV's DIS, the better one so far.")
]
FlowFormat = Annotated[Literal["png", "flo"], typer.Option(help="Stored flow: KITTI 16-bit PNG or Middlebury .flo.")]
Masks = Annotated[Path | None, typer.Option(metavar="DIR", help="One image per frame, same file names; 255 = ignore.")]
MaskPolarity = Annotated[Literal["ignore", "keep"], typer.Option(help="What 255 in --masks means.")]
Keep = Annotated[str, typer.Option(metavar="LIST", help="Maps to store, of depth,flow,mask,image.")]
Start = Annotated[float | None, typer.Option(min=0, metavar="S", help="First second.")]
End = Annotated[float | None, typer.Option(min=0, metavar="S", help="Last second.")]
Stride = Annotated[int, typer.Option(min=1, metavar="N", help="Every N-th frame.")]
Fps = Annotated[float, typer.Option(min=0.001, help="Frame rate of an image folder; nothing else.")]
MaxSize = Annotated[int, typer.Option(min=32, metavar="PX", help="Long side of the stored maps, at most.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="Arithmetic of the networks.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Kind = Annotated[
    Literal["handheld", "driving", "orbit", "drone", "walk", "static"] | None,
    typer.Option(help="Of rendered worlds: what is filmed, and how.", show_default="all"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what glvid wrote before.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Lost frames are no failure.")]
MaxPoints = Annotated[int, typer.Option(min=1, metavar="N", help="Points of the cloud, at most.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Run = Annotated[Path, typer.Argument(help="Run folder that `glvid infer` wrote.", show_default=False)]
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]

app = typer.Typer(add_completion=False, invoke_without_command=True)


@app.callback()
def root(context: typer.Context, version: Version = False) -> None:
    """Depth, optical flow, camera path, intrinsics and a point cloud from any video."""
    if version:
        emit(f"glvid {__version__}")
    elif context.invoked_subcommand is None:
        emit(context.get_help())
        raise typer.Exit(2)


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
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Depth, flow, moving objects, camera path, focal length and a point cloud of every frame of a clip."""
    kinds(keep)
    folders, documents, code = run_folders(inputs, out), [], 0
    for source, folder in zip(inputs, folders, strict=True):
        document, status = guarded(lambda s=source, f=folder: infer_one(s, f, context.params), debug)
        documents.append(document or {"status": "failed", "input": {"path": str(source)}, "exit_code": status})
        code = max(code, status or losses(document, allow_partial))
        if status in (INTERRUPTED, TERMINATED):
            break
    if json_ and (len(inputs) > 1 or "schema" in documents[0]):
        emit(json.dumps(documents if len(inputs) > 1 else documents[0], indent=2))
    return code


def infer_one(source: Path, folder: Path, params: dict[str, Any]) -> dict[str, Any]:
    """One input of `infer`; returns run.json's content."""
    from glvid import bench, video
    from glvid.inference import InferOptions, run
    from glvid.report import expectation

    names = InferOptions.__dataclass_fields__.keys() & params.keys()
    options = InferOptions(**{name: params[name] for name in names} | {"keep": kinds(params["keep"])})
    plan = bench.plan(video.probe(source, options.fps), options)
    with progress(params["quiet"]) as report:
        report.note(f"{source}: {plan.frames or 'unknown'} frames, takes about {expectation(plan.seconds, plan.bytes)}")
        document = run(source, folder, options, report)
    if not params["quiet"]:
        show_summary(document, folder)
    return document


@app.command("export-ply")
def export_ply(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file.", show_default="<run stem>.ply")] = None,
    mesh: Annotated[bool, typer.Option("--mesh", help="A TSDF mesh instead of points.")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Drop outliers, add normals (Open3D).")] = False,
    max_points: MaxPoints = 2_000_000,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """A point cloud or a mesh of a finished run, as a PLY file."""
    from glvid import exports, results

    path = out or Path(f"{stem(run)}.ply")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path}: exists; use --overwrite to replace it, or another -o")
    count = exports.export_ply(results.open_run(run), path, mesh, clean, max_points)
    console().print(f"{path}: {count} points")


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
    emit(str(folder))


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
    debug: Debug = False,
) -> int:
    """What `infer` would do to a file: its frames, sizes, time, disk and problems."""
    from glvid.inference import InferOptions
    from glvid.report import described

    chosen = dict(refine=refine, steps=steps, keep=kinds(keep), start=start, end=end)
    options = InferOptions(**chosen, stride=stride, fps=fps, max_size=max_size)
    found, code = [], 0
    for source in inputs:
        facts, status = guarded(lambda s=source: probed(s, options), debug)
        found, code = found + [facts or {"path": str(source), "exit_code": status}], max(code, status)
        if facts and not json_:
            emit(aligned(described(facts)))
    if json_:
        emit(json.dumps(found if len(found) > 1 else found[0], indent=2))
    return code


def probed(source: Path, options: "InferOptions") -> dict[str, Any]:
    """Facts about one input, for `probe`."""
    from glvid import bench, report, video

    clip = video.probe(source, options.fps)
    return report.outlook(clip, bench.plan(clip, options), shutil.disk_usage(Path.cwd()).free)


@app.command()
def doctor(json_: Json = False, debug: Debug = False) -> int:
    """This machine: versions, devices, memory, disk, decoders, Open3D, weights (4 where they are refused)."""
    from glvid.doctor import machine
    from glvid.report import diagnosis

    facts = machine(Path.cwd())
    emit(json.dumps(facts, indent=2) if json_ else aligned(diagnosis(facts)))
    return ModelError.exit_code if facts["refused"] else 0


@app.command()
def models(json_: Json = False, debug: Debug = False) -> None:
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


def stem(path: Path) -> str:
    """Name of a file or folder without its suffix, also for `.` and `..`; never hidden, never an option."""
    return path.resolve().stem.lstrip(".-") or "clip"


def run_folders(inputs: Sequence[Path], out: Path | None) -> list[Path]:
    """The run folder of every input: --out for a single one, else <stem>.glvid in it (-2, -3 where stems clash)."""
    if len(inputs) == 1 and out is not None:
        return [out]
    names = []
    for name in map(stem, inputs):
        numbered = (f"{name}-{number}" for number in count(2))
        names.append(name if name not in names else next(other for other in numbered if other not in names))
    return [(out or Path()) / f"{name}.glvid" for name in names]


def losses(document: dict[str, Any], allowed: bool) -> int:
    """Exit code of a run that ended: 7 when frames were lost and that is not allowed."""
    return FINISHED_WITH_LOSSES if document["status"] == "partial" and not allowed else 0


# ---------------------------------------------------------------- what is said, and where


def emit(text: str) -> None:
    """Data, on stdout; a reader that has gone away (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is silent too


def aligned(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values as two columns."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)


def console() -> "Console":
    """stderr; plain unless it is a terminal and NO_COLOR is not set."""
    from rich.console import Console

    plain = not sys.stderr.isatty() or bool(os.environ.get("NO_COLOR"))
    width = None if sys.stderr.isatty() else 1000  # nobody wants lines broken in a log
    style = dict(no_color=plain, force_terminal=not plain, markup=False, highlight=False, soft_wrap=True)
    return Console(stderr=True, width=width, **style)


@contextmanager
def progress(quiet: bool) -> Iterator["Report"]:
    """What `infer` reports to: nothing, lines, or, on a terminal, a bar with the time left for every stage."""
    from glvid.inference import Report

    screen = console()
    if quiet:
        yield Report()
    elif not screen.is_terminal:
        yield Report(stage=lambda name, total: screen.print(f"{name} ({total})" if total else name), note=screen.print)
    else:
        with Bars(screen) as bars:
            yield Report(stage=bars.stage, advance=bars.advance, note=screen.print)


@contextmanager
def training_progress(quiet: bool, batch: int) -> Iterator[tuple[Callable, Callable]]:
    """What `train` tells: sentences, and on a terminal a bar with the loss, samples a second and the time left."""
    screen = console()
    if quiet or not screen.is_terminal:
        yield (lambda sentence: None) if quiet else screen.print, lambda *_: None
        return
    from rich import progress as p

    columns = p.TextColumn("{task.description}"), p.BarColumn(), p.MofNCompleteColumn(), p.TimeRemainingColumn()
    with p.Progress(*columns, p.TextColumn("{task.fields[said]}"), console=screen) as bars:
        tasks: dict[str, Any] = {}

        def step(stage: str, number: int, steps: int, facts: dict[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=steps, said="")
            said = f"loss {facts['loss']:.3f}, {batch / max(facts['seconds'], 1e-6):.1f} samples/s" if facts else ""
            bars.update(tasks[stage], completed=number + 1, said=said)

        yield bars.console.print, step


class Bars:
    """One bar per stage, the running one with its time left."""

    def __init__(self, screen: "Console") -> None:
        from rich import progress as p

        name, bar, done = p.TextColumn("{task.description}"), p.BarColumn(), p.MofNCompleteColumn()
        self._bars = p.Progress(name, bar, done, p.TimeElapsedColumn(), p.TimeRemainingColumn(), console=screen)
        self._running = None

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._fill()
        self._bars.stop()

    def stage(self, name: str, total: int | None) -> None:
        self._fill()
        self._running = self._bars.add_task(name, total=total)

    def advance(self, steps: int = 1) -> None:
        if self._running is not None:
            self._bars.advance(self._running, steps)

    def _fill(self) -> None:
        """A stage that gave way to the next is complete, however it counted."""
        if self._running is not None:
            done = self._bars.tasks[self._running].completed or 1
            self._bars.update(self._running, total=done, completed=done)


def show_summary(document: dict[str, Any], folder: Path) -> None:
    """The closing table, on stderr."""
    from rich.table import Table

    from glvid import report, results

    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    run = results.open_run(folder)
    length = report.path_length(run.trajectory(), [row.shot for row in run.rows])
    for name, value in report.summary(document, length, str(folder)):
        table.add_row(name, value)
    console().print(table)


# ---------------------------------------------------------------- how it ends


class Terminated(BaseException):
    """SIGTERM arrived."""


def guarded(call: Callable[[], Any], debug: bool) -> tuple[Any, int]:
    """Result of `call` and 0; or None and an exit code, after one line on stderr (and the traceback with --debug)."""
    try:
        return call(), 0
    except (KeyboardInterrupt, Terminated, Exception) as error:  # outermost: a bare traceback helps nobody
        if debug:
            traceback.print_exc()
        sentence, code = judged(error)
        console().print(f"glvid: {' '.join(sentence.split())}")
        return None, code


def judged(error: BaseException) -> tuple[str, int]:
    """What is said about an exception, and its exit code."""
    match error:
        case KeyboardInterrupt():
            return "interrupted; --resume goes on", INTERRUPTED
        case Terminated():
            return "terminated; --resume goes on", TERMINATED
        case GlvidError():
            return str(error), error.exit_code
        case MemoryError():
            return "out of memory; try a smaller --max-size", MemoryExhausted.exit_code
        case typer.TyperException():
            return f"{error.format_message().rstrip('.')}; see `glvid --help`", error.exit_code
    return f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1


def command(arguments: Sequence[str]) -> int:
    """Carries out a command line; returns the exit code."""
    result, code = guarded(
        lambda: app(list(arguments), prog_name="glvid", standalone_mode=False), "--debug" in arguments
    )
    return code or result or 0


MALLOPT = {-3: 32 << 20, -1: 1 << 30, -2: 64 << 20}  # glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD, bytes


def keep_freed_memory() -> None:
    """Let the C library (glibc; others are left alone) keep memory that was freed, for this process.

    Maps of a frame are just large enough that each is otherwise asked of the kernel and given back, page by page, which
    threads wait for one another to do: a tenth of the time of a refined run.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    for name, value in MALLOPT.items() if mallopt else ():
        mallopt(name, value)


def main() -> NoReturn:
    """The `glvid` command."""

    def terminate(number: int, frame: Any) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    # read when torch is loaded: threads that wait spin for milliseconds by default, which makes a busy machine crawl
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    keep_freed_memory()
    sys.exit(command(sys.argv[1:]))
