"""What the fuzzer (fuzz.py) found, as the smallest inputs that show it; its own smoke; and what must never be done."""

import ast
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from random import Random

import cv2
import fuzz
import numpy as np
import pytest
import torch
from fuzz import TARGETS, Bomb, small_state, trained, write_layouts, write_training, write_weights
from room import IDENTITY, room, write_run

from glvid import claim, exports, formats, given, metric, results, video, weights
from glvid.cli.ends import in_a_line
from glvid.data import frames, layouts, splits
from glvid.errors import GlvidError, InputError, ModelError, OutputError, UsageError
from glvid.evaluate import truth
from glvid.page import write_page
from glvid.train import Options, configured, state
from glvid.types import Clip, Recording
from glvid.video.pictures import picture_size
from glvid.viewer import open_server

GLVID = Path(__file__).parent.parent / "glvid"
DEEP = '{"a":' * 100_000


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "good.glvid", room(3, (48, 36))).path


@pytest.fixture
def run(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "run.glvid"))


def changed(run: Path, name: str, place: str, value: object) -> None:
    """Puts a value into a JSON file, at a place given by words between dots; takes the entry away for ..."""
    record = json.loads((run / name).read_text())
    *way, last = place.split(".")
    inner = record
    for word in way:
        inner = inner[int(word) if isinstance(inner, list) else word]
    inner[last] = value
    if value is ...:
        del inner[last]
    (run / name).write_text(json.dumps(record))


def pipe(path: Path) -> None:
    """A named pipe that nobody writes to: who opens it waits."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def png(width: int, height: int, depth: int = 8, kind: int = 0, claimed: int | None = None) -> bytes:
    """A PNG that claims a size, and a length of its data, for next to nothing."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content, length in ((b"IHDR", head, None), (b"IDAT", data, claimed), (b"IEND", b"", None)):
        size = len(content) if length is None else length
        parts += [struct.pack(">I", size), name, content, struct.pack(">I", zlib.crc32(name + content))]
    return b"".join(parts)


# ---------------------------------------------------------------- the fuzzer itself


