import pytest
import torch

from fibo_robot.encoders import create_encoder
from fibo_robot.envs.tasks import get_task
from fibo_robot.policies.models.bc import BehaviourCloning

KEYS = ["agentview_image", "robot0_eye_in_hand_image", "robot0_eef_pos"]


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    shape_meta = get_task("lift").shape_meta(obs_keys=KEYS, action_horizon=4, n_action_steps=2)

    def encoder(image_size):
        return create_encoder("vit_micro", attention="fibottention", image_size=image_size)

    policy = BehaviourCloning(shape_meta, encoder)
    policy.fit_normalizer({"action": torch.randn(50, 7), "robot0_eef_pos": torch.randn(50, 3)})
    return policy.eval()


def observations(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    images = {
        key: torch.randint(0, 256, (batch, 1, 3, 84, 84), dtype=torch.uint8, generator=generator)
        for key in KEYS[:2]
    }
    return {**images, "robot0_eef_pos": torch.randn(batch, 1, 3, generator=generator)}


def test_actions_are_a_chunk_in_the_environments_units(policy):
    policy.reset([1, 2, 3])
    actions = policy.act(observations(3), [1, 2, 3])
    assert actions.shape == (3, 2, 7)
    low = policy.normalizer.action_shift - policy.normalizer.action_scale
    high = policy.normalizer.action_shift + policy.normalizer.action_scale
    assert ((actions >= low) & (actions <= high)).all()


def test_an_episodes_actions_depend_on_its_own_seed_and_row(policy):
    obs = observations(4)

    def act(order: list[int]) -> dict[int, torch.Tensor]:
        policy.reset(order)
        rows = {key: value[[episode - 10 for episode in order]] for key, value in obs.items()}
        return dict(zip(order, policy.act(rows, order)))

    together, reordered, alone = act([10, 11, 12, 13]), act([13, 12, 11, 10]), act([12])
    for episode in together:
        torch.testing.assert_close(together[episode], reordered[episode], atol=1e-5, rtol=0)
    torch.testing.assert_close(together[12], alone[12], atol=1e-5, rtol=0)


def test_a_reset_repeats_the_same_draws(policy):
    obs = observations(1)
    policy.reset([5])
    first = [policy.act(obs, [5]) for _ in range(6)]
    policy.reset([5])
    assert all(torch.equal(a, policy.act(obs, [5])) for a in first)
    assert any(not torch.equal(first[0], other) for other in first[1:])  # modes are really drawn


def test_every_parameter_gets_a_gradient(policy):
    policy.train()
    try:
        policy.zero_grad()
        loss = policy.loss(observations(2), torch.rand(2, 4, 7), torch.ones(2, 4, dtype=torch.bool))
        loss.backward()
    finally:
        policy.eval()
    without = [name for name, p in policy.named_parameters() if p.grad is None]
    assert without == []
