"""The README's promises: its commands and files exist, its Python runs, its reading order is the tested one."""

import re
from pathlib import Path

import numpy as np
from test_order import ORDER
from typer.testing import CliRunner

from glvid.cli import app
from glvid.video import write_video

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"```\n(sh .*)\n```", README)


def test_two_commands_of_one_line_each():
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        script, *words = re.sub(r"^sh ", "", command.replace("&&", "")).split()
        assert (ROOT / script).is_file()
        assert all((ROOT / word).exists() for word in words if word.startswith("assets/"))


def test_ci_finds_the_test_command():
    pattern = re.search(r"grep -m 1 -E '(.+?)'", (ROOT / ".ci/run").read_text())[1]
    assert re.findall(pattern.replace("^", "(?m)^") + ".*", README) == [COMMANDS[1]]


def test_named_commands_exist():
    blocks = "".join(re.findall(r"```\n(.+?)```", README, re.S))
    for command in set(re.findall(r"(?<![.\w])glvid ([a-z][a-z-]+)", blocks)):
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_pictures_exist():
    assert all((ROOT / path).is_file() for path in re.findall(r"!\[.*?\]\((.+?)\)", README))


def test_python_runs(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.+?)```", README, re.S)[1]
    assert len([line for line in code.splitlines() if line]) <= 8
    rng = np.random.default_rng(0)
    wall = rng.integers(0, 255, (16, 24, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    (tmp_path / "assets").mkdir()
    write_video(tmp_path / "assets/demo.mp4", [wall[:96, k : k + 128] for k in range(0, 14, 2)], 10)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["depth"].shape == names["moving"].shape == (96, 128)
    assert names["flow"].shape == (2, 96, 128) and names["some"].shape == (3, 96, 128)
    assert names["poses"].shape == (7, 4, 4) and names["points"].shape == names["colors"].shape
    assert (tmp_path / "exported/npy/depth/000006.npy").is_file()
    assert (tmp_path / "in_metres/tum/trajectory.txt").is_file()


def test_reading_order_is_import_order():
    told = re.findall(r"`([a-z]+)/?`", README.split("## Reading the code")[1].split("## Licence")[0])
    assert told == sorted(told, key=ORDER.index)
