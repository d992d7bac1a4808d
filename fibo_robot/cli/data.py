"""`fibo data`: public video data sets; checking clips before training, and making them quick to read."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `data` to the command."""
    data = typer.Typer(help="Public video data sets, and a check of your clips.", no_args_is_help=True)
    data.command("check")(check)
    data.command("list")(list_datasets)
    data.command("reencode")(reencode)
    data.command("show")(show)
    app.add_typer(data, name="data")


def list_datasets() -> None:
    """Public data sets that are read as they are published."""
    from rich.console import Console
    from rich.table import Table

    from fibo_robot.video.datasets.catalogue import DATASETS

    table = Table(caption="`fibo data show NAME` tells how to obtain one and train on it.")
    for heading in ("name", "clips", "classes", "size", "terms"):
        table.add_column(heading, justify="right" if heading == "classes" else "left", overflow="fold")
    for dataset in DATASETS:
        table.add_row(dataset.name, dataset.clips, str(dataset.classes), dataset.size, dataset.terms)
    Console().print(table)


def show(name: Annotated[str, typer.Argument(help="A name from `fibo data list`.")]) -> None:
    """How to obtain a public data set, the folder that is expected, and the command that trains on it."""
    from fibo_robot.video.datasets.catalogue import find_dataset

    dataset = find_dataset(name)
    typer.echo(dataset.title)
    facts = {
        "page": dataset.page,
        "clips": dataset.clips,
        "classes": str(dataset.classes),
        "size": dataset.size,
        "terms": dataset.terms,
        "obtain": dataset.obtain,
    }
    for heading, fact in facts.items():
        typer.echo(f"{heading:>8}  {fact}")
    typer.echo(f"\nExpected folder:\n{dataset.tree}\n")
    typer.echo(f"Check it:   fibo data check {dataset.name}")
    typer.echo(f"Train:      {dataset.train_command}")


def check(
    data: Annotated[Path, typer.Argument(help="Data set, table of clips, or any folder of clips.")],
    output: Annotated[Path, typer.Option("--output", help="CSV table to write.")] = Path("clips_checked.csv"),
    workers: Annotated[int, typer.Option("--workers", min=1, help="Clips at a time.")] = 2,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="Which of a public data set's official splits.")
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="A clip has any number of labels, as data.multi_label says.")
    ] = False,
    frame_rate: Annotated[
        float, typer.Option("--frame-rate", min=0.1, help="Of clips that are folders of pictures.")
    ] = 30.0,
) -> None:
    """Read every clip once, strictly: frames, fps, size and codec, or the reason why it cannot be read.

    An interrupted check continues: clips that stand in the output as readable are not read again. Exit
    status: 0 if every clip can be read, 3 if some cannot, or begin behind the end of their video.
    """
    from fibo_robot.video.datasets.check import check_clips, find_clips, outside_their_video

    files, description = find_clips(data, protocol, multi_label)
    typer.echo(f"{len(files)} clips from {description}")
    rows = check_clips(files, output, workers, frame_rate)
    broken = [row for row in rows if row.problem]
    for row in broken:
        typer.echo(f"fibo: {row.problem}", err=True)
    outside = outside_their_video(data, protocol, rows, multi_label)
    for problem in outside:
        typer.echo(f"fibo: {problem}", err=True)
    frames = sorted(row.frames for row in rows if not row.problem)
    if frames:
        typer.echo(
            f"{len(frames)} readable, {frames[0]} to {frames[-1]} frames (median {frames[len(frames) // 2]})"
        )
    typer.echo(f"{len(broken)} unreadable; table: {output}")
    if broken or outside:
        raise typer.Exit(3)


def reencode(
    source: Annotated[Path, typer.Argument(help="Folder of videos and their lists; it is only read.")],
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    side: Annotated[int, typer.Option(min=16, help="Pixels of the shorter side, at most.")] = 256,
    gop: Annotated[int, typer.Option(min=1, help="Frames from one keyframe to the next, at most.")] = 16,
    crf: Annotated[int, typer.Option(min=0, max=51, help="x264's constant quality; 0 is lossless.")] = 18,
    workers: Annotated[int, typer.Option(min=1, help="Clips at a time.")] = 2,
) -> None:
    """Copy a data set with clips that are quick to read: keyframes close together, small pictures, no sound.

    Folders, names and lists stay as they are. An interrupted run continues. Exit status: 0 if every clip was
    written, 3 if some could not be read.
    """
    from fibo_robot.video.datasets.recognise import read_clips
    from fibo_robot.video.datasets.reencode import Encoding, still_in_source
    from fibo_robot.video.datasets.reencode import reencode as write
    from fibo_robot.video.datasets.table import ClipTableError

    done = write(source, target, Encoding(side, gop, crf), workers)
    for problem in done.failures.values():
        typer.echo(f"fibo: left out: {problem}", err=True)
    before, after = done.source_bytes / 1e6, done.target_bytes / 1e6
    typer.echo(
        f"{done.clips} clips in {target}, {after:.1f} MB (before: {before:.1f}); {done.lists} lists copied, "
        f"{done.left_behind} other files left behind"
    )
    listed: set[Path] = set()
    for multi_label in (False, True):
        with suppress(ClipTableError):
            listed |= {clip.path for clip in read_clips(target, multi_label=multi_label).clips}
    if originals := still_in_source(sorted(listed), source):
        message = f"fibo: the lists name {originals} clips by whole paths, which lead to the originals."
        typer.echo(message, err=True)
    typer.echo(
        "Reading becomes faster by how far keyframes lay apart and pictures were larger. Measure yours:\n"
        f"  fibo bench decoding --clips {source} --reencoded {target}"
    )
    if done.failures:
        raise typer.Exit(3)
