"""Rollouts are compared with a baseline that looks as often, and once more where both look at every step."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch

pytest.importorskip("robomimic")

from fibo_robot.benchmarks.simulation import rollout as benchmark
from fibo_robot.interfaces import Policy
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import SIZE, ToyTask


class Closes:
    """Stands for the serial environment."""

    closed = 0

    def __init__(self, task: object, policy: object) -> None:
        pass

    def close(self) -> None:
        Closes.closed += 1


def measured(monkeypatch: pytest.MonkeyPatch, n_action_steps: int) -> dict[tuple[str, int, int], Any]:
    """Rows where the baseline takes 6 s a step, and ours that over workers, twice as fast by chunks."""

    def serial(env: object, policy: Policy, episodes: int, steps: int, seconds: list[float]) -> None:
        seconds.append(6.0)

    def ours(
        policy: Policy, task: object, episodes: int, workers: int, seconds: list[float], sessions: list
    ) -> None:
        seconds.append(6.0 / workers / (2 if policy.shape_meta.n_action_steps > 1 else 1))

    monkeypatch.setattr(benchmark, "_time_serial", serial)
    monkeypatch.setattr(benchmark, "_time_ours", ours)
    monkeypatch.setattr(benchmark, "SerialEnv", Closes)
    policy = cast(Policy, ToyPolicy(ToyTask().shape_meta(n_action_steps=n_action_steps)))
    rows = benchmark.measure(policy, cast(Any, ToyTask()), workers=(1, 2))
    return {(row.case, row.workers, row.n_action_steps): row for row in rows}


def test_every_case_stands_beside_the_baseline_that_looks_as_often(monkeypatch):
    rows = measured(monkeypatch, n_action_steps=3)
    assert {key: row.speedup for key, row in rows.items()} == {
        ("robomimic_serial", 1, 3): 1.0,
        ("fibo_rollout", 1, 3): 2.0,
        ("fibo_rollout", 2, 3): 4.0,
        ("robomimic_serial", 1, 1): 1.0,
        ("fibo_rollout", 1, 1): 1.0,
        ("fibo_rollout", 2, 1): 2.0,
    }
    assert Closes.closed == 1


def test_a_policy_that_looks_after_every_action_is_measured_once(monkeypatch):
    assert {key[2] for key in measured(monkeypatch, n_action_steps=1)} == {1}


def test_one_action_at_a_time_is_the_first_of_every_chunk():
    toy = ToyPolicy(ToyTask().shape_meta(n_action_steps=3))
    policy = benchmark._OneActionAtATime(cast(Policy, toy))
    assert policy.shape_meta.n_action_steps == 1 and toy.shape_meta.n_action_steps == 3
    obs = {"top_image": torch.randint(0, 256, (2, 2, 3, SIZE, SIZE), dtype=torch.uint8)}

    def act(one: Any, episodes: Sequence[int]) -> torch.Tensor:
        one.reset(episodes)
        return one.act(obs, episodes)

    first = act(policy, [4, 5])
    assert first.shape == (2, 1, 2) and torch.equal(first, act(toy, [4, 5])[:, :1])
