"""Is Castling's linear-angular attention right on this device? The operators against float64.

The small cases are also what the tests run in Triton's interpreter.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fibo_robot.attention.castling.angular import (
    NORM_EPSILON,
    ConstantTerm,
    castling_inference,
    convolve,
    linear_angular,
)
from fibo_robot.attention.castling.training import castling_training
from fibo_robot.attention.operator import unpacked
from fibo_robot.benchmarks.gpu.correctness import compare

BRANCH_SCALE = 0.7

# Relative errors in norm: sums of float32 numbers, whose products may have 22 bits; else roundings of unit
# vectors, of the state and of the results.
TOLERANCES = {"float32": 5e-6, "bfloat16": 3e-2, "float16": 3e-3}


@dataclass(frozen=True)
class AngularCase:
    """One comparison.

    Attributes:
        heads, tokens, head_dim: the shape; `batch` sequences of it, views of one projection.
        dtype: of all tensors.
        const_term: as of `linear_angular`.
        taps: of the convolution along the tokens; 0: none.
        branch: whether something is added before the normalisation.
        zero_token: whether one token is zero: its unit vector is no number's quotient.
        upstream: how large the output's gradient is: float16 holds nothing far below 1e-5.
    """

    heads: int
    tokens: int
    head_dim: int
    dtype: str = "float32"
    const_term: ConstantTerm = "own"
    taps: int = 9
    branch: bool = True
    batch: int = 1
    zero_token: bool = False
    upstream: float = 1.0

    @property
    def name(self) -> str:
        """All that is not as usual, in words."""
        shape = f"{self.batch}x{self.heads}x{self.tokens}x{self.head_dim}"
        words = [shape, self.dtype, self.const_term, f"{self.taps}_taps"]
        words += ["branch"] * self.branch + ["zero_token"] * self.zero_token
        words += [f"upstream{self.upstream:g}"] if self.upstream != 1 else []
        return "-".join(words)

    @property
    def tolerance(self) -> float:
        """The largest relative error that rounding explains."""
        return TOLERANCES[self.dtype]


# One token, less than a tile, tiles that do not divide, more of them; head_dim that is no power of two.
CASES = [
    *(AngularCase(2, 131, 64, dtype, batch=2) for dtype in TOLERANCES),
    AngularCase(2, 1, 16),
    AngularCase(2, 17, 8, const_term="sum", taps=0),
    AngularCase(2, 300, 48, const_term="mean", branch=False, zero_token=True),
    AngularCase(1, 1000, 80, "float16", taps=0, branch=False, upstream=1e-3),
    AngularCase(2, 70, 20, "float16", const_term="sum", taps=3),
    AngularCase(2, 131, 32, "bfloat16", taps=0, branch=False),
]
# As models have them, and longer: for a device that is fast enough.
LARGE = [
    *(AngularCase(12, 1569, 64, dtype, batch=2) for dtype in TOLERANCES),
    *(AngularCase(12, 197, 64, dtype, batch=8) for dtype in TOLERANCES),
    *(AngularCase(4, 1000, head_dim, dtype) for head_dim in (32, 80, 128) for dtype in TOLERANCES),
    AngularCase(12, 12545, 64, "bfloat16", branch=False),
]


def errors(case: AngularCase, device: str) -> dict[str, float]:
    """Relative errors of inference, of the output in training, and of all gradients."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    qkv = torch.randn(case.batch, case.tokens, 3, case.heads, case.head_dim, device=device)
    if case.zero_token:
        qkv[:, case.tokens // 2] = 0
    q, k, v = inputs = [view.detach().requires_grad_() for view in unpacked(qkv.to(dtype))]
    shape = q.shape
    taps = torch.randn(case.heads, case.taps, device=device).to(dtype).requires_grad_()
    given, names = [*inputs], ["q", "k", "v"]
    if case.taps:
        given, names = [*given, taps], [*names, "taps"]
    if case.branch:
        given = [*given, torch.randn(shape, device=device).to(dtype).requires_grad_()]
        names = [*names, "branch"]
    upstream = (case.upstream * torch.randn(shape, device=device)).to(dtype)

    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    exact_taps = exact[3] if case.taps else taps.detach().double()
    y = linear_angular(exact[0], exact[1], exact[2], case.const_term)
    without = convolve(exact[2], exact_taps, F.normalize(y, dim=-1, eps=NORM_EPSILON))
    if case.branch:
        y = y + BRANCH_SCALE * exact[-1]
    expected = convolve(exact[2], exact_taps, F.normalize(y, dim=-1, eps=NORM_EPSILON))
    gradients = torch.autograd.grad(expected, exact, upstream.double())

    out = castling_training(
        q,
        k,
        v,
        case.const_term,
        taps,
        given[-1] if case.branch else None,
        torch.tensor(BRANCH_SCALE, device=device),
    )
    found = compare(
        (out, *torch.autograd.grad(out, given, upstream)), (expected, *gradients), ("out", *names)
    )
    with torch.no_grad():
        inference = castling_inference(q, k, v, case.const_term, taps)
    return found | compare((inference,), (without,), ("inference",))
