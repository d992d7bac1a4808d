"""What every policy shares: an episode draws for itself, nothing of it stays, units are the environment's."""

import random
from collections.abc import Sequence

import pytest
import torch
from scipy.spatial.transform import Rotation

from fibo_robot.encoders import create_encoder
from fibo_robot.envs.tasks import get_task
from fibo_robot.interfaces import ActionSpec, ObservationSpec, ShapeMeta
from fibo_robot.noise import Noise
from fibo_robot.policies.models.base import ChunkPolicy, EpisodeNotBegun, PolicyError
from fibo_robot.policies.models.bc import BehaviourCloning
from fibo_robot.policies.models.heads import GaussianMixtureHead

KEYS = ["agentview_image", "robot0_eef_pos"]
EPISODES = 12


class Draws(ChunkPolicy):
    """Its actions are its noise."""

    def chunk_loss(self, features: torch.Tensor, actions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def predict(self, features: torch.Tensor, noise: Noise) -> torch.Tensor:
        return noise.normal(self.shape_meta.action_horizon, self.actions.dim)


def low_dim_meta(action: ActionSpec | None = None, horizon: int = 3) -> ShapeMeta:
    obs = {"position": ObservationSpec((3,), "low_dim")}
    return ShapeMeta(obs, action or ActionSpec.deltas(), 1, horizon, horizon)


def draws() -> Draws:
    policy = Draws(low_dim_meta(), None).eval()
    policy.fit_normalizer({"position": torch.randn(20, 3), "action": torch.tensor([[-1.0] * 7, [1.0] * 7])})
    return policy


def positions(batch: int) -> dict[str, torch.Tensor]:
    return {"position": torch.zeros(batch, 1, 3)}


def run(policy: ChunkPolicy, batches: Sequence[Sequence[int]]) -> dict[int, list[torch.Tensor]]:
    """Each episode's decisions, made in these batches."""
    decisions: dict[int, list[torch.Tensor]] = {}
    for batch in batches:
        for episode, actions in zip(batch, policy.act(positions(len(batch)), batch)):
            decisions.setdefault(episode, []).append(actions)
    return decisions


def test_an_episodes_draws_are_the_same_in_any_company_and_order() -> None:
    policy = draws()
    policy.reset(range(100, 106))
    together = run(policy, [range(100, 106)] * 4)
    policy.reset([105, 3, 102])
    mixed = run(policy, [[105], [3, 105], [102, 3, 105], [105, 102]])
    assert all(torch.equal(a, b) for a, b in zip(mixed[105], together[105], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(mixed[102], together[102]))
    distinct = {float(actions[0, 0]) for episode in together.values() for actions in episode}
    assert len(distinct) == 24, "every decision of every episode draws anew"


def test_a_reset_begins_an_episode_again_and_only_that_one() -> None:
    policy = draws()
    policy.reset([1, 2])
    first = run(policy, [[1, 2], [1, 2]])
    policy.reset([1])
    again = run(policy, [[1, 2]])
    assert torch.equal(again[1][0], first[1][0])
    assert not any(torch.equal(again[2][0], before) for before in first[2])


def test_nothing_of_a_thousand_episodes_stays() -> None:
    policy = draws()
    for first in range(0, 1000, 50):
        episodes = range(first, first + 50)
        policy.reset(episodes)
        run(policy, [episodes, episodes])
        policy.forget(episodes)
    policy.forget([5])  # once more does no harm
    held = [value for value in vars(policy).values() if isinstance(value, dict | list | set)]
    assert not any(episode in value for value in held for episode in range(1000))
    assert policy._decisions == {}


def test_an_episode_that_was_not_begun_or_is_forgotten_is_refused() -> None:
    policy = draws()
    policy.reset([1])
    policy.forget([1])
    for episode in (1, 7):
        with pytest.raises(EpisodeNotBegun, match=rf"Episode {episode} .*policy\.reset"):
            policy.act(positions(1), [episode])


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_belong_to_no_episode_are_refused(rows: int) -> None:
    """One row for two episodes would be answered twice, by the same observation and each one's noise."""
    policy = draws()
    policy.reset([1, 2])
    with pytest.raises(PolicyError, match=rf"'position': {rows}.* for 2 episodes"):
        policy.act(positions(rows), [1, 2])
    assert set(policy._decisions.values()) == {0}


@pytest.mark.parametrize("attention", ["fibottention", "castling"])
def test_any_composition_of_a_batch_of_fixed_size_gives_the_same_bits(attention: str) -> None:
    """The whole of a policy with pictures, not its draws alone."""
    torch.manual_seed(0)
    meta = get_task("lift").shape_meta(obs_keys=KEYS, action_horizon=4, n_action_steps=2)
    policy = BehaviourCloning(
        meta, lambda image_size: create_encoder("vit_micro", attention=attention, image_size=image_size)
    ).eval()
    policy.fit_normalizer({"action": torch.randn(50, 7), "robot0_eef_pos": torch.randn(50, 3)})
    obs = {
        "agentview_image": torch.randint(0, 256, (EPISODES, 1, 3, 84, 84), dtype=torch.uint8),
        "robot0_eef_pos": torch.randn(EPISODES, 1, 3),
    }
    generator, found = random.Random(0), dict[int, torch.Tensor]()
    for _ in range(6):
        episodes = generator.sample(range(EPISODES), 4)
        policy.reset(episodes)
        for episode, actions in zip(episodes, policy.act({k: v[episodes] for k, v in obs.items()}, episodes)):
            assert torch.equal(found.setdefault(episode, actions), actions)
    assert len(found) == EPISODES


def test_actions_stay_on_the_observations_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("actions are fetched from their device")

    for name in ("cpu", "numpy", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    policy = draws()
    policy.reset([1])
    assert policy.act(positions(1), [1]).device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_actions_are_where_the_observations_are() -> None:
    policy, there = draws(), draws().to("cuda")
    there.load_state_dict(policy.state_dict())
    for either in (policy, there):
        either.reset([1])
    here = policy.act(positions(1), [1])
    on_gpu = there.act({key: value.cuda() for key, value in positions(1).items()}, [1])
    assert on_gpu.device.type == "cuda" and torch.equal(on_gpu.cpu(), here)
    there.reset([1])
    assert there.act(positions(1), [1]).device.type == "cpu"


@pytest.mark.parametrize("arms", [1, 2])
def test_absolute_actions_are_normalised_as_six_numbers_and_come_back_as_axis_angle(arms: int) -> None:
    down = Rotation.from_rotvec([torch.pi, 0, 0])
    rotations = (down * Rotation.from_rotvec(0.2 * torch.randn(60, 3).numpy())).as_rotvec()
    arm = torch.cat(
        [
            torch.randn(60, 3) * 0.1 + torch.tensor([0.0, 0.0, 1.05]),
            torch.from_numpy(rotations).float(),
            torch.ones(60, 1).mul(-1),
        ],
        dim=1,
    )
    data = arm.repeat(1, arms)
    meta = low_dim_meta(ActionSpec.poses(arms), horizon=1)
    policy = BehaviourCloning(meta, None, lambda **sizes: GaussianMixtureHead(**sizes, hidden=(16,))).eval()
    policy.fit_normalizer({"position": torch.randn(20, 3), "action": data})
    assert policy.normalizer.action_scale.shape == (10 * arms,)
    inside = policy.normalizer.normalize("action", policy.actions.encode(data))
    assert inside.abs().max() <= 1 + 1e-4
    policy.reset([1])
    actions = policy.act(positions(1), [1])
    assert actions.shape == (1, 1, 7 * arms)
    # An untrained head says about 0, the middle of the data: still a hand that points down at table height.
    hand = actions[0, 0, :7]
    assert hand[2].sub(1.05).abs() < 0.3
    assert (Rotation.from_rotvec(hand[3:6].numpy()) * down.inv()).magnitude() < 0.6
    loss = policy.loss(positions(60), data[:, None], torch.ones(60, 1, dtype=torch.bool))
    assert loss.isfinite()


def test_axis_angle_may_be_kept_inside() -> None:
    meta = low_dim_meta(ActionSpec.poses())
    policy = BehaviourCloning(meta, None, action_rotation="axis_angle")
    assert policy.normalizer.action_scale.shape == (7,)
