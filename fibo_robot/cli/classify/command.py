"""`fibo classify`: labels for video files, cameras and streams."""

import glob
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fibo_robot.cli.classify.output import Output, Timeline
from fibo_robot.errors import FiboError

if TYPE_CHECKING:
    from fibo_robot.video.classifier import VideoClassifier
    from fibo_robot.video.inference.windows import SlidingWindow

# 1 is an error that stops the work and 2 a mistyped command; so a file that fails is 3.
SOME_FILES_FAILED = 3
STREAM_WINDOW = 2.0  # seconds, where none is asked for: long enough for a short action


def register(app: typer.Typer) -> None:
    """Add `classify` to the command."""
    app.command()(classify)


def classify(
    checkpoint: Annotated[Path, typer.Argument(help="Run directory of a trained classifier.")],
    inputs: Annotated[
        list[str],
        typer.Argument(help="Videos, folders, quoted patterns; or camera:0 or a stream's address."),
    ],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Classes to name per file or window.")] = 5,
    views: Annotated[int, typer.Option("--views", min=1, help="Clips per video, averaged.")] = 1,
    crops: Annotated[int, typer.Option("--crops", min=1, help="Crops per clip, averaged.")] = 1,
    window: Annotated[
        float | None, typer.Option("--window", metavar="SECONDS", help="Slide a window: a timeline.")
    ] = None,
    stride: Annotated[
        float | None, typer.Option("--stride", metavar="SECONDS", help="From window to window [the window].")
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Read this much of a stream.")] = None,
    overlay: Annotated[
        Path | None, typer.Option("--overlay", metavar="FILE.mp4", help="Write labels and attention onto it.")
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write one JSON object per line; - for stdout."),
    ] = None,
    csv_file: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write one row per label; - for stdout.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Say what happens in videos, and with --window or in a stream, when.

    Exit status: 0 if every file was classified, 3 if some could not be read (the reason is printed for each,
    and the others are classified), 1 for any other error.
    """
    import torch

    from fibo_robot.video.inference.predict import load_classifier
    from fibo_robot.video.inference.streams import is_stream
    from fibo_robot.video.inference.windows import SlidingWindow

    if json_file == "-" and csv_file == "-":
        raise FiboError("Only one of --json and --csv can go to stdout.")
    streams = [given for given in inputs if is_stream(given)]
    if streams and len(inputs) > 1:
        raise FiboError("A camera or stream is classified alone: start another fibo classify for the rest.")
    if streams and overlay is not None:
        raise FiboError("--overlay copies a file: record the stream first, e.g. with ffmpeg.")
    if streams and window is None:
        window = STREAM_WINDOW
    if window is None and stride is not None:
        raise FiboError("--stride needs --window: the seconds that are looked at together.")
    if seconds is not None and not streams:
        raise FiboError("--seconds limits a camera or stream; files are read to their end.")
    if window is not None and views > 1:
        raise FiboError("--views cannot be combined with windows: each window is one view. Use --crops.")
    files = [] if streams else find_files(inputs)
    if overlay is not None and len(files) != 1:
        raise FiboError(f"--overlay copies one file, not {len(files)}: name a single video.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = load_classifier(checkpoint, device)
    sliding = None if window is None else SlidingWindow(window, stride)
    with Output(json_file, csv_file, as_timeline=sliding is not None) as output:
        if streams:
            assert sliding is not None
            _classify_stream(classifier, streams[0], sliding, seconds, top_k, crops, output)
            return
        if sliding is not None:
            errors = _classify_windows(classifier, files, sliding, top_k, crops, output)
        else:
            errors = _classify_whole(classifier, files, top_k, views, crops, output)
    for error in errors:
        typer.echo(f"fibo: {error}", err=True)
    if errors:
        typer.echo(f"fibo: {len(errors)} of {len(files)} files could not be classified", err=True)
        raise typer.Exit(SOME_FILES_FAILED)
    if overlay is not None:
        from fibo_robot.video.inference.overlay import write_overlay

        write_overlay(classifier, files[0], overlay, window=sliding, top_k=min(top_k, 3))
        typer.echo(f"overlay: {overlay}", err=True)


def _classify_whole(
    classifier: "VideoClassifier", files: list[Path], top_k: int, views: int, crops: int, output: Output
) -> list[str]:
    """One result per file; returns the reasons of those that could not be read."""
    from rich.progress import track

    from fibo_robot.video.inference.predict import predict

    predictions = predict(classifier, files, top_k=top_k, views=views, crops=crops)
    on_terminal = sys.stdout.isatty()
    errors = []
    for prediction in track(
        predictions, "classifying", total=len(files), disable=not on_terminal, transient=True
    ):
        output.prediction(prediction)
        if prediction.error is not None:
            errors.append(prediction.error)
    return errors


def _classify_windows(
    classifier: "VideoClassifier",
    files: list[Path],
    window: "SlidingWindow",
    top_k: int,
    crops: int,
    output: Output,
) -> list[str]:
    """One timeline per file; returns the reasons of those that could not be read."""
    from rich.progress import track

    from fibo_robot.video.inference.windows import classify_windows, merge_windows
    from fibo_robot.video.reading.reader import VideoDecodeError

    errors = []
    for path in track(files, "classifying", disable=not sys.stdout.isatty(), transient=True):
        try:
            windows = list(classify_windows(classifier, path, window, top_k=top_k, crops=crops))
        except VideoDecodeError as error:
            errors.append(str(error))
            output.timeline(Timeline(str(path), error=str(error)))
            continue
        output.timeline(Timeline(str(path), windows, merge_windows(windows, window.step)))
    return errors


def _classify_stream(
    classifier: "VideoClassifier",
    source: str,
    window: "SlidingWindow",
    seconds: float | None,
    top_k: int,
    crops: int,
    output: Output,
) -> None:
    """One result per window as soon as it is known; the merged timeline at the end, also after Ctrl-C."""
    from fibo_robot.video.inference.streams import classify_stream
    from fibo_robot.video.inference.windows import merge_windows

    windows = []
    try:
        for found in classify_stream(classifier, source, window, seconds=seconds, top_k=top_k, crops=crops):
            windows.append(found)
            output.window(source, found)
    except KeyboardInterrupt:  # the usual way to stop watching a camera
        typer.echo("stopped", err=True)
    if windows:
        output.segments(source, merge_windows(windows, window.step))


def find_files(inputs: Iterable[str]) -> list[Path]:
    """Clips that the arguments name: files as they are, clips in folders, matches of patterns.

    A folder of numbered pictures is one clip; any other folder stands for all clips below it.

    Raises:
        FiboError: an argument names nothing.
    """
    from fibo_robot.video.datasets.files import clips_below, is_frame_folder

    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir() and is_frame_folder(path):
            found = [path]
        elif path.is_dir():
            found = clips_below(path)
            clips = set(found)
            files_below = [file for file in path.rglob("*") if file.is_file()]
            others = sum(clips.isdisjoint((file, file.parent)) for file in files_below)
            if others:
                typer.echo(f"{path}: {others} files are not named like videos and are left out", err=True)
        elif path.exists():
            found = [path]
        else:
            found = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
        if not found:
            raise FiboError(
                f"No video found at {given}: give files, folders of videos or pictures, or patterns."
            )
        files += found
    return files
