"""Rollouts on the toy task: outcomes depend on seed and policy only, and nothing that fails is lost."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fibo_robot.envs.results.evaluation import EVAL_FILE, Evaluation, EvaluationError
from fibo_robot.envs.results.report import write_evaluation_report
from fibo_robot.envs.rollouts.api import RolloutError, Timeouts, rollout
from fibo_robot.envs.rollouts.log import LOG_FILE
from fibo_robot.envs.rollouts.workers.episode_runner import Act, Begin, EpisodeRunner, Setup
from fibo_robot.processes import BusyError
from tests.another_writer import another_writer
from tests.conftest import REPOSITORY
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import Fault, ToyEnv, ToyTask

SEEDS = range(200, 212)
QUICK = Timeouts(start=120.0, command=1.5)


@pytest.fixture
def policy():
    return ToyPolicy(ToyTask().shape_meta(), noise=0.2)


@pytest.fixture(scope="module")
def reference():
    """The outcomes that every other way of running must reproduce."""
    task = ToyTask()
    return rollout(ToyPolicy(task.shape_meta(), noise=0.2), task, SEEDS, workers=1)


def without_history(evaluation):
    """Episodes as they were played, without what went wrong before they were."""
    return [
        (e.seed, e.scene, e.trace, e.success_once, e.success_at_end, e.length) for e in evaluation.episodes
    ]


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


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("kill", "SIGKILL"),
        ("hang", "did not answer for 1.5 s"),
        ("raise", "ArithmeticError: the physics exploded"),
    ],
)
def test_a_worker_that_fails_is_replaced_and_its_episode_run_again(kind, reason, policy, reference, tmp_path):
    task = ToyTask(faults=(Fault(SEEDS[4], kind, str(tmp_path), times=2),))
    evaluation = rollout(policy, task, SEEDS, workers=2, timeouts=QUICK)
    assert without_history(evaluation) == without_history(reference)
    assert not evaluation.errors
    failures = evaluation.episodes[4].worker_errors
    assert len(failures) == 2
    assert all(reason in failure for failure in failures)


def test_three_failures_are_an_error_that_does_not_count(policy, reference, tmp_path):
    task = ToyTask(faults=(Fault(SEEDS[4], "raise", str(tmp_path), times=99),))
    evaluation = rollout(policy, task, SEEDS, workers=2, output=tmp_path / "out")
    (lost,) = evaluation.errors
    assert (lost.seed, lost.error_source, lost.counts) == (SEEDS[4], "worker", False)
    assert "failed 3 times" in str(lost.error)
    others = [e.success_once for e in reference.episodes if e.seed != SEEDS[4]]
    assert evaluation.success_rate == pytest.approx(sum(others) / len(others))
    # The fault is repaired: --resume runs that episode, and only that one.
    healed = rollout(policy, ToyTask(), SEEDS, workers=1, output=tmp_path / "out", resume=True)
    assert without_history(healed) == without_history(reference)
    assert healed.sessions[-1].episodes == 1


def test_a_policy_that_returns_nan_has_failed_and_is_named(reference):
    seed = SEEDS[2]
    broken = ToyPolicy(ToyTask().shape_meta(), noise=0.2, nan_seed=seed)
    evaluation = rollout(broken, ToyTask(), SEEDS, workers=2)
    (failed,) = evaluation.errors
    assert (failed.seed, failed.error_source, failed.counts) == (seed, "policy", True)
    assert "ToyPolicy" in str(failed.error)
    assert not failed.success_once
    assert len(evaluation.counted) == len(SEEDS)
    rest = [row for row in without_history(reference) if row[0] != seed]
    assert [row for row in without_history(evaluation) if row[0] != seed] == rest


def test_a_scene_that_cannot_be_built_stops_the_rollout_with_its_reason(policy):
    with pytest.raises(RolloutError, match="RuntimeError: no such scene"):
        rollout(policy, ToyTask(broken=True), SEEDS, workers=1)


def test_finished_episodes_are_not_run_again_and_foreign_ones_refused(policy, reference, tmp_path):
    rollout(policy, ToyTask(), SEEDS[:5], workers=1, output=tmp_path)
    with pytest.raises(EvaluationError, match="--resume"):
        rollout(policy, ToyTask(), SEEDS, workers=1, output=tmp_path)
    with pytest.raises(EvaluationError, match="another rollout"):
        rollout(policy, ToyTask(), SEEDS, workers=1, output=tmp_path, resume=True, batch_size=2)
    with pytest.raises(EvaluationError, match="another policy"):
        rollout(policy, ToyTask(), SEEDS, output=tmp_path, resume=True, policy_info={"checkpoint": "b"})
    with open(tmp_path / LOG_FILE, "a") as log:
        log.write('{"episode": {"seed": 2')  # torn by a crash
    resumed = rollout(policy, ToyTask(), SEEDS, workers=2, output=tmp_path, resume=True)
    assert [session.episodes for session in resumed.sessions] == [5, 7]
    assert without_history(resumed) == without_history(reference)
    assert Evaluation.load(tmp_path) == resumed


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import Fault, ToyEnv, ToyTask
from fibo_robot.envs.rollouts.api import rollout
if __name__ == "__main__":
    faults = tuple(Fault(seed, "sleep", {marks!r}) for seed in range(200, 212))
    task = ToyTask(faults=faults)
    rollout(ToyPolicy(task.shape_meta(), noise=0.2), task, range(200, 212), 2, output={output!r}, videos=2)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_what_finished_before_the_main_process_ended_is_kept(ending, policy, reference, tmp_path):
    output = tmp_path / "out"
    (tmp_path / "marks").mkdir()
    script = tmp_path / "run.py"
    marks = str(tmp_path / "marks")
    script.write_text(SCRIPT.format(folder=str(REPOSITORY), marks=marks, output=str(output)))
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE)
    children = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (output / LOG_FILE).exists() and (output / LOG_FILE).read_text().count('"episode"') >= 2:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            break
        time.sleep(0.02)
    process.send_signal(ending)
    process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    assert not (output / EVAL_FILE).exists()
    kept = (output / LOG_FILE).read_text().count('"episode"')
    assert 2 <= kept < len(SEEDS)

    resumed = rollout(policy, ToyTask(), SEEDS, workers=1, output=output, resume=True, videos=2)
    assert without_history(resumed) == without_history(reference)
    assert resumed.sessions[-1].episodes == len(SEEDS) - kept
    assert children
    assert not [pid for pid in children if _is_alive(pid)], "workers outlived the main process"


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.fixture
def nearly_full_disk(monkeypatch):
    """Every file that is written at once gets half of its content, then there is no space left."""

    def out_of_space(path, content):
        with open(path, "wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", out_of_space)
    monkeypatch.setattr(Path, "write_text", lambda path, text, **_: out_of_space(path, text.encode()))


def test_a_full_disk_costs_videos_and_action_traces_but_no_episode(
    policy, reference, tmp_path, nearly_full_disk, monkeypatch
):
    with pytest.raises(EvaluationError, match=r"eval\.json cannot be written \(No space left.*--resume"):
        rollout(policy, ToyTask(), SEEDS, workers=2, output=tmp_path, videos=1)
    monkeypatch.undo()  # somebody makes room
    evaluation = rollout(policy, ToyTask(), SEEDS, workers=2, output=tmp_path, videos=1, resume=True)
    assert without_history(evaluation) == without_history(reference)
    assert [session.episodes for session in evaluation.sessions] == [len(SEEDS)], "nothing ran again"
    filmed = evaluation.episodes[0]
    assert filmed.video is None and filmed.action_trace is None
    assert filmed.video_error is not None and filmed.action_trace_error is not None
    assert "No space left on device" in filmed.video_error
    assert "No space left on device" in filmed.action_trace_error
    assert not list((tmp_path / "videos").iterdir()) and not list((tmp_path / "action_traces").iterdir())
    page = write_evaluation_report(evaluation, tmp_path).read_text(encoding="utf-8")
    assert filmed.video_error in page and filmed.action_trace_error in page


def test_a_disk_too_full_for_the_log_stops_with_what_is_kept(policy, reference, tmp_path, monkeypatch):
    calls = []

    def full_at_the_fourth(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_at_the_fourth)
    with pytest.raises(EvaluationError, match=r"No space left on device.*2 episodes are kept"):
        rollout(policy, ToyTask(), SEEDS, workers=1, output=tmp_path)
    resumed = rollout(policy, ToyTask(), SEEDS, workers=1, output=tmp_path, resume=True)
    assert without_history(resumed) == without_history(reference)


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


def test_two_rollouts_into_one_folder_at_once_are_refused(policy, reference, tmp_path):
    with another_writer(tmp_path), pytest.raises(BusyError, match="is writing into"):
        rollout(policy, ToyTask(), SEEDS, output=tmp_path)
    assert without_history(rollout(policy, ToyTask(), SEEDS, output=tmp_path)) == without_history(reference)


def test_loading_what_is_no_evaluation_says_so(tmp_path):
    with pytest.raises(EvaluationError, match="There is no"):
        Evaluation.load(tmp_path)
    (tmp_path / EVAL_FILE).write_text("{")
    with pytest.raises(EvaluationError, match="cannot be read"):
        Evaluation.load(tmp_path)
    (tmp_path / EVAL_FILE).write_text('{"schema_version": 99}')
    with pytest.raises(EvaluationError, match="schema version 99"):
        Evaluation.load(tmp_path)
