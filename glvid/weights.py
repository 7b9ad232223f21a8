"""Weight files: find, verify, load, save. The only file that knows safetensors and `torch.load`.

A weight file carries its architecture: its metadata holds, as JSON under the key "glvid", `kind` (depth, flow, camera),
`config` (the fields of that network's config), `version` of glvid, `licence` and `trained` (facts for people).
Tensors are stored as float16 (half the size; depth changes by 0.02 % on average) and computed with as float32.
`index.json` beside the shipped files holds name -> file, kind, sha256, licence, config; a shipped file that differs is
refused.
"""

import hashlib
import json
import math
import os
import pickle
import struct
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from glvid import __version__
from glvid.errors import ModelError
from glvid.files import atomic_write, published
from glvid.networks import KINDS

LICENCE = "Apache-2.0"
ABSENT = {"flow": {"blend": 0}}  # what files that do not speak of it lack
# what torch's unpickler raises at files that somebody or something has changed
BROKEN = (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError)
BROKEN += (ArithmeticError, ImportError, struct.error)
DEFAULTS = {"depth": "depth-small", "flow": "flow-small", "camera": "camera-small"}
PICKLES = (".pth", ".pt", ".ckpt", ".pkl", ".bin")
ASKED = "give safetensors, as `glvid train` exports them to weights/ and glvid.weights.save(network, path) writes them"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BASE, FREE = "depth-base", "-free"  # the depth network of GPUs; how the names of networks free for any use end


def together(depth: str | None, device: str) -> dict[str, str]:
    """Names of the shipped networks to use, by kind: `depth` as asked for, or what suits the device, and its company.

    `depth-free` brings the free camera network, so that nothing of other terms has a part in the result (flow-small is
    free for any use).
    """
    if depth is None:
        return DEFAULTS | ({"depth": BASE} if device.startswith("cuda") and BASE in index() else {})
    return DEFAULTS | {"depth": depth} | ({"camera": "camera" + FREE} if depth == "depth" + FREE else {})


def folder() -> Path:
    """Where the shipped weights lie: inside the installed package, or at the top of a checkout."""
    here = Path(__file__).parent
    return next((p for p in (here / "models", here.parent / "models") if p.is_dir()), here / "models")


def index(models: Path | None = None) -> dict[str, dict]:
    """Shipped weights by name: `file, kind, sha256, licence, config`. Raises ModelError if the index is unreadable."""
    path = (models or folder()) / "index.json"
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise OSError("no regular file")
        found = json.loads(path.read_text(encoding="utf-8"))
        for facts in found.values():
            if not all(isinstance(facts[k], str) for k in ("file", "kind", "sha256", "licence")):
                raise ValueError("its entries are no models")
            if Path(facts["file"]).name != facts["file"] or not isinstance(facts["config"], dict):
                raise ValueError("its entries are no models")
        return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"no list of models at {path} ({_line(error)}): reinstall glvid") from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(name: str | Path, kind: str, device: str | torch.device = "cpu") -> tuple[nn.Module, dict]:
    """The network of `kind` in the shipped weights called `name` or in the file at that path, ready for inference.

    Returns the module (float32, eval mode, on `device`) and `name, kind, sha256, licence, version, trained`.
    Nothing but safetensors is read: what is called a pickle (.pth, .pt) is not even opened.
    Raises ModelError: unknown name, checksum differs from index.json, not a weight file (HTML page, pickle, cut short),
    another kind of network, keys missing or unexpected, shapes that do not fit, values that are not finite.
    """
    path, expected = _find(str(name))
    if path.suffix.lower() in PICKLES:
        raise ModelError(f"{path} is a pickle, which could run code, and was not opened: {ASKED}")
    digest = sha256(path)
    if expected and digest != expected:
        raise ModelError(f"{path} is damaged: its sha256 is not the one in index.json; reinstall glvid")
    state, info = _read(path)
    module = _build(info, kind, path, state)
    _fill(module, state, path)
    facts = {"licence": "not stated"} | {k: v for k, v in info.items() if k != "config"}
    facts |= {"name": path.stem, "sha256": digest}
    return module.to(device).eval(), facts


def save(module: nn.Module, path: Path, info: dict | None = None, half: bool = True) -> str:
    """Write `module` with its architecture and `info` (`licence`, `trained`) to `path`; returns the file's sha256.

    The file appears complete or not at all. Raises ModelError if a value is not finite, OutputError if writing fails.
    """
    dtype = torch.float16 if half else torch.float32
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in module.state_dict().items()}
    _refuse_non_finite(state, path)
    head = {"kind": _kind(module), "config": asdict(module.config), "version": __version__, "licence": LICENCE}
    atomic_write(path, serialised(state, {"format": "pt", "glvid": json.dumps({**head, **(info or {})})}))
    return sha256(path)


def write_index(models: Path) -> dict[str, dict]:
    """Write `index.json` for every weight file in `models`, and return it. Raises OutputError."""
    found = {}
    for path in sorted(models.glob("*.safetensors")):
        info = _read(path)[1]
        keep = {k: info[k] for k in ("kind", "licence", "config")}
        found[path.stem] = {"file": path.name, "sha256": sha256(path), **keep}
    atomic_write(models / "index.json", (json.dumps(found, indent=1) + "\n").encode())
    return found


