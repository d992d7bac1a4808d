"""The recurrent policy: a step at a time it is what it was in training, and its state lives as long."""

import pytest
import torch

from fibo_robot.policies.models.base import PolicyError
from fibo_robot.policies.models.bc_rnn import RecurrentBehaviourCloning
from tests.policies.models.families import create

HORIZON = 4  # of the tiny policies


def policy() -> RecurrentBehaviourCloning:
    made = create("bc_rnn", "policy.head.modes=1")  # one mode, so that actions are its mean
    assert isinstance(made, RecurrentBehaviourCloning)
    return made


def sequence(steps: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    sizes = {"position": 3, "object": 4}
    return {key: torch.randn(2, steps, size, generator=generator) for key, size in sizes.items()}


def step_by_step(one: RecurrentBehaviourCloning, obs: dict[str, torch.Tensor]) -> torch.Tensor:
    one.reset([7, 8])
    steps = range(obs["position"].shape[1])
    return torch.cat([one.act({k: v[:, t : t + 1] for k, v in obs.items()}, [7, 8]) for t in steps], dim=1)


def unrolled(one: RecurrentBehaviourCloning, obs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Means of the distributions that training fits, in the environment's units."""
    with torch.no_grad():
        outputs, _ = one.rnn(one.step_features(obs))
        means = one.head(outputs.flatten(0, 1)).component_distribution.base_dist.mean[:, 0, 0]
        return one.normalizer.unnormalize("action", means.unflatten(0, outputs.shape[:2]))


def test_a_step_at_a_time_it_acts_as_the_sequence_at_once() -> None:
    one, obs = policy(), sequence(HORIZON)
    torch.testing.assert_close(step_by_step(one, obs), unrolled(one, obs))


def test_its_state_is_emptied_after_as_many_steps_as_training_unrolls() -> None:
    one, obs = policy(), sequence(2 * HORIZON + 1)
    acted = step_by_step(one, obs)
    for first in (0, HORIZON, 2 * HORIZON):
        part = {key: value[:, first : first + HORIZON] for key, value in obs.items()}
        torch.testing.assert_close(acted[:, first : first + HORIZON], unrolled(one, part))
    carried_on = unrolled(one, obs)
    assert (carried_on[:, HORIZON] - acted[:, HORIZON]).abs().max() > 1e-4


def test_its_loss_is_the_mean_likelihood_of_the_valid_steps() -> None:
    one, obs = policy(), sequence(HORIZON)
    actions = torch.rand(2, HORIZON, 7)
    valid = torch.tensor([[True] * HORIZON, [True, True, False, False]])
    outputs, _ = one.rnn(one.step_features(obs))
    normal = one.normalizer.normalize("action", actions)
    each = [
        one.head(outputs[b, t : t + 1]).log_prob(normal[b, t].view(1, 1, -1))
        for b, t in valid.nonzero().tolist()
    ]
    torch.testing.assert_close(one.loss(obs, actions, valid), -torch.cat(each).mean())


@pytest.mark.parametrize("override", ["data.n_obs_steps=2", "data.n_action_steps=2"])
def test_looking_twice_or_acting_twice_a_decision_is_refused(override: str) -> None:
    with pytest.raises(PolicyError, match=r"data\.n_obs_steps=1 data\.n_action_steps=1"):
        create("bc_rnn", override)
