"""Facts in words: of a finished run, a clip to come, this machine, the weights. Pure functions; cli.py shows them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from glvid.bench import Plan
from glvid.files import volume
from glvid.types import GLOBAL_SHUTTER, Clip, Trajectory

Pairs = list[tuple[str, str]]


def verdict(run: dict[str, Any]) -> str:
    """One sentence on how far the run can be trusted, the gravest doubt first."""
    if run["status"] != "complete":
        return "Incomplete: frames were lost while decoding; run.json lists them."
    if len(run["frames"]) < 2:
        return "One frame: depth is the network's, and there is no path to find."
    if run["camera"]["source"] == "predicted":
        return "A guess: geometry did not determine the camera, so path and focal length are the network's."
    if not run["camera"]["observable"]:
        return "Fair: shape and path fit, but the clip leaves the focal length open; give --intrinsics if you know it."
    if drift(run) > DRIFT:
        return f"Fair: along the clip, path and depth network disagree on scale by {drift(run):.2g} times; one drifts."
    if run["refine"]["mode"] == "none":
        return "A first look: the camera fits the clip, depth is the network's; --refine output makes them agree."
    if not gain(run):
        return "Fair: refinement found nothing to improve, so depth is still the network's."
    return "Good: depth, flow and camera were made to agree on this clip."


DRIFT = 3.0  # eight clips have 1.0 to 2.4 (KITTI 00, whose path is right), a walk through a lens that bends lines 3.4


def drift(run: dict[str, Any]) -> float:
    """How many times larger the scale of the network is in some frames than in others (95 % over 5 %); 1 if unknown."""
    scale = [value for value in run.get("quality", {}).get("scale", []) if value]
    near, far = np.percentile(scale or [1.0], [5, 95])
    return float(far / near)


def gain(run: dict[str, Any]) -> float:
    """Part of the refinement's objective that it removed, 0..1; 0 where there was none."""
    first, last = run["refine"].get("loss_first"), run["refine"].get("loss_last")
    return max(0.0, 1 - last / first) if first and last is not None else 0.0


def summary(run: dict[str, Any], path_length: float, folder: str) -> Pairs:
    """Name and value of every line of the closing table."""
    camera, depth, refine = run["camera"], run["depth"], run["refine"]
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in run["seconds"].items())
    lines = [
        ("frames", f"{len(run['frames'])} of {camera['width']}x{camera['height']} px"),
        ("focal length", focal(camera)),
        ("path length", f"{path_length:.3g} {depth['unit'].replace('scene', 'scene units')}"),
        ("refinement", refined(run) if refine["mode"] != "none" else "none"),
        ("seconds", seconds),
        ("verdict", verdict(run)),
        ("files", folder),
    ]
    return lines + [("warning", sentence) for sentence in run["warnings"]]


def focal(camera: dict[str, Any]) -> str:
    """Focal length in px of the stored maps, its sigma, where it comes from, and whether the clip determined it."""
    sigma = camera["fx_sigma"]
    spread = f" +- {sigma:.1f}" if sigma else ""
    seen = "observable in this clip" if camera["observable"] else "not observable in this clip"
    readout = camera.get("readout", 0.0)
    rolling = f"; rolling shutter, {abs(readout):.2f} of a frame's time" if abs(readout) > GLOBAL_SHUTTER else ""
    return f"{camera['fx']:.1f}{spread} px, {camera['source']}, {seen}{rolling}"


def refined(run: dict[str, Any]) -> str:
    """Mode of the refinement and what became of its objective."""
    refine = run["refine"]
    if refine.get("loss_first") is None:
        return f"{refine['mode']}: depth steadied over time, no more"
    return f"{refine['mode']}: loss {refine['loss_first']:.4g} -> {refine['loss_last']:.4g} (-{100 * gain(run):.0f} %)"


def path_length(path: Trajectory, shots: Sequence[int]) -> float:
    """Length of the camera's way in the path's unit; `shots` tells the shot of every pose, and cuts have no length."""
    step = np.linalg.norm(np.diff(path.world_T_cam[:, :3, 3], axis=0), axis=1)
    return float(step[np.diff(shots) == 0].sum())


