"""BC-Transformer looks back only; ACT's latent is a variational one, and is not drawn in episodes."""

import torch
from torch.distributions import Normal, kl_divergence

from fibo_robot.policies.models.act import ActionChunkingTransformer
from fibo_robot.policies.models.bc_transformer import CausalTransformer
from tests.policies.models.families import create, observations, with_pictures


def test_a_step_of_the_causal_transformer_knows_of_no_later_one() -> None:
    network = CausalTransformer(3, steps=6, width=16, layers=2, heads=2, dropout=0.0).eval()
    steps = torch.randn(1, 6, 3)
    changed = steps.clone()
    changed[:, 3] += 1
    moved = (network(changed) - network(steps)).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [False] * 3 + [True] * 3
    torch.testing.assert_close(network(steps[:, :4]), network(steps)[:, :4])


def act(*overrides: str) -> ActionChunkingTransformer:
    policy = create("act", *overrides)
    assert isinstance(policy, ActionChunkingTransformer)
    return policy


def test_acts_loss_is_the_l1_distance_and_the_weighted_divergence_of_its_latent() -> None:
    policy = act("policy.kl_weight=3")
    obs, actions = observations(policy, 5), torch.rand(5, 4, 7) * 2 - 1
    valid = torch.ones(5, 4, dtype=torch.bool)
    valid[0, 1:] = False
    features = policy.features(obs)
    mean, log_variance = policy.style(actions, valid, features[:, :1])
    torch.manual_seed(4)
    loss = policy.chunk_loss(features, actions, valid)
    torch.manual_seed(4)
    z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    distance = (policy._decode(features, z) - actions).abs()[valid].mean()
    spread = torch.exp(log_variance / 2)
    divergence = kl_divergence(Normal(mean, spread), Normal(torch.zeros(()), torch.ones(()))).sum(-1).mean()
    torch.testing.assert_close(loss, distance + 3 * divergence)


def test_acts_latent_does_not_look_past_a_demonstrations_end() -> None:
    policy = act()
    obs, actions = observations(policy, 1), torch.rand(1, 4, 7)
    valid = torch.tensor([[True, True, False, False]])
    other = actions.clone()
    other[:, 2:] = -1
    context = policy.features(obs)[:, :1]
    for one, two in zip(policy.style(actions, valid, context), policy.style(other, valid, context)):
        torch.testing.assert_close(one, two)
    changed = policy.style(-actions, valid, context)[0]
    assert (changed - policy.style(actions, valid, context)[0]).abs().max() > 1e-5


def test_act_does_not_draw_in_an_episode() -> None:
    policy = act()
    obs = observations(policy, 2)
    policy.reset([1, 2])
    first, again = policy.act(obs, [1, 2]), policy.act(obs, [1, 2])
    assert torch.equal(first, again)


def test_act_attends_to_every_token_of_every_camera_and_step() -> None:
    keys = ("agentview_image", "robot0_eye_in_hand_image")
    policy = with_pictures("act", "data.n_obs_steps=2", keys=keys)
    tokens = policy.features(observations(policy, 3))
    assert tokens.shape == (3, 2 + 2 * 2 * (1 + 36), 32), (
        "a vector a step, and a class token and 36 patches a picture"
    )
