"""The policy and the environment inside LeRobot: trained, judged and loaded again."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("lerobot", reason="no LeRobot here: docs/lerobot.md")

from fibo_robot.envs.demonstrations.lerobot.write import write_lerobot
from fibo_robot.policies import load_policy
from tests.lerobot.demonstrations import write_demonstrations

pytestmark = pytest.mark.lerobot


def lerobot(command: str, *options: str) -> None:
    """Run `lerobot-train` or `lerobot-eval` as a user does."""
    program = Path(sys.executable).with_name(f"lerobot-{command}")
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([program, *options], env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `lerobot-train` leaves after three steps."""
    folder = tmp_path_factory.mktemp("trained")
    write_lerobot(write_demonstrations(folder / "lift.hdf5"), folder / "data", "h264")
    lerobot(
        "train",
        "--policy.discover_packages_path=fibo_robot.lerobot",
        "--policy.type=fibo",
        "--policy.task=lift",
        "--policy.n_obs_steps=2",
        "--policy.device=cpu",
        "--policy.push_to_hub=false",
        "--dataset.repo_id=owner/lift",
        f"--dataset.root={folder / 'data'}",
        "--dataset.video_backend=pyav",
        f"--output_dir={folder / 'out'}",
        "--steps=3",
        "--save_freq=3",
        "--batch_size=4",
        "--num_workers=0",
    )
    return folder / "out" / "checkpoints" / "000003" / "pretrained_model"


def policy_and_pipelines(checkpoint: Path) -> tuple[Any, Any, Any]:
    from lerobot.configs.policies import PreTrainedConfig  # pyright: ignore[reportMissingImports]
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors  # pyright: ignore[reportMissingImports]

    from fibo_robot.lerobot import configuration_fibo  # noqa: F401  (registers the type, as LeRobot's option does)

    config = PreTrainedConfig.from_pretrained(checkpoint)
    policy = get_policy_class("fibo").from_pretrained(checkpoint, config=config)
    return policy, *make_pre_post_processors(config, pretrained_path=str(checkpoint))


@pytest.mark.slow
def test_lerobot_and_load_policy_act_alike(checkpoint: Path) -> None:
    theirs, before, after = policy_and_pipelines(checkpoint)
    ours = load_policy(checkpoint)
    ours.reset([0, 1])
    generator = torch.Generator().manual_seed(0)
    earlier: dict[str, torch.Tensor] | None = None
    chunk: torch.Tensor | None = None
    for step in range(9):  # two chunks of four, and the first action of the next
        cameras = {f"observation.images.{name}": (3, 84, 84) for name in ("agentview", "robot0_eye_in_hand")}
        shapes = {**cameras, "observation.state": (9,), "observation.environment_state": (10,)}
        seen = {key: torch.rand((2, *shape), generator=generator) for key, shape in shapes.items()}
        action = after(theirs.select_action(before(dict(seen))))
        now: dict[str, torch.Tensor] = theirs.recipe.observations(seen)
        earlier = now if earlier is None else earlier
        if chunk is None or step % 4 == 0:
            both = {key: torch.cat([earlier[key], now[key]], dim=1) for key in now}
            chunk = ours.act(both, [0, 1])
        torch.testing.assert_close(action, chunk[:, step % 4])
        earlier = now


@pytest.mark.slow
@pytest.mark.sim
def test_lerobot_judges_the_policy_in_our_simulator(checkpoint: Path, tmp_path: Path) -> None:
    lerobot(
        "eval",
        f"--policy.path={checkpoint}",
        "--policy.device=cpu",
        "--env.discover_packages_path=fibo_robot.lerobot",
        "--env.type=fibo",
        "--env.task=lift",
        "--env.episode_length=12",
        "--eval.n_episodes=2",
        "--eval.batch_size=2",
        f"--output_dir={tmp_path}",
    )
    result = json.loads((tmp_path / "eval_info.json").read_text())
    assert result["overall"]["n_episodes"] == 2


@pytest.mark.sim
def test_environment_is_what_lerobot_expects() -> None:
    from lerobot.envs.utils import preprocess_observation  # pyright: ignore[reportMissingImports]

    from fibo_robot.lerobot.environment import FiboEnv

    config = FiboEnv(task="lift", episode_length=3)
    env = gymnasium.make(config.gym_id, disable_env_checker=True, **config.gym_kwargs)
    observation, info = env.reset(seed=5)
    assert env.observation_space.contains(observation) and info == {"is_success": False}
    assert env.get_wrapper_attr("_max_episode_steps") == 3
    assert env.get_wrapper_attr("task_description") == "lift the cube"
    again, _ = env.reset(seed=5)
    np.testing.assert_array_equal(again["agent_pos"], observation["agent_pos"])
    found = preprocess_observation({"pixels": observation["pixels"], "agent_pos": observation["agent_pos"]})
    assert set(found) == {
        "observation.images.agentview",
        "observation.images.robot0_eye_in_hand",
        "observation.state",
    }
    ends = [env.step(np.zeros(7, np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    env.close()
