"""Compares the Triton kernels with the float64 reference, case by case; writes the errors as JSON.

Run by test_triton.py in a process of its own, because TRITON_INTERPRET must be set before Triton is imported.
"""

import json
import sys
from dataclasses import dataclass
from typing import cast

import torch

from fibo_robot.attention import diagonal_attention, operator
from fibo_robot.attention.diagonal import MaskMode
from fibo_robot.attention.reference import reference_attention
from fibo_robot.attention.wythoff import OffsetRule, head_offsets

TOLERANCES = {"float32": 1e-6, "bfloat16": 1e-2}


@dataclass(frozen=True)
class Case:
    """One comparison; `logit` is added to all logits among patches."""

    heads: int
    patches: int
    prefix: int
    head_dim: int
    rule: OffsetRule
    mask_mode: MaskMode
    dtype: str = "float32"
    autocast: bool = False
    logit: float = 0.0

    @property
    def name(self) -> str:
        words = [str(getattr(self, field)) for field in self.__dataclass_fields__]
        return "-".join(words)

    @property
    def tolerance(self) -> float:
        # With two keys, the gradient of the softmax is a small difference of large terms; large logits are
        # rounded by 6e-8 times their size.
        few = 10 if self.patches + self.prefix == 2 else 1
        return few * max(1.0, abs(self.logit)) * TOLERANCES[self.dtype]


# Tiles (of 32) that do not divide, more than two of them, head_dim that is no power of two, one head,
# registers, queries without keys, one patch.
SHAPES: list[tuple[int, int, int, int, OffsetRule]] = [
    (2, 35, 1, 16, "paper"),
    (1, 33, 0, 20, "modified"),
    (1, 16, 3, 32, "robot_release"),
    (3, 9, 0, 16, "paper"),
    (1, 1, 1, 16, "paper"),
    (2, 150, 1, 16, "paper"),
    (1, 131, 5, 8, "modified"),
]
MODES = cast(tuple[MaskMode, ...], ("drop", "zero_logit"))
CASES = [
    *(Case(*shape, mode, dtype) for shape in SHAPES for mode in MODES for dtype in TOLERANCES),
    *(Case(2, 70, 1, 16, "paper", mode, "float32", autocast=True) for mode in MODES),
    *(Case(1, patches, 1, 16, "modified", "zero_logit", logit=-20.0) for patches in (2, 40)),
]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-12))


def errors(case: Case, device: str) -> dict[str, float]:
    """Relative errors of the output and of the three gradients."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    shape = (1, case.heads, case.patches + case.prefix, case.head_dim)
    q, k, v = torch.randn(3, *shape, device=device)
    if case.logit:
        q[..., 0], k[..., 0] = 1, case.logit * case.head_dim**0.5
    q, k, v = inputs = [tensor.to(dtype).requires_grad_() for tensor in (q, k, v)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    offsets = head_offsets(case.patches, case.heads, case.rule)
    prefix, mode = case.prefix, case.mask_mode
    # In the interpreter, Triton's kernels stand in for the CPU's.
    backend = "triton" if device == "cuda" else "numba"
    with torch.autocast(device, torch.bfloat16, enabled=case.autocast):
        out = diagonal_attention(q, k, v, offsets, num_prefix_tokens=prefix, mask_mode=mode, backend=backend)
    expected = reference_attention(
        exact[0], exact[1], exact[2], offsets, num_prefix_tokens=prefix, mask_mode=mode
    )
    upstream = torch.randn(shape, device=device).to(dtype)
    grads = torch.autograd.grad(out, inputs, upstream)
    expected_grads = torch.autograd.grad(expected, exact, upstream.double())
    pairs = zip(("out", "q", "k", "v"), (out, *grads), (expected, *expected_grads), strict=True)
    return {name: relative_error(actual.detach(), wanted.detach()) for name, actual, wanted in pairs}


def main(device: str) -> None:
    if device == "cpu":
        operator.diagonal_attention_forward.register_kernel("cpu")(operator.forward_on_cuda)
        operator.diagonal_attention_backward.register_kernel("cpu")(operator.backward_on_cuda)
    json.dump({case.name: errors(case, device) for case in CASES}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
