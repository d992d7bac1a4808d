"""Launches that are recorded as a graph once they have run, and replayed from then on.

Replaying spares the host what it does for each launch, nine tenths of a physics step of one world on a CPU.
Whatever changes between replays is changed in place.
"""

from collections.abc import Callable
from typing import Any

import warp as wp
from packaging.version import Version

# Warp records launches on a CPU since 1.15; before, they are launched anew each time.
CPU_GRAPHS = Version(wp.__version__) >= Version("1.15")


class Recorded:
    """What a function launches, always the same kernels on the same arrays, on Warp's current stream.

    The first time it launches them, which compiles what is not compiled, and records them; then it replays. A
    graph keeps the scratch memory of what it holds. The function is known only while it is called: kept, a
    method and its owner would hold each other, and closed worlds would not let go of their memory.
    """

    def __init__(self) -> None:
        self._graph: Any = None

    def __call__(self, launch: Callable[[], None]) -> None:
        """Do what `launch` does."""
        if self._graph is not None:
            wp.capture_launch(self._graph)
            return
        launch()
        device = wp.get_device()
        if device.is_cuda or CPU_GRAPHS:
            self._record(launch, device)

    def _record(self, launch: Callable[[], None], device: Any) -> None:
        """Record the launches without running them."""
        # CUDA's default stream cannot be captured; the graph may be replayed on it.
        stream = wp.Stream(device) if device.is_cuda else None
        with wp.ScopedStream(stream), wp.ScopedCapture(device, stream) as capture:
            launch()
        self._graph = capture.graph
