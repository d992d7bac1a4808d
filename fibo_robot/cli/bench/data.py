"""`fibo bench data`: demonstrations to batches, against robomimic's own dataset."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args

import typer

from fibo_robot.cli.bench.options import JsonFile, is_standard_output, whole_numbers


class WindowOption(StrEnum):
    """Which observations a sample has."""

    PAST = "past"
    SEQUENCE = "sequence"


class LayoutOption(StrEnum):
    """How pictures lie in the file that is made."""

    RECORDED = "recorded"
    ONE_PIECE = "one_piece"


def data(
    file: Annotated[Path, typer.Argument(help="robomimic HDF5 file with pictures.")],
    window: Annotated[
        WindowOption, typer.Option(help="past: one observation beside H actions; sequence: H of each.")
    ] = WindowOption.PAST,
    horizon: Annotated[int, typer.Option(min=1, help="H, actions of a sample.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a batch.")] = 64,
    batches: Annotated[int, typer.Option(min=1, help="Per case and round.")] = 50,
    workers: Annotated[str, typer.Option(help="Numbers of loader processes, comma-separated.")] = "0,2",
    caches: Annotated[
        str, typer.Option(help="robomimic's hdf5_cache_mode, comma-separated; all only where it fits.")
    ] = "none,low_dim,all",
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions, interleaved.")] = 5,
    filter_key: Annotated[str | None, typer.Option(help="A mask of the file; default: all of it.")] = None,
    v3: Annotated[
        Path | None, typer.Option(help="FILE in LeRobot's format, by `fibo demos convert`: read it, too.")
    ] = None,
    make_from: Annotated[
        Path | None, typer.Option(help="First make FILE by repeating this recorded file, if it is not there.")
    ] = None,
    make_gigabytes: Annotated[float, typer.Option(min=0.001, help="Size of the file that is made.")] = 4.0,
    make_layout: Annotated[LayoutOption, typer.Option(help="Of its pictures.")] = LayoutOption.RECORDED,
    json: JsonFile = None,
) -> None:
    """Batches per second and memory, ours against robomimic's SequenceDataset with the same samples."""
    from fibo_robot.benchmarks.harness import BenchmarkError, write_results
    from fibo_robot.benchmarks.policies import data as benchmark
    from fibo_robot.benchmarks.policies.samples import Cache, Samples, fits_in_memory, make_file
    from fibo_robot.policies.data.hdf5 import Hdf5Source

    unknown = set(caches.split(",")).difference(get_args(Cache))
    if unknown:
        raise BenchmarkError(f"robomimic has no cache {min(unknown)!r}; it has none, low_dim and all.")
    chosen: list[Cache] = [cache for cache in get_args(Cache) if cache in caches.split(",")]
    if make_from is not None and not file.exists():
        make_file(make_from, file, make_gigabytes, make_layout.value)
    source = Hdf5Source(file)
    meta = source.task().shape_meta(action_horizon=horizon)
    source.close()
    folder = None if v3 is None else str(v3)
    samples = Samples(str(file), filter_key, meta, window.value, batch_size, batches, folder)
    if "all" in chosen and not fits_in_memory(samples):
        typer.echo("robomimic's cache of everything does not fit into memory here and is left out.", err=True)
        chosen.remove("all")
    rows = benchmark.measure(samples, whole_numbers("--workers", workers, least=0), chosen, rounds)
    if not is_standard_output(json):
        _print(rows)
    if json is not None:
        size = {"file_gb": file.stat().st_size / 1e9}
        if v3 is not None:
            size["v3_gb"] = sum(part.stat().st_size for part in v3.rglob("*") if part.is_file()) / 1e9
        write_results(json, [row.to_dict() for row in rows], settings=size)


def _print(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in (
        "case",
        "cache",
        "workers",
        "batches/s",
        "speed-up",
        "quartiles",
        "vs all",
        "MiB",
        "worker",
    ):
        table.add_column(heading, justify="left" if heading in ("case", "cache") else "right")
    for row in rows:
        table.add_row(
            row.case,
            row.cache,
            str(row.workers),
            f"{row.batches_per_s:.1f}",
            f"{row.speedup:.2f}x",
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
            "-" if row.speedup_vs_all is None else f"{row.speedup_vs_all:.2f}x",
            f"{row.resident_mb:.0f}",
            "-" if row.worker_resident_mb is None else f"{row.worker_resident_mb:.0f}",
        )
    Console().print(table)
    typer.echo("Speed-up: over robomimic's fastest with pictures in the file; vs all: with all in memory.")
    typer.echo("MiB: resident memory of the training process, and of its largest loader process.")
