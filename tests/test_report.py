"""What is said about a run, a clip to come, this machine and the weights."""

from pathlib import Path

import numpy as np
import pytest
from test_cli import DOCUMENT

from glvid import bench, doctor, report, weights
from glvid.inference import InferOptions
from glvid.results import estimate
from glvid.types import Clip, Trajectory

CLIP = Clip(Path("clip.mp4"), width=1920, height=1080, fps=10.0, duration=10.0, frames=100)


def changed(**parts):
    """DOCUMENT with some entries of its parts replaced."""
    return DOCUMENT | {k: DOCUMENT[k] | v if isinstance(v, dict) else v for k, v in parts.items()}


GOOD = {"mode": "output", "loss_first": 0.4, "loss_last": 0.3}


@pytest.mark.parametrize(
    "run, word",
    [
        (changed(refine=GOOD), "Good"),
        (changed(refine=GOOD | {"loss_last": 0.4}), "nothing to improve"),
        (changed(refine={"mode": "output"}), "nothing to improve"),  # skipped
        (changed(), "first look"),
        (changed(refine=GOOD, camera={"observable": False}), "--intrinsics"),
        (changed(refine=GOOD, camera={"observable": False, "source": "predicted"}), "guess"),
        (changed(refine=GOOD, frames=[{}]), "One frame"),
        (changed(refine=GOOD) | {"quality": {"scale": [1.8, None, 1.0, 0.5]}}, "3.1 times"),
        (changed(refine=GOOD) | {"quality": {"scale": [1.2, None, 1.0, 0.6]}}, "Good"),
        (changed(refine=GOOD, status="partial"), "Incomplete"),
    ],
)
def test_verdict(run, word):
    assert word in report.verdict(run)


def test_summary_says_what_a_person_asks():
    lines = dict(report.summary(changed(refine=GOOD), 1.2345, "clip.glvid"))
    assert lines["frames"] == "2 of 64x48 px"
    assert lines["focal length"] == "60.0 +- 1.0 px, solved, observable in this clip"
    assert lines["path length"] == "1.23 scene units"
    assert lines["refinement"] == "output: loss 0.4 -> 0.3 (-25 %)"
    assert lines["files"] == "clip.glvid"


def test_path_length_does_not_cross_a_cut():
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = 0, 3, 0, 4
    assert report.path_length(Trajectory(np.arange(4.0), poses), [0, 0, 1, 1]) == 7


@pytest.mark.parametrize(
    "options, frames",
    [
        ({}, 100),
        ({"stride": 3}, 34),
        ({"start": 1.0, "end": 3.0, "stride": 2}, 10),
        ({"start": 11.0}, 0),
        ({"end": 99.0}, 100),
    ],
)
def test_frames_that_are_left(options, frames):
    assert bench.selected(CLIP, InferOptions(**options)) == frames


def test_plan():
    plan = bench.plan(CLIP, InferOptions())
    assert (plan.frames, plan.size) == (100, (1280, 720))
    assert plan.bytes == estimate(100, (1280, 720), working=plan.working)
    assert bench.plan(CLIP, InferOptions(refine="both")).seconds > plan.seconds > 0


def test_outlook_of_a_clip_without_a_length():
    clip = Clip(Path("clip.h264"), 64, 48, 25.0, 0.0, None, warnings=("No time stamps.",))
    facts = report.outlook(clip, bench.plan(clip, InferOptions()), free=10**9)
    assert facts["problems"][0] == "No time stamps." and len(facts["problems"]) == 2
    assert dict(report.described(facts))["takes about"] == "unknown"


def test_outlook_on_a_full_disk():
    facts = report.outlook(CLIP, bench.plan(CLIP, InferOptions()), free=10**6)
    assert "1 MB" in facts["problems"][0]


@pytest.mark.parametrize(
    "seconds, text", [(59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")]
)
def test_span(seconds, text):
    assert report.span(seconds) == text


@pytest.mark.parametrize(
    "size, text", [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (7.09e7, "70.9 MB"), (2e13, "20 TB")]
)
def test_volume(size, text):
    assert report.volume(size) == text


def test_weights_that_are_refused(tmp_path, monkeypatch):
    (tmp_path / "bad.safetensors").write_text("<html>")
    entry = {"file": "bad.safetensors", "kind": "depth", "sha256": "0" * 64, "licence": "Apache-2.0", "config": {}}
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    monkeypatch.setattr(weights, "index", lambda models=None: {"bad": entry})
    assert "refused: " in report.catalogue(doctor.models())
    facts = doctor.machine(tmp_path)
    assert facts["refused"] and facts["refused"][0] in facts["problems"]
    assert facts["packages"]["torch"] and facts["decoders"]["h264"]
    assert ("problem", facts["problems"][0]) in report.diagnosis(facts)
