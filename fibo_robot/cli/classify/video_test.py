"""`fibo video-test`: how well a classifier labels videos whose labels are known, with intervals."""

from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.cli.classify.options import (
    SOME_FILES_FAILED,
    CheckpointArgument,
    Device,
    DeviceOption,
    SamplingOption,
    load,
)
from fibo_robot.errors import FiboError

TITLES = {"top1": "top-1", "top5": "top-5", "mean_average_precision": "mean average precision"}


def register(app: typer.Typer) -> None:
    """Add `video-test` to the command."""
    app.command("video-test")(video_test)


def video_test(
    checkpoint: CheckpointArgument,
    data: Annotated[Path, typer.Option("--data", help="Data set, table of clips or folder of classes.")],
    split: Annotated[str | None, typer.Option("--split", help="Part to test on [the test split].")] = None,
    split_column: Annotated[
        str, typer.Option("--split-column", help="Column that tells the part.")
    ] = "split",
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="Which of a public data set's official splits.")
    ] = None,
    views: Annotated[int, typer.Option("--views", min=1, help="Clips per video.")] = 1,
    crops: Annotated[int, typer.Option("--crops", min=1, help="Crops per clip.")] = 1,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Crops of clips that the model sees at a time.")
    ] = 8,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that decode; 0 decodes in this one.")
    ] = 2,
    sampling: SamplingOption = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder [CHECKPOINT/test].")] = None,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Test on labelled videos: top-1 and top-5 with intervals, confusion matrix, each video's scores.

    A classifier of several labels to a clip is tested on such data: mean average precision, with an interval
    by bootstrap over videos, and average precision of each class.

    Without --split it tests on the split named test, or on all videos where nothing is split.

    Exit status: 0 if every video was tested, 3 if some could not be read, 1 for any other error.
    """
    from fibo_robot.hub.source import results_folder
    from fibo_robot.video.datasets.recognise import read_clips
    from fibo_robot.video.inference.evaluation import evaluate_videos

    classifier = load(checkpoint, device, sampling)
    table = read_clips(data, split_column, protocol, classifier.multi_label)
    unknown = sorted(set(table.labels) - set(classifier.labels))
    if unknown:
        raise FiboError(
            f"{data} has classes that the classifier does not know: {', '.join(unknown[:5])}. "
            f"It knows {', '.join(classifier.labels[:10])}."
        )
    clips = table.test_part() if split is None else table.part(split)
    result = evaluate_videos(
        classifier, clips, views=views, crops=crops, batch_size=batch_size, workers=workers
    )
    output = output or results_folder(checkpoint) / "test"
    try:
        output.mkdir(parents=True, exist_ok=True)
        result.save(output)
    except OSError as error:
        raise FiboError(f"The results cannot be written to {output}: {error.strerror or error}.") from error
    tested = f"split {clips[0].split}" if clips[0].split else "all"
    typer.echo(
        f"{len(result.paths)} videos ({tested}), {views} views x {crops} crops, from {table.description}"
    )
    for name, rate in result.rates().items():
        if rate is not None:
            typer.echo(f"{TITLES[name]}: {rate.value:.1%} (95 % interval {rate.low:.1%} to {rate.high:.1%})")
    for reason in result.failures.values():
        typer.echo(f"left out: {reason}", err=True)
    typer.echo(f"results: {output}")
    if result.failures:
        raise typer.Exit(SOME_FILES_FAILED)
