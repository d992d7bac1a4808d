"""`fibo classify`: labels for video files, cameras and streams; or for pictures (pictures.py)."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fibo_robot.cli.classify.identity import identity
from fibo_robot.cli.classify.options import (
    SOME_FILES_FAILED,
    CheckpointArgument,
    Device,
    DeviceOption,
    SamplingOption,
    load,
)
from fibo_robot.cli.classify.output import ClassTimeline, Output
from fibo_robot.cli.classify.pictures import classify_pictures, takes_pictures
from fibo_robot.errors import FiboError
from fibo_robot.progress import track

if TYPE_CHECKING:
    from fibo_robot.video.classifier import ClipClassifier
    from fibo_robot.video.inference.predict import Prediction
    from fibo_robot.video.inference.windows import SlidingWindow

STREAM_WINDOW = 2.0  # seconds, where none is asked for: long enough for a short action


def register(app: typer.Typer) -> None:
    """Add `classify` to the command."""
    app.command()(classify)


def classify(
    checkpoint: CheckpointArgument,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Videos or pictures, folders, patterns; or camera:0 or a stream's address."),
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
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Leave out labels less probable than this.")
    ] = 0.0,
    sampling: SamplingOption = None,
    attention: Annotated[
        str | None, typer.Option("--attention", help="Put another attention into the trained model.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option("--overlay", metavar="FILE.mp4", help="Write labels and attention onto it.")
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE|-", help="Write one JSON object per line; - for stdout."),
    ] = None,
    csv_file: Annotated[
        str | None, typer.Option("--csv", metavar="FILE|-", help="Write one row per label; - for stdout.")
    ] = None,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Say what happens in videos, and with --window or in a stream, when; or what pictures show.

    Which of the two follows from the classifier; one of pictures takes --top-k, --json, --csv and --device.
    Where it was trained with several labels to a clip, each label's probability is its own: they do not sum
    to one, and --threshold 0.5 names the labels that are more likely there than not.

    With --json FILE, an interrupted command goes on where it was: files whose results are in FILE are not
    classified again.

    Exit status: 0 if every file was classified, 3 if some could not be read (the reason is printed for each,
    and the others are classified), 1 for any other error.
    """
    from fibo_robot.video.inference.streams import is_stream
    from fibo_robot.video.inference.windows import SlidingWindow

    if json_file == "-" and csv_file == "-":
        raise FiboError("Only one of --json and --csv can go to stdout.")
    if takes_pictures(checkpoint):
        if (views, crops) != (1, 1) or any(
            (window, stride, seconds, threshold, overlay, sampling, attention)
        ):
            raise FiboError(
                f"{checkpoint} classifies pictures: --top-k, --json, --csv and --device are all it takes."
            )
        classify_pictures(checkpoint, inputs, top_k, json_file, csv_file, device.name_for_torch())
        return
    streams = [given for given in inputs if is_stream(given)]
    if streams:
        _check_stream(inputs, overlay)
        window = STREAM_WINDOW if window is None else window
    _check_times(bool(streams), window, stride, seconds, views)
    if window is not None and threshold:
        raise FiboError(
            "--threshold is for files as wholes: a timeline names the likeliest label at any time."
        )
    files = [] if streams else find_files(inputs)
    if overlay is not None and len(files) != 1:
        raise FiboError(f"--overlay copies one file, not {len(files)}: name a single video.")
    sliding = None if window is None else SlidingWindow(window, stride)
    classifier = load(checkpoint, device, sampling)
    if overlay is not None:
        _check_overlay(classifier)
    if attention is not None:
        from fibo_robot.video.inference.swapped import swap_and_compare

        typer.echo(f"fibo: {swap_and_compare(classifier, attention, files, views, crops)}", err=True)
    how = f"views={views}" if sliding is None else f"window={sliding.length:g} stride={sliding.step:g}"
    how += "".join(
        f" {name}={value}"
        for name, value in (("sampling", sampling), ("attention", attention), ("threshold", threshold))
        if value
    )
    made_by = f"{identity(classifier, checkpoint)} top_k={top_k} crops={crops} {how}"
    with Output(
        json_file, csv_file, as_timeline=sliding is not None, made_by=made_by, goes_on=not streams
    ) as output:
        if streams:
            assert sliding is not None
            _classify_stream(classifier, streams[0], sliding, seconds, top_k, crops, output)
            return
        # What an overlay shows is found anew.
        waiting = [file for file in files if str(file) not in output.finished or overlay is not None]
        if len(waiting) < len(files):
            done = f"{len(files) - len(waiting)} of {len(files)} files"
            typer.echo(f"{done} have their results in {json_file} already", err=True)
        if sliding is not None:
            results = _classify_windows(classifier, waiting, sliding, top_k, crops, output)
        else:
            results = _classify_whole(classifier, waiting, top_k, views, crops, threshold, output)
    errors = [result.error for result in results if result.error is not None]
    for error in errors:
        typer.echo(f"fibo: {error}", err=True)
    if errors:
        typer.echo(f"fibo: {len(errors)} of {len(files)} files could not be classified", err=True)
        raise typer.Exit(SOME_FILES_FAILED)
    if overlay is not None:
        _write_overlay(classifier, files[0], overlay, results[0], top_k)
        typer.echo(f"overlay: {overlay}", err=True)


