"""Compares the Triton kernels with float64, case by case; writes the errors as JSON.

Run by test_triton.py in a process of its own, because TRITON_INTERPRET must be set before Triton is imported.
"""

import json
import math
import sys
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
import triton.language as tl
from triton.runtime import interpreter

from fibo_robot.attention import diagonal_attention, operator
from fibo_robot.attention.backends.triton import cuda as triton_cuda
from fibo_robot.attention.backends.triton.tuning import Launch
from fibo_robot.attention.castling import angular as castling_angular
from fibo_robot.attention.castling import branch as castling_branch
from fibo_robot.attention.castling import training as castling_training
from fibo_robot.attention.sparse.diagonal import Backend
from fibo_robot.attention.sparse.reference import reference_attention
from fibo_robot.benchmarks.gpu import angular, branch
from fibo_robot.benchmarks.gpu.correctness import CASES, MODES, errors

STANDING_IN = torch.library.Library("fibo_robot", "IMPL")


def stand_in_for_the_cpu() -> None:
    """Let Triton's kernels, which the interpreter runs, be the CPU's."""
    for name, kernel in (
        ("diagonal_attention", operator.forward_on_cuda),
        ("diagonal_attention_backward", operator.backward_on_cuda),
        ("strongest_softmax", castling_branch.branch_on_cuda),
        ("strongest_softmax_backward", castling_branch.branch_backward_on_cuda),
        ("last_of_mass", castling_branch.threshold_on_cuda),
        ("castling_inference", castling_angular.inference_on_cuda),
        ("castling_training", castling_training.training_on_cuda),
        ("castling_training_backward", castling_training.backward_on_cuda),
    ):
        STANDING_IN.impl(name, kernel, "CPU", allow_override=True)
    _multiply_bfloat16()
    _make_the_language_the_interpreters()
    # The interpreter takes its time per program: larger tiles than a GPU's make fewer of them.
    triton_cuda.LAUNCHES[64] = (Launch(64, 8),)


def _multiply_bfloat16() -> None:
    """The interpreter holds bfloat16 as 16 bits, and multiplies those as if they were integers."""
    builder: Any = interpreter.InterpreterBuilder
    as_it_is = builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = (
            self.cast_impl(tile, tl.float32) if tile.dtype.scalar == tl.bfloat16 else tile for tile in (a, b)
        )
        return as_it_is(self, *wide, *rest)

    builder.create_dot = create_dot


def _make_the_language_the_interpreters() -> None:
    """Once: it does so anew whenever a function is called, which takes it longer than the function."""
    interpreter_of_triton: Any = interpreter
    both = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    interpreter_of_triton._patch_lang(both)
    interpreter_of_triton._patch_lang = lambda function: interpreter_of_triton._LangPatchScope()


def reached_by_nan(device: str, backend: Backend) -> dict[str, tuple[list[int], list[int]]]:
    """Queries that a NaN in one token's q, k or v reaches, by the kernel and by the reference."""
    reached = {}
    for prefix, mode, name in product((0, 1), MODES, "qkv"):
        inputs = {key: torch.randn(1, 1, 11, 8, device=device) for key in "qkv"}
        inputs[name][:, :, 5] = math.nan
        options: dict[str, Any] = {"num_prefix_tokens": prefix, "mask_mode": mode, "offsets": [[1, 3]]}
        outs = (
            diagonal_attention(**inputs, backend=backend, **options),
            reference_attention(**inputs, **options),
        )
        rows = (out[0, 0].isnan().any(dim=-1).nonzero().flatten().tolist() for out in outs)
        reached[f"{name}, {prefix} prefix tokens, {mode}"] = tuple(rows)
    return reached


