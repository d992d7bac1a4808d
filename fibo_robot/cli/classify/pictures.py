"""`fibo classify` where the classifier takes pictures, and `fibo image-test`."""

import glob
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.cli.classify.identity import identity
from fibo_robot.cli.classify.options import SOME_FILES_FAILED, Device, DeviceOption
from fibo_robot.cli.classify.output import Output
from fibo_robot.errors import FiboError
from fibo_robot.progress import track


def register(app: typer.Typer) -> None:
    """Add `image-test` to the command."""
    app.command("image-test")(image_test)


def takes_pictures(checkpoint: Path) -> bool:
    """Whether a checkpoint is a classifier of pictures; loading tells what is no checkpoint at all."""
    from fibo_robot.hub.source import local_folder

    try:
        meta = json.loads((local_folder(checkpoint) / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(meta, dict) and meta.get("kind") == "image_classifier"


def classify_pictures(
    checkpoint: Path,
    inputs: Sequence[str],
    top_k: int,
    json_file: str | None,
    csv_file: str | None,
    device: str,
) -> None:
    """Label pictures; arguments and exit status as of `fibo classify`."""
    from fibo_robot.video.images.predict import classify_pictures as classified
    from fibo_robot.video.images.predict import load_image_classifier

    files = find_pictures(inputs)
    classifier = load_image_classifier(checkpoint, device)
    made_by = f"{identity(classifier, checkpoint)} top_k={top_k}"
    failed = 0
    with Output(json_file, csv_file, as_timeline=False, made_by=made_by, goes_on=True) as output:
        waiting = [file for file in files if str(file) not in output.finished]
        if len(waiting) < len(files):
            done = f"{len(files) - len(waiting)} of {len(files)} files"
            typer.echo(f"{done} have their results in {json_file} already", err=True)
        predictions = classified(classifier, waiting, top_k=top_k)
        for prediction in track(predictions, "classifying", total=len(waiting)):
            output.prediction(prediction)
            if prediction.error is not None:
                typer.echo(f"fibo: {prediction.error}", err=True)
                failed += 1
    if failed:
        typer.echo(f"fibo: {failed} of {len(files)} files could not be classified", err=True)
        raise typer.Exit(SOME_FILES_FAILED)


def find_pictures(inputs: Iterable[str]) -> list[Path]:
    """Pictures that the arguments name: files as they are, those below folders, matches of patterns.

    Raises:
        FiboError: an argument names nothing.
    """
    from fibo_robot.video.images.table import picture_files

    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            # As training looks for them: links to folders are followed, hidden folders are not entered.
            refused: list[Path] = []
            found = sorted(picture_files(path, refused)) + refused
        elif path.exists():
            found = [path]
        else:
            found = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
        if not found:
            raise FiboError(f"No picture found at {given}: give pictures, folders of them, or patterns.")
        files += found
    return files


def image_test(
    checkpoint: Annotated[
        Path, typer.Argument(help="Run directory of an image classifier, or hf:owner/name.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of classes or of parquet files.")],
    split: Annotated[str, typer.Option("--split", help="Part to test on.")] = "test",
    output: Annotated[Path | None, typer.Option("--output", help="Folder [CHECKPOINT/test].")] = None,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Test on labelled pictures: top-1 and top-5 with intervals, and what each picture was taken for."""
    from fibo_robot.hub.source import results_folder
    from fibo_robot.video.images.evaluation import evaluate_pictures
    from fibo_robot.video.images.predict import load_image_classifier
    from fibo_robot.video.images.table import read_pictures

    classifier = load_image_classifier(checkpoint, device.name_for_torch())
    table = read_pictures(data)
    if table.labels != classifier.labels:
        raise FiboError(
            f"{data} has classes {', '.join(table.labels[:10])}, the classifier was trained on "
            f"{', '.join(classifier.labels[:10])}: they must be the same, in the same order."
        )
    result = evaluate_pictures(classifier, table.part(split))
    folder = output or results_folder(checkpoint) / "test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        result.save(folder)
    except OSError as error:
        raise FiboError(f"The results cannot be written to {folder}: {error.strerror or error}.") from error
    typer.echo(f"{len(result.names)} pictures (split {split}), from {table.description}")
    for k in (1, 5):
        if k < len(classifier.labels):
            rate = result.top(k)
            typer.echo(f"top-{k}: {rate.value:.1%} (95 % interval {rate.low:.1%} to {rate.high:.1%})")
    typer.echo(f"results: {folder}")
