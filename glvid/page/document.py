"""The page: one function a section, from a run folder alone."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glvid.errors import InputError
from glvid.files import atomic_write
from glvid.page.marks import element, text, void
from glvid.page.pictures import (
    PREVIEW,
    Column,
    color_limits,
    columns,
    depth_marks,
    depth_ramp,
    film,
    flow_wheel,
)
from glvid.page.plots import Curve, Path2D, bars, line_plot, number, path_plot, thinned
from glvid.page.style import CSS, SCRIPT, policy
from glvid.report import Pairs, gain, path_length, refined, span, verdict
from glvid.results import RunFolder
from glvid.types import GLOBAL_SHUTTER, Trajectory

MOODS = {"Good": "good", "Fair": "fair", "A first look": "fair", "One frame": "fair"}  # all others are poor
BEGINNING = '<!DOCTYPE html>\n<html lang="en" class="glvid-report">'
SHOTS = 6  # paths that are drawn, of the longest shots
FULL_FRAME = 36.0  # mm, width of a 35 mm film's picture


def write_page(run: RunFolder, path: Path) -> None:
    """The report of a finished run as one HTML file, whole or not at all. It needs no network, and memory for no more
    than itself. Raises OutputError where it cannot be written, InputError for a damaged run."""
    atomic_write(path, page(run).encode("utf-8", "replace"))


def page(run: RunFolder) -> str:
    """The whole document."""
    name = title(run)
    head = [
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=policy()),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", text(f"{name} \u2013 glvid report")),
        f"<style>{CSS}</style>",
    ]
    path = run.trajectory()
    sections = [heading(run, name), tiles(run, path), facts(run, path), preview(run), strips(run), way(run, path)]
    sections += [quality(run), element("div", refinement(run) + timings(run), class_="grid2 two")]
    sections += [warnings(run), models(run), command(run), onward(run)]
    body = element("main", "".join(sections) + footer(run)) + f"<script>{SCRIPT}</script>"
    return f"{BEGINNING}<head>{''.join(head)}</head><body>{body}</body></html>\n"


def section(name: str, *content: str, note: str = "") -> str:
    """A headed part of the page."""
    about = element("p", text(note), class_="note") if note else ""
    return element("section", element("h2", text(name)) + about + "".join(content), id=name.split()[0].lower())


def figure(name: str, value: str, content: str, about: str = "") -> str:
    """A plot with its name, what it comes to, and what it means."""
    caption = element("figcaption", element("h3", text(name)) + element("span", text(value)))
    return element("figure", caption + content + (element("p", text(about), class_="about") if about else ""))


# ---------------------------------------------------------------- what came out


def title(run: RunFolder) -> str:
    """Name of the clip."""
    return Path(run.info["input"]["path"]).name or str(run.info["input"]["path"])


def unit(run: RunFolder) -> str:
    """Unit of depth and path, in words."""
    return run.info["depth"]["unit"].replace("scene", "scene units")


def measured(value: float, unit: str, digits: int = 4) -> str:
    """A length with its unit, in the singular where it is one."""
    said = number(value, digits)
    return f"{said} {unit.replace('units', 'unit') if said == '1' else unit}"


def heading(run: RunFolder, name: str) -> str:
    """Name of the clip and how far the run can be trusted."""
    short, _, long = verdict(run.info).partition(":")
    badge = element("span", text(short), class_=f"badge {MOODS.get(short, 'poor')}")
    said = element("span", text(long.strip()[:1].upper() + long.strip()[1:]))
    kind = element("p", "glvid report", class_="kind")
    return element("header", kind + element("h1", text(name)) + element("p", badge + said, class_="verdict"))


def tiles(run: RunFolder, path: Trajectory) -> str:
    """The numbers that are asked for first."""
    camera, shots = run.camera, [row.shot for row in run.rows]
    error = median(chosen(run, "reprojection_px"))
    cells = [
        (f"{len(run.rows)}", "", "frames" if len(run.rows) > 1 else "frame"),
        (f"{camera['fx']:.1f}", plus_minus(camera["fx_sigma"]), "focal length, px"),
        (f"{field_of_view(camera)[0]:.1f}\u00b0", plus_minus(field_of_view(camera)[1]), "field of view"),
        (number(path_length(path, shots), 3), "", f"path, {unit(run)}"),
        ("\u2013" if error is None else number(error, 3), "px", "reprojection error"),
        (span(run.info["seconds"].get("total", 0.0)), "", "computing time"),
    ]
    shown = [
        element("div", element("b", text(value) + " " + element("small", text(of))) + element("span", text(name)))
        for value, of, name in cells
    ]
    return element("div", "".join(shown), class_="tiles")


def plus_minus(sigma: float | None) -> str:
    """One standard deviation, if it is known and not nothing."""
    return f"\u00b1 {sigma:.1f}" if sigma else ""


def field_of_view(camera: dict) -> tuple[float, float | None]:
    """Horizontal field of view and its standard deviation, degrees; None where that of the focal length is unknown."""
    half = camera["width"] / 2
    degrees = math.degrees(2 * math.atan(half / camera["fx"]))
    sigma = camera["fx_sigma"]
    return degrees, None if sigma is None else math.degrees(2 * half * sigma / (camera["fx"] ** 2 + half**2))


def facts(run: RunFolder, path: Trajectory) -> str:
    """All of the table, as pairs of name and value."""
    pairs = [*of_clip(run), *of_camera(run.camera), *of_world(run, path), *of_machine(run)]
    shown = [element("div", element("dt", text(name)) + element("dd", text(value))) for name, value in pairs]
    return section("Key facts", element("dl", "".join(shown), class_="facts"))


def of_clip(run: RunFolder) -> Pairs:
    """The clip, and what of it was kept."""
    source, (width, height) = run.info["input"], run.size
    shots = len({row.shot for row in run.rows})
    turned = f", turned by {source['rotation']}\u00b0" if source.get("rotation") else ""
    lost = [("lost", "frames or times " + ", ".join(map(interval, source["lost"])))] if source.get("lost") else []
    return [
        ("clip", str(source["path"])),
        ("source", f"{source['width']}\u00d7{source['height']} px, {source['fps']:.4g} frames a second{turned}"),
        ("duration", duration(run)),
        ("frames", f"{len(run.rows)} of {width}\u00d7{height} px" + (f", {shots} shots" if shots > 1 else "")),
        *lost,
    ]


def interval(lost: object) -> str:
    """An entry of `input.lost`."""
    return "\u2013".join(map(str, lost)) if isinstance(lost, Sequence) and not isinstance(lost, str) else str(lost)


def duration(run: RunFolder) -> str:
    """Length of the clip, and what of it the kept frames span."""
    first, last, whole = run.rows[0].time_s, run.rows[-1].time_s, run.info["input"]["duration_s"]
    kept = f"frames from {first:.2f} to {last:.2f} s"
    return f"{whole:.2f} s, {kept}" if whole else kept


def of_camera(camera: dict) -> Pairs:
    """Focal length, field of view, and how they are known."""
    ratio, sigma = camera["source_fx"] / camera["fx"], camera["fx_sigma"]
    degrees, spread = field_of_view(camera)
    origin = {"solved": "solved from the clip", "predicted": "a network's guess", "given": "given by you"}
    seen = "observable in this clip" if camera["observable"] else "not observable in this clip"
    known = {None: " (uncertainty unknown)", 0: " (exact)"}.get(sigma, "")
    in_maps = f"{camera['fx']:.1f} {plus_minus(sigma)}".strip()
    in_source = f"{camera['source_fx']:.1f} {plus_minus(sigma and sigma * ratio)}".strip()
    both = (
        f"{in_maps} px of maps and source" if ratio == 1 else f"{in_maps} px of the maps, {in_source} px of the source"
    )
    film = FULL_FRAME * camera["fx"] / camera["width"]
    lines = [
        ("focal length", both + known),
        (
            "field of view",
            f"{degrees:.1f}\u00b0 {plus_minus(spread)}".strip() + f" across, as {film:.0f} mm on full frame",
        ),
        ("camera", f"{origin.get(camera['source'], camera['source'])}; {seen}"),
    ]
    readout = abs(camera.get("readout", 0.0))
    return lines + ([("shutter", f"rolling, {readout:.2f} of a frame's time")] if readout > GLOBAL_SHUTTER else [])


def of_world(run: RunFolder, path: Trajectory) -> Pairs:
    """Path, scale, refinement."""
    length = path_length(path, [row.shot for row in run.rows])
    refine = run.info["refine"]
    better = f" after {refine['steps']} steps" if gain(run.info) else ""
    said = refined(run.info).replace("->", "\u2192").replace("(-", "(\u2212")
    return [
        ("path length", measured(length, unit(run))),
        ("scale", str(run.info["depth"]["scale_source"])),
        ("refinement", said + better if refine["mode"] != "none" else "none"),
    ]


def of_machine(run: RunFolder) -> Pairs:
    """Where it was computed."""
    memory = run.info.get("peak_memory_mb", 0.0)
    return [
        ("device", f"{run.info['device']}, networks in {run.info['precision']}"),
        ("memory", f"{memory:.0f} MB peak"),
    ]


# ---------------------------------------------------------------- what it looks like


def preview(run: RunFolder) -> str:
    """The film: frame, depth and flow side by side."""
    try:
        shown = film(run)
    except InputError as error:  # the rest is worth reading all the same
        return section("Preview", note=f"It cannot be shown. {error}")
    if shown is None:
        there = (run.path / PREVIEW).is_file()
        note = f"{PREVIEW} is too long for this page; open it beside this file." if there else ""
        return section("Preview", note=note or "None was written: it needs depth and image in --keep.")
    note = "One range of colours for the whole clip."
    if shown.smaller:
        every = f", every {shown.step}th frame" if shown.step > 1 else ""
        fast = f", {shown.faster:.1f} times as fast" if shown.faster > 1.05 else ""
        note += f" Shown at half its size{every}{fast}; {PREVIEW} in the run folder has all of it."
    names = "".join(element("span", name) for name in ("frame", "depth", "flow"))
    manners = {"controls": True, "loop": True, "muted": True, "playsinline": True, "data_rows": len(run.rows)}
    player = element("video", src=shown.uri, poster=shown.poster, **manners)
    panels = element("div", element("div", names, class_="panels") + player, class_="film")
    return section("Preview", element("div", panels, class_="scroll"), note=note)


def strips(run: RunFolder) -> str:
    """Some frames with all their maps, and what the colours mean."""
    if not any(row.maps for row in run.rows):
        return section("Depth, flow and masks", note="No maps were stored (--keep).")
    limits = color_limits(run)
    found = list(columns(run, limits))
    kinds = [kind for kind in ("image", "depth", "flow", "mask") if any(c.pictures[kind] for c in found)]
    stamps = [element("th", f"#{c.number} \u00b7 {c.row.time_s:.2f} s") for c in found]
    head = element("tr", element("th") + "".join(stamps))
    body = [element("tr", element("th", kind) + "".join(cell(c, kind) for c in found)) for kind in kinds]
    table = element("table", head + "".join(body), class_="strips")
    shown = [legend for kind, legend in legends(run, limits).items() if kind in kinds]
    note = f"{len(found)} of {len(run.rows)} frames. Frame #n is n in the names of the stored maps."
    parts = element("div", table, class_="scroll"), element("div", "".join(shown), class_="legends")
    return section("Depth, flow and masks", *parts, note=note)


def cell(column: Column, kind: str) -> str:
    """One map of one frame."""
    uri = column.pictures[kind]
    alt = f"{kind} of frame {column.number}" + (f" ({column.row.name})" if column.row.name else "")
    return element("td", void("img", src=uri, alt=alt, title=alt, class_="thumbnail") if uri else "\u2013")


def legends(run: RunFolder, limits) -> dict[str, str]:
    """What the colours of each kind mean."""
    marks = "".join(element("span", text(mark)) for mark in depth_marks(limits))
    ramp = element(
        "div", void("img", src=depth_ramp(limits), alt="colours of depth") + element("div", marks), class_="ramp"
    )
    wheel = void("img", src=flow_wheel(), alt="colours of flow", class_="wheel")
    said = {
        "depth": ramp + element("span", f"depth, {text(unit(run))}"),
        "flow": wheel
        + element("span", f"flow to the next frame; at the rim {text(number(limits.flow, 3))} px and more"),
        "mask": element("span", class_="swatch") + element("span", "moves on its own"),
    }
    return {kind: element("figure", content) for kind, content in said.items()}


# ---------------------------------------------------------------- where the camera went


def way(run: RunFolder, path: Trajectory) -> str:
    """Every shot's path from above, and its height."""
    shots = np.array([row.shot for row in run.rows])
    numbers, counts = np.unique(shots, return_counts=True)
    longest = sorted(numbers[np.argsort(-counts, kind="stable")][:SHOTS].tolist())
    drawn = [(k, path.world_T_cam[shots == k]) for k in longest]
    moving = [(k, poses) for k, poses in drawn if np.ptp(poses[:, :3, 3], axis=0).max() > 0]
    note = "From above: the first camera of a shot looks up the page. Wedges are the field of view, squares the scale."
    if len(numbers) > 1:
        note += " Every shot is a world of its own."
    if len(numbers) > SHOTS:
        note += f" The {SHOTS} longest of {len(numbers)} shots are shown."
    if not moving:
        return section("Camera path", note="The camera rests, or nothing is known of its path: all poses are the same.")
    plots = []
    for k, poses in moving:
        name = f"Shot {k}: " if len(numbers) > 1 else ""
        times = path.times[shots == k]
        plots += [above(run, name, poses), element("div", height(run, name, poses) + speed(run, name, poses, times))]
    resting = [f"shot {k}" for k, poses in drawn if k not in dict(moving)]
    rest = element("p", text(f"The camera rests in {', '.join(resting)}."), class_="about") if resting else ""
    return section("Camera path", element("div", "".join(plots), class_="grid2"), rest, note=note)


