"""robomimic's own script trains our backbone, and its checkpoints act here as they do in robomimic."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("robomimic")

from robomimic.algo import algo_factory
from robomimic.config import config_factory
from robomimic.utils import file_utils, obs_utils, train_utils

from fibo_robot.benchmarks.simulation.rollout import SerialEnv
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.tasks import Task, get_task
from fibo_robot.policies.adapters.robomimic import register_backbone
from fibo_robot.policies.adapters.robomimic_checkpoint import RobomimicPolicy, load_robomimic_policy
from fibo_robot.policies.models.base import EpisodeNotBegun
from fibo_robot.training.checkpoint import CheckpointError

TASK = get_task("lift", horizon=8)
KEYS = ["robot0_eef_pos", "object"]
SHAPES = {"robot0_eef_pos": [3], "object": [10]}


def save(
    path: Path, *, rnn: bool = False, mixture: bool = True, env_meta: dict[str, Any] | None = None
) -> Path:
    """An untrained checkpoint, saved by robomimic's own function; a mixture draws."""
    register_backbone()
    torch.manual_seed(3)
    config = config_factory("bc")
    with config.values_unlocked():
        config.observation.modalities.obs.low_dim = KEYS
        config.observation.modalities.obs.rgb = []
        config.algo.actor_layer_dims = [16]
        config.algo.gmm.enabled = mixture
        config.algo.rnn.enabled = rnn
        config.algo.rnn.hidden_dim = 8
        config.algo.rnn.horizon = 3
    obs_utils.initialize_obs_utils_with_config(config)
    algo = algo_factory("bc", config, obs_key_shapes=SHAPES, ac_dim=7, device=torch.device("cpu"))
    shapes = {"all_shapes": SHAPES, "ac_dim": 7, "all_obs_keys": KEYS, "use_images": False}
    train_utils.save_model(algo, config, env_meta or TASK.env_args(), shapes, str(path))
    return path


def robomimics_actions(path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, dict]:
    """The actions of one episode in robomimic's own loop, and what it says of it."""
    policy, _ = file_utils.policy_from_checkpoint(ckpt_path=str(path), device=torch.device("cpu"))
    env = SerialEnv(TASK, load_robomimic_policy(path))
    env.seed = seed
    taken: list[np.ndarray] = []
    step = env.step
    monkeypatch.setattr(env, "step", lambda action: (taken.append(action), step(action))[1])
    try:
        stats = train_utils.run_rollout(policy, env, TASK.horizon, terminate_on_success=False)
    finally:
        env.close()
    return np.stack(taken), stats


@pytest.mark.parametrize("rnn", [False, True])
def test_an_episode_is_the_one_of_robomimics_own_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rnn: bool
) -> None:
    """Without noise they must be equal; a mixture's own deviation is 1e-4 in evaluation."""
    path = save(tmp_path / "model.pth", rnn=rnn)
    # Both draw the most likely mode's mean.
    policy = load_robomimic_policy(path)
    assert isinstance(policy, RobomimicPolicy) and Task.from_dict(policy.meta["task"]) == TASK.resolved()
    monkeypatch.setattr(torch.distributions.Independent, "sample", lambda self, shape=(): self.mean)
    monkeypatch.setattr(torch.distributions.MixtureSameFamily, "sample", lambda self, shape=(): self.mean)
    seen: list[np.ndarray] = []
    act = policy.act
    monkeypatch.setattr(
        policy, "act", lambda obs, episodes: (a := act(obs, episodes), seen.append(a[0, 0].numpy()))[0]
    )
    evaluation = rollout(policy, seeds=[5], workers=1, success_hold=None, progress=False)
    actions, stats = robomimics_actions(path, 5, monkeypatch)
    np.testing.assert_allclose(np.stack(seen), actions, atol=1e-6)
    (episode,) = evaluation.episodes
    assert episode.success_once == bool(stats["Success_Rate"])
    assert episode.sum_reward == pytest.approx(stats["Return"])
    assert np.ptp(actions, axis=0).max() > 1e-3  # it does not stand still


@pytest.mark.parametrize("rnn", [False, True])
def test_an_episode_is_the_same_whatever_runs_beside_it(tmp_path: Path, rnn: bool) -> None:
    policy = load_robomimic_policy(save(tmp_path / "model.pth", rnn=rnn))
    steps = [{"robot0_eef_pos": torch.randn(2, 1, 3), "object": torch.randn(2, 1, 10)} for _ in range(5)]
    policy.reset([1, 2])
    together = [policy.act(obs, [1, 2]) for obs in steps]
    policy.reset([2])
    alone = [policy.act({key: values[1:] for key, values in obs.items()}, [2]) for obs in steps]
    assert all(torch.equal(both[1:], one) for both, one in zip(together, alone))
    policy.forget([1, 2])
    with pytest.raises(EpisodeNotBegun):
        policy.act(steps[0], [1, 2])


