"""`fibo bench attention`: attention alone and its whole module, against fused dense attention."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.cli.bench.options import Device, JsonFile, is_standard_output, whole_numbers, writable


class Dtype(StrEnum):
    """Of the tensors."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def attention(
    tokens: Annotated[str, typer.Option(help="Sequence lengths, comma-separated; class token included.")] = (
        "197,785,1569,3137,6273,12545,25089"
    ),
    ops: Annotated[
        str, typer.Option(help="Registered attentions to time beside dense attention, comma-separated.")
    ] = "fibottention,castling",
    forward_only: Annotated[bool, typer.Option(help="Leave the backward pass out.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Sequences side by side.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="Of the tensors.")] = Dtype.FLOAT32,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.CPU,
    json: JsonFile = None,
    plot: Annotated[
        Path | None, typer.Option(callback=writable, help="Write a log-log plot to this PNG file.")
    ] = None,
) -> None:
    """Attention alone and its whole module, against fused dense attention, over sequence lengths."""
    from fibo_robot.benchmarks.attention import sweep as benchmark
    from fibo_robot.benchmarks.harness import write_results

    lengths = whole_numbers("--tokens", tokens)
    directions: list[benchmark.Direction] = ["forward"] if forward_only else ["forward", "forward_backward"]
    rows: list[benchmark.AttentionRow] = []
    for row in benchmark.measure(lengths, directions, dtype.value, device.value, batch, ops.split(",")):
        rows.append(row)
        if json is not None and not is_standard_output(
            json
        ):  # an interrupted sweep keeps what it has measured
            write_results(json, [row.to_dict() for row in rows])
    if json is not None and is_standard_output(json):
        write_results(json, [row.to_dict() for row in rows])
    else:
        _print_attention(rows)
    if plot is not None:
        benchmark.save_plot(rows, plot)


def _print_attention(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Attention alone, 12 heads of 64", box=None, padding=(0, 1, 0, 0))
    for heading in (
        "tokens",
        "direction",
        "op",
        "ms",
        "floor",
        "vs sdpa",
        "quartiles",
        "module",
        "MiB",
        "keys",
        "ceiling",
    ):
        table.add_column(heading, justify="left" if heading in ("direction", "op") else "right")
    for row in rows:
        table.add_row(
            str(row.tokens),
            {"forward": "fwd", "forward_backward": "fwd+bwd"}[row.direction],
            row.op,
            f"{row.milliseconds:.2f}",
            "-" if row.floor_milliseconds is None else f"{row.floor_milliseconds:.2f}",
            f"{row.speedup_vs_sdpa:.2f}x",
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
            "-" if row.module_speedup is None else f"{row.module_speedup:.2f}x",
            "-" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}",
            "-" if row.keys_per_query is None else f"{row.keys_per_query:.0f}",
            f"{row.end_to_end_ceiling:.2f}x",
        )
    Console().print(table)
    typer.echo("module: the same of the whole attention module, both projections included.")
    typer.echo("floor: ms to stream q, k, v and out, or to multiply, here; whichever takes longer.")
    typer.echo("keys: pairs computed per query. ceiling: what free attention would give a whole ViT-B, where")
    typer.echo("attention's share of the multiply-adds is " + _shares(rows) + ".")


def _shares(rows: list) -> str:
    shares = {row.tokens: row.attention_share for row in rows}
    return ", ".join(f"{100 * share:.0f} % at {tokens}" for tokens, share in shares.items())