def above(run: RunFolder, name: str, poses: np.ndarray) -> str:
    """The path of a shot in the plane of right and forward."""
    sparse = poses[:: -(-len(poses) // 3000)]
    looks = sparse[:, [0, 2], 2]
    looks = looks / np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-9)
    half = math.radians(field_of_view(run.camera)[0]) / 2
    title = f"{name}path from above".capitalize()
    plot = Path2D(title, pairs_of(sparse[:, [0, 2], 3]), pairs_of(looks), half, unit(run))
    return figure(title, f"{len(poses)} frames, {measured(float(traveled(poses)[-1]), unit(run), 3)}", path_plot(plot))


def height(run: RunFolder, name: str, poses: np.ndarray) -> str:
    """Height of the camera over the way it has gone; y points down."""
    sparse = slice(None, None, -(-len(poses) // 3000))
    gone, up = traveled(poses)[sparse].tolist(), (-poses[:, 1, 3] + 0.0)[sparse].tolist()
    title, of, reach = f"{name}height over the way".capitalize(), unit(run), 0.1 * gone[-1]  # what is level looks so
    curve = Curve(title, gone, up, f"way, {of}", of, min(-reach, *up), max(reach, *up))
    return figure(title, f"{number(min(up), 3)} to {measured(max(up), of, 3)}", line_plot(curve))


def speed(run: RunFolder, name: str, poses: np.ndarray, times: np.ndarray) -> str:
    """Way a second, between every pose and the next."""
    step = -(-len(poses) // 1500)
    gone, then = traveled(poses)[::step], times[::step]
    fast = (np.diff(gone) / np.maximum(np.diff(then), 1e-9)).tolist()
    title, of = f"{name}speed over time".capitalize(), f"{unit(run)} a second"
    curve = Curve(title, then[:-1].tolist(), fast, "time, s", of, low=0.0)
    return figure(title, f"median {measured(float(np.median(fast)), of, 3)}", line_plot(curve))


def traveled(poses: np.ndarray) -> np.ndarray:
    """Way gone until every pose."""
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    return np.concatenate([np.zeros(1), np.cumsum(steps)])


def pairs_of(values: np.ndarray) -> list[tuple[float, float]]:
    """Rows of an (N, 2) array."""
    return [(a, b) for a, b in values.tolist()]


# ---------------------------------------------------------------- how good it is


MEASURES = (
    # key, name, unit, factor, lowest, highest, reference, what it means
    ("reprojection_px", "Reprojection error", "px", 1, 0.0, None, None,
     "Distance between the flow that is seen and the one that depth and camera explain, median over what rests."),
    ("static", "Static share", "%", 100, 0.0, 100.0, None, "Pixels that do not move on their own."),
    ("scale", "Scale of the network", "", 1, None, None, 1.0,
     "By how much the network's depth had to be scaled to fit the path, over the shot's median."),
    ("confidence", "Confidence", "%", 100, 0.0, 100.0, None,
     "How far flow and camera determine the depth; the rest is the network's word."),
)  # fmt: skip


def chosen(run: RunFolder, key: str) -> list[float | None]:
    """A list of run.json's `quality`, for the rows at hand; empty where an older run has none."""
    values = run.info.get("quality", {}).get(key, [])
    return [values[k] for k in run.numbers] if values else []


def median(values: Sequence[float | None]) -> float | None:
    """Of what is known."""
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def quality(run: RunFolder) -> str:
    """What run.json says of every frame."""
    if not run.info.get("quality"):
        return section("Quality by frame", note="This run was made before glvid kept it; run infer again to see it.")
    cuts = [k - 0.5 for k in range(1, len(run.rows)) if run.rows[k].shot != run.rows[k - 1].shot]
    plots = [measure(chosen(run, entry[0]), entry, cuts) for entry in MEASURES]
    note = "No truth is needed for these: they say how well depth, camera and flow agree. A click moves the preview."
    return section("Quality by frame", element("div", "".join(plots), class_="grid2"), note=note)


def measure(values: Sequence[float | None], entry: tuple, cuts: Sequence[float]) -> str:
    """The plot of one of MEASURES."""
    _, name, of, factor, low, high, reference, about = entry
    scaled = [None if v is None else factor * v for v in values]
    shown, step = thinned(scaled)
    x = [float(k) for k in range(0, len(scaled), step)]
    middle = median(scaled)
    said = "unknown" if middle is None else f"median {number(middle, 3)} {of}".rstrip()
    curve = Curve(name, x, shown, "frame", of, low, high, cuts, reference, True)
    return figure(name, said, line_plot(curve), about)


def refinement(run: RunFolder) -> str:
    """The objective by step."""
    refine = run.info["refine"]
    curve = refine.get("curve", [])
    if not curve or None in curve:
        note = {"none": "None was asked for; --refine output makes depth, flow and camera agree."}
        return section("Refinement", note=note.get(refine["mode"], f"{refined(run.info)}."))
    half = len(curve) // 2
    parts = {"network parameters": curve[:half], "depth and poses": curve[half:]}
    whole = {"params": "network parameters", "output": "depth and poses"}
    parts = parts if refine["mode"] == "both" else {whole.get(refine["mode"], refine["mode"]): curve}
    plots = [descent(name, values, refine["loss_last"]) for name, values in parts.items()]
    note = "Mean of the objective over spans of frames, by step. Every span keeps its best step: the dashed line."
    return section("Refinement curve", element("div", "".join(plots), class_="grid2"), note=note)


def descent(name: str, values: Sequence[float], kept: float) -> str:
    """One descent."""
    steps = [float(k) for k in range(len(values))]
    reference = kept if kept <= min(values) * (1 + 1e-9) else None  # of the last descent, in mode both
    curve = Curve(f"objective of {name}", steps, list(values), "step", "", reference=reference)
    said = f"{number(values[0])} \u2192 {number(min(values) if reference is None else kept)}"
    return figure(f"Objective, {name}", said, line_plot(curve))


def timings(run: RunFolder) -> str:
    """Seconds by stage."""
    seconds, frames = run.info["seconds"], len(run.rows)
    total = seconds.get("total", 0.0)
    rows = [(name, float(value), f"{value:.1f} s") for name, value in seconds.items() if name != "total"]
    note = f"{span(total)} in all, {total / frames:.2f} s a frame, on {run.info['device']}."
    return section("Timings", element("figure", bars("seconds by stage", rows)), note=note)


# ---------------------------------------------------------------- what there is to know


def warnings(run: RunFolder) -> str:
    """What infer had to say."""
    said = [element("li", text(sentence)) for sentence in run.info["warnings"]]
    return section("Warnings", element("ul", "".join(said))) if said else section("Warnings", note="None.")


def models(run: RunFolder) -> str:
    """Networks, licences, checksums."""
    head = element("tr", "".join(element("th", name) for name in ("network", "name", "licence", "sha256")))
    rows = []
    for kind, model in run.info["models"].items():
        cells = [kind, *(model.get(key, "") for key in ("name", "licence"))]
        sha = element("td", element("code", text(model.get("sha256", "")), class_="hash"))
        rows.append(element("tr", "".join(element("td", text(c)) for c in cells) + sha))
    table = element("thead", head) + element("tbody", "".join(rows))
    return section("Models", element("table", table, class_="models"))


def command(run: RunFolder) -> str:
    """What was asked for."""
    said = run.info.get("command")
    if not said:
        return section("Command", note="This run was made before glvid kept it; run.json has its options.")
    options = " \u00b7 ".join(f"{k.replace('_', '-')} {shown(v)}" for k, v in run.info["options"].items())
    note = element("p", text(f"Every option in force: {options}"), class_="about")
    return section("Command", element("pre", element("code", text(said))), note)


def shown(value: object) -> str:
    """An option's value."""
    return ",".join(map(str, value)) if isinstance(value, list) else "\u2013" if value is None else str(value)


def onward(run: RunFolder) -> str:
    """What can be done with a run."""
    folder = shlex.quote(str(run.path))
    folder = f"./{folder}" if folder.startswith("-") else folder
    lines = [
        f"glvid view {folder}",
        f"glvid export {folder} --to colmap,nerfstudio,tum,glb -o exported",
        f"glvid export-ply {folder}",
    ]
    return section("Going on", element("pre", element("code", text("\n".join(lines)))))


def footer(run: RunFolder) -> str:
    """Who wrote it."""
    return element("footer", text(f"glvid {run.info['glvid']} \u00b7 {run.info['schema']} \u00b7 {run.path}"))
