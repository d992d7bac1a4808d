"""From which length on the CPU's sparse kernel beats the dense mask: what `choose_backend` goes by.

    python -m fibo_robot.benchmarks.attention.crossover [THREADS]

Both get the views that a ViT's projection hands over; training is a forward and a backward pass. Measured,
interleaved, is this process's CPU time on one thread, which a busy machine disturbs little; on more threads
it is wall time, which says something on a quiet machine only.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from fibo_robot.attention import diagonal_attention
from fibo_robot.attention.projection import split_projection
from fibo_robot.attention.sparse.diagonal import Backend
from fibo_robot.attention.wythoff import head_offsets
from fibo_robot.benchmarks.harness import speedup

TOKENS = (33, 50, 65, 97, 129, 161, 197, 257, 325, 393, 513)
NUM_HEADS, HEAD_DIM = 6, 64  # ViT-S
BATCH = 8


@dataclass(frozen=True)
class CrossoverRow:
    """One length.

    Attributes:
        tokens: N, one class token included.
        training: whether the backward pass was measured with the forward pass.
        milliseconds: median time of the sparse kernel.
        speedup: median of the dense mask's time over it within each round; `spread`: its quartiles.
    """

    tokens: int
    training: bool
    milliseconds: float
    speedup: float
    spread: tuple[float, float]


def measure(
    tokens: Sequence[int] = TOKENS, training: bool = False, rounds: int = 15, threads: int = 1
) -> list[CrossoverRow]:
    """Compare both at every length, on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    try:
        return [_measure_length(count, training, rounds, clock) for count in tokens]
    finally:
        torch.set_num_threads(before)


def _measure_length(tokens: int, training: bool, rounds: int, clock: Callable[[], float]) -> CrossoverRow:
    seconds: dict[Backend, list[float]] = {"numba": [], "sdpa": []}
    calls: dict[Backend, Callable[[], object]] = {
        backend: _call(tokens, training, backend) for backend in seconds
    }
    for number in range(rounds + 1):
        for backend, call in calls.items():
            start = clock()
            call()
            taken = clock() - start
            if number:  # the first compiles
                seconds[backend].append(taken)
    ratio, spread = speedup(seconds["sdpa"], seconds["numba"])
    return CrossoverRow(tokens, training, 1000 * median(seconds["numba"]), ratio, spread)


def _call(tokens: int, training: bool, backend: Backend) -> Callable[[], object]:
    qkv = torch.randn(BATCH, tokens, 3, NUM_HEADS, HEAD_DIM, requires_grad=training)
    upstream = torch.randn(BATCH, tokens, NUM_HEADS, HEAD_DIM).transpose(1, 2)
    offsets = head_offsets(tokens - 1, NUM_HEADS)

    def forward() -> Tensor:
        return diagonal_attention(*split_projection(qkv), offsets, backend=backend)

    return (lambda: torch.autograd.grad(forward(), qkv, upstream)) if training else forward


def main(threads: int) -> None:
    """Print both tables."""
    from rich.console import Console
    from rich.table import Table

    for training in (False, True):
        table = Table(
            "tokens", "ms", "vs dense mask", "quartiles", title="training" if training else "inference"
        )
        for row in measure(training=training, threads=threads):
            low, high = row.spread
            table.add_row(
                str(row.tokens), f"{row.milliseconds:.2f}", f"{row.speedup:.2f}x", f"{low:.2f}-{high:.2f}"
            )
        Console().print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
