import pytest
import torch
from torch.distributions import Independent, Normal

from fibo_robot.policies.models.heads import GaussianMixtureHead


@pytest.fixture
def head():
    return GaussianMixtureHead(6, action_horizon=4, action_dim=3, modes=5, hidden=(16,)).eval()


def test_the_loss_is_the_mixtures_own_negative_log_likelihood(head):
    features, actions = torch.randn(8, 6), torch.rand(8, 4, 3) * 2 - 1
    expected = -head(features).log_prob(actions).mean() / 4
    torch.testing.assert_close(head.loss(features, actions, torch.ones(8, 4, dtype=torch.bool)), expected)


def test_steps_that_are_not_valid_carry_no_loss(head):
    features, actions = torch.randn(8, 6), torch.rand(8, 4, 3) * 2 - 1
    valid = torch.tensor([[True, True, False, False]]).expand(8, 4)
    other = actions.clone()
    other[:, 2:] = 0.123
    torch.testing.assert_close(head.loss(features, actions, valid), head.loss(features, other, valid))
    assert not torch.isclose(head.loss(features, actions, valid), head.loss(features, -actions, valid))


def test_with_one_mode_it_is_a_gaussian():
    head = GaussianMixtureHead(6, action_horizon=2, action_dim=3, modes=1, hidden=(16,))
    features, actions = torch.randn(8, 6), torch.rand(8, 2, 3)
    base = head(features).component_distribution.base_dist
    gaussian = Independent(Normal(base.mean[:, 0], base.stddev[:, 0]), 2)
    expected = -gaussian.log_prob(actions).mean() / 2
    torch.testing.assert_close(head.loss(features, actions, torch.ones(8, 2, dtype=torch.bool)), expected)


def test_chosen_modes_follow_their_weights(head):
    features = torch.randn(1, 6)
    distribution = head(features)
    means = distribution.component_distribution.base_dist.mean[0]
    draws = torch.linspace(0, 1, 4001)[:-1]
    chunks = head.choose(features.expand(len(draws), -1), draws)
    for mode, weight in enumerate(distribution.mixture_distribution.probs[0]):
        share = (chunks - means[mode]).abs().amax((1, 2)).lt(1e-5).float().mean()
        assert share == pytest.approx(weight.item(), abs=1e-3)


def test_it_learns_two_modes_instead_of_their_mean():
    torch.manual_seed(0)
    head = GaussianMixtureHead(1, action_horizon=1, action_dim=1, modes=2, hidden=(32,))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    actions = torch.where(torch.arange(256) % 2 == 0, 0.7, -0.7)[:, None, None]
    features, valid = torch.ones(256, 1), torch.ones(256, 1, dtype=torch.bool)
    for _ in range(200):
        optimizer.zero_grad()
        head.loss(features, actions, valid).backward()
        optimizer.step()
    chosen = head.choose(features, torch.rand(256)).flatten()
    assert (chosen.abs() - 0.7).abs().max() < 0.1
    assert 0.3 < (chosen > 0).float().mean() < 0.7
