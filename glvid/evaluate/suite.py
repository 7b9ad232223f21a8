"""Whole benchmarks: inference on every clip a protocol asks for, resumably, its scores, and a table beside the
published ones."""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from glvid import __version__, formats, inference, results
from glvid.data.layouts import read_patterns, survey
from glvid.data.splits import drive_of, eigen_test
from glvid.errors import InputError, UsageError
from glvid.evaluate import metrics
from glvid.evaluate.protocols import PROTOCOLS, Protocol, Scores, kitti_eigen, kitti_improved, overall
from glvid.evaluate.published import ROWS
from glvid.evaluate.truth import Judged, judged
from glvid.files import atomic_write, cannot_write
from glvid.inference import InferOptions, Report
from glvid.predict import dis_flow
from glvid.results import RunFolder
from glvid.types import FlowPair, Recording

FLOW = {
    "kitti-flow": "KITTI 2015 flow, training pairs: EPE per picture, Fl over all pixels",
    "sintel-flow": "MPI Sintel training flow, clean and final: EPE",
    "flow": "flow pairs of any layout: EPE per picture, Fl over all pixels",
}
NAMES = (*PROTOCOLS, *FLOW)
EIGEN = {"kitti-eigen": kitti_eigen, "kitti-improved": kitti_improved}
EIGEN_FRAMES = {"kitti-eigen": 697, "kitti-improved": 652}


@dataclass(frozen=True)
class Outcome:
    """A benchmark's outcome: numbers per clip, their mean, a row per frame, and the head that names the protocol."""

    name: str
    head: str
    clips: dict[str, dict[str, float]]
    summary: dict[str, float]
    rows: tuple[dict[str, Any], ...]
    shown: tuple[str, ...]
    comparable: bool = True  # with the published rows


def benchmark(
    name: str,
    data: Sequence[Path],
    out: Path,
    options: InferOptions,
    exclude: Iterable[str] = (),
    report: Report | None = None,
) -> Outcome:
    """Run a protocol on everything below `data` that it is for; runs go to `out`/runs, a finished one is not repeated.

    Writes `frames.csv`, `summary.json` and `table.md` into `out`. Raises UsageError for an unknown protocol or where
    there is nothing to measure, and what inference raises.
    """  # fmt: skip
    if name not in NAMES:
        raise UsageError(f"no protocol '{name}': choose {', '.join(NAMES)}; or give a run folder")
    report = report or Report()
    found = survey(data, read_patterns(exclude))
    for sentence in found.said:
        report.note(sentence)
    if name in FLOW:
        done = flow_benchmark(name, found.pairs, out, options, report)
    else:
        done = clip_benchmark(PROTOCOLS[name], found.recordings, out, options, report)
    write(done, out, options)
    return done


def clip_benchmark(
    protocol: Protocol, recordings: Sequence[Recording], out: Path, options: InferOptions, report: Report
) -> Outcome:
    """Inference and scores on every recording that the protocol fits; one that fails is named, the others go on."""
    fitting = [r for r in recordings if protocol.fits(r)]
    tested = eigen_test() if protocol.name in EIGEN else {}
    listed = [r for r in fitting if drive_of(r) in tested and r.name.endswith("image_02")]
    scores, rows = {}, []
    for recording in listed or fitting:
        name = f"{safe(recording.name)}-{digest(recording.path)}"
        try:
            run = run_of(recording.path, out / "runs" / f"{name}.glvid", options, report)
            if protocol.name in EIGEN:
                found = EIGEN[protocol.name](judged(run, recording), frames_of(recording, tested) if listed else None)
            else:
                found = protocol.score(judged(run, recording) if recording.pictures else Judged(run, recording, ()))
        except (UsageError, InputError) as error:
            report.note(f"{recording.name}: left out, {error}")
            continue
        if found.summary and found.weight:
            label = recording.name if recording.name not in scores else name
            scores[label] = found
            rows += [{"clip": label} | row for row in found.rows]
    if not scores:
        kinds = ", ".join(protocol.kinds) or "footage"
        raise UsageError(f"nothing to measure by {protocol.name}: it needs {kinds} with truth; give other --data")
    clips = {clip: found.summary for clip, found in scores.items()}
    head, summary = protocol.head, overall(protocol, list(scores.values()))
    if protocol.name in EIGEN:
        head, published = eigen_head(protocol, listed, summary, rows)
    else:  # GLNet's rows are of sequences 09 and 10
        published = {clip.rsplit("/", 1)[-1] for clip in scores} >= {"09", "10"}
    return Outcome(protocol.name, head, clips, summary, tuple(rows), protocol.shown, published)


