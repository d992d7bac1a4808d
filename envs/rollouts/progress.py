"""The progress bar of a rollout: episodes done, success rate so far, time left."""

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fibo_robot.envs.rollouts.episodes import Episode


class RolloutProgress:
    """Shows a bar where standard output is a terminal; elsewhere it stays silent."""

    def __init__(self, total: int, finished: Sequence[Episode], enabled: bool = True) -> None:
        console = Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (enabled and console.is_terminal),
        )
        self._counted = sum(episode.counts for episode in finished)
        self._successes = sum(episode.success_once for episode in finished if episode.counts)
        self._task = self._progress.add_task(
            "Rolling out", total=total, completed=len(finished), rate=self._rate()
        )

    def __enter__(self) -> "RolloutProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, episode: Episode) -> None:
        """Count one more episode."""
        self._counted += episode.counts
        self._successes += episode.counts and episode.success_once
        self._progress.update(self._task, advance=1, rate=self._rate())

    def _rate(self) -> str:
        return f"{self._successes} of {self._counted} solved"
