"""Compiles the Triton kernels for a GPU that is not there, as calls would; writes what they take as JSON.

The interpreter runs kernels as Python: it takes what the compiler refuses, and knows no registers. Triton's
compiler and NVIDIA's assembler, which come with Triton, need no GPU.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from fibo_robot.attention.backends.triton import angular as triton_angular
from fibo_robot.attention.backends.triton import branch as triton_branch
from fibo_robot.attention.backends.triton import cuda as triton_cuda


class AbsentGpu:
    """A driver that says which GPU it is and launches nothing."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """In the place of a kernel: compiles it for what it is called with, and notes what it needs."""

    def __init__(self, kernel: Any, found: list[dict[str, Any]]) -> None:
        self._kernel, self._found = kernel, found

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def call(*args: Any, **options: Any) -> None:
            compiled = self._kernel.warmup(*args, grid=grid, **options)
            usage = _resources(compiled.asm["cubin"])
            ptx = compiled.asm["ptx"]
            copies = ptx.count("cp.async.c")
            launch = {key: options[key] for key in ("BLOCK", "num_warps") if key in options}
            self._found.append(
                {
                    "kernel": self._kernel.__name__,
                    **launch,
                    "registers": usage["REG"],
                    "spilled": usage["STACK"] + usage["LOCAL"],
                    "shared": compiled.metadata.shared,
                    "pipelined_loads": copies,
                    "wide_loads": len(re.findall(r"ld\.global\S*\.v4", ptx)),
                    "tensor_core_products": ptx.count("wgmma.mma_async.sync"),
                }
            )

        return call


def _resources(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    return {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", told.stdout + told.stderr)}


def diagonals(q: Tensor, k: Tensor, v: Tensor, zero_logit: bool, launches: int) -> None:
    """A forward and a backward pass of diagonal attention, in so many launches."""
    given = ([1, 2, 3] * 12, list(range(0, 37, 3)), 1, zero_logit, 0.125)
    size = max(64, q.shape[-1])
    for launch in triton_cuda.LAUNCHES[size][:launches]:
        triton_cuda.LAUNCHES[size] = (launch,)
        out, lse = triton_cuda.forward(q, k, v, *given)
        triton_cuda.backward(out, q, k, v, out, lse, *given)


def branch(q: Tensor, k: Tensor, v: Tensor) -> None:
    """A forward and a backward pass of Castling's branch."""
    cutoffs = torch.zeros(12)
    out, _, lse = triton_branch.strongest_softmax(q, k, v, cutoffs, 0.125)
    triton_branch.strongest_softmax_backward(out, q, k, v, out, lse, cutoffs, 0.125)


def angular(q: Tensor, k: Tensor, v: Tensor) -> None:
    """A forward and a backward pass of Castling's linear part, with a branch and taps."""
    taps, scale = torch.zeros(12, 9, dtype=q.dtype), torch.zeros(())
    found = triton_angular.forward(q, k, v, q, scale, taps, "own", training=True)
    rest = (found.direction, found.inverse, found.state, taps, "own")
    triton_angular.backward(found.out, q, k, v, *rest)


def main(capability: int, head_dim: int, dtype: str, what: str, launches: int) -> None:
    """Kernels of `drop` or `zero_logit`, or Castling's `branch` or `angular`, on views of a projection."""
    driver.set_active(AbsentGpu(capability))  # pyright: ignore[reportArgumentType]: what compiling asks of it
    found: list[dict[str, Any]] = []
    for module in (
        triton_cuda.kernels,
        triton_cuda.kernels_backward,
        triton_branch.kernels,
        triton_angular.kernels,
    ):
        for name in vars(module).copy():
            if name.endswith("_kernel"):
                setattr(module, name, Compiled(getattr(module, name), found))
    qkv = torch.zeros(1, 785, 3, 12, head_dim, dtype=getattr(torch, dtype))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if what == "branch":
        branch(q, k, v)
    elif what == "angular":
        angular(q, k, v)
    else:
        diagonals(q, k, v, what == "zero_logit", launches)
    print(json.dumps(found))


if __name__ == "__main__":
    capability, head_dim, dtype, what, launches = sys.argv[1:]
    main(int(capability), int(head_dim), dtype, what, int(launches))