# ---------------------------------------------------------------- before a run


def outlook(clip: Clip, plan: Plan, free: int) -> dict[str, Any]:
    """What `probe` says about an input, for machines; `free` is the room on the disk in bytes."""
    problems = list(clip.warnings)
    if plan.frames is None:
        problems.append("The file does not say how long it is, so time and disk are unknown.")
    elif plan.frames < 2:
        problems.append("Fewer than two frames: there will be depth, but no flow and no path.")
    if plan.bytes and plan.bytes > free:
        problems.append(f"The disk has only {volume(free)} free here; use --keep, --max-size or --stride.")
    facts = {
        name: getattr(clip, name) for name in ("width", "height", "frames", "fps", "rotation", "codec", "pixel_aspect")
    }
    return {"path": str(clip.path), **facts, "duration_s": clip.duration} | {
        "kept_frames": plan.frames,
        "stored_size": plan.size,
        "working_size": plan.working,
        "estimated_seconds": plan.seconds,
        "estimated_bytes": plan.bytes,
        "free_bytes": free,
        "problems": problems,
    }


def described(facts: dict[str, Any]) -> Pairs:
    """`outlook` for people."""
    length = (
        f"{facts['frames'] or 'unknown number of'} frames, {facts['fps']:.4g} per second, {facts['duration_s']:.2f} s"
    )
    lines = [
        ("input", facts["path"]),
        ("picture", f"{facts['width']}x{facts['height']} px upright, {facts['codec'] or 'images'}"),
        ("length", length),
        ("rotation", f"{facts['rotation']} degrees, applied"),
        ("pixel aspect", f"{facts['pixel_aspect']:.4g}"),
        ("stored", "{}x{} px".format(*facts["stored_size"])),
        ("computed at", "{}x{} px".format(*facts["working_size"])),
        ("frames kept", str(facts["kept_frames"] or "unknown")),
        ("takes about", expectation(facts["estimated_seconds"], facts["estimated_bytes"])),
        ("free disk", volume(facts["free_bytes"])),
    ]
    return lines + [("problem", sentence) for sentence in facts["problems"]]


def expectation(seconds: float | None, size: int | None) -> str:
    """Time and disk that a run takes."""
    return "unknown" if seconds is None or size is None else f"{span(seconds)}, at most {volume(size)} of disk"


# ---------------------------------------------------------------- machine and weights


def diagnosis(facts: dict[str, Any]) -> Pairs:
    """`doctor.machine` for people."""
    lines = [("glvid", facts["glvid"]), ("python", facts["python"]), ("system", facts["system"])]
    lines += [(name, number or "not installed") for name, number in facts["packages"].items()]
    lines += [("device", device) for device in facts["devices"]]
    memory = volume(facts["memory_bytes"]) if facts["memory_bytes"] else "unknown"
    lines += [("cores", str(facts["cores"])), ("memory", memory), ("free disk", volume(facts["free_disk_bytes"]))]
    lines += [("decoders", " ".join(name for name, there in facts["decoders"].items() if there))]
    lines += [("Open3D loads", facts["open3d"])]
    lines += [("weights", f"{model['name']}: {model['trouble'] or 'sha256 ok'}") for model in facts["models"]]
    return lines + [("problem", sentence) for sentence in facts["problems"] or ["none"]]


def catalogue(models: list[dict[str, Any]]) -> str:
    """Table of `doctor.models`."""
    head = ("name", "kind", "parameters", "size", "licence", "sha256")
    body = [_entry(model) for model in models]
    widths = [max(len(row[k]) for row in (head, *body)) for k in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *body)
    )


def _entry(model: dict[str, Any]) -> tuple[str, ...]:
    if model["trouble"]:
        return model["name"], model["kind"], "-", "-", model["licence"], f"refused: {model['trouble']}"
    size, count = volume(model["bytes"]), f"{model['parameters'] / 1e6:.2f} M"
    return model["name"], model["kind"], count, size, model["licence"], model["sha256"]


# ---------------------------------------------------------------- units


def span(seconds: float) -> str:
    """A duration for people: 12 s, 3 min 20 s, 2 h 5 min."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60} min"
