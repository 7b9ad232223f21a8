"""Several inputs, each in a process of its own: what crashes in a decoder, or eats the memory, ends no other input.

One input is worked on in this process, so that nothing stands between it and a debugger.
"""

import faulthandler
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from glvid.cli.ends import INTERRUPTED, TERMINATED, guarded, judged
from glvid.cli.screen import say
from glvid.errors import MemoryExhausted

Call = Callable[[], dict[str, Any]]
ENDING = {signal.SIGINT, signal.SIGTERM}
PATIENCE = 3  # of these, the last is no longer a request


@dataclass(frozen=True)
class Outcome:
    """What came of one input: a document and 0, or an exit code and the sentence that was said."""

    document: dict[str, Any] | None
    code: int
    reason: str = ""


def carried_out(sources: Sequence[Path], calls: Sequence[Call], debug: bool, each: int = 1) -> list[Outcome]:
    """The outcome of every call; fewer, where Ctrl-C or SIGTERM ended one: nothing is begun after it.

    Several calls have to be what `pickle` takes, and their documents JSON. They run one after another, `each` so many
    in a child process, which dies with this one; after one that crashes comes the next in a new child. Errors have been
    said on stderr when this returns.
    """
    if len(calls) == 1:
        return [attempt(calls[0], debug)]
    told: list[int] = []
    running: list[BaseProcess] = []
    outcomes: list[Outcome] = []
    with passed_on(told, running):
        while len(outcomes) < len(calls) and not (outcomes and outcomes[-1].code in (INTERRUPTED, TERMINATED)):
            some = slice(len(outcomes), len(outcomes) + each)
            if told:
                outcomes.append(unbegun(sources[some.start], told[0]))
            else:
                outcomes += in_child(sources[some], calls[some], debug, told, running)
    return outcomes


def attempt(call: Call, debug: bool) -> Outcome:
    """`guarded`, and what was said."""
    reasons = []

    def noted() -> dict[str, Any]:
        try:
            return call()
        except BaseException as error:
            reasons.append(" ".join(judged(error)[0].split()))
            raise

    document, code = guarded(noted, debug)
    return Outcome(document, code, "".join(reasons))


def unbegun(source: Path, number: int) -> Outcome:
    """The outcome of an input that a signal was quicker than."""
    return told_outcome(f"{source}: not begun, as a signal asked to end", 128 + number)


def told_outcome(sentence: str, code: int) -> Outcome:
    """A failure, said on stderr."""
    say(f"glvid: {sentence}")
    return Outcome(None, code, sentence)


# ---------------------------------------------------------------- the parent


def in_child(
    sources: Sequence[Path], calls: Sequence[Call], debug: bool, told: list[int], running: list[BaseProcess]
) -> list[Outcome]:
    """The outcomes of calls in one child process, which is listed in `running` as long as it lives: of all, or up to
    one that it died of, or that a signal ended."""
    context = multiprocessing.get_context("spawn")  # nothing of ours is in it, and every system has it
    answers, channel = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(calls, debug, channel), name="glvid")
    if os.name == "posix":
        multiprocessing.resource_tracker.ensure_running()  # it may undo the blocking of signals when it is started
    with blocked(signal.SIG_BLOCK):  # the child is born with them waiting, until it knows what to do about them
        child.start()
        running.append(child)
    channel.close()
    outcomes: list[Outcome] = []
    with suppress(EOFError, OSError):  # it died, maybe in the middle of a word
        while len(outcomes) < len(calls):
            outcomes.append(Outcome(**json.loads(answers.recv_bytes())))
    child.join()
    running.remove(child)
    answers.close()
    if len(outcomes) < len(calls) and not (outcomes and outcomes[-1].code in (INTERRUPTED, TERMINATED)):
        outcomes.append(told_outcome(*autopsy(sources[len(outcomes)], child.exitcode or 0, told)))
    return outcomes


def autopsy(source: Path, exitcode: int, told: Sequence[int]) -> tuple[str, int]:
    """What is said about a child that ended without an answer, and the exit code."""
    if told:
        return f"{source}: ended by a signal; infer goes on with --resume", 128 + told[0]
    if exitcode == -9:  # SIGKILL, a name that not every system has
        kill = "its process was killed (SIGKILL), which is what the system does when memory runs out"
        return f"{source}: {kill}; try a smaller --max-size", MemoryExhausted.exit_code
    known = {number.value: number.name for number in signal.Signals}
    cause = known.get(-exitcode, f"exit code {exitcode}")
    hint = "the file may be damaged: try it converted by another program; --debug shows where it happened"
    return f"{source}: crashed in native code ({cause}); {hint}", 1


@contextmanager
def passed_on(told: list[int], running: Sequence[BaseProcess]) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to the child that runs and are noted in `told`; Ctrl-Z stops the child as well.

    The child is a process group of its own, so whoever signals the batch, a terminal or a program, it hears of it once.
    """

    def pass_on(number: int, frame: Any) -> None:
        told.append(number)
        tell(number if len(told) < PATIENCE else signal.SIGKILL)

    def pause(number: int, frame: Any) -> None:
        tell(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        tell(signal.SIGCONT)

    def tell(number: int) -> None:
        for child in running if os.name == "posix" else ():  # elsewhere the console tells all, and os.kill would kill
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)

    wanted = dict.fromkeys(ENDING, pass_on) | ({signal.SIGTSTP: pause} if os.name == "posix" else {})
    heard = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]  # `nohup`, or `&` of a script
    before = {number: signal.signal(number, wanted[number]) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def blocked(how: int) -> Iterator[None]:
    """The signals that end a command are kept waiting (SIG_BLOCK) or let through (SIG_UNBLOCK) inside."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(how, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- the child


def work(calls: Sequence[Call], debug: bool, channel: Connection) -> None:
    """What the child does: every call as the only input of a command would be treated; outcomes go back as JSON."""
    from glvid.cli import settle

    threading.Thread(target=die_with_parent, name="glvid-parent", daemon=True).start()
    if os.name == "posix":
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a terminal may want to stop background groups that write
    if debug:
        faulthandler.enable()
    settle()

    for call in calls:
        outcome = attempt(partial(begun, call), debug)
        channel.send_bytes(json.dumps(asdict(outcome)).encode())
        if outcome.code in (INTERRUPTED, TERMINATED):
            break


def begun(call: Call) -> dict[str, Any]:
    """The call, which signals may end."""
    with blocked(signal.SIG_UNBLOCK):
        return call()


def die_with_parent() -> None:
    """Ends this process at once when its parent has ended, however that came about."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
