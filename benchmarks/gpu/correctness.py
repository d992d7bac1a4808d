"""Are the kernels right on this device? Each against the same function in float64, forward and gradients.

The cases of diagonal attention are also what the tests run in Triton's interpreter.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor

from fibo_robot.attention import create_attention, diagonal_attention, force_backend
from fibo_robot.attention.operator import unpacked
from fibo_robot.attention.sparse.diagonal import MASK_MODES, Backend, MaskMode
from fibo_robot.attention.sparse.reference import reference_attention
from fibo_robot.attention.wythoff import OffsetRule, head_offsets
from fibo_robot.benchmarks.gpu.graphs import capture

Layout = Literal["views", "contiguous", "columns_apart"]

# Relative errors in norm: float32 sums of some dozens of terms, and one rounding to eight bits or eleven.
TOLERANCES = {"float32": 1e-6, "bfloat16": 1e-2, "float16": 2e-3}


@dataclass(frozen=True)
class Case:
    """One comparison of diagonal attention.

    Attributes:
        heads, patches, prefix, head_dim: the shape; `batch` sequences of it.
        rule, mask_mode, dtype: as in `diagonal_attention`.
        autocast: the type of an autocast region around the call, which must change nothing.
        logit: added to all logits among patches.
        layout: of q, k and v: views of one projection, as modules pass them; contiguous; or with head_dim
            not the last dimension in memory.
        tuned: use the launch that is fastest here, which takes four compilations per kernel to find.
    """

    heads: int
    patches: int
    prefix: int
    head_dim: int
    rule: OffsetRule
    mask_mode: MaskMode
    dtype: str = "float32"
    autocast: str = ""
    logit: float = 0.0
    layout: Layout = "views"
    batch: int = 1
    tuned: bool = False

    @property
    def name(self) -> str:
        """All that is not as usual, in words."""
        shape = f"{self.batch}x{self.heads}x{self.patches}+{self.prefix}x{self.head_dim}"
        words = [shape, self.rule, self.mask_mode, self.dtype]
        words += [f"autocast-{self.autocast}"] if self.autocast else []
        words += [f"logit{self.logit:g}"] if self.logit else []
        words += [self.layout] if self.layout != "views" else []
        words += ["tuned"] if self.tuned else []
        return "-".join(words)

    @property
    def tolerance(self) -> float:
        """The largest relative error that rounding explains."""
        # Large logits are rounded by 6e-8 times their size.
        return max(1.0, abs(self.logit)) * TOLERANCES[self.dtype]


# Tiles that do not divide, more than two of them, head_dim that is no power of two, one head, registers,
# queries without keys, one patch.
SMALL: list[tuple[int, int, int, int, OffsetRule]] = [
    (2, 35, 1, 16, "paper"),
    (1, 33, 0, 20, "modified"),
    (1, 16, 3, 32, "robot_release"),
    (3, 9, 0, 16, "paper"),
    (1, 1, 1, 16, "paper"),
    (1, 131, 5, 8, "modified"),
]
MODES = cast(tuple[MaskMode, ...], MASK_MODES)
CASES = [
    *(Case(*shape, mode) for shape in SMALL for mode in MODES),
    *(Case(*shape, mode, "bfloat16") for shape in SMALL[:2] for mode in MODES),
    Case(2, 35, 2, 16, "paper", "drop", "float16", batch=2),
    *(Case(1, 999, 1, 8, "paper", mode) for mode in MODES),
    Case(1, 70, 1, 16, "paper", "drop", autocast="bfloat16"),
    Case(1, 70, 2, 16, "paper", "zero_logit", autocast="float16"),
    Case(1, 70, 2, 16, "paper", "drop", "bfloat16", autocast="bfloat16"),
    *(Case(1, patches, 1, 16, "modified", "zero_logit", logit=-20.0) for patches in (2, 40)),
    Case(2, 33, 1, 16, "paper", "drop", layout="contiguous", batch=2),
    Case(2, 33, 1, 16, "paper", "zero_logit", layout="columns_apart", batch=2),
]
# As models have them, and longer: for a device that is fast enough.
LARGE = [
    *(Case(12, 1568, 1, 64, "paper", "drop", dtype, batch=2, tuned=True) for dtype in TOLERANCES),
    *(Case(12, 196, 1, 64, "paper", mode, dtype) for mode in MODES for dtype in TOLERANCES),
    Case(4, 1000, 5, 80, "modified", "zero_logit", "bfloat16", tuned=True),
    *(Case(2, 3136, 1, head_dim, "paper", "drop", "bfloat16") for head_dim in (32, 128, 256)),
]


def errors(case: Case, device: str, backend: Backend) -> dict[str, float]:
    """Relative errors of the output and of the three gradients."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    qkv = torch.randn(case.batch, case.patches + case.prefix, 3, case.heads, case.head_dim, device=device)
    if case.logit:
        qkv[:, :, 0, :, 0], qkv[:, :, 1, :, 0] = 1, case.logit * case.head_dim**0.5
    views = unpacked(qkv.to(dtype))
    if case.layout == "contiguous":
        views = [view.contiguous() for view in views]
    elif case.layout == "columns_apart":
        views = [view.mT.contiguous().mT for view in views]
    q, k, v = inputs = [view.detach().requires_grad_() for view in views]
    offsets = head_offsets(case.patches, case.heads, case.rule)
    options: dict[str, Any] = {"num_prefix_tokens": case.prefix, "mask_mode": case.mask_mode}
    upstream = torch.randn(q.shape, device=device).to(dtype)
    autocast = torch.autocast(
        device, getattr(torch, case.autocast or "bfloat16"), enabled=bool(case.autocast)
    )
    with nullcontext() if case.tuned else _fixed_launches():
        with autocast:
            out = diagonal_attention(q, k, v, offsets, backend=backend, **options)
        grads = torch.autograd.grad(out, inputs, upstream)
    return compare(
        (out, *grads),
        _exact(lambda q, k, v: reference_attention(q, k, v, offsets, **options), inputs, upstream),
        # Where a softmax over two keys cancels to almost nothing, rounding is compared with what came in.
        floor=0.1 * float(upstream.double().norm()),
    )


