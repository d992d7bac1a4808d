"""Compares the Triton kernels with the float64 reference; exits with 1 and says where they differ.

Run by test_triton.py in a process of its own, because TRITON_INTERPRET must be set before Triton is imported.
"""

import sys

import torch

from fibo_robot.attention import diagonal_attention
from fibo_robot.attention.reference import reference_attention
from fibo_robot.attention.wythoff import head_offsets

# heads, patches, prefix tokens, head_dim, rule: tiles that do not divide, head_dim that is no power of two,
# one head, registers, queries without keys, one patch
CASES = [
    (2, 35, 1, 16, "paper"),
    (1, 33, 0, 20, "modified"),
    (1, 16, 3, 32, "robot_release"),
    (3, 9, 0, 16, "paper"),
    (1, 1, 1, 16, "paper"),
]
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-12))


def main(device: str) -> int:
    torch.manual_seed(0)
    failures = 0
    for heads, patches, prefix, head_dim, rule in CASES:
        for mask_mode in ("drop", "zero_logit"):
            for dtype, tolerance in TOLERANCES.items():
                shape = (1, heads, patches + prefix, head_dim)
                inputs = [torch.randn(shape, device=device).to(dtype).requires_grad_() for _ in range(3)]
                exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
                options = {"num_prefix_tokens": prefix, "mask_mode": mask_mode}
                offsets = head_offsets(patches, heads, rule)
                out = diagonal_attention(*inputs, offsets, backend="triton", **options)
                expected = reference_attention(*exact, offsets, **options)
                upstream = torch.randn(shape, device=device).to(dtype)
                grads = torch.autograd.grad(out, inputs, upstream)
                expected_grads = torch.autograd.grad(expected, exact, upstream.double())
                pairs = zip(("out", "q", "k", "v"), (out, *grads), (expected, *expected_grads), strict=True)
                for name, actual, wanted in pairs:
                    error = relative_error(actual.detach(), wanted.detach())
                    # With two keys, the gradient of the softmax is a small difference of large terms.
                    bound = 10 * tolerance if patches + prefix == 2 and name != "out" else tolerance
                    if not error < bound:
                        failures += 1
                        case = (heads, patches, prefix, head_dim, rule, mask_mode, dtype)
                        print(f"{name} of {case}: relative error {error:.2e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
