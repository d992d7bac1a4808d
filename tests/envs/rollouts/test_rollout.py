"""Rollouts on the toy task: outcomes depend on seed and policy only."""

import json
import math
import time

import pytest
import torch

from fibo_robot.envs.results.evaluation import EVAL_FILE, Evaluation, EvaluationError
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.rollouts.workers.episode_runner import Act, Begin, EpisodeRunner, Setup
from tests.envs.rollouts.conftest import SEEDS, without_history
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import Fault, ToyEnv, ToyTask


def test_reference_is_worth_comparing_with(reference):
    assert 0 < reference.successes < len(SEEDS)
    assert len({episode.trace for episode in reference.episodes}) == len(SEEDS)
    assert len({episode.length for episode in reference.episodes}) > 3


def test_outcomes_do_not_depend_on_the_number_of_workers_or_the_order_of_completion(
    policy, reference, tmp_path
):
    slow_first = ToyTask(faults=(Fault(SEEDS[0], "sleep", str(tmp_path)),))
    for workers, seeds in ((2, SEEDS), (3, list(reversed(SEEDS)))):
        evaluation = rollout(policy, slow_first, seeds, workers=workers)
        assert sorted(without_history(evaluation)) == sorted(without_history(reference))
        assert [episode.seed for episode in evaluation.episodes] == list(seeds)


class SlowPolicy(ToyPolicy):
    """Takes so long that several workers are ready by the next decision."""

    def act(self, obs, episodes):
        time.sleep(0.05)
        return super().act(obs, episodes)


def test_outcomes_at_a_larger_fixed_batch_do_not_depend_on_its_neighbours(policy):
    one = rollout(policy, ToyTask(), SEEDS, workers=1, batch_size=4)
    policy = SlowPolicy(ToyTask().shape_meta(), noise=0.2)
    three = rollout(policy, ToyTask(), SEEDS, workers=3, batch_size=4)
    assert without_history(one) == without_history(three)
    assert {len(call) for call in policy.calls} == {4}
    assert any(sum(seed in SEEDS for seed in call) > 1 for call in policy.calls), "nothing was batched"


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8])
def test_a_row_of_a_transformer_is_bit_identical_at_any_place_of_a_fixed_batch(batch_size):
    """The engine's promise rests on this property of the numerics on this machine."""
    policy = ToyPolicy(ToyTask().shape_meta(), noise=0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image = torch.randint(0, 256, (1, 2, 3, 16, 16), dtype=torch.uint8)
        results = []
        for place in range(batch_size):
            for filler in (torch.zeros, torch.ones):
                batch = (filler(batch_size, 2, 3, 16, 16) * 255).to(torch.uint8)
                batch[place] = image[0]
                episodes = list(range(batch_size))
                policy.reset(episodes)
                results.append(policy.act({"top_image": batch}, episodes)[place])
        assert all(torch.equal(result, results[0]) for result in results)
    finally:
        torch.set_num_threads(threads)


def test_pictures_are_taken_only_where_the_policy_looks():
    task = ToyTask()
    runner = EpisodeRunner(
        Setup.of(task, task.shape_meta(n_obs_steps=2, action_horizon=8, n_action_steps=8), 10)
    )
    first = runner.handle(Begin(seed=3)).observation
    assert isinstance(runner.env, ToyEnv) and first is not None
    assert runner.env.observed == 1
    assert (first["top_image"][0] == first["top_image"][1]).all()
    actions = torch.full((8, 2), 0.1).numpy()
    second = runner.handle(Act(actions)).observation
    assert second is not None
    assert runner.env.observed == 3
    assert second["top_image"].shape == (2, 3, 16, 16)
    assert second["position"][1] == pytest.approx(second["position"][0] + 0.005)


def test_an_episode_ends_when_success_has_held_and_otherwise_at_the_horizon(policy, reference):
    for episode in reference.episodes:
        assert episode.length == 36 or episode.success_at_end
        assert episode.success_once == (episode.first_success is not None) == (episode.max_reward == 1.0)
    to_the_end = rollout(policy, ToyTask(), SEEDS, workers=2, success_hold=None)
    assert {episode.length for episode in to_the_end.episodes} == {36}
    slipped = [e for e in to_the_end.episodes if e.success_once and not e.success_at_end]
    assert slipped, "success_at_end must be able to differ from success_once"


@pytest.mark.parametrize("hold", [0, -1])
def test_success_that_holds_for_no_step_is_refused(policy, hold):
    """An episode would be over, and not solved, after its first step."""
    with pytest.raises(ValueError, match="success_hold must be at least 1 step"):
        rollout(policy, ToyTask(), SEEDS, success_hold=hold)


def test_eval_json_reads_beside_lerobots(reference, tmp_path):
    values = json.loads(reference.save(tmp_path).read_text())
    assert values["schema_version"] == 2
    lerobot_rows = {"episode_ix", "sum_reward", "max_reward", "success", "seed"}
    assert all(lerobot_rows <= set(row) for row in values["per_episode"])
    lerobot = {"avg_sum_reward", "avg_max_reward", "pc_success", "eval_s", "eval_ep_s"}
    assert lerobot <= set(values["aggregated"])
    aggregated = values["aggregated"]
    assert aggregated["pc_success"] == pytest.approx(100 * reference.success_rate)
    # LeRobot's: a 95 % Wilson interval in per cent, here by the formula (z = 1.959964).
    n, p, z = len(reference.counted), reference.success_rate, 1.959964
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert aggregated["pc_success_ci95"] == pytest.approx(expected, abs=1e-4)
    assert aggregated["n_success"] == sum(row["success"] for row in values["per_episode"])
    assert Evaluation.load(tmp_path) == reference
    assert {"mujoco", "robosuite", "torch"} <= set(values["versions"])


def test_loading_what_is_no_evaluation_says_so(tmp_path):
    with pytest.raises(EvaluationError, match="There is no"):
        Evaluation.load(tmp_path)
    (tmp_path / EVAL_FILE).write_text("{")
    with pytest.raises(EvaluationError, match="cannot be read"):
        Evaluation.load(tmp_path)
    (tmp_path / EVAL_FILE).write_text('{"schema_version": 99}')
    with pytest.raises(EvaluationError, match="schema version 99"):
        Evaluation.load(tmp_path)
