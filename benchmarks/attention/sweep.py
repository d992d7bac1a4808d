"""`fibo bench attention`: attention alone, over a sweep of sequence lengths, against fused dense attention.

Attention alone is timed on ViT-B's 12 heads of 64, on what a ViT's projection hands over: q, k and v are
strided views of one tensor, and gradients flow back into that tensor; for all competitors alike. Beside it
stands the whole attention module, both projections included, against timm's with dense attention. What a
faster attention is worth to a whole ViT-B stands beside each number: attention is N / (6D + N) of its
multiply-adds, so even free attention speeds the model up by no more than (6D + N) / 6D.

Needs nothing beyond torch, timm and numba, so that it runs from a checkout without an installation:
`PYTHONPATH=. python -m fibo_robot.benchmarks.attention --device cuda`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import torch

from fibo_robot.attention import AttentionConfig
from fibo_robot.attention.wythoff import count_pairs, head_offsets
from fibo_robot.benchmarks.attention.cases import (
    BRANCH,
    DENSE,
    FLEX,
    HEAD_DIM,
    NUM_HEADS,
    WIDTH,
    build_modules,
    cases_alone,
    cases_whole,
)
from fibo_robot.benchmarks.attention.limits import floor_seconds, limit_cases, multiply_adds
from fibo_robot.benchmarks.harness import (
    BenchmarkError,
    interleave,
    peak_memory_mb,
    speedup,
    write_results,
)
from fibo_robot.errors import FiboError
from fibo_robot.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Direction = Literal["forward", "forward_backward"]

TOKENS = (197, 785, 1569, 3137, 6273, 12545, 25089)  # one class token and 14 x 14 patches, times 1 to 128
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OURS = ("fibottention", "castling")
SECONDS_PER_CASE = 20.0  # rounds are repeated for about this long ...
FEWEST_ROUNDS, MOST_ROUNDS = 3, 30  # ... within these bounds
SECONDS_PER_ROUND = {"cpu": 0.01, "cuda": 0.05}  # a case is called again until about so much has passed


@dataclass(frozen=True)
class AttentionRow:
    """One measurement.

    Attributes:
        op: what was timed; `sdpa` is PyTorch's fused dense attention, `castling_with_branch` is Castling as
            it trains before its schedule ends, and `castling` what remains.
        tokens: N, one class token included.
        batch: sequences side by side.
        direction: `forward`, or `forward_backward` with the gradient of q, k and v.
        milliseconds: median over the rounds.
        speedup_vs_sdpa: median of dense time over own time within each round.
        spread: quartiles of that ratio.
        module_milliseconds, module_speedup, module_spread: the same of the whole attention module, in
            training with the gradients of its weights; None for what is no module.
        floor_milliseconds: the least that this machine's memory and arithmetic allow, measured in the same
            rounds (limits.py); None for attentions whose work is not known here.
        rounds: how many rounds were timed.
        peak_memory_mb: memory one call needs beyond its inputs, MiB; None where it cannot be measured.
        keys_per_query: pairs computed per query and head, mean; N for dense, None for the others.
        attention_share: attention's share of a ViT-B's multiply-adds at this N.
        end_to_end_ceiling: the most that free attention would speed a ViT-B up.
    """

    op: str
    tokens: int
    batch: int
    direction: Direction
    dtype: str
    device: str
    milliseconds: float
    speedup_vs_sdpa: float
    spread: tuple[float, float]
    module_milliseconds: float | None
    module_speedup: float | None
    module_spread: tuple[float, float] | None
    floor_milliseconds: float | None
    rounds: int
    peak_memory_mb: float | None
    keys_per_query: float | None
    attention_share: float
    end_to_end_ceiling: float

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def measure(
    tokens: Sequence[int] = TOKENS,
    directions: Sequence[Direction] = ("forward", "forward_backward"),
    dtype: str = "float32",
    device: str = "cpu",
    batch: int = 1,
    ops: Sequence[str] = OURS,
) -> Iterator[AttentionRow]:
    """Time attentions against fused dense attention, interleaved in this process; rows come as they are made.

    Args:
        tokens: sequence lengths N, class token included.
        directions: what to time.
        dtype: a key of :data:`DTYPES`.
        device: `cpu` or `cuda`; on CUDA, FlexAttention with the same mask is timed too.
        batch: batch size.
        ops: registered attentions to time beside dense attention, with their default options.

    Raises:
        BenchmarkError: if an argument does not fit this machine.
        AttentionError: for an unknown attention.
    """
    for name in ops:
        AttentionConfig.parse(name)
    if dtype not in DTYPES:
        raise BenchmarkError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("device cuda was asked for, but PyTorch finds no CUDA device here.")
    if min(tokens) < 2:
        raise BenchmarkError("tokens must be at least 2: a class token and a patch.")
    jobs: list[tuple[int, Direction]] = [(count, direction) for count in tokens for direction in directions]
    for count, direction in track(jobs, "attention"):
        yield from _measure_length(count, direction, dtype, device, batch, ops)


def attention_share(tokens: int, width: int = WIDTH) -> float:
    """Attention's share of a ViT's multiply-adds, N / (6D + N): 2N²D beside 12ND² per layer."""
    return tokens / (6 * width + tokens)


def plot(rows: Sequence[AttentionRow]) -> "Figure":
    """Milliseconds over tokens, both axes logarithmic, one panel per direction."""
    from matplotlib.figure import Figure

    directions = list(dict.fromkeys(row.direction for row in rows))
    figure = Figure(figsize=(5 * len(directions), 4), layout="constrained")
    for panel, direction in enumerate(directions, start=1):
        ax = figure.add_subplot(1, len(directions), panel)
        for op in dict.fromkeys(row.op for row in rows):
            points = [(r.tokens, r.milliseconds) for r in rows if r.op == op and r.direction == direction]
            if points:
                ax.loglog(*zip(*points, strict=True), marker="o", label=op)
        lengths = sorted({row.tokens for row in rows})
        ax.set_xticks(lengths, [str(length) for length in lengths], rotation=45)
        ax.minorticks_off()
        ax.set_title(direction.replace("_", " + "))
        ax.set_xlabel("tokens")
        ax.set_ylabel("milliseconds")
        ax.legend()
    return figure


def save_plot(rows: Sequence[AttentionRow], path: Path) -> None:
    """Write :func:`plot` as an image, atomically."""
    from fibo_robot.files import replace_atomically

    with replace_atomically(path) as temporary:
        plot(rows).savefig(temporary, dpi=150)


def _measure_length(
    tokens: int, direction: Direction, dtype: str, device: str, batch: int, ops: Sequence[str]
) -> list[AttentionRow]:
    backward = direction == "forward_backward"
    modules = build_modules(ops, tokens, device, DTYPES[dtype], backward)
    alone = cases_alone(modules, tokens, device, DTYPES[dtype], batch, backward)
    whole = cases_whole(modules, tokens, device, DTYPES[dtype], batch, backward)
    limits = limit_cases(tokens, NUM_HEADS, HEAD_DIM, batch, device, DTYPES[dtype])
    times, module_times = _rounds(alone | limits, device), _rounds(whole, device)
    offsets = head_offsets(tokens - 1, NUM_HEADS)
    pairs = sum(count_pairs(row, tokens - 1) for row in offsets) / NUM_HEADS + 2 * tokens - 1
    keys = {DENSE: float(tokens), "fibottention": pairs / tokens, FLEX: pairs / tokens}
    share = attention_share(tokens)

    def floor(name: str) -> float | None:
        linear = name in ("castling", BRANCH)
        if not linear and name not in keys:
            return None
        of_pairs = float(tokens) if name == BRANCH else keys.get(name, 0.0)
        work = multiply_adds(direction, tokens, NUM_HEADS, HEAD_DIM, batch, of_pairs, linear)
        return 1000 * floor_seconds(direction, work, times, device)

    rows = []
    for name, case in alone.items():
        ratio, spread = speedup(times[DENSE], times[name])
        module_ratio = speedup(module_times[DENSE], module_times[name]) if name in whole else (None, None)
        rows.append(
            AttentionRow(
                op=name,
                tokens=tokens,
                batch=batch,
                direction=direction,
                dtype=dtype,
                device=device,
                milliseconds=1000 * median(times[name]),
                speedup_vs_sdpa=ratio,
                spread=spread,
                module_milliseconds=1000 * median(module_times[name]) if name in whole else None,
                module_speedup=module_ratio[0],
                module_spread=module_ratio[1],
                floor_milliseconds=floor(name),
                rounds=len(times[name]),
                peak_memory_mb=peak_memory_mb(case, device),
                keys_per_query=keys.get(name),
                attention_share=share,
                end_to_end_ceiling=1 / (1 - share),
            )
        )
    return rows


def _rounds(cases: dict[str, Callable[[], object]], device: str) -> dict[str, list[float]]:
    """Seconds per call in as many rounds as fit into :data:`SECONDS_PER_CASE`."""
    # The first round compiles and is not counted; a second tells how many fit into the time.
    least = SECONDS_PER_ROUND[device]
    first = sum(seconds[0] for seconds in interleave(cases, 1, device=device).values())
    rounds = int(min(max(SECONDS_PER_CASE / max(first, least * len(cases)), FEWEST_ROUNDS), MOST_ROUNDS))
    return interleave(cases, rounds, device=device, least_seconds=least)


def main(arguments: Sequence[str] | None = None) -> None:
    """What `fibo bench attention` measures, as plain lines, for machines without the command's packages."""
    parser = argparse.ArgumentParser(
        prog="python -m fibo_robot.benchmarks.attention", description=main.__doc__
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, help="lengths, class token included")
    parser.add_argument("--ops", nargs="+", default=OURS, help="registered attentions to time beside dense")
    parser.add_argument("--forward-only", action="store_true", help="leave the backward pass out")
    parser.add_argument("--batch", type=int, default=1, help="sequences side by side")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args(arguments)
    directions: tuple[Direction, ...] = (
        ("forward",) if given.forward_only else ("forward", "forward_backward")
    )
    rows = []
    try:
        for row in measure(given.tokens, directions, given.dtype, given.device, given.batch, given.ops):
            rows.append(row.to_dict())
            low, high = row.spread
            print(
                f"{row.tokens} tokens, {row.direction}, {row.op}: {row.milliseconds:.2f} ms, "
                f"{row.speedup_vs_sdpa:.2f}x ({low:.2f}-{high:.2f}) of sdpa"
                + ("" if row.module_speedup is None else f", the module {row.module_speedup:.2f}x"),
                flush=True,
            )
            if given.json is not None:  # an interrupted sweep keeps what it has measured
                write_results(given.json, rows)
    except FiboError as error:
        parser.exit(1, f"{error}\n")
