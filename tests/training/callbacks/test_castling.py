"""The schedule reaches exactly 0, and then castling changes nothing."""

import math

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fibo_robot.attention import AttentionError, castle
from fibo_robot.attention.swap import angular_cores
from fibo_robot.encoders import create_encoder
from fibo_robot.training.callbacks.castling import CastlingSchedule, branch_scale_at


class Classifier(pl.LightningModule):
    def __init__(self, attention):
        super().__init__()
        self.encoder = create_encoder("vit_micro", attention=attention, image_size=24, patch_size=6)
        self.head = torch.nn.Linear(128, 2)
        self.scales = []

    def training_step(self, batch, index):
        self.scales += [float(core.branch_scale) for _, core in angular_cores(self)][:1]
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.head(self.encoder(images).pooled), labels)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(model, callbacks, steps=8):
    data = TensorDataset(torch.rand(16, 3, 24, 24), torch.randint(0, 2, (16,)))
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=4))
    return trainer


def test_scale_falls_linearly_to_exactly_zero():
    assert [branch_scale_at(p, 0.5) for p in (0, 0.25, 0.5, 0.75, 1)] == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert branch_scale_at(0, 0) == 0.0


class Metrics(pl.Callback):
    """What was logged in each step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_schedule_follows_the_step_and_logs_the_unscaled_mass_beside_it():
    model, metrics = Classifier({"name": "castling", "threshold": 1.0}), Metrics()
    train(model, [CastlingSchedule(end=0.5), metrics])
    scales = [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert model.scales == scales
    assert [step["castling/branch_scale"] for step in metrics.steps] == scales
    masses = [step["castling/mass_passed"] for step in metrics.steps[:4]]
    # The softmax changes little in four steps, and the scale does not enter.
    assert min(masses) > 0.3 and max(masses) < 1.5 * min(masses)
    assert all(math.isnan(step["castling/mass_passed"]) for step in metrics.steps[4:])


def test_castling_a_model_whose_schedule_ended_changes_nothing():
    model = Classifier({"name": "castling", "threshold": 1.0})
    train(model, [CastlingSchedule(end=1.0)])
    report = castle(model.encoder, torch.rand(4, 3, 24, 24))
    assert report.output_gap == 0 and report.relative_gap == 0


def test_schedule_without_castling_attention_is_refused():
    with pytest.raises(AttentionError, match="needs a model with Castling"):
        train(Classifier("softmax"), [CastlingSchedule()])


@pytest.mark.parametrize("end", [-0.5, 1.5])
def test_end_outside_training_is_refused(end):
    with pytest.raises(AttentionError, match="end"):
        CastlingSchedule(end=end)
