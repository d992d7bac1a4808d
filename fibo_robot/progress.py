"""Every progress bar of this program, and the one rule they follow: silent where stdout is no terminal.

A command whose output goes into a file or a pipe must not fill it with bars. rich is imported when the first
bar is made: who only imports this waits for nothing.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


def shown() -> bool:
    """Whether bars are drawn at all: standard output is a terminal."""
    return sys.stdout.isatty()


def track(sequence: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `sequence` and draw a bar meanwhile, which is wiped away at the end.

    Args:
        sequence: what to go through; it is consumed one item at a time.
        description: what is going on.
        total: how many items there are; default: `len(sequence)` where it has a length.
    """
    if not shown():
        yield from sequence
        return
    from rich import progress

    if total is None and isinstance(sequence, Sequence):
        total = len(sequence)
    yield from progress.track(sequence, description, total=total, transient=True)


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A function that shows `(done, total)` as a bar."""
    if not shown():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


@contextmanager
def counter(description: str, after: float) -> Iterator[Callable[[str], None]]:
    """A function that counts what is done, by name, of work whose length nobody knows.

    Args:
        description: what is done.
        after: seconds for which nothing is shown unless something was counted: work that is quicker shows
            nothing.
    """
    if not shown():
        yield lambda name: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    progress = Progress(*columns, transient=True)
    bar = progress.add_task(f"{description} …", total=None)
    done = 0

    def count(name: str) -> None:
        nonlocal done
        done += 1
        progress.update(bar, description=f"{description}: {done} done, the last {name}")
        progress.start()

    timer = threading.Timer(after, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield count
    finally:
        timer.cancel()
        timer.join()  # it may just be starting the bar
        progress.stop()


@contextmanager
def trials_bar(
    description: str, total: int, counted: int = 0, successes: int = 0, done: int = 0, enabled: bool = True
) -> Iterator[Callable[[bool | None], None]]:
    """A function that adds one trial's success to a bar of trials done, solved and time left.

    Args:
        description: what is tried.
        total: how many trials there will be.
        counted: earlier ones that say something.
        successes: those of them that succeeded.
        done: earlier ones, whether they say something or not.
        enabled: False draws nothing anywhere.

    Yields:
        the function; it takes None for a trial that says nothing.
    """
    if not (enabled and shown()):
        yield lambda success: None
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
    )

    def rate() -> str:
        return f"{successes} of {counted} solved"

    with rich.Progress(*columns) as progress:
        bar = progress.add_task(description, total=total, completed=done, rate=rate())

        def add(success: bool | None) -> None:
            nonlocal counted, successes
            counted += success is not None
            successes += bool(success)
            progress.update(bar, advance=1, rate=rate())

        yield add
