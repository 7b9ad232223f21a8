"""The command line from outside: options, exit codes, one-line errors, what goes where."""

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import wave

import numpy as np
import pytest
from rich.console import Console
from room import room, write_run

import glvid
from glvid import cli, inference
from glvid.cli import commands, screen
from glvid.errors import InputError
from glvid.video import write_video

CONTRACT = """out refine steps intrinsics fix-intrinsics distortion depth-model flow flow-format masks mask-polarity
    keep start end stride fps max-size device precision seed resume overwrite allow-partial json quiet debug""".split()
DOCUMENT = {
    "schema": "glvid-run/1",
    "status": "complete",
    "frames": [{}, {}],
    "camera": {"width": 64, "height": 48, "fx": 60.0, "fx_sigma": 1.0, "source": "solved", "observable": True},
    "depth": {"unit": "scene"},
    "refine": {"mode": "none", "loss_first": None, "loss_last": None},
    "seconds": {"total": 1.0},
    "warnings": [],
}


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), np.uint8), 10)
    return path


@pytest.fixture
def pretend(monkeypatch):
    """Puts `act(source, folder)` in the place of a run; it returns run.json's content."""

    def replace(act):
        monkeypatch.setattr(inference, "run", lambda source, out, options, report: act(source, out))
        monkeypatch.setattr(commands, "show_summary", lambda document, folder: None)

    return replace


def said(capsys):
    """What stderr holds: one line for people, no traceback."""
    err = capsys.readouterr().err
    assert err.startswith("glvid: ") and err.count("\n") == 1
    return err


