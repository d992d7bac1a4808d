"""What worlds are said to take is what Warp's allocator hands out."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.exporting.start_states import StartStates
from fibo_robot.envs.warp.physics.capacity import CAPACITIES, memory_needed
from fibo_robot.envs.warp.task import WarpTask
from tests.envs.warp.conftest import LIFT

pytestmark = [pytest.mark.sim, pytest.mark.warp, pytest.mark.slow]  # Warp compiles its kernels


class Counting:
    """Warp's allocator of a device, and the most bytes that were taken at a time."""

    def __init__(self, device: Any) -> None:
        self._inner = device.default_allocator
        self.deallocate_requires_context_guard = self._inner.deallocate_requires_context_guard
        self.memory_kind = self._inner.memory_kind
        self.live = self.most = 0

    def allocate(self, size: int) -> int:
        self.live += size
        self.most = max(self.most, self.live)
        return self._inner.allocate(size)

    def deallocate(self, pointer: int, size: int) -> None:
        self.live -= size
        self._inner.deallocate(pointer, size)


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    import warp as wp

    device = wp.get_device("cpu")
    counting = Counting(device)
    monkeypatch.setattr(device, "default_allocator", counting)
    yield counting


def test_the_estimate_holds_what_is_allocated_and_little_more(
    allocated: Counting, lift_export: TaskExport, lift_starts: StartStates
) -> None:
    def most(worlds: int) -> int:
        begin = allocated.most = allocated.live
        task = WarpTask(LIFT, worlds, "cpu", export=lift_export, start_states=lift_starts)
        for _ in range(2):  # what runs first is recorded, the second time it is replayed
            task.start(range(worlds))
            task.advance(torch.zeros(worlds, 7))
            task.start([0], [0])
        return allocated.most - begin

    few, many = most(8), most(24)
    estimate = memory_needed(lift_export.mujoco_model(), CAPACITIES["Lift"])
    taken = many - few
    assert taken <= estimate.of(24) - estimate.of(8) <= 1.5 * taken
    assert few <= estimate.of(8)
