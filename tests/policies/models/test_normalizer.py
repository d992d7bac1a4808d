import pytest
import torch

from fibo_robot.policies.models.normalizer import Normalizer, NormalizerNotFitted


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return {
        "action": torch.rand(200, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) + 2,
        "position": torch.randn(200, 2, generator=generator) * 5 - 1,
    }


def test_observations_are_standardised_and_actions_fill_their_range(data):
    normalizer = Normalizer({"action": 3, "position": 2})
    normalizer.fit(data)
    actions, positions = (normalizer.normalize(key, data[key]) for key in ("action", "position"))
    torch.testing.assert_close(actions.amax(0), torch.ones(3))
    torch.testing.assert_close(actions.amin(0), -torch.ones(3))
    torch.testing.assert_close(positions.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(positions.std(0, unbiased=False), torch.ones(2))
    torch.testing.assert_close(normalizer.unnormalize("action", actions), data["action"])


def test_a_constant_dimension_stays_finite(data):
    data["position"][:, 0] = 3.0
    normalizer = Normalizer({"action": 3, "position": 2})
    normalizer.fit(data)
    assert normalizer.normalize("position", data["position"])[:, 0].eq(0).all()


def test_statistics_travel_in_the_state_dict(data):
    fitted, fresh = Normalizer({"action": 3, "position": 2}), Normalizer({"action": 3, "position": 2})
    fitted.fit(data)
    fresh.load_state_dict(fitted.state_dict())
    torch.testing.assert_close(
        fresh.normalize("action", data["action"]), fitted.normalize("action", data["action"])
    )


def test_using_or_loading_without_statistics_fails(data):
    normalizer = Normalizer({"action": 3, "position": 2})
    with pytest.raises(NormalizerNotFitted):
        normalizer.normalize("action", data["action"])
    with pytest.raises(RuntimeError, match="Missing key"):
        normalizer.load_state_dict({})
