"""Weight files: find, verify, load, save. The only file that knows safetensors and `torch.load`.

A weight file carries its architecture: its metadata holds, as JSON under the key "glvid", `kind` (depth, flow, camera),
`config` (the fields of that network's config), `version` of glvid, `licence` and `trained` (facts for people).
Tensors are stored as float16 (half the size; depth changes by 0.02 % on average) and computed with as float32.
`index.json` beside the shipped files holds name -> file, kind, sha256, licence, config; a shipped file that differs is
refused.
"""

import hashlib
import json
import os
import pickle
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from glvid import __version__
from glvid.errors import ModelError, OutputError
from glvid.networks import KINDS

LICENCE = "Apache-2.0"
ABSENT = {"flow": {"blend": 0}}  # what files that do not speak of it lack
DEFAULTS = {"depth": "depth-small", "flow": "flow-small", "camera": "camera-small"}
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
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"no list of models at {path} ({error}): reinstall glvid") from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(name: str | Path, kind: str, device: str | torch.device = "cpu") -> tuple[nn.Module, dict]:
    """The network of `kind` in the shipped weights called `name` or in the file at that path, ready for inference.

    Returns the module (float32, eval mode, on `device`) and `name, kind, sha256, licence, version, trained`.
    Raises ModelError: unknown name, checksum differs from index.json, not a weight file (HTML page, pickle, cut short),
    another kind of network, keys missing or unexpected, shapes that do not fit, values that are not finite.
    """
    path, expected = _find(str(name))
    digest = sha256(path)
    if expected and digest != expected:
        raise ModelError(f"{path} is damaged: its sha256 is not the one in index.json; reinstall glvid")
    state, info = _read(path)
    module = _build(info, kind, path)
    _fill(module, state, path)
    facts = {"name": path.stem, "sha256": digest, **{k: v for k, v in info.items() if k != "config"}}
    return module.to(device).eval(), facts


def save(module: nn.Module, path: Path, info: dict | None = None, half: bool = True) -> str:
    """Write `module` with its architecture and `info` (`licence`, `trained`) to `path`; returns the file's sha256.

    The file appears complete or not at all. Raises ModelError if a value is not finite, OutputError if writing fails.
    """
    dtype = torch.float16 if half else torch.float32
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in module.state_dict().items()}
    _refuse_non_finite(state, path)
    head = {"kind": _kind(module), "config": asdict(module.config), "version": __version__, "licence": LICENCE}
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, str(part), {"format": "pt", "glvid": json.dumps({**head, **(info or {})})})
        part.chmod(0o644)  # safetensors writes files that only their owner can read
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise OutputError(f"cannot write weights to {path}: {error}") from error
    return sha256(path)


def write_index(models: Path) -> dict[str, dict]:
    """Write `index.json` for every weight file in `models`, and return it."""
    found = {}
    for path in sorted(models.glob("*.safetensors")):
        info = _read(path)[1]
        keep = {k: info[k] for k in ("kind", "licence", "config")}
        found[path.stem] = {"file": path.name, "sha256": sha256(path), **keep}
    part = models / "index.json.part"
    part.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(part, models / "index.json")
    return found


def save_checkpoint(state: dict, path: Path) -> None:
    """Write a training state (tensors and plain values), complete or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        torch.save(state, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink()
        raise OutputError(f"cannot write checkpoint {path}: {error}") from error


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict:
    """Read what `save_checkpoint` wrote; never runs code from the file. Raises ModelError if it is not such a file."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} holds more than tensors: refused, because loading it could run code") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ModelError(f"cannot read checkpoint {path}: {_line(error)}") from error


def _find(name: str) -> tuple[Path, str | None]:
    """Path of the file, and the sha256 it must have if it is a shipped one."""
    if name.endswith((".safetensors", ".pth", ".pt")) or os.sep in name:
        path = Path(name)
        if not path.is_file():
            raise ModelError(f"no weight file at {name}: give an existing file or one of: {', '.join(index())}")
        return path, None
    shipped = index()
    if name not in shipped:
        raise ModelError(f"no model called '{name}': shipped are {', '.join(shipped)}; or give a .safetensors file")
    path = folder() / shipped[name]["file"]
    if not path.is_file():
        raise ModelError(f"the shipped model {path} is missing: reinstall glvid")
    return path, shipped[name]["sha256"]


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and the JSON head of a weight file."""
    if path.suffix in (".pth", ".pt"):
        found = load_checkpoint(path)
        if not isinstance(found, dict) or not {"state", "info"} <= found.keys():
            raise ModelError(f"{path} is no glvid weight file: it needs the entries 'state' and 'info'")
        return found["state"], found["info"]
    _refuse_foreign(path)
    try:
        with safe_open(str(path), "pt") as file:
            head = json.loads((file.metadata() or {}).get("glvid", "{}"))
            return {k: file.get_tensor(k) for k in file.keys()}, head  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {_line(error)}; it may be cut short, fetch it again") from error


def _refuse_foreign(path: Path) -> None:
    """Say what a file is that only pretends to be safetensors."""
    with open(path, "rb") as file:
        start = file.read(512)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"{path} is a web page, not weights: fetch the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not weights: run `git lfs pull`")
    if start.startswith((b"PK\x03\x04", b"\x80")) and start[8:9] != b"{":  # a safetensors head may be 0x..80 bytes long
        raise ModelError(f"{path} is a pickle: name it .pth (only tensors will be read), or convert it to safetensors")


def _build(info: dict, kind: str, path: Path) -> nn.Module:
    """The network that the head of the file describes, not yet filled."""
    found = info.get("kind")
    if found not in KINDS:
        raise ModelError(f"{path} does not say what network it holds: it was not written by glvid")
    if found != kind:
        raise ModelError(f"{path} holds a {found} network where a {kind} network is needed")
    network, config = KINDS[kind]
    said = ABSENT.get(kind, {}) | info.get("config", {})
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
    try:
        return network(config(**values))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path} holds a network this glvid does not know ({_line(error)}): update glvid") from error


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put the tensors in place; every one must fit."""
    wanted = module.state_dict()
    for word, keys in (("lacks", wanted.keys() - state.keys()), ("has unexpected", state.keys() - wanted.keys())):
        if keys:
            raise ModelError(f"{path} {word} {len(keys)} tensors: {', '.join(sorted(keys)[:3])}: not this network")
    wrong = sorted(k for k in wanted if wanted[k].shape != state[k].shape)
    if wrong:
        raise ModelError(f"{path} has {len(wrong)} tensors of another shape: {', '.join(wrong[:3])}: not this network")
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
