"""What each training option of a classifier promises, reached through its config key."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fibo_robot.attention import ATTENTIONS
from fibo_robot.encoders import create_video_encoder, video
from fibo_robot.encoders.video import VideoMode
from fibo_robot.training.module import OptimizerConfig, OptimizerError, parameter_groups
from fibo_robot.training.overrides import train_from_overrides
from fibo_robot.video.classifier import VideoClassifier

# Plain gradient descent: an adaptive optimiser would magnify rounding errors.
TINY = [
    "experiment=video_skills",
    "trainer.check_val_every_n_epoch=1",
    "attention=softmax",
    "encoder.image_size=32",
    "encoder.frames=2",
    "encoder.tubelet=1",
    "data.cache_side=32",
    "data.batch_size=4",
    "data.steps_per_epoch=2",
    "optimizer=sgd",
    "optimizer.betas=null",
    "optimizer.lr=0.05",
    "optimizer.warmup_steps=0",
    "optimizer.schedule=constant",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.ema_decay=null",
    "logger=none",
]


@pytest.fixture(scope="module")
def train(motion_clips: Path, tmp_path_factory: pytest.TempPathFactory):
    """Train with overrides of :data:`TINY`; returns the run directory."""

    def run(*overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("option") / "run"
        return train_from_overrides([*TINY, f"data.root={motion_clips}", f"run_dir={folder}", *overrides])

    return run


@pytest.fixture(scope="module")
def plain(train) -> Path:
    """A run without any option."""
    return train()


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def history(run: Path) -> dict[str, float]:
    return json.loads((run / "history.json").read_text())[-1]


def optimizer_state(run: Path) -> dict[str, Any]:
    return torch.load(run / "trainer.ckpt", weights_only=True)["optimizer_states"][0]


def test_accumulated_batches_train_as_one_large_batch(train) -> None:
    large = train("data.batch_size=8")
    small = train("data.steps_per_epoch=4", "trainer.accumulate_grad_batches=2")
    assert history(small)["step"] == history(large)["step"] == 2
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_trains_the_same_weights(train, plain) -> None:
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "checkpoint", lambda *a, **k: calls.append(0) or checkpoint(*a, **k))
        saving = train("encoder.gradient_checkpointing=true")
    assert len(calls) == 2 * 4  # steps x blocks; validation keeps nothing anyway
    torch.testing.assert_close(weights(saving), weights(plain), rtol=1e-5, atol=1e-7)


def test_bf16_changes_the_loss_a_little_and_keeps_float32_weights(train, plain) -> None:
    half = train("trainer.precision=bf16-mixed")
    assert history(half)["train/loss"] != history(plain)["train/loss"]
    assert history(half)["train/loss"] == pytest.approx(history(plain)["train/loss"], abs=0.05)
    assert {value.dtype for value in weights(half).values()} == {torch.float32}


@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_every_attention_trains_under_bf16(attention: str) -> None:
    model = VideoClassifier(
        lambda: create_video_encoder(
            "vit_micro", mode="joint", attention=attention, frames=4, tubelet=2, image_size=32, patch_size=8
        ),
        ["a", "b"],
    )
    clips = torch.rand(4, 4, 3, 32, 32)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = torch.nn.functional.cross_entropy(model(clips), torch.tensor([0, 1, 0, 1]))
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    full, half = gradients
    assert not torch.equal(full, half)
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.98


def test_averaged_weights_are_what_is_saved(train, plain) -> None:
    first = train("data.steps_per_epoch=1")
    averaged = train("trainer.ema_decay=0.5")
    # The average starts at the weights after the first step; of the second step it keeps 2/11 of the old.
    expected = {key: (2 * value + 9 * weights(plain)[key]) / 11 for key, value in weights(first).items()}
    torch.testing.assert_close(weights(averaged), expected, rtol=1e-5, atol=1e-7)


def test_layer_decay_scales_the_rates_that_the_optimizer_uses(train) -> None:
    run = train("optimizer.layer_decay=0.5")
    groups = optimizer_state(run)["param_groups"]
    rates = sorted({group["lr"] for group in groups})
    # The head, 4 blocks below it, and the stem below them.
    assert rates == pytest.approx([0.05 * 0.5**depth for depth in (5, 4, 3, 2, 1, 0)])


def classifier(mode: VideoMode) -> VideoClassifier:
    return VideoClassifier(
        lambda: create_video_encoder("vit_micro", mode=mode, frames=2, image_size=32, patch_size=16),
        ["a", "b"],
    )


@pytest.mark.parametrize("mode", ["joint", "divided", "frames"])
def test_every_parameter_has_the_rate_of_its_layer_and_its_own_decay(mode: VideoMode) -> None:
    model = classifier(mode)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(model, 0.1, 0.5)
        for parameter in group["params"]
    }
    assert found.keys() == set(names.values())
    assert found["head.weight"] == (1, 0.1) and found["head.bias"] == (1, 0)
    assert found["encoder.vit.norm.weight"] == (0.5, 0)
    assert found["encoder.vit.blocks.3.attn.qkv.weight"] == (0.5, 0.1)
    assert found["encoder.vit.blocks.0.mlp.fc1.weight"] == (0.5**4, 0.1)
    for stem in ("embed.proj.weight", "vit.pos_embed", "vit.cls_token"):
        assert found[f"encoder.{stem}"] == (0.5**5, 0.1 if stem.startswith("embed") else 0)
    if mode != "frames":
        assert found["encoder.temporal_embed"] == (0.5**5, 0)
    if mode == "divided":
        assert found["encoder.temporal.2.attn.proj.weight"] == (0.5**2, 0.1)


def test_layers_without_an_order_cannot_have_rates_by_layer() -> None:
    with pytest.raises(OptimizerError, match="layer_decay=null"):
        parameter_groups(torch.nn.Linear(2, 2), 0.1, 0.5)


def test_milestones_divide_the_rate_by_ten(train) -> None:
    run = train(
        "data.steps_per_epoch=4", "optimizer.schedule=piecewise_constant", "optimizer.milestones=[0.5,0.75]"
    )
    (group, *_) = optimizer_state(run)["param_groups"]
    assert group["lr"] == pytest.approx(0.05 / 100)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"schedule": "cosin"}, "cosine"),
        ({"schedule": "piecewise_constant"}, "milestones"),
        ({"milestones": (0.5,)}, "piecewise_constant"),
        ({"schedule": "constant", "warmup_steps": 5}, "constant_with_warmup"),
    ],
)
def test_a_schedule_that_does_not_fit_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptimizerError, match=named):
        OptimizerConfig(**options)


def test_validation_shows_classes_by_name(train) -> None:
    run = train("logger=tensorboard")
    found = json.loads((run / "validation" / "per_class.json").read_text())
    assert (found["epoch"], found["step"]) == (1, 2)
    assert {name: row["videos"] for name, row in found["classes"].items()} == {"left": 4, "right": 4}
    right = sum(row["predicted"].get(name, 0) for name, row in found["classes"].items())
    assert history(run)["valid/accuracy"] == pytest.approx(right / 8)
    assert (run / "validation" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["valid/confusion"]
    (text,) = events.Tensors("valid/classes/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert "| left | 4 |" in table and "| right | 4 |" in table
