"""What a training took: time, processor time and memory, to stand beside what came of it."""

import resource
import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of the kernel's figure for memory


class TrainingCost(pl.Callback):
    """Adds up what a run takes, over all its sessions; validation and rollouts in training are part of it.

    `seconds` of the clock, `cpu_seconds` of this process without its loaders, and `memory_mb`, MiB: on a GPU
    the most that tensors took there, else the most this process ever held: its cached data, too, and what it
    trained before. Of several processes, the first one's. Of a run that began uncounted, nothing is told.
    """

    def __init__(self) -> None:
        self._before: dict[str, float] = {"seconds": 0.0, "cpu_seconds": 0.0, "memory_mb": 0.0}
        self._resumed = False
        self._started: tuple[float, float] | None = None
        self._device = torch.device("cpu")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch and not self._resumed:  # continued from a state of before costs were counted
            self._before = {}
        self._started, self._device = (time.monotonic(), time.process_time()), pl_module.device
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def measured(self) -> dict[str, float]:
        """What it took so far; empty where that is not known."""
        if self._started is None or not self._before:
            return dict(self._before)
        wall, processor = self._started
        if self._device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self._device)
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
        return {
            "seconds": self._before["seconds"] + time.monotonic() - wall,
            "cpu_seconds": self._before["cpu_seconds"] + time.process_time() - processor,
            "memory_mb": max(self._before["memory_mb"], memory / 2**20),
        }

    def state_dict(self) -> dict[str, Any]:
        return self.measured()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before, self._resumed = dict(state_dict), True
