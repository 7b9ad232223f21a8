"""What a training run is told: one frozen dataclass, on the command line, in a TOML file, in every checkpoint."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from glvid.errors import UsageError
from glvid.synthetic import KINDS

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
    assets: Path | None = None  # folder of models (GLB) for rendered worlds
    kind: str | None = None  # of rendered worlds, to learn and to validate on; None: all of them
    rate: float = 4e-4
    seed: int = 0
    rows: int = 1500  # rendered pairs kept on disk, 2 MB each
    held: int = 32  # rendered pairs for validation
    every: float = 240.0  # seconds between checkpoints
    render: bool = True  # keep rendering while training
    camera: float = 0.34  # share of the steps of stage depth that train the camera too; it has less to learn
    objective: str = "glvid"  # loss weights of stage joint: glvid or paper
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    resume: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages to run, in order."""
        return ALL if self.stage == "all" else (self.stage,)


SIZES, PATHS, LISTS = ("size", "rendered"), ("out", "textures", "assets"), {"data": Path, "exclude": str}
CHOICES = {"objective": ("glvid", "paper"), "precision": ("auto", "bf16", "fp32")}
LEAST = {"steps": 1, "batch": 1, "rows": 10, "held": 1, "seed": 0, "threads": 0}
SEEDS = 500_000  # training seeds stay below; worlds for validation and evaluation come later


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
    for name, least in LEAST.items():
        if getattr(options, name) < least:
            raise UsageError(f"--{name} {getattr(options, name)}: must be at least {least}")
    if not options.rate > 0:
        raise UsageError(f"--rate {options.rate}: must be above 0")
    if not 0 <= options.camera <= 1:
        raise UsageError(f"--camera {options.camera}: is a share, 0 to 1")
    for name, known in CHOICES.items():
        if getattr(options, name) not in known:
            raise UsageError(f"--{name} {getattr(options, name)}: choose {' or '.join(known)}")
    if options.kind is not None and options.kind not in KINDS:
        raise UsageError(f"--kind {options.kind}: no kind of rendered world; choose {', '.join(KINDS)}")
    if options.seed >= SEEDS:
        raise UsageError(f"--seed {options.seed}: must be below {SEEDS}; later worlds are for validation")
    if options.textures is not None and not options.textures.is_dir():
        raise UsageError(f"--textures {options.textures}: is no folder of photos")
    if options.assets is not None and not options.assets.is_dir():
        raise UsageError(f"--assets {options.assets}: is no folder of models")
    if options.assets is not None and options.kind is not None:
        raise UsageError("--assets builds worlds of its own kinds: leave --kind out")
    if options.init not in ("shipped", "none") and not Path(options.init).exists():
        raise UsageError(f"--init {options.init}: is neither shipped nor none nor a folder of weights")
    return options


def size_of(text: str) -> tuple[int, int]:
    """ "384x224" as (384, 224). Raises UsageError."""
    try:
        w, h = (int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise UsageError(f"'{text}' is no size: give WIDTHxHEIGHT, as in 384x224") from error
    return w, h


FREE = ("out", "steps", "every", "device", "threads", "resume", "data")  # what may change when a run goes on


def differing(before: Options, now: Options) -> str | None:
    """The first option that would make `now` another run than `before`, in words."""
    for field in fields(Options):
        a, b = getattr(before, field.name), getattr(now, field.name)
        if field.name not in FREE and a != b:
            return f"--{field.name} ({a}, not {b})"
    return None


def from_toml(text: str) -> Options:
    """The options that `as_toml` wrote."""
    return from_values(parsed(text, "the checkpoint's options"), Options(), "the checkpoint's options")


def parsed(text: str, where: str) -> dict[str, Any]:
    """TOML as plain values."""
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {where}: {error}") from error


def configured(path: Path, options: Options) -> Options:
    """`options` with what a TOML file says. Raises UsageError: unknown entry, wrong kind."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise OSError("no regular file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read --config {path}: {error}") from error
    return from_values(parsed(text, str(path)), options, str(path))


def from_values(said: dict[str, Any], options: Options, where: str) -> Options:
    """`options` with plain values (of TOML) put in by name."""
    names = [field.name for field in fields(Options)]
    for name, value in said.items():
        if name not in names:
            raise UsageError(f"{where}: knows no '{name}'; choose from {', '.join(names)}")
        options = replace(options, **{name: converted(name, value, where)})
    return options


def converted(name: str, value: Any, where: str) -> Any:
    """A plain value of TOML as the option's own kind. Raises UsageError."""
    wrong = UsageError(f"{where}: '{name}' cannot be {value!r}; its default is {getattr(Options, name)!r}")
    if name in SIZES:
        if not isinstance(value, str):
            raise wrong
        try:
            return size_of(value)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    if name in LISTS:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(x, str) for x in values):
            raise wrong
        return tuple(map(LISTS[name], values))
    if name in PATHS or name in ("split", "kind"):
        if not isinstance(value, str):
            raise wrong
        return Path(value) if name in PATHS else value
    wanted = type(getattr(Options, name))
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise wrong
    return value


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
