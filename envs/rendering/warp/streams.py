"""Warp's work in one order with torch's, on the device that both use."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def in_torchs_order(device: Any) -> Iterator[None]:
    """Let Warp launch and allocate on a device of its own kind, on torch's current stream there.

    On a GPU Warp has a stream of its own, which waits for torch's default stream and for no other.
    """
    import warp

    with warp.ScopedDevice(device):
        if not device.is_cuda:
            yield
            return
        with warp.ScopedStream(warp.stream_from_torch(warp.device_to_torch(device))):
            yield