@pytest.mark.slow
def test_the_fuzzer_runs_every_target_and_finds_nothing(tmp_path):
    program = Path(__file__).parent / "fuzz.py"
    names = ",".join(name for name in TARGETS if name != "hub")  # transformers takes long to load
    command = [sys.executable, program, names, "--runs", "2", "--seed", "7", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": 2 cases, 0 findings") == len(TARGETS) - 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_fuzzer_sees_what_is_wrong(tmp_path):
    """A target that raises, hangs, dies, takes memory and touches what lies beside: five findings."""
    done = subprocess.run([sys.executable, "-c", BAD_TARGET, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    found = set(re.findall(r"bad: ([A-Za-z ]+)", done.stdout))
    assert {"ZeroDivisionError ", "hangs", "dies ", "memory", "touches open", "message InputError "} <= found, (
        done.stdout
    )
    assert len(list(tmp_path.iterdir())) == done.stdout.count("times, first case")


BAD_TARGET = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import fuzz
from glvid.errors import InputError

def read(folder, draw):
    kind = draw.randrange(7) if (folder / "a.txt").read_bytes() != b"good" else 0
    if kind == 1: 1 / 0
    if kind == 2: time.sleep(60)
    if kind == 3: os.kill(os.getpid(), signal.SIGSEGV)
    if kind == 4: b"a" * (3 << 27)
    if kind == 5: (folder.parent / "beside/new").write_text("")
    if kind == 6: raise InputError("names no file")

fuzz.HANG = fuzz.AGAIN = 4.0
fuzz.MEMORY = 1 << 27
fuzz.TARGETS = {{"bad": fuzz.Target(lambda folder: (folder / "a.txt").write_bytes(b"good"), read)}}
sys.exit(fuzz.main(["bad", "--runs", "9", "--seed", "9", "--out", sys.argv[1]]))
"""


# ---------------------------------------------------------------- run folders

INFO = (
    ("input.path", 3), ("input.fps", "30"), ("input", []), ("options", [1]), ("options.intrinsics", 7),
    ("device", None), ("models", ["net"]), ("models.depth", "net"), ("models.depth.licence", {}),
    ("refine.mode", ...), ("refine.curve", [[]]), ("refine.loss_first", "1"), ("depth.scale", True),
    ("depth.scale", 1e300), ("depth.scale", 10**400), ("depth.unit", []), ("camera", ...), ("camera.source", ...),
    ("camera.observable", 1), ("seconds.total", None), ("peak_memory_mb", [1]), ("warnings", [1]),
    ("warnings", "none"), ("command", 1), ("quality", {"scale": ["1", "2", "3"]}), ("quality", {"scale": 3}),
    ("frames", 3), ("glvid", None),
)  # fmt: skip


@pytest.mark.parametrize(("place", "value"), INFO, ids=lambda x: str(x)[:20])
def test_entries_of_run_json_that_are_something_else(run, place, value):
    changed(run, "run.json", place, value)
    with pytest.raises(InputError, match="run.json: is damaged"):
        results.open_run(run)


@pytest.mark.parametrize("text", [DEEP, '{"schema": "glvid-run/1", "status": "complete", "a": NaN}', "9" * 5000])
def test_a_run_json_that_is_none(run, text):
    (run / "run.json").write_text(text)
    with pytest.raises(UsageError, match="no run folder"):
        results.open_run(run)


CAMERA = (
    ("fx", 0), ("fx", 1e300), ("fy", float("nan")), ("cx", float("inf")), ("width", "48"), ("width", 48.0),
    ("height", 10**6), ("fx_sigma", ...), ("fx_sigma", "0"), ("source_width", None), ("source", 1),
    ("observable", None), ("readout", []),
)  # fmt: skip


@pytest.mark.parametrize(("place", "value"), CAMERA, ids=lambda x: str(x)[:20])
def test_entries_of_camera_json_that_are_something_else(run, place, value):
    changed(run, "camera.json", place, value)
    with pytest.raises(InputError, match="camera.json: is damaged"):
        results.open_run(run)


@pytest.mark.parametrize("text", [DEEP, "[]", "null", "3"], ids=["deep", "list", "null", "number"])
def test_a_camera_json_that_is_none(run, text):
    (run / "camera.json").write_text(text)
    with pytest.raises(InputError, match="camera.json: is damaged"):
        results.open_run(run)


FIRST = "0,0.000000000,,depth/000000.png,flow/000000.png,mask/000000.png,image/000000.jpg,0"
LINES = {
    "time": FIRST.replace("0.000000000", "nan"),
    "index": "-1" + FIRST[1:],
    "negative shot": FIRST[:-1] + "-1",
    "far shot": FIRST[:-1] + "1000000000",
    "short": FIRST[: FIRST.index(",image")],
    "long": FIRST + ",x",
    "digits": "9" * 5000 + FIRST[1:],
    "field": FIRST.replace(",,", "," + "x" * 200_000 + ","),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_lines_of_frames_csv_that_are_none(run, line):
    text = (run / "frames.csv").read_text()
    assert FIRST in text
    (run / "frames.csv").write_text(text.replace(FIRST, line))
    with pytest.raises(InputError, match="frames.csv: is damaged") as caught:
        results.open_run(run)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("kind", ["depth", "flow", "mask", "image"])
@pytest.mark.parametrize(
    "name", ["../secret.png", "depth/../../secret.png", "{out}/secret.png", "link.png", "round.png", "\0"]
)
def test_maps_outside_the_run_are_not_read(run, tmp_path, monkeypatch, kind, name):
    """Neither by .. nor by their whole path, nor through a link; nor names that cannot be."""
    (tmp_path / "secret.png").write_bytes((run / "depth/000000.png").read_bytes())
    (run / "link.png").symlink_to("../secret.png")
    (run / "round.png").symlink_to("round.png")
    opened = results.open_run(run)
    row = results.replace(opened.rows[0], **{kind: name.format(out=tmp_path)})
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    for read in (getattr(opened, kind), lambda row: opened.bytes_of(row, kind)):
        with pytest.raises(InputError, match="outside the run folder") as caught:
            read(row)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["run.json", "camera.json", "frames.csv", "trajectory.txt", "depth/000000.png"])
def test_pipes_are_not_waited_for(run, name):
    pipe(run / name)
    with pytest.raises(GlvidError, match="no run folder|no regular file|not a 16-bit"):
        opened = results.open_run(run)
        opened.trajectory()
        opened.depth(opened.rows[0])


def test_a_frame_in_which_all_moves_adds_nothing_to_the_cloud(run):
    opened = results.open_run(run)
    formats.write_mask(run / opened.rows[1].mask, np.ones((36, 48)))
    assert 0 < len(exports.fuse(opened).points) <= len(exports.fuse(opened.only([0, 2])).points)


def test_maps_are_not_decoded_at_another_size(run, monkeypatch):
    """A small file may claim gigabytes."""
    opened = results.open_run(run)
    (run / "mask/000000.png").write_bytes(png(10_000, 10_000))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(InputError, match="is 10000x10000, camera.json says 48x36"):
        opened.mask(opened.rows[0])


# ---------------------------------------------------------------- formats

MAPS = {
    "a size": png(60_000, 60_000),
    "a length": png(48, 36, claimed=0xC84EA2D7),  # OpenCV makes room for 3.4 GB
    "nothing": b"",
}


@pytest.mark.parametrize("data", MAPS.values(), ids=MAPS.keys())
def test_pictures_that_claim_too_much_are_not_decoded(tmp_path, monkeypatch, data):
    path = tmp_path / "000.png"
    path.write_bytes(data)
    for place in (cv2.imdecode, cv2.imread):
        monkeypatch.setattr(cv2, place.__name__, lambda *_: pytest.fail("was decoded"))
    for read in (lambda p: formats.read_depth(p, 1.0), formats.read_flow, formats.read_mask, formats.read_image):
        with pytest.raises(InputError, match="000.png: is damaged"):
            read(path)
    with pytest.raises(UsageError, match="000.png is no picture"):
        given.read_mask(path, (48, 36), "ignore")
    with pytest.raises(InputError, match="no 16-bit depth map"):
        truth.measured_depth(Recording("TUM RGB-D", "a", tmp_path, (path,), depth=(path,)), 0)
    assert video.pictures.read_picture(path, (60_000, 60_000)) is None
    assert layouts._depth_like(path) is False


def test_a_cut_picture_still_has_its_size(tmp_path):
    data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (90, 120), dtype=np.uint8))[1].tobytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    assert picture_size(tmp_path / "a.png") == (120, 90)


@pytest.mark.parametrize("size", [(0, 32), (-4, 32), (4, 0)])
def test_pictures_of_no_size(tmp_path, size):
    head = struct.pack("<2sIIIIii", b"BM", 0, 0, 0, 0, *size)
    (tmp_path / "a.bmp").write_bytes(head.ljust(200, b"\0"))
    assert picture_size(tmp_path / "a.bmp") is None
    with pytest.raises(InputError, match="valid header"):
        video.probe(tmp_path / "a.bmp")


@pytest.mark.parametrize("size", [(-4, -4), (0, 0), (-1, -16)])
def test_a_flo_of_negative_size(tmp_path, size):
    pixels = size[0] * size[1]
    data = np.array([formats.FLO_TAG], "<f4").tobytes() + np.array(size, "<i4").tobytes() + bytes(8 * pixels)
    (tmp_path / "a.flo").write_bytes(data)
    with pytest.raises(InputError, match="not a .flo file"):
        formats.read_flow(tmp_path / "a.flo")
    (tmp_path / "a.dpt").write_bytes(data[: 12 + 4 * pixels])
    with pytest.raises(InputError, match="no depth map of Sintel"):
        truth.sintel_depth(tmp_path / "a.dpt")


# ---------------------------------------------------------------- what a user gives

CAMERAS = {
    "zero": {"width": 0, "height": 0},
    "no ratio": {"height": 0},
    "huge": {"pixel_center": 10**400},
    "nan": {"fy": float("nan")},
    "nan size": {"width": float("nan")},
}


@pytest.mark.parametrize("change", CAMERAS.values(), ids=CAMERAS.keys())
def test_cameras_that_are_none(tmp_path, change):
    (tmp_path / "a.json").write_text(json.dumps({"fx": 40, "fy": 40, "cx": 24, "cy": 18} | change))
    with pytest.raises(UsageError, match="--intrinsics .*a.json"):
        given.intrinsics(str(tmp_path / "a.json"), (48, 36))


@pytest.mark.parametrize("spec", [DEEP[:100], "1," * 3000, "\0", "/" * 5000])
def test_specs_that_are_no_camera(spec):
    with pytest.raises(UsageError, match="--intrinsics"):
        given.intrinsics(spec, (48, 36))


def test_pipes_given_are_not_waited_for(tmp_path):
    names = "a.json", "path.txt", "000.png", "patterns", "split"
    for name in names:
        pipe(tmp_path / name)
    for call in (
        lambda: given.intrinsics(str(tmp_path / "a.json"), (48, 36)),
        lambda: metric.parsed(f"path={tmp_path / 'path.txt'}"),
        lambda: given.read_mask(tmp_path / "000.png", (48, 36), "ignore"),
        lambda: layouts.read_patterns([f"@{tmp_path / 'patterns'}"]),
        lambda: splits.read_frames(tmp_path / "split"),
        lambda: configured(tmp_path / "split", Options()),
    ):
        with pytest.raises(UsageError, match="regular file|no picture"):
            call()


def test_a_deep_camera_file_and_a_masks_folder_of_a_folder(tmp_path):
    (tmp_path / "a.json").write_text(DEEP)
    with pytest.raises(UsageError, match="holds no fx, fy"):
        given.intrinsics(str(tmp_path / "a.json"), (48, 36))
    (tmp_path / "000.png").mkdir()
    files = given.mask_files(tmp_path, Clip(tmp_path, 48, 36, 30.0, 1.0, 1))
    with pytest.raises(UsageError, match="000.png is no picture"):
        given.checked_masks(files, (48, 36), "ignore")


@pytest.mark.parametrize("spec", ["1e300,0,0,0", "1e200,1e200,1e200,1e200,1e200"])
def test_a_lens_that_makes_no_picture(spec):
    with pytest.raises(UsageError, match="no lens distorts so much"):
        given.rectifier(spec, given.intrinsics("fov=60", (48, 36)))


def test_a_sentence_fits_on_a_terminal():
    said = in_a_line("a\nb \x1b[2J\x07" + "x" * 9000 + " end")
    assert said.startswith("a b ?[2J?xx") and said.endswith("x end") and len(said) < 1100 and said.isprintable()


# ---------------------------------------------------------------- data sets


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    write_layouts(folder)
    return folder


DRIVE = "raw/2011_09_26/2011_09_26_drive_0001_sync"
BROKEN = (
    ("raw/2011_09_26/calib_cam_to_cam.txt", "20 0 15.5", "nan 0 15.5"),
    ("odometry/sequences/00/calib.txt", "20 0 15.5", "inf 0 15.5"),
    ("odometry/sequences/00/times.txt", "0.1", "nan"),
    ("tum/calibration.txt", "5000", "0"),
    ("tum/calibration.txt", "5000", "many"),
    ("tum/calibration.txt", "fx 20", "fx -20"),
    ("tum/rgb.txt", "0.1 ", "nan "),
    ("tum/rgb.txt", "rgb/1.png", "../film/1.jpg"),
    ("tum/rgb.txt", "rgb/1.png", "a" * 5000),
    ("tum/depth.txt", "depth/1.png", "dep\0th"),
)


@pytest.mark.parametrize(("name", "before", "after"), BROKEN, ids=[f"{n}:{a[:9]!r}" for n, _, a in BROKEN])
def test_data_sets_whose_numbers_are_none(trees, tmp_path, name, before, after):
    tree = Path(shutil.copytree(trees / name.split("/")[0], tmp_path / name.split("/")[0]))
    text = (tmp_path / name).read_text()
    assert before in text
    (tmp_path / name).write_text(text.replace(before, after))
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name)) + "|is missing"):
        layouts.survey([tree])


def test_poses_that_say_nothing_are_unknown(trees, tmp_path):
    for name, text in (
        ("tum/groundtruth.txt", "0 nan 0 0 0 0 0 1\n0.1 0 0 0 0 0 0 0\n0.2 1 0 0 0 0 0 1\n"),
        ("odometry/poses/00.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n" * 2 + "1 0 0 inf 0 1 0 0 0 0 1 0\n"),
    ):
        shutil.copytree(trees / name.split("/")[0], tmp_path / name.split("/")[0])
        (tmp_path / name).write_text(text)
    (odometry,), (tum,) = (layouts.survey([tmp_path / n]).recordings for n in ("odometry", "tum"))
    assert np.isfinite(odometry.poses).all((1, 2)).tolist() == [True, True, False]
    assert np.isfinite(tum.poses).all((1, 2)).tolist() == [False, False, True]


def test_sintel_files_that_are_none(trees, tmp_path):
    tree = Path(shutil.copytree(trees / "sintel", tmp_path / "sintel"))
    (tree / "flow/alley/frame_x.flo").write_bytes(b"")
    assert len(layouts.survey([tree]).pairs) == 2
    camera = tree / "camdata_left/alley/frame_0002.cam"
    whole = camera.read_bytes()
    for numbers in (np.zeros(21), np.full(21, np.nan)):
        camera.write_bytes(whole[:4] + numbers.astype("<f8").tobytes())
        with pytest.raises(InputError, match="frame_0002.cam: its numbers are those of no camera"):
            layouts.survey([tree])
    pipe(camera)
    with pytest.raises(InputError, match="no regular file|cannot be read"):
        layouts.survey([tree])
    camera.unlink()
    camera.write_bytes(whole)
    (tree / "flow/alley/frame_0001.flo").unlink()
    (tree / "flow/alley/frame_0001.flo").symlink_to("nowhere")
    with pytest.raises(InputError, match="frame_0001.flo: is no flow"):
        layouts.survey([tree])


def test_a_picture_that_claims_to_be_huge_makes_no_map(trees, tmp_path):
    tree = Path(shutil.copytree(trees / "raw", tmp_path / "raw"))
    (tmp_path / DRIVE / "image_02/data/0000000000.png").write_bytes(png(60_000, 60_000))
    with pytest.raises(InputError, match="0000000000.png: cannot be read as a picture"):
        layouts.survey([tree])


# ---------------------------------------------------------------- weights


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder)
    return folder


def headed(stored: Path, path: Path, change: dict) -> Path:
    """The weight file with another head."""
    data = (stored / "flow.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    inner = json.loads(head["__metadata__"]["glvid"]) | change
    head["__metadata__"]["glvid"] = json.dumps(inner) if change != {"deep": 1} else DEEP
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return path


HEADS = (
    {"kind": {}}, {"kind": ["flow"]}, {"config": []}, {"config": None}, {"config": {"channels": 8}}, {"deep": 1},
    {"config": {"channels": [8]}}, {"config": {"channels": [8, 8, 8, 8, "8"]}}, {"config": {"channels": [-8] * 5}},
    {"licence": {}}, {"trained": float("nan")},
)  # fmt: skip


@pytest.mark.parametrize("change", HEADS, ids=str)
def test_heads_of_weight_files_that_make_no_sense(stored, tmp_path, change):
    with pytest.raises(ModelError, match="a.safetensors"):
        weights.load(headed(stored, tmp_path / "a.safetensors", change), "flow")


@pytest.mark.parametrize("change", [{"channels": [30_000] * 5}, {"hidden": 20_000}, {"radius": 500}, {"matched": 9000}])
def test_a_small_file_makes_no_large_network(stored, tmp_path, monkeypatch, change):
    config = {"channels": [8] * 5, "matched": 8, "hidden": 8, "blend": 0}
    monkeypatch.setattr(torch.nn, "Conv2d", lambda *_, **__: pytest.fail("was built"))
    with pytest.raises(ModelError, match="larger than its tensors"):
        weights.load(headed(stored, tmp_path / "a.safetensors", {"config": config | change}), "flow")


def test_a_weight_file_cannot_say_another_checksum(stored, tmp_path):
    """What run.json says of a model is what was measured."""
    path = headed(stored, tmp_path / "a.safetensors", {"sha256": "0" * 64, "name": "depth-base"})
    facts = weights.load(path, "flow")[1]
    assert (facts["sha256"], facts["name"]) == (weights.sha256(path), "a")


INDEXES = (
    "[]", "null", '{"a": []}', '{"a": {}}',
    DEEP, '{"a": {"file": "../../x", "kind": "flow", "sha256": "", "licence": "", "config": {}}}',
)  # fmt: skip


@pytest.mark.parametrize("text", INDEXES, ids=lambda x: x[:24])
def test_lists_of_models_that_are_none(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ModelError, match="no list of models"):
        weights.index(tmp_path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("call", ["os.system", "exec", "eval", "open"])
def test_checkpoints_never_run_code(tmp_path, call, new):
    calls = {"os.system": (os.system, f"touch {tmp_path / 'ran'}"), "open": (open, str(tmp_path / "ran"), "w")}
    calls |= {name: (f, f"open({str(tmp_path / 'ran')!r}, 'w')") for name, f in (("exec", exec), ("eval", eval))}
    torch.save({"state": Bomb(*calls[call])}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(ModelError, match="could run code"):
        weights.load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


# of protocol 2: tuples, marks, a memo that was never filled, a call without arguments, another version
OPCODES = [b"\x80\x02}(u.", b"\x80\x02(K\x01u.", b"\x80\x02h\x01.", b"\x80\x02ctorch\nTensor\n)R.", b"\x80\x09."]


@pytest.mark.parametrize("opcodes", OPCODES)
def test_checkpoints_of_broken_opcodes(tmp_path, opcodes):
    torch.save({"a": 1}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pth").read_bytes()
    third = data.index(b"\x80\x02}", 30)  # magic number, protocol, system, then the object itself
    (tmp_path / "a.pth").write_bytes(data[: data.rindex(b"\x80\x02}")] + opcodes + data[third + 9 :])
    with pytest.raises(ModelError, match="a.pth"):
        weights.load_checkpoint(tmp_path / "a.pth")


# ---------------------------------------------------------------- models of the hub


@pytest.mark.parametrize("text", ["[]", "3", DEEP, "\x80"], ids=["list", "number", "deep", "bytes"])
def test_configurations_that_are_none(tmp_path, text):
    hub = pytest.importorskip("glvid.networks.hub")
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match="config.json is damaged"):
        hub.load(str(tmp_path))


@pytest.mark.parametrize("value", [{"a": 1}, ["dpt"], None, 3])
def test_types_of_models_that_are_none(tmp_path, value):
    hub = pytest.importorskip("glvid.networks.hub")
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": value}))
    with pytest.raises(ModelError, match="does not say whether it is metric"):
        hub.load(str(tmp_path))


def small_hub_model(folder):
    """A depth model of the hub whose files may then be damaged."""
    pytest.importorskip("transformers")
    from fuzz import write_hub

    write_hub(folder)
    return folder / "model"


@pytest.mark.parametrize(("field", "value"), [("patch_size", [{}]), ("hidden_size", "x"), ("fusion_hidden_size", None)])
def test_fields_of_a_configuration_that_are_something_else(tmp_path, field, value):
    from glvid.networks import hub

    folder = small_hub_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config.get("backbone_config") or {}):
        if field in part:
            part[field] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot load its weights|not a depth model"):
        hub.load(str(folder))


def test_hub_weights_with_a_damaged_header(tmp_path):
    from glvid.networks import hub

    folder = small_hub_model(tmp_path)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[100:104] = b"\xff\xfe\xff\xfe"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="cannot load its weights"):
        hub.load(str(folder))


PREPROCESSING = (
    {"size": {"width": 3}}, {"size": -1}, {"size": 10**9}, {"size": "518"}, {"size_divisor": 0},
    {"size_divisor": "x"}, {"image_mean": [0.5]}, {"image_mean": 0.5}, {"image_std": [0, 0, 0]},
    {"image_mean": [float("nan")] * 3}, {"ensure_multiple_of": -14}, {"size": [1, 2, 3]},
)  # fmt: skip


@pytest.mark.parametrize("said", PREPROCESSING, ids=str)
def test_preprocessing_that_makes_no_sense(said):
    from glvid.networks import hub

    with pytest.raises((ValueError, TypeError, LookupError)):
        hub.preprocessing(said)


@pytest.mark.parametrize("name", ["../secret.safetensors", 3, None, "a" * 5000, "/etc/passwd"])
def test_lists_of_weight_files_that_lead_out(tmp_path, name):
    from glvid.networks import hub

    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="damaged|none as safetensors"):
        hub.weight_files(str(folder), "x")


# ---------------------------------------------------------------- claims and exports


def started(folder: Path) -> None:
    """An interrupted run."""
    claim.prepare(folder, IDENTITY)
    claim.release(folder)


LOCKS = {"huge pid": "99999999999999999999 1", "long": "9" * 5000, "own group": "0 1", "signed": "-1", "text": "lock"}


@pytest.mark.parametrize("text", LOCKS.values(), ids=LOCKS.keys())
def test_locks_of_nobody_are_taken_over(tmp_path, text):
    (tmp_path / results.LOCK).write_text(text)
    os.utime(tmp_path / results.LOCK, (0, 0))
    assert claim.prepare(tmp_path, IDENTITY) == "new"


def test_a_lock_that_is_a_folder_or_a_pipe(tmp_path):
    (tmp_path / results.LOCK).mkdir()
    (tmp_path / results.LOCK / "mine.txt").write_text("precious")
    os.utime(tmp_path / results.LOCK, (0, 0))
    with pytest.raises(OutputError, match="cannot be written"):
        claim.prepare(tmp_path, IDENTITY)
    assert (tmp_path / results.LOCK / "mine.txt").exists()
    (tmp_path / "other").mkdir()
    pipe(tmp_path / "other" / results.LOCK)
    os.utime(tmp_path / "other" / results.LOCK, (0, 0))
    assert claim.prepare(tmp_path / "other", IDENTITY) == "new"


def test_nothing_is_written_through_a_link_in_the_journals_place(tmp_path):
    folder, victim = tmp_path / "run", tmp_path / "victim.txt"
    victim.write_text("precious")
    started(folder)
    (folder / results.JOURNAL).unlink(missing_ok=True)
    (folder / results.JOURNAL).symlink_to(victim)
    assert claim.prepare(folder, IDENTITY, resume=True) == "resume"
    row = results.frame_row(0, 0, 0.0, 0, True, keep=("depth",))
    with pytest.raises(OutputError, match="cannot be written"):
        results.write_frame(folder, row, 0.01, np.ones((4, 4)))
    claim.release(folder)
    identity = IDENTITY | {"options": IDENTITY["options"] | {"seed": 5}}
    assert claim.prepare(folder, identity, overwrite=True) == "new"
    assert victim.read_text() == "precious" and not (folder / results.JOURNAL).is_symlink()


def test_the_journal_names_nothing_but_maps_of_ours(tmp_path):
    folder = tmp_path / "run"
    started(folder)
    (tmp_path / "000000.png").write_bytes(b"precious")
    for name in ("depth", "mask", "other"):
        (folder / name).mkdir()
    kept = {"other/000001.png", "depth/\u0660\u0660\u0660\u0660\u0660\u0660.png", "depth/1.png"}
    for name in (*kept, "depth/000000.png"):
        (folder / name).write_bytes(b"map")
    (folder / "flow").symlink_to(tmp_path)
    (folder / "image").symlink_to("image")
    named = [
        *kept,
        "depth/000000.png",
        "flow/000000.png",
        "image/000000.jpg",
        "../000000.png",
        str(tmp_path / "000000.png"),
    ]
    (folder / results.JOURNAL).write_text("\n".join([*named, "depth/../../000000.png", "mask", "\0", ""]))
    identity = IDENTITY | {"options": IDENTITY["options"] | {"seed": 5}}
    assert claim.prepare(folder, identity, overwrite=True) == "new"
    claim.release(folder)
    assert (tmp_path / "000000.png").read_bytes() == b"precious"
    assert (
        kept <= {str(p.relative_to(folder)) for p in folder.rglob("*")} and not (folder / "depth/000000.png").exists()
    )


EXPORTED = ("../victim", "{out}/victim", "tum/../../victim", "link", "round", "\0", "a" * 5000, 3, None)


@pytest.mark.parametrize("name", EXPORTED, ids=lambda x: str(x)[:16])
def test_an_export_list_that_leads_out_removes_nothing(good, tmp_path, name):
    (tmp_path / "victim").write_text("precious")
    out, options = tmp_path / "out", exports.ExportOptions(overwrite=True)
    exports.export(results.open_run(good), ["tum"], out)
    (out / "tum/link").symlink_to(tmp_path / "victim")
    (out / "tum/round").symlink_to("round")
    said = json.loads((out / "tum/export.json").read_text())
    named = name.format(out=tmp_path) if isinstance(name, str) else name
    (out / "tum/export.json").write_text(json.dumps(said | {"files": [*said["files"], named]}))
    with pytest.raises(UsageError, match="no export of glvid wrote .(link|round)"):
        exports.export(results.open_run(good), ["tum"], out, options)
    for link in ("link", "round"):
        (out / "tum" / link).unlink()
    exports.export(results.open_run(good), ["tum"], out, options)
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize(
    "text", [DEEP, "[]", '{"schema": "glvid-export/1", "files": 3}', '{"schema": "glvid-export/1"}']
)
def test_an_export_list_that_is_none(good, tmp_path, text):
    exports.export(results.open_run(good), ["tum"], tmp_path)
    (tmp_path / "tum/export.json").write_text(text)
    with pytest.raises(InputError, match="export.json: is damaged"):
        exports.export(results.open_run(good), ["tum"], tmp_path, exports.ExportOptions(overwrite=True))


# ---------------------------------------------------------------- training that goes on


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_training(folder)
    return folder


@pytest.fixture
def training(half, tmp_path) -> Path:
    return Path(shutil.copytree(half, tmp_path / "train"))


@pytest.mark.parametrize(
    "line", ["{}", "3", "null", '{"stage": "flow"}', '{"stage": 1, "step": 2}', "[" * 100_000, "\udc80"]
)
def test_lines_of_the_log_that_are_none(training, line):
    with open(training / "log.jsonl", "ab") as log:
        log.write(line.encode("utf-8", "surrogateescape") + b"\n")
    with state.open_log(training / "log.jsonl", "flow", 3) as write:
        write({"stage": "flow", "step": 3})
    steps = [json.loads(x)["step"] for x in (training / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]


def test_a_log_that_is_no_file(training):
    pipe(training / "log.jsonl")
    with (
        pytest.raises(OutputError, match="log.jsonl: cannot be written"),
        state.open_log(training / "log.jsonl", "flow", 3),
    ):
        pass


RECORDS = (
    {"size": [0, 24]}, {"size": 3}, {"size": [32, 48]}, {"shot": [[0]]}, {"shot": ["a"]}, {"index": [0]}, {"fps": 0},
    {"fps": None}, {"focal": [1.0]}, {"focal": [-1.0, 1.0]}, {"shape": []}, {"group": 3}, {"center": "xy"},
    {"focal": [{}, 2.0]},
)  # fmt: skip


@pytest.mark.parametrize("change", RECORDS, ids=str)
def test_records_of_the_cache_that_are_none(training, change):
    path = training / "cache/a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="a.json: is damaged"):
        frames.opened(path)


@pytest.mark.parametrize("text", ["[]", "3", DEEP, '{"a": "b"}', '{"a": NaN}', "\x80"], ids=range(6))
def test_a_cache_that_is_none(training, text):
    for name in ("a.json", "split.json"):
        clip = frames.opened(training / "cache/a.json") if name == "split.json" else None
        before = (training / "cache" / name).read_bytes()
        (training / "cache" / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match=f"{name}: is damaged"):
            frames.split([clip], training / "cache/split.json") if clip else frames.opened(training / "cache/a.json")
        (training / "cache" / name).write_bytes(before)


def test_frames_of_the_cache_that_are_missing_or_a_pipe(training):
    (training / "cache/a.rgb").unlink()
    with pytest.raises(InputError, match="a.json: is damaged"):
        frames.opened(training / "cache/a.json")
    for name in ("cache/a.json", "cache/split.json"):
        before = (training / name).read_bytes()
        pipe(training / name)
        with pytest.raises(InputError, match="is damaged .no regular file"):
            frames.opened(training / name) if "split" not in name else frames.split([], training / name)
        (training / name).unlink()
        (training / name).write_bytes(before)
    pipe(training / "cache/a.rgb")
    with pytest.raises(InputError, match="a.json: is damaged"):
        frames.opened(training / "cache/a.json")


def test_checkpoints_that_are_gone(training):
    options = trained(training)
    assert state.last_metrics(options, "flow") == {"epe": 1.0}
    shutil.rmtree(training / "checkpoints")
    with pytest.raises(ModelError, match="checkpoints: there is no checkpoint of stage flow"):
        state.last_metrics(options, "flow")


def test_options_that_are_none(tmp_path):
    for text in ("a = " + "[" * 100_000, 'size = "384x224nan"'):
        (tmp_path / "options.toml").write_text(text)
        with pytest.raises(UsageError, match="options.toml"):
            configured(tmp_path / "options.toml", Options())


# ---------------------------------------------------------------- media


def test_names_in_a_film_that_are_no_text(tmp_path):
    """Tags of MP4 are bytes of any kind."""
    from test_video import film, pan

    film(tmp_path / "a.mp4", pan(4, (64, 48)))
    data = (tmp_path / "a.mp4").read_bytes()
    assert b"VideoHandler" in data
    (tmp_path / "a.mp4").write_bytes(data.replace(b"VideoHandler", b"Video\xab\xff\xfedler"))
    clip = video.probe(tmp_path / "a.mp4")
    assert sum(hasattr(event, "image") for event in video.frames(clip)) == 4


def test_a_film_that_ends_before_it_starts_has_no_length(tmp_path):
    from test_video import film, pan

    film(tmp_path / "a.mkv", pan(4, (64, 48)), pts=[60_000 + k for k in range(4)])
    data = (tmp_path / "a.mkv").read_bytes()
    assert len(re.findall(rb"00:33:20\.\d{9}", data)) == 1
    (tmp_path / "a.mkv").write_bytes(re.sub(rb"00:33:20\.\d{9}", b"00:00:01.000000000", data))
    assert video.probe(tmp_path / "a.mkv").duration == 0


# ---------------------------------------------------------------- the viewer and the report

ADDRESSES = (
    "/depth/%2e%2e/run.json", "/depth/%252e%252e%252frun.json", "/depth\\..\\run.json", "/..\\..\\run.json",
    "/depth/..;/run.json", "/depth/0.png%00", "/depth/0.png\0", "/%00", "http://evil.example/run.json",
    "file:///etc/passwd", "/etc/passwd", "//etc/passwd", "/./run.json", "/run.json%20", "/depth/0.png#x",
    "/depth/0x0.png", "/depth/1e0.png", "/depth/+0.png", "/depth/0\u0000.png", "/page/page.html",
    "/page.css/../run.json", "/image/0.JPG", "*", "run.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def viewer(good):
    with open_server(results.open_run(good), port=0) as viewer:
        viewer.facts.result(), viewer.cloud.result()
        yield viewer


@pytest.mark.parametrize("address", ADDRESSES, ids=range(len(ADDRESSES)))
def test_no_address_leads_out(viewer, monkeypatch, address):
    """400 or 404, and no file is opened."""
    opened = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or b"")
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=10) as line:
        line.sendall(f"GET {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"400") and not opened
    assert b"glvid-run" not in answer and b"root:" not in answer


def test_scripts_write_text_and_no_markup():
    """Words of a run reach the page as text: there is no other way in its scripts, nor in the report's."""
    scripts = sorted(GLVID.rglob("*.js"))
    assert len(scripts) > 5
    for path in scripts:
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text()
        )
        assert not found, f"{path.name}: {found}"


def test_a_report_of_a_run_whose_camera_claims_markup(run):
    """What else of camera.json and run.json stands in the page."""
    bad = "</style><script>window.hacked = 1</script>"
    for name, place in (("camera.json", "source"), ("run.json", "depth.scale_source"), ("run.json", "precision")):
        changed(run, name, place, bad)
    changed(run, "run.json", "seconds", {bad: 1.0})
    write_page(results.open_run(run), run / "report.html")
    assert bad not in (run / "report.html").read_text()


# ---------------------------------------------------------------- what glvid never does

NEVER = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
}
NEVER |= {"marshal.loads", "shelve.open", "np.load", "numpy.load", "tempfile.mktemp", "yaml.load", "joblib.load"}
ALLOWED = {("lessons.py", "np.load")}  # without allow_pickle, numpy refuses objects
NAMES = {"pickle.UnpicklingError"}  # all of pickle that is used


