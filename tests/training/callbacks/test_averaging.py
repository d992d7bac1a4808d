"""The moving average warms up as diffusers' does, and ends where Castling's schedule ends."""

import lightning.pytorch as pl
import pytest
import torch
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, TensorDataset

from fibo_robot.attention import castle
from fibo_robot.attention.swap import angular_cores
from fibo_robot.training.callbacks.averaging import MovingAverage, ema_decay_at
from fibo_robot.training.callbacks.castling import CastlingSchedule
from tests.training.callbacks.test_castling import Classifier


class Line(pl.LightningModule):
    """One weight, which grows by one in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return -self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(
    model: pl.LightningModule, callbacks: list[pl.Callback], steps: int, size: tuple[int, ...]
) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    data = TensorDataset(torch.rand(16, *size), torch.randint(0, 2, (16,)))
    trainer.fit(model, DataLoader(data, batch_size=4))
    return trainer


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_the_decay_is_that_of_diffusers(decay: float) -> None:
    theirs = EMAModel([torch.nn.Parameter(torch.zeros(1))], decay=decay)
    # Its step counts updates, the first of which copies the weights as Lightning's first does.
    assert [ema_decay_at(step, decay) for step in range(1, 300)] == [
        theirs.get_decay(step + 1) for step in range(1, 300)
    ]
    assert ema_decay_at(10**6, decay) == decay


def test_the_average_is_that_of_diffusers_step_by_step() -> None:
    steps, decay = 30, 0.6  # reached at step 13
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = EMAModel([parameter], decay=decay)
    for step in range(steps):
        with torch.no_grad():
            parameter.fill_(step + 1.0)
        theirs.step([parameter])
    model = Line()
    fit(model, [MovingAverage(decay)], steps, (1,))
    torch.testing.assert_close(model.weight.detach(), theirs.shadow_params[0])
    assert float(model.weight.detach()) == pytest.approx(steps - decay / (1 - decay), abs=0.01)


class Saved(pl.Callback):
    """What a checkpoint written at the end of an epoch holds of Castling's buffers, averaged and current."""

    def __init__(self, average: MovingAverage) -> None:
        self.average, self.scales = average, list[float]()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.average._average_model is not None
        for model in (self.average._average_model.module, pl_module):
            self.scales += [float(core.branch_scale) for _, core in angular_cores(model)]


@pytest.mark.parametrize("end", [0.5, 1.0])
def test_castlings_branch_is_off_in_what_is_averaged_saved_and_left(end: float) -> None:
    model = Classifier({"name": "castling", "threshold": 1.0, "branch_in_eval": True})
    average = MovingAverage(0.99)
    saved = Saved(average)
    fit(model, [CastlingSchedule(end=end), average, saved], 8, (3, 24, 24))
    cores = [core for _, core in angular_cores(model)]
    assert set(saved.scales[-2 * len(cores) :]) == {0.0}
    assert {(float(core.branch_scale), core.branch_enabled) for core in cores} == {(0.0, False)}
    assert castle(model.encoder, torch.rand(4, 3, 24, 24)).output_gap == 0
