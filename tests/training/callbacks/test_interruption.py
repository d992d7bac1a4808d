"""Ctrl-C ends training wherever it comes."""

import os
import signal

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fibo_robot.training.callbacks.interruption import Interruption


class InterruptedInAFinaliser:
    """Python prints an exception in `__del__`, and drops it."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


class Model(pl.LightningModule):
    """One weight; Ctrl-C comes in the second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.steps = 0

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        self.steps += 1
        if self.steps == 2:
            InterruptedInAFinaliser()
        return self.weight * batch[0].sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_that_python_drops_ends_training_after_its_batch() -> None:
    model, interruption, former = Model(), Interruption(), signal.getsignal(signal.SIGINT)
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[interruption],
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(SystemExit), interruption.watched():
        trainer.fit(model, DataLoader(TensorDataset(torch.ones(5))))
    assert model.steps == 2 and signal.getsignal(signal.SIGINT) is former
