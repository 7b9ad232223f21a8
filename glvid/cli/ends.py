"""How a command ends: one line for people, an exit code for programs."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import typer

from glvid.cli.screen import console
from glvid.errors import GlvidError, MemoryExhausted

if TYPE_CHECKING:
    from glvid.inference import Report

FINISHED_WITH_LOSSES = 7
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Interrupted(BaseException):
    """Ctrl-C. Typer ends a command at a KeyboardInterrupt without a word."""


class Terminated(BaseException):
    """SIGTERM arrived."""


def guarded(call: Callable[[], Any], debug: bool) -> tuple[Any, int]:
    """Result of `call` and 0; or None and an exit code, after one line on stderr (and the traceback with --debug)."""
    try:
        return call(), 0
    except (KeyboardInterrupt, Interrupted, Terminated, Exception) as error:  # outermost: a bare traceback helps nobody
        if debug:
            traceback.print_exc()
        sentence, code = judged(error)
        console().print(f"glvid: {in_a_line(sentence)}")
        return None, code


LONGEST = 1000  # characters of a sentence: files may hold words of any length


def in_a_line(sentence: str) -> str:
    """A sentence as a terminal can bear it: no line breaks, no control characters, not too long."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(sentence.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def interruptible(call: Callable[..., Any]) -> Callable[..., Any]:
    """A command that Ctrl-C ends with `Interrupted`."""

    @wraps(call)
    def interruptible_call(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise Interrupted from error

    return interruptible_call


PATIENCE = 10.0  # s that a unit of work may take to its end once the run is to stop
STOPPING = b"glvid: ends after the frame at hand; once more ends it at once\n"


@contextmanager
def stoppable(report: "Report", quiet: bool = False) -> Iterator["Report"]:
    """The report of a run that Ctrl-C or SIGTERM ends when the unit of work at hand is done and reported, or, at the
    second time or after PATIENCE, at once; nothing is lost either way but the unit. Raises Interrupted, Terminated."""
    if threading.current_thread() is not threading.main_thread():  # others are not told of signals
        yield report
        return
    asked: list[BaseException] = []

    def ask(number: int, frame: Any) -> None:
        stop = Terminated() if number == signal.SIGTERM else Interrupted()
        if asked:
            raise stop
        asked.append(stop)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        if not quiet:
            os.write(sys.stderr.fileno(), STOPPING)  # print may be at work where the signal came

    def late(number: int, frame: Any) -> None:
        raise asked[0]

    def checked(call: Callable[..., None]) -> Callable[..., None]:
        def told(*args: Any) -> None:
            call(*args)
            if asked:
                raise asked[0]

        return told

    wanted = {signal.SIGINT: ask, signal.SIGTERM: ask} | ({signal.SIGALRM: late} if hasattr(signal, "SIGALRM") else {})
    heard = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]  # `nohup`, or `&` of a script
    before = {number: signal.signal(number, wanted[number]) for number in heard}
    try:
        yield replace(report, stage=checked(report.stage), advance=checked(report.advance))
        if asked:  # it was the last unit; whoever goes through many files wants to be heard all the same
            raise asked[0]
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def judged(error: BaseException) -> tuple[str, int]:
    """What is said about an exception, and its exit code."""
    match error:
        case KeyboardInterrupt() | Interrupted():
            return "interrupted; infer and train go on with --resume", INTERRUPTED
        case Terminated():
            return "terminated; infer and train go on with --resume", TERMINATED
        case GlvidError():
            return str(error), error.exit_code
        case MemoryError():
            return "out of memory; try a smaller --max-size", MemoryExhausted.exit_code
        case typer.TyperException():
            return f"{error.format_message().rstrip('.')}; see `glvid --help`", error.exit_code
    return f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1
