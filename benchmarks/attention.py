"""`fibo bench attention`: attention alone, over a sweep of sequence lengths, against fused dense attention.

Only attention is timed, on ViT-B's 12 heads of 64. What a faster attention is worth to a whole ViT-B stands
beside each number: attention is N / (6D + N) of its multiply-adds, so even free attention speeds the model up
by no more than (6D + N) / 6D.

Needs nothing beyond torch, timm and numba, so that it runs from a checkout without an installation:
`PYTHONPATH=. python -m fibo_robot.benchmarks.attention --device cuda`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from fibo_robot.attention import AttentionConfig, create_attention
from fibo_robot.attention.wythoff import count_pairs, head_offsets
from fibo_robot.benchmarks.harness import (
    BenchmarkError,
    interleave,
    peak_memory_mb,
    speedup,
    write_results,
)
from fibo_robot.errors import FiboError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Direction = Literal["forward", "forward_backward"]

NUM_HEADS, HEAD_DIM = 12, 64  # ViT-B
WIDTH = NUM_HEADS * HEAD_DIM
TOKENS = (197, 785, 1569, 3137, 6273, 12545, 25089)  # one class token and 14 x 14 patches, times 1 to 128
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DENSE = "sdpa"
OURS = ("fibottention", "castling")
SECONDS_PER_CASE = 20.0  # rounds are repeated for about this long ...
FEWEST_ROUNDS, MOST_ROUNDS = 3, 30  # ... within these bounds


@dataclass(frozen=True)
class AttentionRow:
    """One measurement.

    Attributes:
        op: what was timed; `sdpa` is PyTorch's fused dense attention.
        tokens: N, one class token included.
        direction: `forward`, or `forward_backward` with gradients of q, k and v.
        milliseconds: median over the rounds.
        speedup_vs_sdpa: median of dense time over own time within each round.
        spread: quartiles of that ratio.
        rounds: how many rounds were timed.
        peak_memory_mb: memory one call needs beyond its inputs, MiB; None where it cannot be measured.
        keys_per_query: pairs computed per query and head, mean; N for dense, None for the others.
        attention_share: attention's share of a ViT-B's multiply-adds at this N.
        end_to_end_ceiling: the most that free attention would speed a ViT-B up.
    """

    op: str
    tokens: int
    direction: Direction
    dtype: str
    device: str
    milliseconds: float
    speedup_vs_sdpa: float
    spread: tuple[float, float]
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
    with tqdm(total=len(tokens) * len(directions), disable=None, leave=False) as progress:
        for count in tokens:
            for direction in directions:
                progress.set_description(f"{count} tokens, {direction}")
                yield from _measure_length(count, direction, dtype, device, batch, ops)
                progress.update()


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
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, NUM_HEADS, tokens, HEAD_DIM)
    backward = direction == "forward_backward"
    q, k, v = (
        torch.randn(shape, device=device, dtype=DTYPES[dtype], generator=generator).requires_grad_(backward)
        for _ in range(3)
    )
    cases = {
        name: _with_gradients(function, q, k, v) if backward else _without_gradients(function, q, k, v)
        for name, function in _functions(ops, tokens, device, DTYPES[dtype]).items()
    }
    offsets = head_offsets(tokens - 1, NUM_HEADS)
    pairs = sum(count_pairs(row, tokens - 1) for row in offsets) / NUM_HEADS + 2 * tokens - 1
    keys = {DENSE: float(tokens), "fibottention": pairs / tokens, "flex_attention": pairs / tokens}
    # The first round compiles and is not counted; a second tells how many fit into the time.
    first = sum(seconds[0] for seconds in interleave(cases, repeats=1).values())
    rounds = int(min(max(SECONDS_PER_CASE / first, FEWEST_ROUNDS), MOST_ROUNDS))
    seconds = interleave(cases, rounds, warmup=0)
    share = attention_share(tokens)
    rows = []
    for name, case in cases.items():
        ratio, spread = speedup(seconds[DENSE], seconds[name])
        rows.append(
            AttentionRow(
                op=name,
                tokens=tokens,
                direction=direction,
                dtype=dtype,
                device=device,
                milliseconds=1000 * sorted(seconds[name])[rounds // 2],
                speedup_vs_sdpa=ratio,
                spread=spread,
                rounds=rounds,
                peak_memory_mb=peak_memory_mb(case),
                keys_per_query=keys.get(name),
                attention_share=share,
                end_to_end_ceiling=1 / (1 - share),
            )
        )
    return rows


def _functions(
    ops: Sequence[str], tokens: int, device: str, dtype: torch.dtype
) -> dict[str, Callable[..., Tensor]]:
    functions: dict[str, Callable[..., Tensor]] = {DENSE: F.scaled_dot_product_attention}
    for name in ops:
        module = create_attention(
            name, WIDTH, NUM_HEADS, layer_index=0, num_prefix_tokens=1, grid=token_grid(tokens)
        )
        functions[name] = module.core.to(device, dtype).eval()
    if device == "cuda":
        functions["flex_attention"] = _flex_attention(tokens, head_offsets(tokens - 1, NUM_HEADS))
    return functions


def token_grid(tokens: int) -> tuple[int, int, int]:
    """Frames of 14 x 14 patches where the count (class token included) allows it, else one row of patches."""
    frames, rest = divmod(tokens - 1, 14 * 14)
    return (1, 1, tokens - 1) if rest else (frames, 14, 14)


def _flex_attention(tokens: int, offsets: list[list[int]]) -> Callable[..., Tensor]:
    """FlexAttention with Fibottention's mask: what a block-sparse kernel makes of it."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    on = torch.zeros(NUM_HEADS, tokens, dtype=torch.bool, device="cuda")
    for head, head_set in enumerate(offsets):
        on[head, head_set] = True

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query == 0) | (key == 0) | on[head, (query - key).abs()]

    blocks = create_block_mask(mask, None, NUM_HEADS, tokens, tokens, device="cuda")
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=blocks)


def _without_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return function(*inputs)

    return call


def _with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    upstream = torch.randn_like(inputs[0])
    return lambda: torch.autograd.grad(function(*inputs), inputs, upstream, allow_unused=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """What `fibo bench attention` measures, as plain lines, for machines without the command's packages."""
    parser = argparse.ArgumentParser(
        prog="python -m fibo_robot.benchmarks.attention", description=main.__doc__
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, help="lengths, class token included")
    parser.add_argument("--ops", nargs="+", default=OURS, help="registered attentions to time beside dense")
    parser.add_argument("--forward-only", action="store_true", help="leave the backward pass out")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args(arguments)
    directions: tuple[Direction, ...] = (
        ("forward",) if given.forward_only else ("forward", "forward_backward")
    )
    rows = []
    try:
        for row in measure(given.tokens, directions, given.dtype, given.device, ops=given.ops):
            rows.append(row.to_dict())
            low, high = row.spread
            print(
                f"{row.tokens} tokens, {row.direction}, {row.op}: {row.milliseconds:.2f} ms, "
                f"{row.speedup_vs_sdpa:.1f}x ({low:.1f}-{high:.1f}) of sdpa",
                flush=True,
            )
            if given.json is not None:  # an interrupted sweep keeps what it has measured
                write_results(given.json, rows)
    except FiboError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