# ---------------------------------------------------------------- help


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["infer", "--help"], ["export-ply", "--help"]], ids=" ".join
)
def test_help_is_light(arguments):
    heavy = "torch numpy cv2 av open3d"
    code = f"""
import sys
from glvid.cli import command
code = command({arguments})
print(sorted(set({heavy!r}.split()) & sys.modules.keys()))
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_is_the_package_s(capsys):
    assert cli.command(["--version"]) == 0
    assert capsys.readouterr().out == f"glvid {glvid.__version__}\n"


def test_options_of_the_contract_exist(capsys):
    assert cli.command(["infer", "--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in CONTRACT if f"--{name} " not in shown] == []


def test_defaults_are_those_of_the_library():
    told = inspect.signature(commands.infer).parameters
    for name, field in inference.InferOptions.__dataclass_fields__.items():
        default = told[name].default
        assert (commands.kinds(default) if name == "keep" else default) == field.default, name


COMMANDS = "infer export-ply export view report train synth eval probe doctor models".split()


@pytest.mark.parametrize("name", COMMANDS)
def test_json_and_quiet_are_options_of_every_command(name, capsys):
    assert cli.command([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--json", "--quiet", "--debug"))


@pytest.mark.parametrize(
    "typed, offered",
    [
        ("glvid ex", "export export-ply"),
        ("glvid export run --to tum,co", "tum,colmap"),
        ("glvid export run --to tum,tu", ""),
        ("glvid infer clip.mp4 --refine p", "params"),
    ],
)
def test_the_shell_completes(typed, offered):
    """bash asks the program itself, by variables; torch is not loaded for that."""
    asked = {"_GLVID_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    code = "import sys; from glvid import cli; sys.argv = ['glvid']; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60
    )
    assert sorted(done.stdout.split()) == offered.split() and done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_had(shell):
    done = subprocess.run(
        [sys.executable, "-m", "glvid", "--show-completion", shell], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "_GLVID_COMPLETE" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("arguments", [["--help"], ["infer", "nowhere.mp4"]], ids=" ".join)
def test_no_color_on_a_terminal(arguments):
    """Bold is no colour."""
    reader, writer = os.openpty()
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"}
    ends = {"stdout": writer, "stderr": writer, "stdin": writer}
    with subprocess.Popen([sys.executable, "-m", "glvid", *arguments], env=environment, **ends) as running:
        os.close(writer)
        seen = b"".join(iter(lambda: _read(reader), b""))
    os.close(reader)
    assert running.returncode in (0, 2) and seen
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-7]|10[0-7])[0-9;]*m", seen)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # what Linux says when the other side is closed
        return b""


# ---------------------------------------------------------------- refusals


def nothing(path):
    return path / "nowhere.mp4"


def empty_folder(path):
    (path / "empty").mkdir()
    return path / "empty"


def zero_bytes(path):
    (path / "zero.mp4").touch()
    return path / "zero.mp4"


def text(path):
    (path / "text.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    return path / "text.mp4"


def sound(path):
    with wave.open(str(path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 8000, "NONE", ""))
        file.writeframes(bytes(16000))
    return path / "sound.wav"


@pytest.mark.parametrize("make, code", [(nothing, 2), (empty_folder, 3), (zero_bytes, 3), (text, 3), (sound, 3)])
@pytest.mark.parametrize("name", ["infer", "probe"])
def test_unusable_inputs(name, make, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.command([name, str(source)]) == code
    assert str(source) in said(capsys)
    assert sorted(tmp_path.rglob("*")) == before  # no run folder is begun


@pytest.mark.parametrize(
    "arguments",
    [
        ["--refine", "all"],
        ["--stride", "0"],
        ["--fps", "0"],
        ["--keep", "depth,colour"],
        ["--intrinsics", "500,500"],
        ["--intrinsics", "fov=200"],
        ["--nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_options(arguments, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.command(["infer", "--quiet", str(clip), *arguments]) == 2
    said(capsys)
    assert list(tmp_path.iterdir()) == [clip]


def test_a_folder_that_is_not_ours_is_left_alone(clip, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/me.jpg").write_text("x")
    assert cli.command(["infer", "--quiet", "--overwrite", str(clip), "-o", str(tmp_path / "photos")]) == 2
    assert "photos" in said(capsys)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["me.jpg"]


def test_export_ply_refuses_what_is_no_run_and_what_exists(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.command(["export-ply", str(empty_folder(tmp_path))]) == 2
    assert "empty" in said(capsys)
    (tmp_path / "empty.ply").write_text("mine")
    assert cli.command(["export-ply", str(tmp_path / "empty")]) == 2
    assert "--overwrite" in said(capsys)
    assert (tmp_path / "empty.ply").read_text() == "mine"


# ---------------------------------------------------------------- several inputs, and how a run ends


def test_run_folders(tmp_path):
    names = ["a/x.mp4", "b/x.mov", "x-2.mp4", "c/x"]
    folders = commands.run_folders([tmp_path / name for name in names], tmp_path / "out")
    assert [path.name for path in folders] == ["x.glvid", "x-2.glvid", "x-2-2.glvid", "x-3.glvid"]
    assert {path.parent for path in folders} == {tmp_path / "out"}
    assert commands.run_folders([tmp_path / "x.mp4"], tmp_path / "out") == [tmp_path / "out"]
    assert [str(path) for path in commands.run_folders([tmp_path / "my.clip.mp4"], None)] == ["my.clip.glvid"]


def test_one_bad_input_does_not_stop_the_others(clip, tmp_path, monkeypatch, capfd):
    """What else may become of the child of an input, and what is shown for people: `tests/test_batch.py`."""
    monkeypatch.chdir(tmp_path)
    assert cli.command(["probe", "--json", "missing.mp4", "clip.mp4"]) == 2
    captured = capfd.readouterr()
    second, first = json.loads(captured.out)
    assert (first["path"], first["frames"]) == ("clip.mp4", 3)
    assert (second["path"], second["exit_code"]) == ("missing.mp4", 2)
    assert captured.err == f"glvid: {second['error']}\n" and "missing.mp4" in second["error"]


def test_json_is_all_of_stdout(clip, pretend, capsys):
    pretend(lambda source, out: DOCUMENT)
    assert cli.command(["infer", "--json", str(clip)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == DOCUMENT
    assert "takes about" in captured.err  # said before the start


def test_lost_frames(clip, pretend):
    pretend(lambda source, out: DOCUMENT | {"status": "partial"})
    assert cli.command(["infer", "-q", str(clip)]) == 7
    assert cli.command(["infer", "-q", "--allow-partial", str(clip)]) == 0


@pytest.mark.parametrize(
    "error, code",
    [(InputError("bad\nfile"), 3), (KeyboardInterrupt(), 130), (MemoryError(), 6), (RuntimeError("boom"), 1)],
    ids=lambda value: type(value).__name__,
)
def test_errors_end_in_one_line(error, code, clip, pretend, capsys):
    def fail(source, out):
        raise error

    pretend(fail)
    assert cli.command(["infer", "-q", str(clip)]) == code
    assert ("--debug" in said(capsys)) == (code == 1)
    assert cli.command(["infer", "-q", "--debug", str(clip)]) == code
    assert "Traceback" in capsys.readouterr().err


def test_sigterm(clip, pretend, monkeypatch, capsys):
    pretend(lambda source, out: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(sys, "argv", ["glvid", "infer", "-q", str(clip)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    said(capsys)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]], ids=" ".join)
def test_a_closed_stdout_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "glvid", *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""


# ---------------------------------------------------------------- progress


def test_no_bars_and_no_colour_without_a_terminal(capsys):
    with screen.progress(quiet=False) as report:
        report.stage("decode", 2)
        report.advance(2)
        report.note("a [red]note[/red] of " + 200 * "x")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "decode (2)\na [red]note[/red] of " + 200 * "x" + "\n"


def test_quiet_says_nothing(capsys):
    with screen.progress(quiet=True) as report:
        report.stage("decode", 2)
        report.note("nothing")
    assert capsys.readouterr() == ("", "")


def test_a_bar_for_every_stage():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    with screen.Bars(terminal) as bars:
        bars.stage("decode", 2)
        bars.advance(2)
        bars.stage("solve", None)
        bars.advance()
        bars.stage("write", 5)
        bars.advance(3)
    last = terminal.file.getvalue()
    assert all(text in last for text in ("decode", "2/2", "solve", "1/1", "write", "3/3"))


# ---------------------------------------------------------------- finished runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "a room.glvid", room(3)).path


def test_export_ply_as_json(finished, tmp_path, capsys):
    assert cli.command(["export-ply", str(finished), "-o", str(tmp_path / "x.ply"), "--json", "-q"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["points"] > 1000 and captured.err == ""


def test_export_says_what_it_wrote(finished, tmp_path, capsys):
    assert cli.command(["export", str(finished), "--to", "tum, npy", "-o", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert list(said) == ["tum", "npy"] and said["tum"]["files"] == ["trajectory.txt"]
    assert "6 files" in captured.err
    assert cli.command(["export", str(finished), "--to", "tum", "-o", str(tmp_path), "--overwrite", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_report_of_a_run(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.command(["report", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == "a room.html"
    assert cli.command(["report", str(finished)]) == 2 and "--overwrite" in said(capsys)
    assert cli.command(["report", str(finished), "-o", str(tmp_path)]) == 2
    assert cli.command(["report", str(tmp_path)]) == 2


def test_infer_with_a_report(clip, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert cli.command(["infer", "-q", str(clip), "-o", out]) == 0 and not (tmp_path / "run/report.html").exists()
    assert cli.command(["infer", "-q", str(clip), "-o", out, "--report"]) == 0  # of the run that is done
    assert "clip.mp4" in (tmp_path / "run/report.html").read_text()


def test_view_serves_until_it_is_interrupted(finished):
    """The address is the first thing on stdout; Ctrl-C is no failure."""
    words = ["glvid", "view", str(finished), "--port", "0", "--no-open", "--json"]
    code = f"import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv = {words}; "
    code += "from glvid.cli import main; main()"  # Ctrl-C as in a terminal, also where the tests run behind an `&`
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        url = json.loads(running.stdout.readline())["url"]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url + "/run.json" if not url.endswith("/") else url + "run.json") as answer:
            assert answer.status == 200
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0


def test_overwrite_replaces_what_glvid_wrote_and_nothing_else(finished, tmp_path, capsys):
    for name, option in (("export-ply", "x.ply"), ("report", "x.html")):
        path = tmp_path / option
        path.write_text("mine")
        assert cli.command([name, str(finished), "-o", str(path), "--overwrite"]) == 2
        assert "glvid writes" in said(capsys) and path.read_text() == "mine"
        path.unlink()
        assert cli.command([name, str(finished), "-o", str(path), "-q"]) == 0
        assert cli.command([name, str(finished), "-o", str(path), "-q", "--overwrite"]) == 0


def test_ctrl_c_says_so(finished, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("glvid.exports.export", interrupted)
    assert cli.command(["export", str(finished), "--to", "tum", "-o", str(tmp_path)]) == 130
    assert "interrupted" in said(capsys)


@pytest.mark.parametrize("option", ["--scale-from", "--frames"])
def test_an_empty_option_is_not_no_option(option, finished, tmp_path, capsys):
    """As a shell leaves it whose variable is not set."""
    assert cli.command(["export", str(finished), "--to", "tum", "-o", str(tmp_path), option, ""]) == 2
    assert option in said(capsys) and list(tmp_path.iterdir()) == []


def test_messages_are_what_they_are(tmp_path, capsys):
    assert cli.command(["report", str(tmp_path / ":smile:")]) == 2
    assert ":smile:" in said(capsys)
