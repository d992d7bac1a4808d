"""`fibo bench decoding`: decord, torchcodec and the reader of this package against PyAV."""

from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.cli.bench.options import JsonFile, is_standard_output


def decoding(
    clips: Annotated[
        Path | None, typer.Option(help="Folder of videos; without it, some are written.")
    ] = None,
    reencoded: Annotated[
        Path | None,
        typer.Option(help="What `fibo data reencode` made of --clips: our reader on both, nothing else."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions, interleaved.")] = 5,
    json: JsonFile = None,
) -> None:
    """Frames at random, spread, as a training clip, all, the first: every backend against plain PyAV."""
    from fibo_robot.benchmarks.harness import BenchmarkError, write_results
    from fibo_robot.benchmarks.video.decoding import measure_decoding, measure_reencoding

    if reencoded is None:
        rows = measure_decoding(clips, rounds)
    elif clips is None:
        raise BenchmarkError("--reencoded needs --clips: the folder of the originals.")
    else:
        rows = measure_reencoding(clips, reencoded, rounds)
    if not is_standard_output(json):
        _print(rows)
    if json is not None:
        write_results(json, [row.to_dict() for row in rows])


def _print(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *("frames", "library", "clips/s", f"vs {rows[0].library}", "quartiles", "clips that differ"),
        title=f"{rows[0].clips} clips, each opened anew, one thread",
    )
    for row in rows:
        table.add_row(
            row.case,
            row.library,
            f"{row.clips_per_s:.1f}",
            f"{row.speedup:.2f}x",
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
            "-" if row.clips_that_differ is None else str(row.clips_that_differ),
        )
    Console().print(table)
