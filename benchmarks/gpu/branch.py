"""Is Castling's training branch right on this device? The operator against its definition in float64.

The small cases are also what the tests run in Triton's interpreter.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fibo_robot.attention.castling.branch import strongest_softmax
from fibo_robot.attention.operator import unpacked
from fibo_robot.benchmarks.gpu.correctness import compare

Kept = Literal["some", "all", "none"]

# Relative errors in norm: sums of float32 numbers, whose products may have 22 bits; else one rounding of
# weights or of their gradients, and one of the result.
TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
NEIGHBOURS = 3000  # weights among which a threshold looks for its gap


@dataclass(frozen=True)
class BranchCase:
    """One comparison.

    Attributes:
        heads, tokens, head_dim: the shape; `batch` sequences of it.
        dtype: of q, k and v.
        kept: which weights pass: those above a threshold of each head near the uniform weight; or all; or
            none.
        views: whether q, k and v are views of one projection, as modules pass them, or tensors whose columns
            lie apart.
    """

    heads: int
    tokens: int
    head_dim: int
    dtype: str = "float32"
    kept: Kept = "some"
    batch: int = 1
    views: bool = True

    @property
    def name(self) -> str:
        """All that is not as usual, in words."""
        shape = f"{self.batch}x{self.heads}x{self.tokens}x{self.head_dim}"
        words = [shape, self.dtype, self.kept, "views" if self.views else "columns_apart"]
        return "-".join(words)

    @property
    def tolerance(self) -> float:
        """The largest relative error that rounding explains."""
        return TOLERANCES[self.dtype]


# One token, less than a tile, tiles that do not divide, more of them; head_dim that is no power of two.
CASES = [
    *(BranchCase(2, 131, 64, dtype, batch=2) for dtype in TOLERANCES),
    *(BranchCase(2, tokens, 16, dtype) for tokens in (1, 17, 300) for dtype in ("float32", "bfloat16")),
    *(BranchCase(1, 131, head_dim, dtype) for head_dim in (8, 80) for dtype in ("float32", "float16")),
    *(BranchCase(3, 65, 20, kept=kept) for kept in ("all", "none")),
    BranchCase(2, 33, 32, batch=2, views=False),
]
# As models have them, and longer: for a device that is fast enough.
LARGE = [
    *(BranchCase(12, 1569, 64, dtype, batch=2) for dtype in TOLERANCES),
    *(
        BranchCase(12, 197, 64, dtype, kept, batch=8)
        for dtype in TOLERANCES
        for kept in ("some", "all", "none")
    ),
    *(
        BranchCase(4, 1000, head_dim, dtype)
        for head_dim in (32, 80, 128)
        for dtype in ("float32", "bfloat16")
    ),
]


def errors(case: BranchCase, device: str) -> dict[str, float]:
    """Relative errors of the branch, of the share of mass that passed, and of the three gradients."""
    torch.manual_seed(0)
    qkv = torch.randn(case.batch, case.tokens, 3, case.heads, case.head_dim, device=device)
    views = unpacked(qkv.to(getattr(torch, case.dtype)))
    if not case.views:
        views = [view.mT.contiguous().mT for view in views]
    inputs = [view.detach().requires_grad_() for view in views]
    upstream = torch.randn(inputs[0].shape, device=device).to(inputs[0].dtype)
    scale = case.head_dim**-0.5

    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    weights = (exact[0] @ exact[1].mT * scale).softmax(dim=-1)
    threshold = _threshold(weights.detach(), case.kept)
    kept = weights.masked_fill(weights <= threshold[:, None, None] / case.tokens, 0)
    branch = kept @ exact[2]
    expected = (branch, *torch.autograd.grad(branch, exact, upstream.double()))

    out, passed = strongest_softmax(*inputs, threshold=threshold.float(), scale=scale)
    found = compare(
        (out, *torch.autograd.grad(out, inputs, upstream)),
        expected,
        # Where one token's gradients cancel to nothing, rounding is compared with what came in.
        floor=0.1 * float(upstream.double().norm()),
    )
    return found | compare((passed,), (kept.sum(dim=-1).mean(),), ("passed",))


def _threshold(weights: Tensor, kept: Kept) -> Tensor:
    """`(heads,)`, in multiples of the uniform weight: from 0.7 of it on, in the widest gap between weights.

    Rounding then moves no weight across it; not in half precision either, whose products are exact.
    """
    heads, tokens = weights.shape[1], weights.shape[-1]
    if kept != "some":
        return weights.new_full((heads,), 0 if kept == "all" else tokens)
    found = []
    for head in range(heads):
        logs = (weights[:, head].flatten() * tokens).log().sort().values
        wished = torch.searchsorted(logs, logs.new_tensor([0.7 + head / heads]).log()).item()
        near = logs[max(0, int(wished) - NEIGHBOURS) : int(wished) + NEIGHBOURS]
        if len(near) < 2:
            near = torch.stack((logs[0] - 1, logs[0]))
        widest = near.diff().argmax()
        found.append(near[widest : widest + 2].mean().exp())
    return torch.stack(found)