def layouts(device: str) -> list[tuple[list[int], str]]:
    """Strides and types of the output and the gradients, in bfloat16, as the operators return them.

    Autograd would convert a gradient of another type without a word.
    """
    q = torch.randn(2, 3, 20, 8, device=device).bfloat16()
    settings = ([1], [0, 1, 1, 1], 1, False, 1.0)
    out, lse = torch.ops.fibo_robot.diagonal_attention(q, q, q, *settings)
    grads = torch.ops.fibo_robot.diagonal_attention_backward(q, q, q, q, out, lse, *settings)
    return _described(out, grads)


def branch_layouts(device: str) -> list[tuple[list[int], str]]:
    """The same of Castling's branch."""
    q, cutoffs = torch.randn(2, 3, 20, 8, device=device).bfloat16(), torch.full((3,), 0.05, device=device)
    out, passed, lse = torch.ops.fibo_robot.strongest_softmax(q, q, q, cutoffs, 1.0)
    grads = torch.ops.fibo_robot.strongest_softmax_backward(q, q, q, q, out, lse, cutoffs, 1.0)
    return _described(out, passed, lse, *grads)


def angular_layouts(device: str) -> list[tuple[list[int], str]]:
    """The same of Castling's linear part."""
    q, taps = torch.randn(2, 3, 20, 8, device=device).bfloat16(), torch.randn(3, 3, device=device).bfloat16()
    inference = torch.ops.fibo_robot.castling_inference(q, q, q, "own", taps)
    scale = torch.ones((), device=device)
    found = torch.ops.fibo_robot.castling_training(q, q, q, None, scale, taps, "own")
    grads = torch.ops.fibo_robot.castling_training_backward(q, q, q, q, *found[1:], taps, "own")
    return _described(inference, *found, *grads)


def thresholds(device: str) -> dict[str, tuple[list[float], list[float]]]:
    """Of Castling's branch, for each head: what the operator finds, and what sorting in float64 does."""
    found = {}
    for batch, tokens, head_dim in ((1, 1, 16), (2, 17, 8), (3, 131, 80), (6, 200, 64)):
        for dtype, mass in product((torch.float32, torch.bfloat16), (0.1, 0.5, 1.0)):
            qkv = torch.randn(batch, tokens, 3, 2, head_dim, device=device).to(dtype)
            q, k, _ = operator.unpacked(qkv)
            examples = min(batch, castling_branch.SAMPLED_EXAMPLES)
            queries = min(tokens, castling_branch.SAMPLED_QUERIES // examples)
            of_batch = [number * batch // examples for number in range(examples)]
            of_tokens = [number * tokens // queries for number in range(queries)]
            logits = q.double()[of_batch][:, :, of_tokens] @ k.double()[of_batch].mT * head_dim**-0.5
            weights = logits.softmax(dim=-1).transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
            needed = (weights.cumsum(dim=1) < mass * examples * queries * (1 - 1e-12)).sum(
                dim=1, keepdim=True
            )
            last = torch.ops.fibo_robot.last_of_mass(q, k, mass, head_dim**-0.5)
            name = f"{batch}x2x{tokens}x{head_dim}, {dtype}, {mass:g}"
            found[name] = last.tolist(), weights.gather(1, needed).flatten().tolist()
    return found


def _described(*results: torch.Tensor) -> list[tuple[list[int], str]]:
    return [(list(tensor.stride()), str(tensor.dtype)) for tensor in results]


def main(device: str) -> None:
    backend: Backend = "triton"
    if device == "cpu":
        backend = "numba"
        stand_in_for_the_cpu()
    found = {
        "diagonal": {case.name: errors(case, device, backend) for case in CASES},
        "branch": {case.name: branch.errors(case, device) for case in branch.CASES},
        "angular": {case.name: angular.errors(case, device) for case in angular.CASES},
    }
    of_kernels = {"layouts": layouts, "branch_layouts": branch_layouts, "angular_layouts": angular_layouts}
    beside = {name: describe(device) for name, describe in of_kernels.items()}
    beside |= {"nan": reached_by_nan(device, backend), "thresholds": thresholds(device)}
    json.dump({"errors": found, **beside}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
