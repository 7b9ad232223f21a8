"""Depth networks of the Hugging Face hub, or of a local folder, as priors (extra `hub`).

Their own preprocessing is kept: size, multiple, mean and spread. `relative` ones say inverse depth up to scale and
shift (MiDaS, Ranftl et al. 2020; Depth Anything V2, Yang et al. 2024), `metric` ones metres. Which one a model is
stands in its configuration, or is said with the name: `hf:ID@metric`, `hf:ID@relative`. Nothing but safetensors is
read, and no code that comes with a model is run.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from glvid.errors import ModelError

PREFIX, KINDS = "hf:", ("metric", "relative")
BY_TYPE = {"depth_anything": "relative", "dpt": "relative", "zoedepth": "metric", "glpn": "metric"}
OTHERS = {"depth_pro": "it says inverse depth that must be multiplied by its own guess of the field of view"}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
DPT = {"size": {"height": 384, "width": 384}, "ensure_multiple_of": 1, "keep_aspect_ratio": False, **HALVES}
ZOE = DPT | {"size": {"height": 384, "width": 512}, "keep_aspect_ratio": True}
USUAL = {  # what transformers' processors do where their file does not say
    "DPTImageProcessor": DPT,
    "DPTFeatureExtractor": DPT,
    "ZoeDepthImageProcessor": ZOE,
    "GLPNImageProcessor": {"size_divisor": 32},
    "GLPNFeatureExtractor": {"size_divisor": 32},
}
SHIFT = (
    0.1  # of the median inverse depth: added to relative ones, lest the least be infinity, until geometry tells more
)
LARGEST = 4096  # px along a side, that a model may want
FARTHEST = 1e4  # times the nearest: no depth is infinite
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXTRA = "pip install 'glvid[hub]'"


@dataclass(frozen=True)
class Preprocessing:
    """What a model wants of its images: size (w, h; both multiples of `multiple`), mean and spread of colours 0..1.

    With `aspect`, images keep theirs: of the two scales that would give that width or height, the one nearer to 1.
    Without a target they keep their size, rounded down.
    """

    target: tuple[int, int] | None
    multiple: int
    aspect: bool
    mean: tuple[float, float, float]
    spread: tuple[float, float, float]

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height that images of `size` are brought to."""
        if self.target is None:
            return tuple(max(self.multiple, s // self.multiple * self.multiple) for s in size)
        scale = [t / s for t, s in zip(self.target, size, strict=True)]
        if self.aspect:
            scale = [min(scale, key=lambda x: abs(1 - x))] * 2
        m = self.multiple
        return tuple(max(m, m * round(s * x / m)) for s, x in zip(size, scale, strict=True))


class HubDepth(nn.Module):
    """A hub model that says depth as ours do: `depth` of images 0..1, at their size.

    Of a relative model, inverse depth is what it says over its median, plus `shift`.
    """

    def __init__(self, model: nn.Module, images: Preprocessing, relative: bool, shift: float = SHIFT):
        super().__init__()
        self.model, self.images, self.relative, self.shift = model, images, relative, shift

    def depth(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """Depth z > 0, in metres or up to scale (and, of a relative model, up to the shift)."""
        h, w = images.shape[-2:]
        bigger = self.images.size((w, h))[::-1]
        x = F.interpolate(images, bigger, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        mean, spread = (x.new_tensor(v)[:, None, None] for v in (self.images.mean, self.images.spread))
        said = self.model(pixel_values=(x - mean) / spread).predicted_depth[:, None].float()
        said = F.interpolate(said, (h, w), mode="bilinear", align_corners=False)
        if not self.relative:
            return said.clamp_min(1e-3)
        middle = said.flatten(1).median(1).values.clamp_min(1e-6)[:, None, None, None]
        inverse = (said / middle).clamp_min(0) + self.shift
        return 1 / torch.maximum(inverse, inverse.amax((-2, -1), keepdim=True) / FARTHEST)

    def estimate(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B 1 H W"], None]:
        """Depth; these models say nothing of their error."""
        return self.depth(images), None


def named(name: str) -> bool:
    """Does this name a hub model, or a folder that holds one, rather than a weight file of ours?"""
    return name.startswith(PREFIX) or Path(parted(name)[0]).is_dir()


def parted(name: str) -> tuple[str, str]:
    """Where a model is, and what is said of it behind the last @ ("": nothing)."""
    source, at, said = name.removeprefix(PREFIX).rpartition("@")
    return (source, said) if at and not Path(name.removeprefix(PREFIX)).is_dir() else (name.removeprefix(PREFIX), "")


# what transformers raises of a configuration that makes no sense is what happens to come
WHATEVER = (OSError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, ImportError)
WHATEVER += (SafetensorError,)


def load(name: str, device: str | torch.device = "cpu") -> tuple[HubDepth, dict[str, str]]:
    """The model called `hf:ID`, `hf:FOLDER` or `FOLDER`, `@metric` or `@relative` behind it, and its `name, sha256,
    licence`.

    Raises ModelError: the extra is not installed, there is no such model or no network, it is no depth model, it is
    not known whether it is metric, its weights are not safetensors.
    """
    source, said = parted(name)
    if said and said not in KINDS:
        raise ModelError(f"--depth-model {name}: '{said}' is none of {', '.join(KINDS)}")
    try:
        import transformers
        from huggingface_hub import errors
    except ImportError as error:
        raise ModelError(f"--depth-model {name}: hub models need the extra 'hub': {EXTRA}") from error
    config = _read(source, "config.json", name, needed=True)
    if config is None:
        raise ModelError(f"--depth-model {name}: no config.json there: it is no model of transformers")
    if (other := str(config.get("model_type"))) in OTHERS:
        raise ModelError(f"--depth-model {name}: models of type {other} cannot be used: {OTHERS[other]}")
    kind = said or config.get("depth_estimation_type") or BY_TYPE.get(str(config.get("model_type")))
    if kind not in KINDS:
        hint = f"say {PREFIX}{source}@metric (it says metres) or @relative (inverse depth up to scale and shift)"
        raise ModelError(f"--depth-model {name}: its configuration does not say whether it is metric: {hint}")
    files = weight_files(source, name)
    try:
        model = transformers.AutoModelForDepthEstimation.from_pretrained(source, use_safetensors=True)
    except ValueError as error:
        raise ModelError(f"--depth-model {name}: not a depth model ({_line(error)})") from error
    except (*WHATEVER, getattr(errors, "StrictDataclassError", ValueError)) as error:  # what older ones do not have
        raise ModelError(f"--depth-model {name}: cannot load its weights ({_line(error)})") from error
    try:
        images = preprocessing(_read(source, "preprocessor_config.json", name) or {})
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise ModelError(
            f"--depth-model {name}: its preprocessor_config.json makes no sense ({_line(error)})"
        ) from error
    facts = {"name": f"{PREFIX}{source}", "sha256": digest(files), "licence": licence(source, name)}
    return HubDepth(model.float(), images, kind == "relative").to(device).eval(), facts


def preprocessing(said: dict[str, Any]) -> Preprocessing:
    """What a preprocessor_config.json asks for; where it says nothing, what its processor does by itself; of an unknown
    one: 518 px, multiples of 14, ImageNet's colours. Raises ValueError and the like for what makes no sense."""
    said = USUAL.get(said.get("image_processor_type") or said.get("feature_extractor_type") or "", {}) | said
    if "size_divisor" in said:
        return sensible(Preprocessing(None, int(said["size_divisor"]), True, (0.0,) * 3, (1.0,) * 3))
    size = said.get("size") or 518
    if isinstance(size, dict):
        size = size.get("shortest_edge") or (size["width"], size["height"])
    target = (size, size) if isinstance(size, int) else size
    mean, spread = said.get("image_mean") or IMAGENET[0], said.get("image_std") or IMAGENET[1]
    if not said.get("do_normalize", True):
        mean, spread = (0, 0, 0), (1, 1, 1)
    mean, spread = (tuple(map(float, x)) for x in (mean, spread))
    multiple = int(said.get("ensure_multiple_of") or 14)
    aspect = bool(said.get("keep_aspect_ratio", True))
    return sensible(Preprocessing(tuple(map(int, target)), multiple, aspect, mean, spread))


def sensible(images: Preprocessing) -> Preprocessing:
    """The same. Raises ValueError for sizes and colours that no model is made for."""
    sides = images.target or (1, 1)
    if len(sides) != 2 or not all(0 < n <= LARGEST for n in (*sides, images.multiple)):
        raise ValueError(f"a size of {images.target}, in multiples of {images.multiple}")
    if len(images.mean) != 3 or len(images.spread) != 3 or not all(0 < x < 1e3 for x in images.spread):
        raise ValueError(f"a mean of {images.mean}, a spread of {images.spread}")
    if not all(abs(x) < 1e3 for x in images.mean):
        raise ValueError(f"a mean of {images.mean}")
    return images


def weight_files(source: str, name: str) -> list[Path]:
    """The safetensors of a model, in the order of their names. Raises ModelError where it has none."""
    index = _read(source, "model.safetensors.index.json", name)
    try:
        parts = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
        if not all(Path(part).name == part for part in parts):
            raise ValueError("names that are no files beside it")
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ModelError(f"--depth-model {name}: its list of weight files is damaged ({_line(error)})") from error
    found = [_path(source, part, name, needed=True) for part in parts]
    if None in found:
        raise ModelError(f"--depth-model {name}: cannot load its weights: it has none as safetensors, all that is read")
    return found


def digest(files: list[Path]) -> str:
    """sha256 over files, one after another."""
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()


def licence(source: str, name: str) -> str:
    """What the model card's head says; "unknown" where it says nothing."""
    path = _path(source, "README.md", name)
    said = re.search(r"^license:\s*(\S+)", path.read_text(errors="replace"), re.MULTILINE) if path else None
    return said[1].strip("\"'") if said else "unknown"


def _read(source: str, file: str, name: str, needed: bool = False) -> dict[str, Any] | None:
    """A JSON file of a model; None where it has none."""
    path = _path(source, file, name, needed)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else None
        if not isinstance(found, dict | None):
            raise ValueError("no object of JSON")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"--depth-model {name}: {file} is damaged ({_line(error)})") from error


def _path(source: str, file: str, name: str, needed: bool = False) -> Path | None:
    """Where a file of a model lies, fetched if need be; None where there is no such file, or offline none that was
    fetched before. Raises ModelError: no such model; offline, a `needed` file that is not there."""
    if Path(source).is_dir():
        path = os.path.join(source, file)
        return Path(path) if os.path.isfile(path) else None  # False for names that cannot be, too
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source, file))
    except LocalEntryNotFoundError as error:
        if not needed:
            return None
        raise ModelError(
            f"--depth-model {name}: cannot be reached and is not on this machine yet: fetch it where there is a "
            "network, or give the folder it lies in"
        ) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError) as error:
        raise ModelError(f"--depth-model {name}: no such model on the hub ({_line(error)})") from error


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