def test_what_a_policy_sees_of_objects_is_in_the_order_that_it_learnt(tmp_path: Path) -> None:
    """robosuite 1.4 has cube minus gripper where ours has gripper minus cube."""
    env_meta = {**TASK.env_args(), "env_version": "1.4.1"}
    del env_meta["fibo_robot"]
    env_meta["env_kwargs"] = {
        key: env_meta["env_kwargs"][key] for key in ("robots", "controller_configs", "control_freq")
    }
    ours = load_robomimic_policy(save(tmp_path / "ours.pth"))
    old = load_robomimic_policy(save(tmp_path / "old.pth", env_meta=env_meta))
    values = torch.arange(1.0, 11)[None]
    assert ours._as_robomimic("object", values).tolist() == values[0].tolist()
    assert old._as_robomimic("object", values).tolist() == [1, 2, 3, 4, 5, 6, 7, -8, -9, -10]


class Executed:
    def __reduce__(self) -> tuple:
        return print, ("executed",)


def test_what_would_execute_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "model.pth")
    stored = torch.load(path, weights_only=True)
    torch.save({**stored, "shape_metadata": Executed()}, tmp_path / "pickled.pth")
    with pytest.raises(CheckpointError, match=r"pickled\.pth is not read: .*could execute code"):
        load_robomimic_policy(tmp_path / "pickled.pth")
    config = json.loads(stored["config"])
    config["observation"]["encoder"]["rgb"]["core_kwargs"] = {"backbone_class": "print('executed')"}
    torch.save({**stored, "config": json.dumps(config)}, tmp_path / "evaluated.pth")
    with pytest.raises(CheckpointError, match=r"asks for the network \"print\('executed'\)\""):
        load_robomimic_policy(tmp_path / "evaluated.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "is not read|is damaged"),
        ({"model": {}}, "is no robomimic checkpoint"),
        ({"algo_name": "iql"}, "algorithm iql; only bc"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: Any, message: str) -> None:
    path = save(tmp_path / "model.pth")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        stored = torch.load(path, weights_only=True) if "algo_name" in content else {}
        torch.save({**stored, **content}, path)
    with pytest.raises(CheckpointError, match=message):
        load_robomimic_policy(path)


@pytest.mark.slow
def test_a_stock_config_trains_with_our_backbone_and_its_checkpoint_acts(
    demonstrations: Path, warm: list[str], tmp_path: Path
) -> None:
    config = config_factory("bc")
    with config.values_unlocked():
        config.observation.modalities.obs.low_dim = ["robot0_eef_pos"]
        config.observation.modalities.obs.rgb = ["agentview_image"]
        rgb = config.observation.encoder.rgb
        rgb.core_class = "VisualCore"
        rgb.core_kwargs = {
            "backbone_class": "FiboBackbone",
            "backbone_kwargs": {"image_size": 84, "attention": "fibottention"},
            "pool_class": None,
            "feature_dimension": 16,
        }
        config.train.output_dir = str(tmp_path / "out")
        config.train.num_epochs, config.train.batch_size = 1, 4
        config.train.cuda = False
        config.experiment.epoch_every_n_steps = 2
        config.experiment.rollout.enabled = config.experiment.validate = False
        config.experiment.logging.log_tb = False
        config.experiment.save.every_n_epochs = 1
    (tmp_path / "bc.json").write_text(config.dump())
    command = [*warm, "python", "-m", "fibo_robot.policies.adapters.robomimic"]
    done = subprocess.run(
        [*command, "--config", str(tmp_path / "bc.json"), "--dataset", str(demonstrations), "--name", "tiny"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "finished run successfully" in done.stdout, (done.stdout + done.stderr)[-3000:]
    (path,) = (tmp_path / "out").rglob("model_epoch_1*.pth")
    policy = load_robomimic_policy(path)
    policy.reset([0])
    obs = {
        "agentview_image": torch.zeros(1, 1, 3, 84, 84, dtype=torch.uint8),
        "robot0_eef_pos": torch.zeros(1, 1, 3),
    }
    assert policy.act(obs, [0]).shape == (1, 1, 7)
