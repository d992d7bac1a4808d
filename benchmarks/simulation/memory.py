"""What batched worlds take of memory: counted at the allocator of Warp's CPU device."""

import gc
from typing import TYPE_CHECKING, Any

import torch

from fibo_robot.envs.warp.task import WarpTask

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task
    from fibo_robot.envs.warp.exporting.export import TaskExport
    from fibo_robot.envs.warp.exporting.start_states import StartStates


class _Counting:
    """An allocator of Warp's, and the most bytes that were taken at a time."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.deallocate_requires_context_guard = inner.deallocate_requires_context_guard
        self.memory_kind = inner.memory_kind
        self.live = self.most = 0

    def allocate(self, size: int) -> int:
        self.live += size
        self.most = max(self.most, self.live)
        return self.inner.allocate(size)

    def deallocate(self, pointer: int, size: int) -> None:
        self.live -= size
        self.inner.deallocate(pointer, size)


def bytes_taken(
    task: "Task",
    num_worlds: int,
    export: "TaskExport | None" = None,
    start_states: "StartStates | None" = None,
) -> int:
    """The most that worlds take at a time while they begin, step, and begin again, together and one alone.

    Args:
        task: what to simulate; without pictures.
        num_worlds: how many.
        export, start_states: as of :class:`fibo_robot.envs.warp.WarpTask`.
    """
    import warp

    gc.collect()  # what is still held by others is not to be freed meanwhile
    device: Any = warp.get_device("cpu")
    counting = device.default_allocator = _Counting(device.default_allocator)
    try:
        worlds = WarpTask(task, num_worlds, "cpu", export=export, start_states=start_states)
        for _ in range(2):  # what runs first is recorded, the second time it is replayed
            worlds.start(range(num_worlds))
            worlds.advance(torch.zeros(num_worlds, task.action.dim))
            worlds.start([0], [0])
        worlds.close()
        return counting.most
    finally:
        device.default_allocator = counting.inner