def eigen_head(
    protocol: Protocol, listed: list[Recording], summary: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[str, bool]:
    """What was measured really, and whether published numbers compare with it: all 697 (652) frames, the same truth."""
    wanted = EIGEN_FRAMES[protocol.name]
    stood_in = sum(row.get("truth") == "projected" for row in rows) if protocol.name == "kitti-eigen" else 0
    said = f"{int(summary['frames'])} of {wanted} frames" if listed else "other drives than Eigen's list, all frames"
    said += f"; {stood_in} of them against projected depth maps, having no scan" if stood_in else ""
    whole = bool(listed) and int(summary["frames"]) == wanted and not stood_in
    return f"{protocol.head}: {said}", whole


def digest(path: Path) -> str:
    """What tells clips of one name apart."""
    return hashlib.sha1(str(path.absolute()).encode()).hexdigest()[:6]


def frames_of(recording: Recording, tested: dict[str, list[int]]) -> set[int]:
    """Numbers, in the recording, of the pictures on the list; KITTI names a picture by its number."""
    wanted = set(tested[drive_of(recording)])
    return {n for n, picture in enumerate(recording.pictures) if int(picture.stem) in wanted}


def run_of(source: Path, folder: Path, options: InferOptions, report: Report) -> RunFolder:
    """The run of a clip, made now or finished before."""
    report.note(f"{source} -> {folder}")
    inference.run(source, folder, replace(options, resume=True), report)
    return results.open_run(folder)


def safe(name: str) -> str:
    """A name as one part of a path."""
    return name.replace("/", "_")


# --- flow -------------------------------------------------------------------------------------------------------------


def flow_benchmark(name: str, pairs: Sequence[FlowPair], out: Path, options: InferOptions, report: Report) -> Outcome:
    """The stored flow of every pair, as a clip of two frames, against its truth; OpenCV's DIS beside it."""
    kind = {"kitti-flow": "KITTI", "sintel-flow": "Sintel"}.get(name, "")
    chosen = [pair for pair in pairs if pair.kind.startswith(kind)]
    if not chosen:
        raise UsageError(f"nothing to measure by {name}: no {kind or 'flow'} pairs there; give other --data")
    rows = []
    for pair in chosen:
        place = f"{safe(pair.name)}-{digest(pair.flow)}-{pair.first.parent.parent.name}"
        clip = two_pictures(pair, out / "pairs" / place)
        longest = max(formats.read_image(pair.first).shape[:2])
        sized = replace(options, max_size=max(options.max_size, longest), keep=results.KINDS)
        run = run_of(clip, out / "runs" / f"{place}.glvid", sized, report)
        rows.append({"kind": pair.kind} | flow_row(pair, run))
    summary = {"pairs": len(rows)} | flow_means(rows)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    if len(kinds) > 1:  # clean and final of Sintel, say, are never one number
        for kind in kinds:
            of_kind = flow_means([row for row in rows if row["kind"] == kind])
            summary |= {f"{safe(kind)} {key}": value for key, value in of_kind.items()}
    shown = tuple(key for key in flow_means(rows))
    clips = {kind: flow_means([row for row in rows if row["kind"] == kind]) for kind in kinds if len(kinds) > 1}
    clips |= {row["clip"]: {k: v for k, v in row.items() if k not in ("clip", "kind")} for row in rows}
    whole = len(rows) == KITTI_2015  # published numbers are of all its pairs
    return Outcome(name, FLOW[name], clips, summary, tuple(rows), shown, whole)


KITTI_2015 = 200  # training pairs


def flow_means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """EPE: mean over pictures. Fl: share of all pixels, in %."""
    out = {}
    for ending in ("", "_noc", "_dis"):
        known = [row for row in rows if f"epe{ending}" in row]
        if known:
            out[f"epe{ending}"] = float(np.mean([row[f"epe{ending}"] for row in known]))
            wrong, pixels = (sum(row[f"{what}{ending}"] for row in known) for what in ("outliers", "pixels"))
            out[f"fl{ending}_percent"] = 100 * wrong / pixels
    return out


def two_pictures(pair: FlowPair, folder: Path) -> Path:
    """A folder that holds links to the two pictures, in order, for `infer`. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for k, picture in enumerate((pair.first, pair.second)):
            link = folder / f"{k}{picture.suffix}"
            if not link.exists():
                os.symlink(picture.absolute(), link)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def flow_row(pair: FlowPair, run: RunFolder) -> dict[str, Any]:
    """Errors of one pair: all pixels, those visible in both (noc) where known, and DIS on all."""
    true = formats.read_flow(pair.flow).astype(np.float64)
    known = np.isfinite(true).all(0)
    if pair.invalid is not None:
        known &= cv2.imread(str(pair.invalid), cv2.IMREAD_GRAYSCALE) == 0
    size = (true.shape[2], true.shape[1])
    stored = run.flow(run.rows[0])
    if stored is None:  # taken for a cut: no flow is said, which counts as none
        stored = np.zeros((2, *size[::-1]), np.float32)
    said = resized(stored.astype(np.float64), size)
    images = [formats.read_image(path)[None] for path in (pair.first, pair.second)]
    dis = dis_flow(*images)[0].double().numpy()
    row: dict[str, Any] = {"clip": pair.name}
    cases = {"": (said, known), "_dis": (dis, known)}
    if pair.visible is not None:
        cases["_noc"] = (said, np.isfinite(formats.read_flow(pair.visible)).all(0))
    for ending, (flow, valid) in cases.items():
        found = metrics.flow_errors(flow, true, valid)
        row |= {f"{key}{ending}": found[key] for key in ("epe", "outliers", "pixels")}
        row[f"fl{ending}_percent"] = 100 * found["fl"]
    return row


def resized(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow (2, H, W) at another size, in its pixels."""
    if flow.shape[:0:-1] == size:
        return flow
    scale = np.array([size[0] / flow.shape[2], size[1] / flow.shape[1]])
    return cv2.resize(flow.transpose(1, 2, 0), size).transpose(2, 0, 1) * scale[:, None, None]


# --- one run ----------------------------------------------------------------------------------------------------------


def scored(run: RunFolder, truth: Sequence[Path], exclude: Iterable[str] = ()) -> dict[str, Scores]:
    """Every protocol that fits a run, by name; without truth only what needs none.

    Raises UsageError where none of the recordings below `truth` is the run's, or several might be.
    """
    if not truth:
        found = PROTOCOLS["consistency"].score(Judged(run, Recording("", "", run.path), ()))
        return {"consistency": found} if found.summary else {}
    recording = recording_of(run, survey(truth, read_patterns(exclude)).recordings, truth)
    case, out = judged(run, recording), {}
    for name, protocol in PROTOCOLS.items():
        if protocol.fits(recording):
            if name in EIGEN and drive_of(recording) in (tested := eigen_test()):
                found = EIGEN[name](case, frames_of(recording, tested))
            else:
                found = protocol.score(case)
            if found.summary and found.weight:
                out[name] = found
    return out


def recording_of(run: RunFolder, recordings: Sequence[Recording], truth: Sequence[Path]) -> Recording:
    """The recording a run is of: the one whose folder was its input, else the only one whose picture names fit."""
    source, fitting, why = Path(run.info["input"]["path"]).absolute(), [], None
    for recording in recordings:
        if recording.path.absolute() == source:
            return recording
        try:
            judged(run, recording)
        except UsageError as error:
            why = error
            continue
        fitting.append(recording)
    where = ", ".join(map(str, truth))
    if not fitting:
        raise UsageError(f"no truth for {run.path} below {where}" + (f": {why}" if why else ""))
    if len(fitting) > 1:
        names = ", ".join(r.name for r in fitting[:3])
        raise UsageError(
            f"{run.path} may be of {len(fitting)} recordings below {where} ({names}): name one with --truth"
        )
    return fitting[0]


# --- what is written --------------------------------------------------------------------------------------------------


def write(done: Outcome, out: Path, options: InferOptions) -> None:
    """`frames.csv`, `summary.json` and `table.md`."""
    if done.rows:
        names = list(dict.fromkeys(key for row in done.rows for key in row))
        lines = csv_text(names, done.rows)
        atomic_write(out / "frames.csv", lines.encode())
    facts = {
        "protocol": done.name, "head": done.head, "glvid": __version__, "refine": options.refine,
        "summary": plain(done.summary), "clips": {clip: plain(found) for clip, found in done.clips.items()},
    }  # fmt: skip
    atomic_write(out / "summary.json", (json.dumps(facts, indent=1) + "\n").encode())
    atomic_write(out / "table.md", table(done, options).encode())


def csv_text(names: list[str], rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plain(numbers: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}


def table(done: Outcome, options: InferOptions) -> str:
    """Markdown: ours, clip by clip and in the mean, and the published rows of the same protocol."""
    ours = f"glvid {__version__}, --refine {options.refine}"
    lines = [
        f"# {done.name}",
        "",
        done.head,
        "",
        "| |" + "|".join(done.shown) + "|",
        "|---" * (1 + len(done.shown)) + "|",
    ]
    for label, numbers in [(ours, done.summary), *((f"  {clip}", found) for clip, found in done.clips.items())]:
        lines.append(f"| {label} |" + "|".join(figure(numbers.get(key)) for key in done.shown) + "|")
    for label, numbers in (ROWS.get(done.name, {}) if done.comparable else {}).items():
        lines.append(f"| {label} (published) |" + "|".join(figure(numbers.get(key)) for key in done.shown) + "|")
    return "\n".join(lines) + "\n"


def figure(value: float | None) -> str:
    """Three or four digits; a dash where there is nothing."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"
