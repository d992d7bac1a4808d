"""What a training took, over all its sessions."""

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from fibo_robot.training.callbacks.cost import TrainingCost

MODULE = cast(Any, SimpleNamespace(device=torch.device("cpu")))


def trainer(epochs_done: int) -> Any:
    return SimpleNamespace(current_epoch=epochs_done)


def test_a_resumed_run_adds_to_what_it_took_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, processor = [100.0], [7.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", lambda: processor[0])
    first, second = TrainingCost(), TrainingCost()
    first.on_train_start(trainer(0), MODULE)
    clock[0], processor[0] = 130.0, 17.0
    second.load_state_dict(first.state_dict())
    clock[0] = 1000.0  # nothing runs
    second.on_train_start(trainer(3), MODULE)
    clock[0], processor[0] = 1005.0, 21.0
    taken = second.measured()
    assert (taken["seconds"], taken["cpu_seconds"]) == (35.0, 14.0)


def test_of_a_run_that_began_uncounted_nothing_is_told() -> None:
    cost = TrainingCost()
    cost.on_train_start(trainer(3), MODULE)
    assert cost.measured() == {} and cost.state_dict() == {}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's own figure is Linux's")
def test_memory_is_the_most_that_this_process_held() -> None:
    cost = TrainingCost()
    cost.on_train_start(trainer(0), MODULE)
    status = Path("/proc/self/status").read_text()
    kibibytes = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])
    assert cost.measured()["memory_mb"] == pytest.approx(kibibytes / 1024, rel=0.02)
