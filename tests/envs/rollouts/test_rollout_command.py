"""`fibo rollout` as a user types it, on the real simulator: demonstrations checked, interrupted, resumed."""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import pytest
import torch
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.envs.demonstrations.record import Recording, record_demonstrations
from fibo_robot.envs.results.evaluation import EVAL_FILE, Evaluation, EvaluationError
from fibo_robot.envs.results.runs import LAST_FILE
from fibo_robot.envs.rollouts.log import LOG_FILE
from fibo_robot.errors import FiboError
from fibo_robot.policies.models.bc import BehaviourCloning
from fibo_robot.policies.models.heads import GaussianMixtureHead
from fibo_robot.training.checkpoint import epoch_folder, save_checkpoint

pytestmark = pytest.mark.sim
EPISODES, FIRST_SEED = 6, 300
# No pictures: the episodes are the simulator's, and cheap.
TASK = get_task("lift", horizon=6)
KEYS = ["robot0_eef_pos", "object"]
MODEL = {
    "_target_": "fibo_robot.policies.models.bc.BehaviourCloning",
    "encoder": None,
    "head": {
        "_target_": "fibo_robot.policies.models.heads.GaussianMixtureHead",
        "_partial_": True,
        "hidden": [16],
    },
}


def save_policy(folder: Path, seed: int = 0) -> Path:
    """The run directory of an untrained policy: its actions are large and differ from episode to episode."""
    torch.manual_seed(seed)
    shape_meta = TASK.shape_meta(KEYS, action_horizon=2, n_action_steps=2)
    policy = BehaviourCloning(shape_meta, None, lambda **sizes: GaussianMixtureHead(**sizes, hidden=(16,)))
    policy.fit_normalizer(
        {
            "robot0_eef_pos": torch.randn(50, 3),
            "object": torch.randn(50, 10),
            "action": torch.tensor([[-2.0] * 7, [2.0] * 7]),
        }
    )
    meta = {"kind": "policy", "shape_meta": shape_meta.to_dict(), "task": TASK.to_dict()}
    save_checkpoint(folder, policy.state_dict(), {"policy": MODEL}, meta)
    return folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("run") / "policy")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demos") / "lift.hdf5"
    record_demonstrations(get_task("lift", cameras=()), path, Recording(episodes=2, seed=40, noise=0.1))
    return path


def arguments(policy: Path, output: Path, *more: str) -> list[str]:
    numbers = ["--episodes", str(EPISODES), "--seed", str(FIRST_SEED), "--workers", "1"]
    return ["rollout", str(policy), "--output", str(output), *numbers, *more]


def fibo(*command: str) -> str:
    """Run `fibo` here; its errors go through."""
    return CliRunner().invoke(app, command, catch_exceptions=False).output


