"""What holds for every family of policies, whatever its objective, network or state."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fibo_robot.interfaces import ActionSpec
from fibo_robot.policies import load_policy
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.policies.models.denoising.network import ChunkNetwork
from fibo_robot.policies.models.denoising.policy import DenoisingPolicy
from fibo_robot.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fibo_robot.training.config import options_of
from fibo_robot.training.overrides import train_from_overrides
from tests.policies.models.families import FAMILIES, create, observations, saved_config, small, with_pictures

EPISODES = 8


def saved(name: str, folder: Path) -> tuple[ChunkPolicy, Path]:
    policy = create(name)
    meta = {"kind": "policy", "shape_meta": policy.shape_meta.to_dict()}
    save_checkpoint(folder, policy.state_dict(), saved_config(name), meta)
    return policy, folder


def test_every_policy_that_configs_offer_is_tested_here() -> None:
    assert sorted(options_of("policy")) == sorted(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_fits_a_batch_and_then_acts_as_the_batch_does(name: str) -> None:
    policy = create(name).train()
    torch.manual_seed(1)
    obs, horizon = observations(policy, 4), policy.shape_meta.action_horizon
    actions = torch.rand(4, horizon, 7) * 1.6 - 0.8
    # Each sample several times over: where noise is drawn, every step meets several of it.
    many = {key: value.repeat(8, *[1] * (value.ndim - 1)) for key, value in obs.items()}
    valid = torch.ones(32, horizon, dtype=torch.bool)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        policy.loss(many, actions.repeat(8, 1, 1), valid).backward()
        optimizer.step()
    policy.eval().reset(range(4))
    # A sequence's first step begins with an empty state, as an episode does.
    seen = {key: value[:, : policy.shape_meta.n_obs_steps] for key, value in obs.items()}
    error = policy.act(seen, range(4)) - actions[:, : policy.shape_meta.n_action_steps]
    assert error.abs().mean() < 0.1, "an untrained policy is about 0.4 off"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_learns(name: str) -> None:
    policy = with_pictures(name).train()
    horizon = policy.shape_meta.action_horizon
    valid = torch.ones(2, horizon, dtype=torch.bool)
    policy.loss(observations(policy, 2), torch.rand(2, horizon, 7), valid).backward()
    assert [key for key, parameter in policy.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_precision_changes_the_loss_by_rounding_alone(name: str) -> None:
    """As `trainer.precision=bf16-mixed` runs it; bfloat16 keeps three digits."""
    policy = with_pictures(name).train()
    horizon = policy.shape_meta.action_horizon
    obs, actions = observations(policy, 4), torch.rand(4, horizon, 7)
    valid = torch.ones(4, horizon, dtype=torch.bool)

    def loss(mixed: bool) -> torch.Tensor:
        torch.manual_seed(2)  # of crops, dropout and noise
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return policy.loss(obs, actions, valid)

    mixed = loss(True)
    mixed.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in policy.parameters())
    assert mixed.dtype == torch.float32 and not torch.equal(mixed, loss(False))
    torch.testing.assert_close(mixed, loss(False), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_past_a_demonstrations_end_carry_no_loss(name: str) -> None:
    policy = create(name)
    policy.training = True  # for observations' window; dropout stays off
    horizon = policy.shape_meta.action_horizon
    obs, actions = observations(policy, 3), torch.rand(3, horizon, 7)
    valid = torch.ones(3, horizon, dtype=torch.bool)
    valid[1, 2:] = False

    def loss(at: tuple[int, int]) -> torch.Tensor:
        changed = actions.clone()
        changed[at] = -0.9
        torch.manual_seed(3)
        return policy.loss(obs, changed, valid)

    if name in ("diffusion", "flow", "mip"):
        # The network sees the noisy end of a chunk, but is not asked for anything there.
        assert isinstance(policy, DenoisingPolicy)
        chunks = actions.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            policy.objective.loss(_Copies(), chunks, valid, torch.zeros(3, 1, 1)), chunks
        )
        assert gradient[1, 2:].abs().max() == 0 and gradient[1, :2].abs().min() > 0
    else:
        assert torch.equal(loss((1, horizon - 1)), loss((1, 2)))
    assert not torch.equal(loss((1, 0)), loss((1, 2)))


class _Copies(ChunkNetwork):
    """Says back what it is given."""

    def forward(self, chunks: torch.Tensor, times: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return 3 * chunks


@pytest.mark.parametrize("name", FAMILIES)
def test_it_reloads_to_the_same_actions(name: str, tmp_path: Path) -> None:
    policy, run = saved(name, tmp_path)
    other = load_policy(run)
    for one in (policy, other):
        one.reset([5, 6])
    for seed in range(3):
        obs = observations(policy, 2, seed)
        assert torch.equal(policy.act(obs, [5, 6]), other.act(obs, [5, 6]))


@pytest.mark.parametrize("name", FAMILIES)
def test_without_statistics_a_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    _, run = saved(name, tmp_path)
    weights = load_file(run / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "normalizer.action_scale"}, run / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"action_scale"):
        load_policy(run)


@pytest.mark.parametrize("name", [*FAMILIES, "act with ensembling"])
def test_an_episode_is_the_same_whatever_runs_beside_it(name: str) -> None:
    """Bit for bit in batches of one size: four episodes that are at different decisions, in any order."""
    ensembling = ["policy.temporal_ensemble=0.01", "data.n_action_steps=1"] if "with" in name else []
    policy = create(name.split()[0], *ensembling)
    alone: dict[tuple[int, int], torch.Tensor] = {}
    for episode in range(EPISODES):
        company = [episode, 100, 101, 102]
        policy.reset(company)
        for decision in range(5):
            obs = _of_episodes(policy, company, [decision] * 4)
            alone[episode, decision] = policy.act(obs, company)[0]
    generator, decisions = random.Random(0), dict.fromkeys(range(EPISODES), 0)
    policy.reset(range(EPISODES))
    compared = 0
    while min(decisions.values()) < 5:
        open_ones = [episode for episode, count in decisions.items() if count < 5]
        rows = generator.sample(open_ones, min(4, len(open_ones)))
        rows += list(range(200, 204 - len(rows)))
        policy.reset([row for row in rows if row >= 200])
        obs = _of_episodes(policy, rows, [decisions.get(row, 0) for row in rows])
        for row, actions in zip(rows, policy.act(obs, rows)):
            if row in decisions:
                assert torch.equal(actions, alone[row, decisions[row]])
                decisions[row] += 1
                compared += 1
    assert compared == 5 * EPISODES
    policy.forget(range(300))
    assert policy.episode_state == {}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_no_number_stays_in_its_own_episode(name: str, value: float) -> None:
    """A simulator that diverged spoils its row, which the engines stop, and not a batch of rollouts."""
    policy, episodes = create(name), [1, 2, 3]
    seen = observations(policy, 3)
    policy.reset(episodes)
    expected = policy.act(seen, episodes)
    for vectors in seen.values():
        vectors[1] = value
    policy.reset(episodes)
    actions = policy.act(seen, episodes)
    assert torch.equal(actions[::2], expected[::2])
    assert not actions[1].isfinite().all()


def _of_episodes(policy: ChunkPolicy, episodes: list[int], decisions: list[int]) -> dict[str, torch.Tensor]:
    """What each of these episodes sees at its decision."""
    rows = [observations(policy, 1, 1000 * e + d) for e, d in zip(episodes, decisions)]
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("name", FAMILIES)
def test_two_arms_and_absolute_poses_are_shapes_alone(name: str) -> None:
    policy = create(name, action=ActionSpec.poses(arms=2))
    assert policy.actions.dim == 20
    policy.reset([1, 2])
    actions = policy.act(observations(policy, 2), [1, 2])
    assert actions.shape == (2, policy.shape_meta.n_action_steps, 14) and actions.isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_resumed_training_is_the_uninterrupted_one(name: str, demonstrations: Path, tmp_path: Path) -> None:
    def train(run: str, epochs: int) -> dict[str, torch.Tensor]:
        overrides = ["experiment=lift_bc", *small(name), f"data.path={demonstrations}", "debug=smoke"]
        overrides += ["data.obs_keys=[robot0_eye_in_hand_image,robot0_eef_pos]", "data.batch_size=2"]
        overrides += ["encoder.name=vit_micro", "readout.features=2", "data.steps_per_epoch=2"]
        overrides += ["optimizer.schedule=constant_with_warmup", "trainer.accelerator=cpu", "logger=none"]
        overrides += [f"run_dir={tmp_path / run}", f"trainer.max_epochs={epochs}"]
        return load_checkpoint(train_from_overrides(overrides)).state_dict

    whole = train("whole", 2)
    half = train("parts", 1)
    parts = train("parts", 2)
    assert any(not torch.equal(half[key], parts[key]) for key in half)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
