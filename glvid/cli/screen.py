"""What is said, and where: data on stdout, progress and messages on stderr."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from glvid.inference import Report


def emit(text: str) -> None:
    """Data, on stdout; a reader that has gone away (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is silent too


def aligned(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values as two columns."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)


def console() -> "Console":
    """stderr; plain unless it is a terminal and NO_COLOR is not set."""
    from rich.console import Console

    plain = not sys.stderr.isatty() or bool(os.environ.get("NO_COLOR"))
    width = None if sys.stderr.isatty() else 1000  # nobody wants lines broken in a log
    style = dict(no_color=plain, force_terminal=not plain, markup=False, highlight=False, emoji=False, soft_wrap=True)
    return Console(stderr=True, width=width, **style)


def say(sentence: str, quiet: bool = False) -> None:
    """A message, on stderr."""
    if not quiet:
        console().print(sentence)


@contextmanager
def progress(quiet: bool) -> Iterator["Report"]:
    """What `infer` reports to: nothing, lines, or, on a terminal, a bar with the time left for every stage."""
    from glvid.inference import Report

    screen = console()
    if quiet:
        yield Report()
    elif not screen.is_terminal:
        yield Report(stage=lambda name, total: screen.print(f"{name} ({total})" if total else name), note=screen.print)
    else:
        with Bars(screen) as bars:
            yield Report(stage=bars.stage, advance=bars.advance, note=screen.print)


@contextmanager
def training_progress(quiet: bool, batch: int) -> Iterator[tuple[Callable, Callable]]:
    """What `train` tells: sentences, and on a terminal a bar with the loss, samples a second and the time left."""
    screen = console()
    if quiet or not screen.is_terminal:
        yield (lambda sentence: None) if quiet else screen.print, lambda *_: None
        return
    from rich import progress as p

    columns = p.TextColumn("{task.description}"), p.BarColumn(), p.MofNCompleteColumn(), p.TimeRemainingColumn()
    with p.Progress(*columns, p.TextColumn("{task.fields[said]}"), console=screen) as bars:
        tasks: dict[str, Any] = {}

        def step(stage: str, number: int, steps: int, facts: dict[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=steps, said="")
            said = f"loss {facts['loss']:.3f}, {batch / max(facts['seconds'], 1e-6):.1f} samples/s" if facts else ""
            bars.update(tasks[stage], completed=number + 1, said=said)

        yield bars.console.print, step


class Bars:
    """One bar per stage, the running one with its time left."""

    def __init__(self, screen: "Console") -> None:
        from rich import progress as p

        name, bar, done = p.TextColumn("{task.description}"), p.BarColumn(), p.MofNCompleteColumn()
        self._bars = p.Progress(name, bar, done, p.TimeElapsedColumn(), p.TimeRemainingColumn(), console=screen)
        self._running = None

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._fill()
        self._bars.stop()

    def stage(self, name: str, total: int | None) -> None:
        self._fill()
        self._running = self._bars.add_task(name, total=total)

    def advance(self, steps: int = 1) -> None:
        if self._running is not None:
            self._bars.advance(self._running, steps)

    def _fill(self) -> None:
        """A stage that gave way to the next is complete, however it counted."""
        if self._running is not None:
            done = self._bars.tasks[self._running].completed or 1
            self._bars.update(self._running, total=done, completed=done)


def show_summary(document: dict[str, Any], folder: Path) -> None:
    """The closing table, on stderr."""
    from rich.table import Table

    from glvid import report, results

    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    run = results.open_run(folder)
    length = report.path_length(run.trajectory(), [row.shot for row in run.rows])
    for name, value in report.summary(document, length, str(folder)):
        table.add_row(name, value)
    console().print(table)


def show_outcomes(inputs: Sequence[Path], words: Sequence[str], codes: Sequence[int]) -> None:
    """What became of each of several inputs, on stderr; those without words were not begun."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if sys.stderr.isatty() else None, pad_edge=False)
    for name in ("input", "outcome", "exit code"):
        table.add_column(name, overflow="fold")
    left = len(inputs) - len(words)
    for source, sentence, code in zip(inputs, [*words, *left * ["not begun"]], [*codes, *left * [""]], strict=True):
        table.add_row(str(source), sentence, str(code))
    console().print(table)
