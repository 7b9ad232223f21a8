"""The command line. options: what can be said · screen: what is shown · ends: exit codes · commands, runs: the rest"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from glvid.cli import commands, runs  # noqa: F401 (they add themselves to the app)
from glvid.cli.app import app
from glvid.cli.ends import Terminated, guarded, interruptible

for _registered in app.registered_commands:
    _registered.callback = interruptible(_registered.callback)


def command(arguments: Sequence[str]) -> int:
    """Carries out a command line; returns the exit code."""
    result, code = guarded(
        lambda: app(list(arguments), prog_name="glvid", standalone_mode=False), "--debug" in arguments
    )
    return code or result or 0


# glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD (bytes), and M_ARENA_MAX: heaps that threads take turns with, of
# which each keeps what was freed in it; usually 8 a core
MALLOPT = {-3: 32 << 20, -1: 1 << 30, -2: 64 << 20, -8: os.cpu_count() or 2}


def keep_freed_memory() -> None:
    """Let the C library (glibc; others are left alone) keep memory that was freed, for this process.

    Maps of a frame are just large enough that each is otherwise asked of the kernel and given back, page by page, which
    threads wait for one another to do: a tenth of the time of a refined run.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    for name, value in MALLOPT.items() if mallopt else ():
        mallopt(name, value)


def settle() -> None:
    """What this process needs before it works, be it the command itself or a child that works on one input."""

    def terminate(number: int, frame: Any) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    # read when torch is loaded: threads that wait spin for milliseconds by default, which makes a busy machine crawl
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    keep_freed_memory()


def main() -> NoReturn:
    """The `glvid` command."""
    settle()
    sys.exit(command(sys.argv[1:]))