def save_checkpoint(state: dict, path: Path) -> None:
    """Write a training state (tensors and plain values), complete or not at all. Raises OutputError."""
    with published(path) as part:
        try:
            with open(part, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:  # what torch makes of a disk that takes no more
            raise next(_refusals(error), error) from error


def _refusals(error: BaseException | None) -> Iterator[OSError]:
    """What the system said, of all that led to an error."""
    while error is not None:
        if isinstance(error, OSError):
            yield error
        error = error.__context__


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict:
    """Read what `save_checkpoint` wrote; never runs code from the file. Raises ModelError if it is not such a file."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("no regular file")
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} holds more than tensors: refused, because loading it could run code") from error
    except BROKEN as error:
        raise ModelError(f"cannot read checkpoint {path}: {_line(error)}") from error


def _find(name: str) -> tuple[Path, str | None]:
    """Path of the file, and the sha256 it must have if it is a shipped one."""
    shipped, path = index(), Path(name)
    if name not in shipped and (path.suffix.lower() in (".safetensors", *PICKLES) or os.sep in name or path.is_file()):
        if not path.is_file():
            raise ModelError(f"no weight file at {name}: give an existing file or one of: {', '.join(shipped)}")
        return path, None
    if name not in shipped:
        raise ModelError(f"no model called '{name}': shipped are {', '.join(shipped)}; or give a .safetensors file")
    path = folder() / shipped[name]["file"]
    if not path.is_file():
        raise ModelError(f"the shipped model {path} is missing: reinstall glvid")
    return path, shipped[name]["sha256"]


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and the JSON head of a weight file."""
    _refuse_foreign(path)
    try:
        with safe_open(str(path), "pt") as file:
            head = json.loads((file.metadata() or {}).get("glvid", "{}"), parse_constant=_no_number)
            if not isinstance(head, dict) or not isinstance(head.get("licence", LICENCE), str):
                raise ValueError("its head is not what glvid writes")
            return {k: file.get_tensor(k) for k in file.keys()}, head  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {_line(error)}; it may be cut short, fetch it again") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _refuse_foreign(path: Path) -> None:
    """Say what a file is that only pretends to be safetensors."""
    with open(path, "rb") as file:
        start = file.read(512)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"{path} is a web page, not weights: fetch the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not weights: run `git lfs pull`")
    if start.startswith((b"PK\x03\x04", b"\x80")) and start[8:9] != b"{":  # a safetensors head may be 0x..80 bytes long
        raise ModelError(f"{path} is a pickle, which could run code, and was not loaded: {ASKED}")


def _build(info: dict, kind: str, path: Path, state: dict[str, Tensor]) -> nn.Module:
    """The network that the head of the file describes, not yet filled; it is as large as the file says it is."""
    found = info.get("kind")
    if not isinstance(found, str) or found not in KINDS:
        raise ModelError(f"{path} does not say what network it holds: it was not written by glvid")
    if found != kind:
        raise ModelError(f"{path} holds a {found} network where a {kind} network is needed")
    network, config = KINDS[kind]
    try:
        said = ABSENT.get(kind, {}) | info.get("config", {})
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
        _refuse_giants(values, state)
        return network(config(**values))
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ModelError(f"{path} holds a network this glvid does not know ({_line(error)}): update glvid") from error


def _refuse_giants(config: dict, state: dict[str, Tensor]) -> None:
    """Raises ValueError for a network that would take far more memory than the tensors that are to fill it."""
    most = math.isqrt(sum(v.numel() for v in state.values()))  # channels: some layer has their square
    counts = [n for v in config.values() for n in (v if isinstance(v, tuple) else (v,)) if type(n) is int]
    if max(counts, default=0) > most or sum(config.get("blocks", ())) > len(state) or config.get("radius", 0) > 16:
        raise ValueError("its numbers are larger than its tensors")


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put the tensors in place; every one must fit."""
    wanted = module.state_dict()
    for word, keys in (("lacks", wanted.keys() - state.keys()), ("has unexpected", state.keys() - wanted.keys())):
        if keys:
            raise ModelError(f"{path} {word} {len(keys)} tensors: {', '.join(sorted(keys)[:3])}: not this network")
    wrong = sorted(k for k in wanted if wanted[k].shape != state[k].shape)
    if wrong:
        raise ModelError(f"{path} has {len(wrong)} tensors of another shape: {', '.join(wrong[:3])}: not this network")
    if wrong := sorted(k for k, v in state.items() if v.dtype not in FLOATS):
        raise ModelError(f"{path} has {len(wrong)} tensors of another type: {', '.join(wrong[:3])}: not this network")
    _refuse_non_finite(state, path)
    module.load_state_dict({k: v.float() for k, v in state.items()})


def _refuse_non_finite(state: dict[str, Tensor], path: Path) -> None:
    bad = sorted(k for k, v in state.items() if not torch.isfinite(v).all())
    if bad:
        raise ModelError(f"{path}: {len(bad)} tensors are not finite: {', '.join(bad[:3])}: these weights are unusable")


def _kind(module: nn.Module) -> str:
    return next(kind for kind, (network, _) in KINDS.items() if isinstance(module, network))


def _line(error: Exception) -> str:
    """First line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
