"""Disks that take no more: exit code 5, one line that names the path, nothing cut, nothing left, nothing lost.

A limit on the length of files (`ulimit -f`) makes the system refuse what is longer, also to FFmpeg, OpenEXR and all
that writes without Python; a small disk of its own, where one may be mounted, runs out of room in the middle.
"""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from room import room, write_run
from run_folder import check
from test_frames import film, half
from test_train import options, out, small_networks  # noqa: F401 (fixtures)

from glvid import claim, cli, files, results, synth, train, weights
from glvid.cli.options import FORMATS
from glvid.data import frames
from glvid.data.pool import Pool
from glvid.errors import OutputError
from glvid.networks import DepthConfig, DepthNet
from glvid.synthetic import scene
from glvid.train import state
from glvid.video import write_video

LENGTHS = (0, 1, 100, 4096, 50_000, 1_000_000)  # bytes that a file may have


@contextmanager
def limited(length: int):
    """No file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[str, bytes | None]:
    """All that lies in a folder."""
    return {str(x.relative_to(folder)): x.read_bytes() if x.is_file() else None for x in sorted(folder.rglob("*"))}


def longest(folder: Path) -> int:
    """Bytes of the longest file."""
    return max(len(data) for data in content(folder).values() if data is not None)


def refused(code: int, capsys) -> str:
    """What was said, which is one line with all that is to be known."""
    said = capsys.readouterr().err
    assert code == 5 and said.count("\n") == 1
    assert re.match(r"glvid: .+: cannot be written: (File too large|No space left on device); ", said), said
    return said


def every_length(arguments: list[str], capsys, lengths: tuple[int, ...] = LENGTHS) -> None:
    """A command that writes into the folder `new`: with every limit that is shorter than its longest file."""
    assert cli.command(arguments) == 0
    shutil.move("new", "whole")
    lengths = [n for n in lengths if n < longest(Path("whole"))]
    assert lengths
    before = content(Path())
    for length in lengths:
        capsys.readouterr()
        with limited(length):
            code = cli.command(arguments)
        assert str(Path("new")) in refused(code, capsys)
        if Path("new").is_dir() and not any(Path("new").iterdir()):
            Path("new").rmdir()  # one that was asked for and is empty does no harm
        assert content(Path()) == before, length


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "a room.glvid", room(3)).path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- exports and the report


@pytest.mark.parametrize("name", FORMATS)
def test_exports(name, finished, here, capsys):
    if name == "rrd":
        pytest.importorskip("rerun")
    lengths = (100, 50_000) if name == "mesh" else LENGTHS  # it takes long to make
    every_length(["export", str(finished), "--to", name, "-o", "new", "-q"], capsys, lengths)


@pytest.mark.parametrize("name", ["tum", "ply", "depth-video", "exr"])
def test_an_export_that_is_there_stays(name, finished, here, capsys):
    command = ["export", str(finished), "--to", name, "-o", "new", "-q"]
    assert cli.command(command) == 0
    before = content(here)
    with limited(300):
        assert "new" in refused(cli.command([*command, "--overwrite"]), capsys)
    assert content(here) == before


@pytest.mark.parametrize("option", [[], ["--mesh"], ["--clean"]], ids=" ".join)
def test_export_ply(option, finished, here, capsys):
    every_length(["export-ply", str(finished), "-o", "new/x.ply", "-q", *option], capsys, (100, 50_000))
    Path("x.ply").write_bytes(b"ply: an old one")
    with limited(50_000):
        said = refused(cli.command(["export-ply", str(finished), "-o", "x.ply", "--overwrite", *option]), capsys)
    assert re.search(r"x\.ply: .*; needs about \d+ kB", said)
    assert Path("x.ply").read_bytes() == b"ply: an old one"


def test_report(finished, here, capsys):
    every_length(["report", str(finished), "-o", "new/x.html", "-q"], capsys, (0, 50_000))


# ---------------------------------------------------------------- infer


def test_a_run_folder_is_whole_or_not_begun(here, capsys):
    """What claims a folder: the lock, run.json, and the journal of an old run, which stays as it is."""
    identity = {"input": {"path": "a"}, "options": {}, "models": {}}
    for length in (0, 1, 50):
        with limited(length), pytest.raises(OutputError, match="cannot be written"):
            claim.prepare(here / "new", identity)
        assert not list(here.iterdir())
    run = write_run(here / "old.glvid", room(2, (64, 48))).path
    before = content(here)
    for length in (0, 1, 50, 80):
        with limited(length), pytest.raises(OutputError, match="cannot be written"):
            claim.prepare(run, identity, overwrite=True)
        assert content(here) == before
    check(run)


def test_files_of_a_run_are_whole(here):
    """Maps, preview, cloud, path and run.json, written as `infer` writes them."""
    truth = room(3)
    whole = content(write_run(here / "whole.glvid", truth).path)
    for length in (*LENGTHS, *(len(whole[name]) - 1 for name in ("preview.mp4", "scene.ply", "image/000000.jpg"))):
        if length >= max(len(data) for data in whole.values() if data):
            continue
        folder = here / f"{length}.glvid"
        with limited(length), pytest.raises(OutputError, match="cannot be written: File too large"):
            write_run(folder, truth)
        left = content(folder) if folder.exists() else {}
        assert left.keys() - whole.keys() <= {results.LOCK, results.JOURNAL}
        assert all(left[name] == whole[name] for name in left.keys() & whole.keys() - {results.INFO})


def test_infer_without_room_for_the_first_file(here, capsys):
    write_video(here / "clip.mp4", np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), np.uint8), 10)
    before = content(here)
    with limited(0):
        assert "run" in refused(cli.command(["infer", "clip.mp4", "-o", "run", "-q"]), capsys)
    assert content(here) == before


def test_the_journal_survives_a_line_that_was_cut(here):
    claim.prepare(here / "run", {"input": {}})
    rows = [results.frame_row(k, k, k / 10, 0, False) for k in range(9)]
    maps = [np.ones((4, 4)), np.zeros((2, 4, 4)), np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8)]
    with suppress(OutputError), limited(200):
        for row in rows:
            results.write_frame(here / "run", row, 1.0, *maps)
    results.write_frame(here / "run", rows[-1], 1.0, *maps)
    claim.release(here / "run")
    claim.prepare(here / "run", {"input": {}}, overwrite=True)
    assert not [name for name in content(here / "run") if name.endswith((".png", ".jpg"))]


# ---------------------------------------------------------------- synth, train


@pytest.fixture(scope="module")
def rendered():
    """A world of two frames."""
    return scene(0, None, 2, (64, 32))


@pytest.mark.parametrize("layout", synth.LAYOUTS)
def test_synth(layout, rendered, here, monkeypatch, capsys):
    """Files of a data set that were whole before the disk was full remain."""
    monkeypatch.setattr(synth, "scene", lambda *_, **__: rendered)
    command = ["synth", "new", "-n", "1", "--layout", layout, "--frames", "2", "--size", "64x32", "-q"]
    assert cli.command(command) == 0
    shutil.move("new", "whole")
    for length in (0, 1, 100, 4096):
        with limited(length):
            refused(cli.command(command), capsys)
        whole = content(Path("whole"))
        assert all(whole[name] == data for name, data in content(Path("new")).items())
        shutil.rmtree("new")
    Path("file").write_text("mine")
    assert cli.command(["synth", "file/new", *command[2:]]) == 5
    assert Path("file").read_text() == "mine"


def test_eval(rendered, here, monkeypatch, capsys):
    """Where the run cannot begin, and of a run that is there, where no table can be written."""
    monkeypatch.setattr(synth, "scene", lambda *_, **__: rendered)
    assert cli.command(["synth", "data", "-n", "1", "--layout", "middlebury", "-q"]) == 0
    command = ["eval", "flow", "--data", "data", "-q", "-o"]
    with limited(0):
        assert "new" in refused(cli.command([*command, "new"]), capsys)
    assert all(path.is_dir() or path.is_symlink() for path in Path("new").rglob("*"))
    Path("file").write_text("mine")
    assert cli.command([*command, "file/new"]) == 5
    assert cli.command([*command, "whole"]) == 0
    tables = {name: Path("whole", name).read_bytes() for name in ("summary.json", "table.md", "frames.csv")}
    capsys.readouterr()
    for length in (0, 100):
        before = content(here)
        with limited(length):
            refused(cli.command([*command, "whole"]), capsys)
        assert content(here) == before
    assert tables == {name: Path("whole", name).read_bytes() for name in tables}


def network() -> DepthNet:
    return DepthNet(DepthConfig(channels=(8, 8, 8, 8, 8)))


def test_weights_and_checkpoints(here):
    """Also what torch makes of it: an error of its own, which says nothing of the disk."""
    weights.save(network(), here / "a.safetensors")
    weights.write_index(here)
    weights.save_checkpoint({"x": torch.zeros(20_000)}, here / "a.pt")
    before = content(here)
    for length in (0, 1, 100, 4096, 50_000):
        for name in ("a", "b"):
            with limited(length), pytest.raises(OutputError, match=rf"{name}\.pt: cannot be written: File too large"):
                weights.save_checkpoint({"x": torch.ones(20_000)}, here / f"{name}.pt")
        if length < len(before["a.safetensors"]):
            with limited(length), pytest.raises(OutputError, match="File too large; needs about"):
                weights.save(network(), here / "a.safetensors")
        if length < len(before["index.json"]):
            with limited(length), pytest.raises(OutputError, match="index.json: cannot be written"):
                weights.write_index(here)
        assert content(here) == before


def test_a_log_holds_whole_lines(here):
    with pytest.raises(OutputError, match="log.jsonl: cannot be written"):
        with state.open_log(here / "log.jsonl", "depth", 0) as log, limited(100):
            for step in range(9):
                log({"stage": "depth", "step": step})
    lines = (here / "log.jsonl").read_text().splitlines(True)
    assert lines and all(state._read(line) and line.endswith("\n") for line in lines)


def test_a_pool_is_whole_or_not_there(here):
    pool = Pool(here / "pool" / "train.bin", (96, 64), 4)
    for length in (0, 100, 50_000):
        with limited(length), pytest.raises(OutputError, match="train.bin: cannot be written: File too large; needs"):
            pool.open()
        assert not list((here / "pool").iterdir())
    with limited(0), pytest.raises(OutputError, match="train.held: cannot be written"):
        pool.hold(3)
    assert pool.open()[1][0] == 0 and pool.held == 0


def test_frames_of_a_film_are_whole_or_not_there(here):
    recording = film(here / "walk", [(0, 4 * k) for k in range(6)])
    for length, name in ((0, "rgb"), (100, "rgb"), (9000, "rgb")):  # of 27,648 bytes
        with limited(length), pytest.raises(OutputError, match=rf"{name}: cannot be written: File too large"):
            frames.stored(recording, here / "cache", half)
        assert not list((here / "cache").iterdir())
    assert len(frames.stored(recording, here / "cache", half).images) == 6


def test_what_a_stage_starts_from_is_whole_or_not_there(out):  # noqa: F811
    asked = options(out, stage="all")
    for length in (0, 4096):
        with limited(length), pytest.raises(OutputError, match="cannot be written"):
            train.loop.start_of(asked, asked.stages[1])
        assert not list((out / "start").iterdir())


def test_training_ends_in_order_and_goes_on(out):  # noqa: F811
    """Where the options do not fit, the first checkpoint, or the second, which is longer."""
    pool = content(out)
    for length in (0, 330, 2_100_000):
        with limited(length), pytest.raises(OutputError, match="cannot be written: File too large"):
            train.train(options(out, stage="flow", steps=2))
        there = content(out)
        assert {name: there[name] for name in pool} == pool
        assert not [name for name in there if ".part" in name or ".glvid" in name]
        logs = [line for name in there if name.endswith(".jsonl") for line in Path(out / name).read_text().splitlines()]
        assert all(json.loads(line) for line in logs)
    assert state.checkpoints(options(out), "flow")
    train.train(options(out, stage="flow", steps=2, resume=True))
    assert [x["step"] for x in map(json.loads, (out / "log.jsonl").read_text().splitlines())] == [0, 1]


# ---------------------------------------------------------------- what is said, and a disk that is full


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, r"No space left on device; needs about 12 MB, .+ are free; free some space"),
        (errno.EDQUOT, r"Disk quota exceeded; needs about 12 MB; free some space"),
        (errno.EFBIG, r"File too large; needs about 12 MB; .*ulimit"),
        (errno.EROFS, r"Read-only file system; choose another place with -o"),
        (errno.EACCES, r"Permission denied; choose another place with -o"),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else "",
)
def test_what_is_said(number, words, tmp_path):
    said = str(files.cannot_write(tmp_path / "x", OSError(number, os.strerror(number)), 12_000_000))
    assert re.fullmatch(rf".*x: cannot be written: {words}.*", said) and "\n" not in said


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk may be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", ["npy", "colmap", "exr", "flo", "depth-video", "rrd"])
def test_a_disk_that_gets_full(name, finished, small_disk, capsys, monkeypatch):
    """The room that is left was enough when it was looked at."""
    if name == "rrd":
        pytest.importorskip("rerun")
    monkeypatch.setattr(results, "check_space", lambda folder, needed: None)
    (small_disk / "other").write_bytes(bytes(196_000 if name in ("exr", "depth-video") else 100_000))
    before = content(small_disk)
    code = cli.command(["export", str(finished), "--to", name, "-o", str(small_disk), "-q"])
    assert "No space left on device" in refused(code, capsys)
    assert content(small_disk) == before
