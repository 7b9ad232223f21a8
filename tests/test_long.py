"""What takes most of an hour, asked for by name: `pytest -m long`."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.long
def test_memory_of_3000_frames_is_that_of_300():
    assert subprocess.run([sys.executable, TESTS / "memory.py"]).returncode == 0


@pytest.mark.long
def test_fifty_killed_runs_end_in_the_same_bytes():
    assert subprocess.run([sys.executable, TESTS / "kills.py", "--kills", "50"]).returncode == 0
