"""How a Triton kernel is launched: a few ways are timed once for each kind of shape, and the fastest is kept.

Timing waits for the device, so it never happens while a CUDA graph is being captured: capture after one call
outside, as PyTorch's own graphs do. Sums over a row are added in an order that depends on the number of
warps, so where PyTorch is asked for deterministic algorithms, nothing is timed either: every shape has a
launch that is used then, and in Triton's interpreter.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock

import torch
from triton.runtime.errors import OutOfResources

CALLS = 10  # that are timed together
AHEAD = 2_000_000  # clocks, about a millisecond: Python takes longer to queue a kernel than it takes to run


@dataclass(frozen=True)
class Launch:
    """One way to launch a kernel.

    Attributes:
        block: rows of a tile, a power of two.
        num_warps: of 32 threads per program.
    """

    block: int
    num_warps: int


_fastest: dict[Hashable, Launch] = {}
_lock = Lock()


def choose_launch(key: Hashable, launches: tuple[Launch, ...], run: Callable[[Launch], object]) -> Launch:
    """The fastest of some launches for a kind of shape; the first where none can be timed.

    Args:
        key: kernel, device and kind of shape.
        launches: what to choose from; all devices can run the first.
        run: launches the kernel so, with the same result every time.
    """
    if key in _fastest:
        return _fastest[key]
    if torch.cuda.is_current_stream_capturing() or torch.are_deterministic_algorithms_enabled():
        return launches[0]
    with _lock:
        if key not in _fastest:
            _fastest[key] = min(launches, key=lambda launch: _milliseconds(run, launch))
    return _fastest[key]


def _milliseconds(run: Callable[[Launch], object], launch: Launch) -> float:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    try:
        run(launch)  # compiles it
    except OutOfResources:  # a device with less shared memory
        return float("inf")
    torch.cuda.synchronize()
    torch.cuda._sleep(AHEAD)
    first.record()
    for _ in range(CALLS):
        run(launch)
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / CALLS
