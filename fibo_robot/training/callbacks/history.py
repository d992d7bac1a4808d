"""The history of a run's metrics: a row per epoch in the run's folder, and a line on screen."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from fibo_robot.durations import in_words
from fibo_robot.files import write_json
from fibo_robot.training.checkpoint import HISTORY


class History(pl.Callback):
    """Keeps one row of metrics per epoch in `history.json`; a resumed run continues the same rows.

    Each row is also printed, with the time this run has taken and what it will still take at that pace.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: list[dict[str, float]] = []
        self._started = time.monotonic()
        self._first_epoch = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()
        self._first_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        # A metric logged both by step and by epoch appears three times; its mean over the epoch is kept.
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        by_step = {name.removesuffix("_step") for name in metrics if name.endswith("_step")}
        metrics = {
            name.removesuffix("_epoch"): value
            for name, value in metrics.items()
            if name not in by_step
            and not name.endswith("_step")
            and (validated or not name.startswith("valid/"))  # else a value of an earlier epoch
        }
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **metrics}
        self.rows.append(row)
        if trainer.is_global_zero:
            write_json(self.directory / HISTORY, [_without_nan(row) for row in self.rows])
            shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            print(f"epoch {row['epoch']}/{trainer.max_epochs}  {shown}  ({self._time(trainer)})", flush=True)

    def _time(self, trainer: pl.Trainer) -> str:
        elapsed = time.monotonic() - self._started
        done = trainer.current_epoch + 1
        left = elapsed / (done - self._first_epoch) * (max(trainer.max_epochs or 0, done) - done)
        return in_words(elapsed) + (f", about {in_words(left)} left" if left else "")

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


def _without_nan(row: dict[str, float]) -> dict[str, float | None]:
    return {key: None if value != value else value for key, value in row.items()}
