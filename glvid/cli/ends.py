"""How a command ends: one line for people, an exit code for programs."""

import signal
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from glvid.cli.screen import console
from glvid.errors import GlvidError, MemoryExhausted

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
        console().print(f"glvid: {' '.join(sentence.split())}")
        return None, code


def interruptible(call: Callable[..., Any]) -> Callable[..., Any]:
    """A command that Ctrl-C ends with `Interrupted`."""

    @wraps(call)
    def interruptible_call(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise Interrupted from error

    return interruptible_call


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
