"""What `fibo classify` writes: JSON lines as results come in, a CSV and a table at the end."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import typer

from fibo_robot.cli.classify.lines import Row, finished_rows
from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically
from fibo_robot.processes import only_writer_of

if TYPE_CHECKING:
    from fibo_robot.video.inference.predict import Prediction
    from fibo_robot.video.inference.windows import Segment, WindowScores

FILE_COLUMNS: tuple[str, ...] = ("path", "rank", "label", "probability", "error")
TIMELINE_COLUMNS: tuple[str, ...] = ("path", "kind", "start", "end", "rank", "label", "probability", "error")


@dataclass(frozen=True)
class ClassTimeline:
    """Which classes were found in one file, window by window and merged; or why it could not be read."""

    path: str
    windows: "Sequence[WindowScores]" = ()
    segments: "Sequence[Segment]" = ()
    error: str | None = None


class Output:
    """Takes results one by one. JSON lines are in their file at once; a CSV is written when all are known.

    A JSON file that is there already is gone on with, if it was made by the same classifier with the same
    options: its results are shown and written to the CSV as if they were new. Another process that writes the
    same JSON file meanwhile is refused.

    Args:
        json_file, csv_file: where to write, `-` for stdout; None does not write.
        as_timeline: results have times; decides the columns.
        made_by: the classifier and the options that decide results; stands in every JSON line.
        goes_on: whether a JSON file that is there is gone on with; else it is written anew.

    Attributes:
        finished: paths of the files whose results were there already.
    """

    def __init__(
        self, json_file: str | None, csv_file: str | None, *, as_timeline: bool, made_by: str, goes_on: bool
    ) -> None:
        self._json_file, self._csv_file = json_file, csv_file
        self._columns = TIMELINE_COLUMNS if as_timeline else FILE_COLUMNS
        self._show = "-" not in (json_file, csv_file)
        self._as_timeline, self._made_by, self._goes_on = as_timeline, made_by, goes_on
        self._table: list[tuple[str, ...]] = []
        self._csv_rows: list[dict[str, Any]] = []
        self._json: TextIO | None = None
        self._alone = ExitStack()  # holds the JSON file against other processes
        self.finished: set[str] = set()

    def __enter__(self) -> "Output":
        if self._csv_file == "-":
            csv.DictWriter(sys.stdout, self._columns).writeheader()
        if self._json_file == "-":
            self._json = sys.stdout
        elif self._json_file is not None:
            self._open_json(Path(self._json_file))
        return self

    def _open_json(self, file: Path) -> None:
        with _writing(file), ExitStack() as alone:
            if file.is_file() or not file.exists():  # a pipe or device may have several writers
                alone.enter_context(only_writer_of(file))
            goes_on = self._goes_on and file.is_file()  # a pipe or device has nothing to go on with
            rows = finished_rows(file, self._made_by) if goes_on else []
            self._json = file.open("a" if goes_on else "w", encoding="utf-8")
            self._alone = alone.pop_all()
        self.finished = {row["path"] for row in rows}
        for row in rows:
            self._show_row(row)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._alone:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if self._json is not None and self._json is not sys.stdout:
            with suppress(OSError):  # each line was flushed, so what is wrong has been said
                self._json.close()
        if isinstance(error, KeyboardInterrupt) and self._goes_on and self._json_file not in (None, "-"):
            # The file itself tells: the interruption may have come between a row and its account.
            kept = len({row["path"] for row in finished_rows(Path(str(self._json_file)), self._made_by)})
            rest = "the same command goes on with the rest"
            typer.echo(f"{self._json_file} keeps the results of {kept} files; {rest}", err=True)
        if error is not None:
            return
        if self._csv_file not in (None, "-"):
            self._write_csv(Path(str(self._csv_file)))
        if self._show and self._table:
            self._print_table()

    def prediction(self, prediction: "Prediction") -> None:
        """A file that was classified as a whole; ignored where its results were there already."""
        if prediction.path in self.finished:
            return
        if prediction.error is not None:
            self._add({"path": prediction.path, "error": prediction.error})
            return
        self._add({"path": prediction.path, "predictions": [asdict(score) for score in prediction.scores]})
        self.finished.add(prediction.path)

    def timeline(self, timeline: ClassTimeline) -> None:
        """A file that was classified window by window; ignored where its results were there already."""
        if timeline.path in self.finished:
            return
        if timeline.error is not None:
            self._add({"path": timeline.path, "error": timeline.error})
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
        self._add({"path": path, "segments": [asdict(segment) for segment in segments]})
        self.finished.add(path)

    def _window(self, path: str, window: "WindowScores") -> None:
        scores = [asdict(score) for score in window.scores]
        self._add({"path": path, "start": window.start, "end": window.end, "predictions": scores})

    def _add(self, row: Row) -> None:
        if self._json is not None:
            with _writing(self._json_file):
                self._json.write(json.dumps({**row, "made_by": self._made_by}) + "\n")
                self._json.flush()  # kept whatever happens next, and seen at once by a reader behind a pipe
        self._show_row(row)

    def _show_row(self, row: Row) -> None:
        """Add a JSON row to the CSV and the table."""
        path = row["path"]
        name = Path(path).name
        if "error" in row:
            self._csv({"path": path, "error": row["error"]})
        elif "segments" in row:
            for number, segment in enumerate(row["segments"]):
                self._csv({"path": path, "kind": "segment", "rank": 1, **_rounded(segment)})
                times = f"{segment['start']:.1f}", f"{segment['end']:.1f}"
                shown = (segment["label"], f"{segment['probability']:.1%}")
                self._table.append(("" if number else name, *times, *shown))
        else:
            is_window = "start" in row
            times = {"kind": "window", "start": row["start"], "end": row["end"]} if is_window else {}
            if not row["predictions"]:  # none reaches the threshold
                self._csv({"path": path})
                self._table.append((name, "none", ""))
            for rank, score in enumerate(row["predictions"], start=1):
                self._csv({"path": path, **_rounded(times), "rank": rank, **_rounded(score)})
                if not is_window:
                    shown = (score["label"], f"{score['probability']:.1%}")
                    self._table.append((name if rank == 1 else "", *shown))

    def _csv(self, row: dict[str, Any]) -> None:
        if self._csv_file == "-":
            csv.DictWriter(sys.stdout, self._columns).writerow(row)
        elif self._csv_file is not None:
            self._csv_rows.append(row)

    def _write_csv(self, file: Path) -> None:
        with (
            _writing(file),
            replace_atomically(file) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
        ):
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows(self._csv_rows)

    def _print_table(self) -> None:
        from rich.console import Console
        from rich.table import Table

        columns = ("from (s)", "to (s)") if self._as_timeline else ()
        table = Table("file", *columns, "label", "probability")
        for row in self._table:
            table.add_row(*row)
        # Names of files and classes are no markup: `match [final].mp4` is to be shown as it is.
        Console(markup=False, emoji=False).print(table)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Seconds to the millisecond and probabilities to six digits, as CSV has them."""
    digits = {"start": 3, "end": 3, "probability": 6}
    return {key: f"{value:.{digits[key]}f}" if key in digits else value for key, value in row.items()}


@contextmanager
def _writing(target: Path | str | None) -> Iterator[None]:
    """Say which file cannot be written: the system's own error does not always name it."""
    try:
        yield
    except OSError as error:
        name = "stdout" if target == "-" else target
        raise FiboError(f"{name} cannot be written: {error.strerror or error}.") from error
