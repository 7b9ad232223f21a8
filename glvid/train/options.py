"""What a training run is told: one frozen dataclass, on the command line, in a TOML file, in every checkpoint."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from glvid.errors import UsageError

STAGES = {"flow": ("flow",), "depth": ("depth", "camera"), "camera": ("camera",), "joint": ("depth", "camera", "flow")}
ALL = ("flow", "depth", "joint")


@dataclass(frozen=True)
class Options:
    """Options of `glvid train`, by the names of the command line and of the configuration file."""

    stage: str = "all"
    out: Path = Path("glvid-train")
    data: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    split: str | None = None  # eigen, all or a file of drives; None: eigen for KITTI raw
    init: str = "shipped"  # shipped, none, or a folder of weights
    steps: int = 20_000  # of every stage
    batch: int = 8  # of all processes together
    size: tuple[int, int] = (384, 224)  # trained at
    rendered: tuple[int, int] = (384, 224)  # at which worlds are rendered
    textures: Path | None = None  # folder of photos for rendered surfaces
    rate: float = 4e-4
    seed: int = 0
    rows: int = 1500  # rendered pairs kept on disk, 2 MB each
    held: int = 32  # rendered pairs for validation
    every: float = 240.0  # seconds between checkpoints
    render: bool = True  # keep rendering while training
    objective: str = "glvid"  # loss weights of stage joint: glvid or paper
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    resume: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages to run, in order."""
        return ALL if self.stage == "all" else (self.stage,)


SIZES, PATHS = ("size", "rendered"), ("out", "textures")


def checked(options: Options) -> Options:
    """The options themselves. Raises UsageError for values that make no sense."""
    if options.stage not in (*STAGES, "all"):
        raise UsageError(f"no training stage '{options.stage}': choose {', '.join(STAGES)} or all")
    if "joint" in options.stages and not options.data:
        raise UsageError("stage joint learns from real footage: give --data DIR")
    if options.stage == "joint" and options.init == "none":
        raise UsageError("stage joint needs trained networks to start from: give --init shipped or a folder of weights")
    for name in SIZES:
        if any(side % 32 or side < 32 for side in getattr(options, name)):
            w, h = getattr(options, name)
            raise UsageError(f"--{name} {w}x{h}: both sides must be multiples of 32, since networks halve them 5 times")
    for name, least in (("steps", 1), ("batch", 1), ("rows", 8), ("held", 1)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} {getattr(options, name)}: must be at least {least}")
    if options.objective not in ("glvid", "paper"):
        raise UsageError(f"no objective '{options.objective}': choose glvid or paper")
    return options


def size_of(text: str) -> tuple[int, int]:
    """ "384x224" as (384, 224). Raises UsageError."""
    try:
        w, h = (int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise UsageError(f"'{text}' is no size: give WIDTHxHEIGHT, as in 384x224") from error
    return w, h


def configured(path: Path, options: Options) -> Options:
    """`options` with what a TOML file says. Raises UsageError: unknown entry, wrong kind."""
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib
    try:
        said = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read --config {path}: {error}") from error
    return from_values(said, options, str(path))


def from_values(said: dict[str, Any], options: Options, where: str) -> Options:
    """`options` with plain values (of TOML) put in by name."""
    kinds = {field.name: field for field in fields(Options)}
    for name, value in said.items():
        if name not in kinds:
            raise UsageError(f"{where}: knows no '{name}'; choose from {', '.join(kinds)}")
        if name in SIZES and isinstance(value, str):
            value = size_of(value)
        elif name in SIZES and isinstance(value, list):
            value = tuple(value)
        elif name == "data":
            value = tuple(Path(x) for x in ([value] if isinstance(value, str) else value))
        elif name == "exclude":
            value = tuple([value] if isinstance(value, str) else value)
        elif name in PATHS:
            value = Path(value)
        wanted = type(kinds[name].default)
        if wanted is float and isinstance(value, int):
            value = float(value)
        if kinds[name].default is not None and not isinstance(value, wanted if name not in PATHS else Path):
            raise UsageError(f"{where}: '{name}' must be of kind {wanted.__name__}")
        options = replace(options, **{name: value})
    return options


def as_toml(options: Options) -> str:
    """The options as a configuration file that gives them back."""
    lines = []
    for field in fields(Options):
        value = getattr(options, field.name)
        if value is None or field.name == "resume":
            continue
        if field.name in SIZES:
            value = f"{value[0]}x{value[1]}"
        elif isinstance(value, tuple):
            value = [str(x) for x in value]
        elif isinstance(value, Path):
            value = str(value)
        lines.append(f"{field.name} = {json.dumps(value)}")  # JSON's strings, numbers, booleans and lists are TOML's
    return "\n".join(lines) + "\n"