def _check_stream(inputs: Sequence[str], overlay: Path | None) -> None:
    if len(inputs) > 1:
        raise FiboError("A camera or stream is classified alone: start another fibo classify for the rest.")
    if overlay is not None:
        raise FiboError("--overlay copies a file: record the stream first, e.g. with ffmpeg.")


def _check_overlay(classifier: "ClipClassifier") -> None:
    from fibo_robot.encoders import VideoEncoder
    from fibo_robot.video.classifier import VideoClassifier

    if not (isinstance(classifier, VideoClassifier) and isinstance(classifier.encoder, VideoEncoder)):
        raise FiboError("--overlay shows the attention of encoders of ours; this classifier has another.")


def _check_times(
    is_stream: bool, window: float | None, stride: float | None, seconds: float | None, views: int
) -> None:
    if window is None and stride is not None:
        raise FiboError("--stride needs --window: the seconds that are looked at together.")
    if seconds is not None and not is_stream:
        raise FiboError("--seconds limits a camera or stream; files are read to their end.")
    if window is not None and views > 1:
        raise FiboError("--views cannot be combined with windows: each window is one view. Use --crops.")


def _classify_whole(
    classifier: "ClipClassifier",
    files: list[Path],
    top_k: int,
    views: int,
    crops: int,
    threshold: float,
    output: Output,
) -> "list[Prediction]":
    """One result per file."""
    from fibo_robot.video.inference.predict import predict

    results = []
    predictions = predict(classifier, files, top_k=top_k, views=views, crops=crops, threshold=threshold)
    for prediction in track(predictions, "classifying", total=len(files)):
        output.prediction(prediction)
        results.append(prediction)
    return results


def _classify_windows(
    classifier: "ClipClassifier",
    files: list[Path],
    window: "SlidingWindow",
    top_k: int,
    crops: int,
    output: Output,
) -> list[ClassTimeline]:
    """One timeline per file."""
    from fibo_robot.video.inference.windows import classify_windows, merge_windows
    from fibo_robot.video.reading.errors import VideoDecodeError

    results = []
    for path in track(files, "classifying"):
        try:
            windows = list(classify_windows(classifier, path, window, top_k=top_k, crops=crops))
            timeline = ClassTimeline(str(path), windows, merge_windows(windows))
        except VideoDecodeError as error:
            timeline = ClassTimeline(str(path), error=str(error))
        output.timeline(timeline)
        results.append(timeline)
    return results


def _write_overlay(
    classifier: "ClipClassifier",
    file: Path,
    target: Path,
    found: "Prediction | ClassTimeline",
    top_k: int,
) -> None:
    from fibo_robot.video.classifier import VideoClassifier
    from fibo_robot.video.inference.overlay import whole_video, write_overlay

    assert isinstance(classifier, VideoClassifier)  # as _check_overlay has found
    is_timeline = isinstance(found, ClassTimeline)
    windows = found.windows if is_timeline else whole_video(file, found.scores)
    write_overlay(classifier, file, target, windows, top_k=min(top_k, 3))


def _classify_stream(
    classifier: "ClipClassifier",
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
        output.segments(source, merge_windows(windows))


def find_files(inputs: Iterable[str]) -> list[Path]:
    """Clips that the arguments name: files as they are, clips in folders, matches of patterns.

    A folder of numbered pictures is one clip; any other folder stands for all clips below it. A folder that
    may not be read stands in the list itself, so that it is said with the files that cannot be read.

    Raises:
        FiboError: an argument names nothing.
    """
    from fibo_robot.video.datasets.files import clips_below, is_frame_folder, walk

    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir() and is_frame_folder(path):
            found = [path]
        elif path.is_dir():
            refused: list[Path] = []
            found = clips_below(path, refused)
            clips = set(found)
            files_below = [place / name for place, _, names in walk(path, []) for name in names]
            others = sum(clips.isdisjoint((file, file.parent)) for file in files_below)
            if others:
                typer.echo(f"{path}: {others} files are not named like videos and are left out", err=True)
            found += refused
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
