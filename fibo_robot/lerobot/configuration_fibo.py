"""The settings of the policy `fibo`, as LeRobot's command line and checkpoints have them."""

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig  # pyright: ignore[reportMissingImports]
from lerobot.configs.types import NormalizationMode  # pyright: ignore[reportMissingImports]
from lerobot.optim.optimizers import AdamWConfig  # pyright: ignore[reportMissingImports]

from fibo_robot.policies.adapters.lerobot import TYPE, LeRobotError


@PreTrainedConfig.register_subclass(TYPE)
@dataclass
class FiboConfig(PreTrainedConfig):
    """A policy of fibo_robot that sees through its encoders.

    Attributes:
        family: a policy of `fibo train policy=…`.
        encoder: an image encoder: one of `fibo train encoder=…`.
        attention: its attention: one of `fibo train attention=…`.
        overrides: further settings of the policy, as `observation.crop_size=64`.
        task: the simulated task that the data are of, as `lift`; then the checkpoint rolls out with
            `fibo rollout`. Empty for any other data.
        sees_objects: whether it is given `observation.environment_state`, the objects' true state.
        action_horizon: actions predicted at once.
        n_action_steps: those of them that are executed before it looks again.
        optimizer_lr, optimizer_weight_decay: of AdamW.
        recipe: what was built, as JSON; written by the policy itself.
    """

    family: str = "bc_gmm"
    encoder: str = "vit_micro"
    attention: str = "fibottention"
    overrides: list[str] = field(default_factory=list)
    task: str = ""
    sees_objects: bool = False
    action_horizon: int = 8
    n_action_steps: int = 4
    optimizer_lr: float = 1e-3
    optimizer_weight_decay: float = 0.01
    recipe: str = ""
    # The policy normalises by itself: its statistics are in its weights.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(
            ("VISUAL", "STATE", "ENV", "ACTION"), NormalizationMode.IDENTITY
        )
    )

    def validate_features(self) -> None:
        """Raise unless there are actions, and something to see."""
        if self.action_feature is None or not self.input_features:
            raise LeRobotError("The policy fibo needs actions and at least one observation in the data.")

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW."""
        return AdamWConfig(lr=self.optimizer_lr, weight_decay=self.optimizer_weight_decay)

    def get_scheduler_preset(self) -> None:
        """A constant rate; LeRobot's own schedules can be chosen with --scheduler."""
        return None

    @property
    def observation_delta_indices(self) -> list[int]:
        """The latest observations up to the present one."""
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        """The actions from the present one on."""
        return list(range(self.action_horizon))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards."""
        return None
