"""Several inputs: each in a process of its own, and what ends one of them, or all."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import calls
import pytest
from test_cli import clip  # noqa: F401 (a fixture)

from glvid.cli.batch import carried_out

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
TESTS = Path(__file__).parent
PARENT = """
import signal, sys, calls
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, also where the tests run behind an `&`
from functools import partial
from pathlib import Path
from glvid.cli import settle
from glvid.cli.batch import carried_out
settle()
file = Path(sys.argv[2])
work = [partial(getattr(calls, sys.argv[1]), file), partial(calls.begun, file.with_name("second"))]
print([outcome.code for outcome in carried_out([Path("first"), Path("second")], work, False)])
"""


def test_one_call_stays_in_this_process():
    assert carried_out([Path("a")], [partial(calls.fine, "a")], False)[0].document["process"] == os.getpid()


@posix
@pytest.mark.parametrize("each", [1, 5])
def test_what_ends_one_input_ends_no_other(each, capfd):
    work = [calls.crashed, calls.killed, calls.refused, calls.without_a_word, partial(calls.fine, "b\udcff")]
    first, second, third, fourth, last = carried_out([Path(f"{n}.mp4") for n in range(5)], work, False, each)
    assert [outcome.code for outcome in (first, second, third, fourth, last)] == [1, 6, 3, 1, 0]
    assert last.document["name"] == "b\udcff" and last.document["process"] != os.getpid()
    assert "0.mp4: crashed in native code (SIGSEGV)" in first.reason
    assert "1.mp4: " in second.reason and "memory" in second.reason and "--max-size" in second.reason
    assert third.reason == "bad.mp4: is no video"
    assert "3.mp4: crashed in native code (exit code 3)" in fourth.reason
    lines = capfd.readouterr().err.splitlines()
    assert lines == [f"glvid: {outcome.reason}" for outcome in (first, second, third, fourth)]


@pytest.mark.parametrize("each", [1, 3])
def test_an_interrupt_of_one_is_the_end_of_all(each, capfd):
    work = [partial(calls.fine, "a"), calls.interrupted, partial(calls.fine, "c")]
    assert [outcome.code for outcome in carried_out([Path(n) for n in "abc"], work, False, each)] == [0, 130]
    assert "--resume" in capfd.readouterr().err


def parent(call: str, file: Path) -> subprocess.Popen:
    """A batch in another process, whose first child has begun."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    running = subprocess.Popen(
        [sys.executable, "-c", PARENT, call, str(file)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not file.exists():
        assert running.poll() is None
        time.sleep(0.02)
    return running


def test_several_calls_may_share_a_process():
    outcomes = carried_out([Path(n) for n in "abc"], [partial(calls.fine, n) for n in "abc"], False, each=2)
    first, second, third = (outcome.document["process"] for outcome in outcomes)
    assert first == second != third


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["process", "group"])
def test_a_signal_reaches_the_child_once_and_nothing_is_begun_after_it(send, number, tmp_path):
    with parent("waiting", tmp_path / "first") as running:
        send(running.pid, number)
        said = running.communicate(timeout=60)
    assert said[0] == f"[{128 + number}]\n" and said[1].count("\n") == 1
    assert (tmp_path / "first.ended").read_text() == "1"
    assert not (tmp_path / "second").exists()


@posix
def test_the_child_dies_with_its_parent(tmp_path):
    with parent("growing", tmp_path / "first") as running:
        child = int((tmp_path / "first").read_text())
        running.kill()
    deadline = time.monotonic() + 60
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


def alive(pid: int) -> bool:
    """A process that has ended but whom nobody asked for its end is not alive."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text() if Path("/proc/self/stat").exists() else ") R"
    except (ProcessLookupError, FileNotFoundError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@posix
def test_a_decoder_that_crashes(clip, tmp_path):  # noqa: F811
    """The whole command; the process that waits for the others has no need of torch."""
    (tmp_path / "sitecustomize.py").write_text(calls.HOOK)
    (tmp_path / "crash.mp4").write_bytes(clip.read_bytes())
    work = ["infer", "crash.mp4", "clip.mp4", "-o", "runs"]
    code = f"import sys; from glvid.cli import command; code = command({work}); print('torch' in sys.modules, code)"
    path = os.pathsep.join([str(tmp_path), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "False 1\n"
    lines = done.stderr.splitlines()
    assert len([line for line in lines if line.startswith("glvid: crash.mp4: crashed in native code (SIGSEGV)")]) == 1
    table = lines[[line.split() for line in lines].index(["input", "outcome", "exit", "code"]) + 1 :]
    assert [(row.split()[0], row.split()[-1]) for row in table] == [("crash.mp4", "1"), ("clip.mp4", "0")]
    assert "SIGSEGV" in table[0] and "complete, 3 frames" in table[1]
    assert json.loads((tmp_path / "runs/clip.glvid/run.json").read_text())["status"] == "complete"
