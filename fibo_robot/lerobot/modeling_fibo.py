"""The policy `fibo`: a policy of fibo_robot behind LeRobot's methods."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lerobot.policies.pretrained import PreTrainedPolicy  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from fibo_robot.lerobot.configuration_fibo import FiboConfig
from fibo_robot.policies.adapters.lerobot import TYPE, LeRobotError, Recipe, make_recipe


class FiboPolicy(PreTrainedPolicy):
    """LeRobot's shell around a policy of ours.

    Args:
        config: if its `recipe` is empty, the policy is built for the config's features, else as that says.
        dataset_stats: LeRobot's statistics of the data, which the normaliser is fitted on; None where weights
            are loaded afterwards.
    """

    config_class = FiboConfig
    name = TYPE

    def __init__(
        self,
        config: FiboConfig,
        dataset_stats: Mapping[str, Mapping[str, Any]] | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config)
        config.validate_features()
        if not config.recipe:
            config.recipe = _recipe(config, dataset_stats).to_json()
        self.recipe = Recipe.from_json(config.recipe)
        self.policy = self.recipe.build()
        if self.policy.window != "past":
            raise LeRobotError(
                f"{config.family} trains on sequences of observations, which the policy fibo is not given in "
                "LeRobot: choose another family."
            )
        if dataset_stats is not None:
            self.policy.fit_normalizer(self.recipe.statistics(dataset_stats))
        self._episodes: list[int] = []
        self._begun = 0
        self.reset()

    def get_optim_params(self) -> Iterator[nn.Parameter]:
        """All parameters."""
        return self.parameters()

    def reset(self) -> None:
        """Begin new episodes, in every environment of the batch."""
        self.policy.forget(self._episodes)
        self._episodes = []
        self._seen: deque[dict[str, Tensor]] = deque(maxlen=self.recipe.shape_meta.n_obs_steps)
        self._actions: deque[Tensor] = deque()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a training batch, and the same as a number."""
        valid = ~batch["action_is_pad"]
        loss = self.policy.loss(self.recipe.observations(batch), batch["action"].float(), valid)
        return loss, {"loss": loss.item()}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """The actions to execute before looking again, `(B, n_action_steps, A)`, for the latest observations.

        Args:
            batch: observations of now, `(B, …)`; earlier ones are remembered since :meth:`reset`.
        """
        now = self.recipe.observations(batch)
        rows = len(next(iter(now.values())))
        if not self._episodes:
            # Every episode draws noise of its own, also in the next batch.
            self._episodes = list(range(self._begun, self._begun + rows))
            self._begun += rows
            self.policy.reset(self._episodes)
        self._remember(now)
        obs = {key: torch.cat([seen[key] for seen in self._seen], dim=1) for key in now}
        return self.policy.act(obs, self._episodes)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """The next action `(B, A)`; a new chunk is predicted when the last one is used up."""
        self.eval()
        if not self._actions:
            self._actions.extend(self.predict_action_chunk(batch).unbind(1))
        else:
            self._remember(self.recipe.observations(batch))
        return self._actions.popleft()

    def _remember(self, now: dict[str, Tensor]) -> None:
        """Keep the latest observations; before an episode's start the first one is repeated."""
        self._seen.append(now)
        while len(self._seen) < self.recipe.shape_meta.n_obs_steps:
            self._seen.appendleft(now)


def _recipe(config: FiboConfig, stats: Mapping[str, Mapping[str, Any]] | None) -> Recipe:
    features = {**(config.input_features or {}), **(config.output_features or {})}
    chosen = {"policy": config.family, "encoder": config.encoder, "attention": config.attention}
    return make_recipe(
        overrides=[*(f"{group}={name}" for group, name in chosen.items()), *config.overrides],
        shapes={key: feature.shape for key, feature in features.items()},
        task=config.task,
        sees_objects=config.sees_objects,
        n_obs_steps=config.n_obs_steps,
        action_horizon=config.action_horizon,
        n_action_steps=config.n_action_steps,
        stats=stats,
    )
