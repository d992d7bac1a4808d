"""What LeRobot does around the policy `fibo`: batches and devices. The policy normalises by itself."""

from typing import Any, TypeAlias

import torch
from lerobot.processor import (  # pyright: ignore[reportMissingImports]
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action  # pyright: ignore[reportMissingImports]
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME  # pyright: ignore[reportMissingImports]

from fibo_robot.lerobot.configuration_fibo import FiboConfig

Batches: TypeAlias = PolicyProcessorPipeline[dict[str, Any], dict[str, Any]]
Actions: TypeAlias = PolicyProcessorPipeline[PolicyAction, PolicyAction]


def make_fibo_pre_post_processors(
    config: FiboConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[Batches, Actions]:
    """Pipelines in front of the policy and behind it, under the names that LeRobot saves them by."""
    before = Batches(
        steps=[
            RenameObservationsProcessorStep(rename_map={}),
            AddBatchDimensionProcessorStep(),
            DeviceProcessorStep(device=config.device or "cpu"),
        ],
        name=POLICY_PREPROCESSOR_DEFAULT_NAME,
    )
    after = Actions(
        steps=[DeviceProcessorStep(device="cpu")],
        name=POLICY_POSTPROCESSOR_DEFAULT_NAME,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return before, after
