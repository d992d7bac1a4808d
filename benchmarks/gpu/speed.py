"""How fast are attentions, alone and as whole modules, beside the best of what PyTorch has?

All competitors of a case run in one process, in an order drawn anew for each round, each called for many
times between two CUDA events: from Python, and again as CUDA graphs (graphs.py). Dense attention runs through
each of PyTorch's fused backends that takes the case; ratios are against the fastest of them, and against
FlexAttention with Fibottention's mask.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fibo_robot.attention import force_backend
from fibo_robot.attention.sparse.diagonal import Backend
from fibo_robot.attention.wythoff import count_pairs, head_offsets
from fibo_robot.benchmarks.attention.cases import DENSE, FLEX, build_modules, cases_alone, cases_whole
from fibo_robot.benchmarks.gpu.graphs import captured, first_line
from fibo_robot.benchmarks.harness import interleave, peak_memory_mb, quartiles, speedup

Scope = Literal["alone", "module"]
Direction = Literal["forward", "forward_backward"]

FUSED = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
}
OURS = ("fibottention", "castling")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Rounds:
    """How long a case is timed: so many rounds, in each of which a competitor runs for about so long."""

    count: int
    seconds: float


@dataclass(frozen=True)
class SpeedCase:
    """One shape, with one class token, for all competitors.

    Attributes:
        scope: attention `alone`, on the views of a projection, or the whole `module` with its projections.
        tokens: N, the class token included; `batch` sequences of them, `heads` heads of 64.
        dtype: a key of :data:`DTYPES`.
        direction: with the gradient of what went in, and of a module's weights, or without.
    """

    scope: Scope
    tokens: int
    batch: int
    heads: int
    dtype: str
    direction: Direction

    @property
    def name(self) -> str:
        """Unique among the cases of a part."""
        return f"{self.scope} {self.tokens} tokens x {self.batch}, {self.dtype}, {self.direction}"


def measure(case: SpeedCase, device: str, kernel: Backend, rounds: Rounds) -> list[dict[str, Any]]:
    """Rows of one case, one per competitor, and one that names those which could not run.

    Args:
        case: what to time.
        device: `cuda`, or `cpu` to try the program.
        kernel: the backend of `diagonal_attention` that is timed, at every length.
        rounds: for how long.
    """
    backward = case.direction == "forward_backward"
    dtype = DTYPES[case.dtype]
    modules = build_modules(OURS, case.tokens, device, dtype, backward, case.heads)
    build = cases_alone if case.scope == "alone" else cases_whole
    calls = build(modules, case.tokens, device, dtype, case.batch, backward)
    # As PyTorch chooses, without the price of a choice by hand; and each fused backend, should another win.
    calls |= {name: partial(_through, backend, calls[DENSE]) for name, backend in FUSED.items()}
    with force_backend(kernel):
        calls, left_out = usable(calls)
        memory = {name: peak_memory_mb(call, device) for name, call in calls.items()}
        timed, not_captured = time_launches(calls, (DENSE, *FUSED), device, rounds)
    offsets = head_offsets(case.tokens - 1, case.heads)
    pairs = sum(count_pairs(row, case.tokens - 1) for row in offsets) / case.heads + 2 * case.tokens - 1
    keys = {name: float(case.tokens) for name in (DENSE, *FUSED)}
    keys |= {"fibottention": pairs / case.tokens, FLEX: pairs / case.tokens}
    rows = [
        {**row, "peak_memory_mb": memory[row["op"]], "keys_per_query": keys.get(row["op"])} for row in timed
    ]
    left_out |= not_captured
    return [{**asdict(case), **row} for row in rows + [{"left_out": left_out}] * bool(left_out)]


def time_launches(
    calls: Mapping[str, Callable[[], object]], baselines: Sequence[str], device: str, rounds: Rounds
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows as of :func:`compare`, launched from Python and, on CUDA, once more as replays of CUDA graphs.

    Returns:
        The rows, each with its `launch`, `eager` or `graph`; and what no graph can hold, with the reason.
    """
    options: dict[str, Any] = {"device": device, "least_seconds": rounds.seconds}
    times = interleave(calls, rounds.count, **options)
    rows = [{"launch": "eager", **row} for row in compare(times, baselines)]
    if device != "cuda":
        return rows, {}
    replays, fails = captured(calls)
    times = interleave(replays, rounds.count, **options)
    rows += [{"launch": "graph", **row} for row in compare(times, baselines)]
    return rows, {f"{name} in a CUDA graph": why for name, why in fails.items()}


def usable(
    calls: Mapping[str, Callable[[], object]],
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Those of some calls that run here, and of the others the first line of why they do not."""
    runs, fails = {}, {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:  # whatever a library raises: the row says so
            fails[name] = first_line(error)
        else:
            runs[name] = call
    gc.collect()
    return runs, fails


def compare(times: Mapping[str, Sequence[float]], baselines: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of what was timed: milliseconds, and the ratio to the fastest of the baselines within each round.

    Args:
        times: seconds per call in each round, by name.
        baselines: names of those that count as what there was before.
    """
    there = [name for name in baselines if name in times]
    best = min(there, key=lambda name: median(times[name]), default=None)
    rows = []
    for name, seconds in times.items():
        low, middle, high = quartiles(seconds)
        row: dict[str, Any] = {
            "op": name,
            "milliseconds": 1000 * middle,
            "quartiles": [1000 * low, 1000 * high],
            "rounds": len(seconds),
        }
        if best is not None:
            ratio, spread = speedup(times[best], seconds)
            row |= {"best_dense": best, "speedup_vs_best_dense": ratio, "spread": spread}
        if FLEX in times:
            ratio, spread = speedup(times[FLEX], seconds)
            row |= {"speedup_vs_flex": ratio, "spread_vs_flex": spread}
        rows.append(row)
    return rows


def _through(backend: SDPBackend, call: Callable[[], object]) -> object:
    with sdpa_kernel([backend]):
        return call()
