"""`fibo bench attention`: attention alone, against fused dense attention."""

from pathlib import Path
from typing import Annotated

import typer


def attention(
    tokens: Annotated[str, typer.Option(help="Sequence lengths, comma-separated; class token included.")] = (
        "197,785,1569,3137,6273,12545,25089"
    ),
    ops: Annotated[
        str, typer.Option(help="Registered attentions to time beside dense attention, comma-separated.")
    ] = "fibottention,castling",
    forward_only: Annotated[bool, typer.Option(help="Leave the backward pass out.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: Annotated[Path | None, typer.Option(help="Write the rows to this JSON file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a log-log plot to this PNG file.")] = None,
) -> None:
    """Attention alone, against fused dense attention, over sequence lengths."""
    from fibo_robot.benchmarks import attention as benchmark
    from fibo_robot.benchmarks.harness import BenchmarkError, write_results

    try:
        lengths = [int(part) for part in tokens.split(",")]
    except ValueError as error:
        raise BenchmarkError(
            f"--tokens must be whole numbers separated by commas, not {tokens!r}."
        ) from error
    directions = ("forward",) if forward_only else ("forward", "forward_backward")
    rows: list[benchmark.AttentionRow] = []
    for row in benchmark.measure(lengths, directions, dtype, device, ops=ops.split(",")):
        rows.append(row)
        if json is not None:  # an interrupted sweep keeps what it has measured
            write_results(json, [row.to_dict() for row in rows])
    _print_attention(rows)
    if plot is not None:
        benchmark.save_plot(rows, plot)


def _print_attention(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Attention alone, 12 heads of 64", box=None, padding=(0, 1, 0, 0))
    for heading in ("tokens", "direction", "op", "ms", "vs sdpa", "quartiles", "MiB", "keys", "ceiling"):
        table.add_column(heading, justify="left" if heading in ("direction", "op") else "right")
    for row in rows:
        table.add_row(
            str(row.tokens),
            {"forward": "fwd", "forward_backward": "fwd+bwd"}[row.direction],
            row.op,
            f"{row.milliseconds:.2f}",
            f"{row.speedup_vs_sdpa:.1f}x",
            f"{row.spread[0]:.1f}-{row.spread[1]:.1f}",
            "-" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}",
            "-" if row.keys_per_query is None else f"{row.keys_per_query:.0f}",
            f"{row.end_to_end_ceiling:.2f}x",
        )
    Console().print(table)
    typer.echo("keys: pairs computed per query. ceiling: what free attention would give a whole ViT-B, where")
    typer.echo("attention's share of the multiply-adds is " + _shares(rows) + ".")


def _shares(rows: list) -> str:
    shares = {row.tokens: row.attention_share for row in rows}
    return ", ".join(f"{100 * share:.0f} % at {tokens}" for tokens, share in shares.items())
