"""Many clips by an engine: which ones are meant, the table of what came of them, and a Ray that loses a worker."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glvid import results
from glvid.cli import command, fleet
from glvid.errors import UsageError
from glvid.parallel import cores

ROOT = Path(__file__).parents[1]


def touched(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_of_videos_is_every_video_below_it_in_natural_order(tmp_path):
    here = [tmp_path / name for name in ("clip2.mp4", "clip10.MOV", "day/a.mkv")]
    touched(*here, tmp_path / "notes.md", tmp_path / ".trash/b.mp4", tmp_path / "clip2.glvid/preview.mp4")
    assert fleet.expanded([tmp_path]) == here


def test_a_folder_of_pictures_and_a_file_are_themselves(tmp_path):
    touched(tmp_path / "frames/0.png", tmp_path / "a.mp4")
    given = [tmp_path / "frames", tmp_path / "a.mp4", tmp_path / "missing.mp4"]
    assert fleet.expanded(given) == given


def test_a_list_has_a_path_a_line_from_where_it_lies(tmp_path):
    (tmp_path / "list.txt").write_text("# mine\na.mp4\n\n  sub/b.mp4  \n/abs/c.mp4\na.mp4\n")
    found = fleet.expanded([tmp_path / "list.txt", tmp_path / "a.mp4"])
    assert found == [tmp_path / "a.mp4", tmp_path / "sub/b.mp4", Path("/abs/c.mp4")]


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\x00", None])
def test_a_list_that_names_nothing_is_refused(tmp_path, content):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"list\.txt.*one path a line"):
        fleet.expanded([path])


@pytest.mark.parametrize("engine", ["spark", "", "rayon:1"])
def test_other_engines_are_refused(tmp_path, capsys, engine):
    assert command(["infer", str(tmp_path / "a.mp4"), "-o", str(tmp_path / "out"), "--engine", engine]) == 2
    assert "--engine" in capsys.readouterr().err


def test_a_missing_ray_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command(["infer", str(tmp_path / "a.mp4"), "-o", str(tmp_path / "out"), "--engine", "ray"]) == 2
    assert "pip install 'glvid[ray]'" in capsys.readouterr().err


def test_the_last_line_of_a_folder_counts_and_half_a_line_does_not(tmp_path):
    lines = [{"folder": "b", "exit_code": 1}, {"folder": "a", "exit_code": 0}, {"folder": "b", "exit_code": 0}]
    table = tmp_path / "results.jsonl"
    table.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"folder": "c", "ex')
    assert fleet.read_table(table) == {"a": lines[1], "b": lines[2]}
    fleet.rewritten(table)
    assert [json.loads(line) for line in table.read_text().splitlines()] == [lines[1], lines[2]]


def test_only_what_was_asked_for_alike_and_is_there_counts_as_done(tmp_path):
    source, folder = tmp_path / "a.mp4", tmp_path / "a.glvid"
    source.write_bytes(b"1")
    folder.mkdir()
    asked = fleet.asked(source, {"refine": "none", "out": tmp_path, "quiet": True})
    clip = fleet.Clip(source, folder, dict, asked)
    line = {"folder": str(folder), "asked": asked, "exit_code": 0}
    info = {"schema": results.SCHEMA, "status": "complete"}
    results.write_info(folder, info)
    assert fleet.finished({str(folder): line}, clip).document == info
    assert fleet.finished({}, clip) is None
    assert fleet.finished({str(folder): line | {"exit_code": 3}}, clip) is None
    other = fleet.asked(source, {"refine": "output", "out": tmp_path, "quiet": True})
    assert fleet.finished({str(folder): line | {"asked": other}}, clip) is None
    assert asked == fleet.asked(source, {"refine": "none", "out": Path("elsewhere"), "quiet": False})
    assert asked == fleet.asked(source, {"refine": "none", "engine": "ray", "clip_cpus": 4, "retries": 1})
    source.write_bytes(b"22")
    assert asked != fleet.asked(source, {"refine": "none", "out": tmp_path, "quiet": True})
    results.write_info(folder, info | {"status": "running"})
    assert fleet.finished({str(folder): line}, clip) is None


def test_cores_are_no_more_than_threads_that_are_wanted(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    there = cores()
    for said, meant in (("1", 1), ("1,4", 1), ("4000", there), ("0", there), ("", there), ("many", there)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert cores() == meant


def worker_of(folder: Path) -> int:
    """The worker whose child writes into a run folder; 0 as long as there is none."""
    try:
        child = (folder / results.LOCK).read_text().split()[0]
        return int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="workers are found by /proc")
def test_a_ray_that_loses_a_worker_ends_every_clip_once(tmp_path):
    pytest.importorskip("ray")
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in "abc":
        shutil.copyfile(ROOT / "assets/demo.mp4", clips / f"{name}.mp4")
    (clips / "broken.mp4").write_bytes(b"no film")
    words = [sys.executable, "-m", "glvid", "infer", str(clips), "-o", str(tmp_path / "runs"), "--engine", "ray"]
    words += ["--clip-cpus", "1", "--end", "0.5", "--max-size", "160", "--refine", "output"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        since, killed = time.monotonic(), 0
        while not killed and process.poll() is None and time.monotonic() - since < 120:
            time.sleep(0.05)
            work = tmp_path / "runs" / "a.glvid" / results.WORK
            killed = worker_of(tmp_path / "runs" / "a.glvid") if (work / "depth.array").is_file() else 0
        assert killed
        os.kill(killed, signal.SIGKILL)
        said = process.communicate()[1]
    assert process.returncode == 3, said
    lines = [json.loads(line) for line in (tmp_path / "runs" / fleet.TABLE).read_text().splitlines()]
    assert [Path(x["folder"]).name for x in lines] == ["a.glvid", "b.glvid", "broken.glvid", "c.glvid"]
    assert [x["exit_code"] for x in lines] == [0, 0, 3, 0]
    assert said.count("complete, ") == 3 and "broken.mp4" in lines[2]["error"]
    prints = {x["result_sha256"] for x in lines if x["exit_code"] == 0}
    assert len(prints) == 1  # the same clip three times, one of them in two pieces
    again = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    assert again.returncode == 3 and "4 clips, 3 of them done before" in again.stderr