@pytest.fixture(scope="module")
def uninterrupted(policy: Path, demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    fibo(*arguments(policy, output, "--check-demos", str(demonstrations)))
    return output


def test_the_check_of_the_demonstrations_stands_in_the_result_and_in_the_report(uninterrupted: Path) -> None:
    sentence = (
        "2 of 2 demonstrations in lift.hdf5 still succeed when their recorded actions are played in this "
        "simulator."
    )
    assert json.loads((uninterrupted / EVAL_FILE).read_text())["notes"] == [sentence]
    assert sentence in (uninterrupted / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"env_name": "NutAssemblySquare"}, r"another environment \(NutAssemblySquare, Panda, 20 Hz\)"),
        ({"robots": ["Sawyer"]}, r"another robot \(Lift, Sawyer, 20 Hz\)"),
        ({"controller": {"type": "BASIC", "body_parts": {}}}, "another controller "),
        ({"control_freq": 10}, r"another control frequency \(Lift, Panda, 10 Hz\)"),
    ],
)
def test_demonstrations_of_another_simulation_are_refused_before_anything_runs(
    change: dict, reason: str, policy: Path, demonstrations: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.hdf5"
    foreign.write_bytes(demonstrations.read_bytes())
    with h5py.File(foreign, "r+") as file:
        env_args = json.loads(str(file["data"].attrs["env_args"]))
        env_args["fibo_robot"]["task"].update(change)
        file["data"].attrs["env_args"] = json.dumps(env_args)
    with pytest.raises(DatasetError, match=reason):
        fibo(*arguments(policy, tmp_path / "out", "--check-demos", str(foreign)))
    assert not (tmp_path / "out").exists()


def test_demonstrations_are_not_replayed_for_pusht(
    policy: Path, demonstrations: Path, tmp_path: Path
) -> None:
    with pytest.raises(FiboError, match="pusht cannot be replayed here: leave --check-demos out"):
        fibo(
            *arguments(
                policy, tmp_path / "out", "--other-task", "pusht", "--check-demos", str(demonstrations)
            )
        )
    assert not (tmp_path / "out").exists()


def test_an_interrupted_rollout_keeps_its_episodes_and_resumes_to_the_same_result(
    policy: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, decisions = BehaviourCloning.act, []

    def press_ctrl_c_at_the_tenth(
        self: BehaviourCloning, obs: Mapping[str, torch.Tensor], episodes: Sequence[int]
    ) -> torch.Tensor:
        decisions.append(episodes)
        if len(decisions) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return act(self, obs, episodes)

    with monkeypatch.context() as patch:
        patch.setattr(BehaviourCloning, "act", press_ctrl_c_at_the_tenth)
        stopped = CliRunner().invoke(app, arguments(policy, tmp_path))
    assert stopped.exit_code == 130
    assert "finished episodes are kept" in stopped.output
    assert not (tmp_path / EVAL_FILE).exists()
    # Two actions per decision, six steps per episode: the tenth belongs to the fourth episode.
    assert (tmp_path / LOG_FILE).read_text().count('"episode"') == 3

    fibo(*arguments(policy, tmp_path, "--resume"))
    whole, resumed = Evaluation.load(uninterrupted), Evaluation.load(tmp_path)
    assert resumed.episodes == whole.episodes
    assert len({episode.trace for episode in whole.episodes}) == EPISODES
    assert [session.episodes for session in resumed.sessions] == [3, EPISODES - 3]


def test_a_result_of_another_policy_or_of_other_seeds_is_not_resumed(
    policy: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    before = (uninterrupted / LOG_FILE).read_bytes()
    other = save_policy(tmp_path / "policy", seed=1)
    with pytest.raises(EvaluationError, match=r"was evaluated with another policy.*another --output"):
        fibo(*arguments(other, uninterrupted, "--resume"))
    with pytest.raises(EvaluationError, match=r"does not ask for seed 300.*--seed"):
        fibo(*arguments(policy, uninterrupted, "--resume", "--seed", "301"))
    with pytest.raises(EvaluationError, match=r"does not ask for seed 305.*as many --episodes"):
        fibo(*arguments(policy, uninterrupted, "--resume", "--episodes", "5"))
    assert (uninterrupted / LOG_FILE).read_bytes() == before


def test_the_last_checkpoints_are_rolled_out_on_the_same_seeds_and_their_mean_is_reported(
    tmp_path: Path,
) -> None:
    run = save_policy(tmp_path / "run")
    for epoch in (3, 4):
        save_policy(epoch_folder(run, epoch), seed=epoch)
    output = fibo(*arguments(run, tmp_path / "out", "--last", "2"))
    found = json.loads((tmp_path / "out" / LAST_FILE).read_text())
    evaluations = [Evaluation.load(tmp_path / "out" / name) for name in found["checkpoints"]]
    assert list(found["checkpoints"]) == ["epoch_00003", "epoch_00004"]
    assert [evaluation.by_seed().keys() for evaluation in evaluations] == 2 * [set(range(300, 306))]
    assert found["success_once"] == sum(evaluation.success_rate for evaluation in evaluations) / 2
    assert "mean of the last 2 checkpoints: 0.0 %" in output
    assert "chosen on these test seeds" in output
