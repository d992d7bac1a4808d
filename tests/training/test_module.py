"""Which parameters are decayed, whatever timm calls its arguments, and what makes no optimiser."""

import math
from typing import Any

import pytest
import torch

from fibo_robot.encoders import create_encoder
from fibo_robot.training.module import OptimizerConfig, OptimizerError, parameter_groups


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    encoder = create_encoder("vit_micro", attention="softmax", image_size=24, patch_size=6)
    return torch.nn.ModuleDict({"encoder": encoder, "head": torch.nn.Linear(128, 2)})


def decay_by_name(model: torch.nn.Module) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["weight_decay"]
        for group in parameter_groups(model, 0.05)
        for parameter in group["params"]
    }


def test_embeddings_biases_and_norms_are_not_decayed_and_all_else_is(model: torch.nn.Module) -> None:
    decay = decay_by_name(model)
    assert set(decay) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        undecayed = parameter.ndim <= 1 or name.endswith(("pos_embed", "cls_token"))
        assert decay[name] == (0.0 if undecayed else 0.05), name
    assert any(name.endswith("pos_embed") for name in decay)


def test_biases_are_not_decayed_where_a_model_names_nothing() -> None:
    assert decay_by_name(torch.nn.Linear(3, 2)) == {"weight": 0.05, "bias": 0.0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -1e-3}, "must be finite and not negative; given are -0.001"),
        ({"lr": math.nan}, "must be finite and not negative"),
        ({"warmup_steps": -5, "schedule": "cosine"}, "must be finite and not negative"),
        ({"layer_decay": -0.7}, r"layer_decay must lie in \(0, 1\]"),
        ({"layer_decay": 0.0}, r"layer_decay must lie in \(0, 1\]"),
        ({"betas": [0.9]}, r"betas must be two numbers or more in \[0, 1\), not \[0.9\]"),
        ({"betas": [0.9, 1.5]}, "betas must be two numbers"),
        ({"betas": 0.9}, "betas must be two numbers"),
        ({"betas": "[0.9,0.99]"}, "betas must be two numbers"),
        ({"schedule": "piecewise_constant", "milestones": [0.8, 0.5]}, "milestones must be ascending"),
        ({"schedule": "piecewise_constant", "milestones": [0.5, 0.5]}, "milestones must be ascending"),
        ({"schedule": "piecewise_constant", "milestones": [1.5]}, "milestones must be ascending"),
        ({"schedule": "piecewise_constant", "milestones": 0.5}, "milestones must be ascending"),
    ],
)
def test_numbers_that_make_no_optimizer_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptimizerError, match=words):
        OptimizerConfig(**settings)
