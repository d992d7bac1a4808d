"""`fibo classify`: labels for video files."""

import csv
import glob
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically

if TYPE_CHECKING:
    from fibo_robot.video.predict import Prediction

# 1 is an error that stops the work and 2 a mistyped command; so a file that fails is 3.
SOME_FILES_FAILED = 3


def register(app: typer.Typer) -> None:
    """Add `classify` to the command."""
    app.command()(classify)


def classify(
    checkpoint: Annotated[Path, typer.Argument(help="Run directory of a trained classifier.")],
    inputs: Annotated[list[str], typer.Argument(help="Video files, folders of them, or quoted patterns.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Classes to name per file.")] = 5,
    views: Annotated[int, typer.Option("--views", min=1, help="Clips per video, averaged.")] = 1,
    crops: Annotated[int, typer.Option("--crops", min=1, help="Crops per clip, averaged.")] = 1,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write one JSON object per line; - for stdout."),
    ] = None,
    csv_file: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write one row per label; - for stdout.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Say what happens in videos.

    Exit status: 0 if every file was classified, 3 if some could not be read (the reason is printed for each,
    and the others are classified), 1 for any other error.
    """
    import torch
    from rich.progress import track

    from fibo_robot.video.predict import load_classifier, predict

    if json_file == "-" and csv_file == "-":
        raise FiboError("Only one of --json and --csv can go to stdout.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    files = find_files(inputs)
    classifier = load_classifier(checkpoint, device)
    predictions = list(
        track(
            predict(classifier, files, top_k=top_k, views=views, crops=crops),
            "classifying",
            total=len(files),
            disable=not sys.stdout.isatty(),
            transient=True,
        )
    )
    if json_file is not None:
        with _output(json_file) as stream:
            stream.writelines(json.dumps(as_row(prediction)) + "\n" for prediction in predictions)
    if csv_file is not None:
        with _output(csv_file) as stream:
            _write_csv(predictions, stream)
    if "-" not in (json_file, csv_file):
        _print_table(predictions)
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in failed:
        typer.echo(f"fibo: {prediction.error}", err=True)
    if failed:
        typer.echo(f"fibo: {len(failed)} of {len(predictions)} files could not be classified", err=True)
        raise typer.Exit(SOME_FILES_FAILED)


def find_files(inputs: Iterable[str]) -> list[Path]:
    """Files that the arguments name: files as they are, videos below folders, matches of patterns.

    Raises:
        FiboError: an argument names nothing.
    """
    from fibo_robot.video.sources import video_files

    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = video_files(path)
            others = sum(1 for file in path.rglob("*") if file.is_file()) - len(found)
            if others:
                typer.echo(f"{path}: {others} files are not named like videos and are left out", err=True)
        elif path.exists():
            found = [path]
        else:
            found = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
        if not found:
            raise FiboError(
                f"No video found at {given}: give files, a folder of videos, or a quoted pattern."
            )
        files += found
    return files


def as_row(prediction: "Prediction") -> dict[str, object]:
    """A prediction as it stands in the JSON output."""
    if prediction.error is not None:
        return {"path": prediction.path, "error": prediction.error}
    scores = [{"label": score.label, "probability": score.probability} for score in prediction.scores]
    return {"path": prediction.path, "predictions": scores}


def _write_csv(predictions: Iterable["Prediction"], stream: TextIO) -> None:
    writer = csv.writer(stream)
    writer.writerow(["path", "rank", "label", "probability", "error"])
    for prediction in predictions:
        if prediction.error is not None:
            writer.writerow([prediction.path, "", "", "", prediction.error])
        for rank, score in enumerate(prediction.scores, start=1):
            writer.writerow([prediction.path, rank, score.label, f"{score.probability:.6f}", ""])


@contextmanager
def _output(target: str) -> Iterator[TextIO]:
    if target == "-":
        yield sys.stdout
        return
    with replace_atomically(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        yield stream


def _print_table(predictions: Iterable["Prediction"]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "label", "probability")
    for prediction in predictions:
        for rank, score in enumerate(prediction.scores):
            name = Path(prediction.path).name if rank == 0 else ""
            table.add_row(name, score.label, f"{score.probability:.1%}")
    if table.row_count:
        Console().print(table)
