"""Rollouts on the toy task: nothing that fails is lost, and what is finished stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fibo_robot.envs.results.evaluation import EVAL_FILE, Evaluation, EvaluationError
from fibo_robot.envs.results.report import write_evaluation_report
from fibo_robot.envs.rollouts.api import RolloutError, Timeouts, rollout
from fibo_robot.envs.rollouts.log import LOG_FILE
from fibo_robot.processes import BusyError
from tests.conftest import REPOSITORY
from tests.envs.rollouts.conftest import SEEDS, without_history
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import Fault, ToyTask
from tests.processes import another_writer, is_running

QUICK = Timeouts(start=120.0, command=1.5)


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
    assert not [pid for pid in children if is_running(int(pid))], "workers outlived the main process"


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


def test_two_rollouts_into_one_folder_at_once_are_refused(policy, reference, tmp_path):
    with another_writer(tmp_path), pytest.raises(BusyError, match="is writing into"):
        rollout(policy, ToyTask(), SEEDS, output=tmp_path)
    assert without_history(rollout(policy, ToyTask(), SEEDS, output=tmp_path)) == without_history(reference)
