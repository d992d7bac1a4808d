"""What `fibo classify` writes: JSON lines and CSV as results come in, a table at the end."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import typer

from fibo_robot.files import replace_atomically

if TYPE_CHECKING:
    from fibo_robot.video.inference.predict import Prediction, Score
    from fibo_robot.video.inference.windows import Segment, WindowScores

FILE_COLUMNS = ("path", "rank", "label", "probability", "error")
TIMELINE_COLUMNS = ("path", "kind", "start", "end", "rank", "label", "probability", "error")


@dataclass
class Timeline:
    """What was found in one file, window by window and merged; or why it could not be read."""

    path: str
    windows: "Sequence[WindowScores]" = ()
    segments: "Sequence[Segment]" = ()
    error: str | None = None


class Output:
    """Takes results one by one; files are complete, and take their place, when the block ends.

    Args:
        json_file, csv_file: where to write, `-` for stdout; None does not write.
        as_timeline: results have times; decides the columns.
    """

    def __init__(self, json_file: str | None, csv_file: str | None, *, as_timeline: bool) -> None:
        self._targets = json_file, csv_file
        self._columns = TIMELINE_COLUMNS if as_timeline else FILE_COLUMNS
        self._show = "-" not in (json_file, csv_file)
        self._as_timeline = as_timeline
        self._table: list[tuple[str, ...]] = []
        self._stack = ExitStack()
        self._json: TextIO | None = None
        self._csv: Any = None

    def __enter__(self) -> "Output":
        json_file, csv_file = self._targets
        if json_file is not None:
            self._json = self._stack.enter_context(_opened(json_file))
        if csv_file is not None:
            self._csv = csv.DictWriter(self._stack.enter_context(_opened(csv_file)), self._columns)
            self._csv.writeheader()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if error is None and self._show and self._table:
            self._print_table()

    def prediction(self, prediction: "Prediction") -> None:
        """A file that was classified as a whole."""
        if prediction.error is not None:
            self._failure(prediction.path, prediction.error)
            return
        scores = prediction.scores
        self._line({"path": prediction.path, "predictions": _as_json(scores)})
        for rank, score in enumerate(scores):
            name = Path(prediction.path).name if rank == 0 else ""
            self._table.append((name, score.label, f"{score.probability:.1%}"))
        self._rows({"path": prediction.path}, scores)

    def timeline(self, timeline: Timeline) -> None:
        """A file that was classified window by window."""
        if timeline.error is not None:
            self._failure(timeline.path, timeline.error)
            return
        for window in timeline.windows:
            self._window(timeline.path, window)
        self.segments(timeline.path, timeline.segments)

    def window(self, path: str, window: "WindowScores") -> None:
        """One window of a stream, told at once."""
        self._window(path, window)
        if self._show:
            best = window.scores[0]
            typer.echo(f"{window.start:8.1f} to {window.end:.1f} s  {best.label} {best.probability:.1%}")

    def segments(self, path: str, segments: "Sequence[Segment]") -> None:
        """The merged timeline of a file or stream, after its windows."""
        rows = [
            {"start": s.start, "end": s.end, "label": s.label, "probability": s.probability} for s in segments
        ]
        self._line({"path": path, "segments": rows})
        for number, row in enumerate(rows):
            if self._csv is not None:
                self._csv.writerow({"path": path, "kind": "segment", "rank": 1, **_rounded(row)})
            name = Path(path).name if number == 0 else ""
            times = f"{row['start']:.1f}", f"{row['end']:.1f}"
            self._table.append((name, *times, row["label"], f"{row['probability']:.1%}"))

    def _window(self, path: str, window: "WindowScores") -> None:
        times = {"start": window.start, "end": window.end}
        self._line({"path": path, **times, "predictions": _as_json(window.scores)})
        self._rows({"path": path, "kind": "window", **_rounded(times)}, window.scores)

    def _failure(self, path: str, error: str) -> None:
        self._line({"path": path, "error": error})
        if self._csv is not None:
            self._csv.writerow({"path": path, "error": error})

    def _line(self, row: dict[str, Any]) -> None:
        if self._json is not None:
            self._json.write(json.dumps(row) + "\n")
            self._json.flush()  # a reader behind a pipe sees each result as it comes

    def _rows(self, place: dict[str, Any], scores: "Sequence[Score]") -> None:
        if self._csv is None:
            return
        for rank, score in enumerate(scores, start=1):
            found = {"rank": rank, "label": score.label, "probability": f"{score.probability:.6f}"}
            self._csv.writerow({**place, **found})

    def _print_table(self) -> None:
        from rich.console import Console
        from rich.table import Table

        columns = ("from (s)", "to (s)") if self._as_timeline else ()
        table = Table("file", *columns, "label", "probability")
        for row in self._table:
            table.add_row(*row)
        Console().print(table)


def _as_json(scores: "Sequence[Score]") -> list[dict[str, Any]]:
    return [{"label": score.label, "probability": score.probability} for score in scores]


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Seconds to the millisecond and probabilities to six digits, as CSV has them."""
    digits = {"start": 3, "end": 3, "probability": 6}
    return {key: f"{value:.{digits[key]}f}" if key in digits else value for key, value in row.items()}


@contextmanager
def _opened(target: str) -> Iterator[TextIO]:
    if target == "-":
        yield sys.stdout
        return
    with replace_atomically(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        yield stream
