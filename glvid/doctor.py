"""What this machine offers glvid, and the weights that are here. Facts only; cli.py shows them."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from glvid import __version__, weights
from glvid.errors import ModelError, UsageError
from glvid.exports.cloud import load_open3d
from glvid.video import decoders

PACKAGES = "torch numpy av opencv-python-headless open3d OpenEXR safetensors jaxtyping typer rich".split()
DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4", "prores", "mjpeg", "png")


def machine(folder: Path) -> dict[str, Any]:
    """Versions, devices, cores, memory, disk free in `folder`, decoders, Open3D, weights.

    `refused` holds a sentence for every weight file that does not load, `problems` those and all others.
    """
    facts = {
        "glvid": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: installed(name) for name in PACKAGES},
        "devices": devices(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": memory(),
        "free_disk_bytes": shutil.disk_usage(folder).free,
        "decoders": {name: name in decoders() for name in DECODERS},
        "open3d": open3d_trouble() or "ok",
    }
    try:
        facts["models"] = models()
        broken = [f"model {m['name']}: {m['trouble']}" for m in facts["models"] if m["trouble"]]
    except ModelError as error:
        facts["models"], broken = [], [str(error)]
    return facts | {"refused": broken, "problems": broken + problems(facts)}


def problems(facts: dict[str, Any]) -> list[str]:
    """Sentences on what `machine` found lacking, each with its remedy."""
    found = [f"no decoder for {name}: reinstall av" for name, there in facts["decoders"].items() if not there]
    if facts["open3d"] != "ok":
        found.append(f"no meshes, no cleaning of clouds: {facts['open3d']}")
    if facts["free_disk_bytes"] < 1e9:
        found.append("less than 1 GB of disk is free here: long clips will not fit")
    return found


def installed(name: str) -> str | None:
    """Version of an installed distribution; None where it is not (cv2 may come from another build of OpenCV)."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def devices() -> list[str]:
    """Names that --device takes here, with what they are."""
    found = [f"cpu: {torch.get_num_threads()} threads"]
    for i in range(torch.cuda.device_count()):
        found.append(f"cuda:{i}: {torch.cuda.get_device_name(i)}")
    if torch.backends.mps.is_available():
        found.append("mps: Apple GPU")
    return found


def memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def open3d_trouble() -> str:
    """Why Open3D does not load and what to install; empty where it does."""
    try:
        load_open3d()
    except UsageError as error:
        return str(error)
    return ""


def models() -> list[dict[str, Any]]:
    """Every shipped weight file: name, kind, parameters, sha256, licence, bytes, and `trouble` where it is refused.

    Raises ModelError where the list of them is missing.
    """
    return [_model(name, entry) for name, entry in weights.index().items()]


def _model(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    path = weights.folder() / entry["file"]
    facts = {k: entry[k] for k in ("kind", "sha256", "licence")} | {"name": name, "file": str(path)}
    try:
        network = weights.load(name, entry["kind"])[0]
    except ModelError as error:
        return facts | {"parameters": None, "bytes": None, "trouble": str(error)}
    count = sum(p.numel() for p in network.parameters())
    return facts | {"parameters": count, "bytes": path.stat().st_size, "trouble": ""}