@cache
def calls() -> list[tuple[Path, ast.Call]]:
    return [
        (p, n)
        for p in sorted(GLVID.rglob("*.py"))
        for n in ast.walk(ast.parse(p.read_text()))
        if isinstance(n, ast.Call)
    ]


def test_nothing_runs_what_a_file_says():
    for path, call in calls():
        name, where = ast.unparse(call.func), f"{path.name}:{call.lineno}"
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert name not in NEVER or (path.name, name) in ALLOWED, f"{where}: {name}"
        assert keywords.get("shell", "False") == "False", f"{where}: shell"
        assert keywords.get("allow_pickle", "False") == "False", f"{where}: allow_pickle"
        assert keywords.get("trust_remote_code", "False") == "False", f"{where}: trust_remote_code"
        if name.endswith("torch.load"):
            assert keywords.get("weights_only") == "True", f"{where}: torch.load"


def test_pickle_is_known_by_its_error_alone():
    for path in sorted(GLVID.rglob("*.py")):
        tree = ast.parse(path.read_text())
        used = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert {name for name in used if name.startswith("pickle.")} <= NAMES, path.name
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("pickle", "marshal", "shelve", "dill", "cloudpickle"), path.name


def test_the_walk_sees_calls():
    assert len(calls()) > 1000
    assert any(ast.unparse(call.func) == "torch.load" for _, call in calls())


def test_a_checkpoint_of_another_kind_of_step_is_refused(training):
    options = trained(training)
    path = state.checkpoints(options, "flow")[-1]
    content = torch.load(path, weights_only=True)
    for change in (
        {"step": "3"},
        {"step": -1},
        {"best": None},
        {"optimiser": 3},
        {"optimiser": {"state": {0: 3}}},
        {"options": 3},
    ):
        weights.save_checkpoint(content | change, path)
        with pytest.raises((ModelError, UsageError), match="flow-0000003.pt"):
            state.restore(small_state(options), options)


def test_mutated_files_stay_small(monkeypatch):
    """Lines of lines of lines: 2.5 GB of one byte, once."""
    monkeypatch.setattr(fuzz, "other_text", lambda data, draw: 50 * data)

    class Most(Random):
        def choice(self, options):
            return max(options)

    assert len(fuzz.mutated(b"[" * 20_000, ".csv", Most(7))) == 50_000_000