@contextmanager
def _fixed_launches() -> Iterator[None]:
    """PyTorch's deterministic mode: no launch is timed, and memory that is not written holds NaN."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def compiled_errors(device: str, backend: Backend) -> dict[str, float]:
    """Of a module under torch.compile, in one graph, against the same module without it."""
    module = create_attention("fibottention", 32, 2, layer_index=1, num_prefix_tokens=1).to(device)
    x = torch.randn(2, 30, 32, device=device, requires_grad=True)
    inputs = (x, *module.parameters())
    with force_backend(backend):
        results = []
        # aot_eager traces as the default does; what it leaves out is a compiler for CPUs.
        how = "inductor" if device == "cuda" else "aot_eager"
        for function in (torch.compile(module, fullgraph=True, backend=how), module):
            out = function(x)
            results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    torch.compiler.reset()
    names = ("out", "x", *(name for name, _ in module.named_parameters()))
    return compare(*results, names=names)


def graph_errors(device: str, backend: Backend) -> dict[str, float]:
    """Of a CUDA graph's replay on new inputs, forward and backward, against the same calls without it."""
    offsets = head_offsets(1568, 4)
    q, k, v = inputs = [torch.randn(2, 4, 1569, 64, device=device, requires_grad=True) for _ in range(3)]
    upstream = torch.randn(q.shape, device=device)

    def step() -> tuple[Tensor, ...]:
        out = diagonal_attention(q, k, v, offsets, backend=backend)
        return (out, *torch.autograd.grad(out, inputs, upstream))

    replay = capture(step)
    with torch.no_grad():
        for tensor in inputs:
            tensor.normal_()
    return compare(replay(), step())


def compare(
    actual: tuple[Tensor, ...],
    expected: tuple[Tensor, ...],
    names: tuple[str, ...] = ("out", "q", "k", "v"),
    floor: float = 1e-12,
) -> dict[str, float]:
    """Norms of differences over those of what was expected, or over `floor` where that is larger, by name."""
    return {name: _relative(a, e, floor) for name, a, e in zip(names, actual, expected, strict=True)}


def row(kernel: str, tolerance: float, found: dict[str, float], **about: Any) -> dict[str, Any]:
    """What a comparison writes: errors, tolerance and whether it holds."""
    passed = all(error < tolerance for error in found.values())  # NaN passes nothing, and is no JSON
    shown = {name: error if math.isfinite(error) else None for name, error in found.items()}
    return {"kernel": kernel, **about, "errors": shown, "tolerance": tolerance, "passed": passed}


class CheckedCase(Protocol):
    """What the cases of all kernels, dataclasses, have."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...

    @property
    def tolerance(self) -> float: ...


AnyCase = TypeVar("AnyCase", bound=CheckedCase)


def each(
    kernel: str, cases: Sequence[AnyCase], find: Callable[[AnyCase], dict[str, float]]
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Names of comparisons, and functions that make them, from the errors that `find` finds in a case."""

    def check(case: AnyCase) -> dict[str, Any]:
        return row(kernel, case.tolerance, find(case), **asdict(case))

    for case in cases:
        yield f"{kernel} {case.name}", partial(check, case)


def checks(
    device: str, backend: Backend, cases: Sequence[Case]
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Of diagonal attention, as :func:`each`; then under torch.compile and, on CUDA, in a graph."""
    yield from each("diagonal", cases, lambda case: errors(case, device, backend))
    yield "diagonal compiled", lambda: row("compiled", 1e-5, compiled_errors(device, backend))
    if device == "cuda":
        yield "diagonal in a CUDA graph", lambda: row("graph", 1e-5, graph_errors(device, backend))


def _exact(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor], upstream: Tensor
) -> tuple[Tensor, ...]:
    """Output and gradients in float64."""
    q, k, v = exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    out = function(q, k, v)
    return (out, *torch.autograd.grad(out, exact, upstream.double()))


def _relative(actual: Tensor, expected: Tensor, floor: float = 1e-12) -> float:
    difference = actual.detach().double() - expected.detach().double()
    return float(difference.norm() / expected.detach().double().norm().clamp_min(floor))
