"""PushT: the task that needs no robot follows the same contracts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

from fibo_robot.envs import get_task
from fibo_robot.envs.pusht import PushTEnv, PushTTask
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.rollouts.identity import RolloutError
from fibo_robot.envs.tasks import task_from_dict
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ShapeMeta


def test_the_task_travels_as_data_and_names_its_kind() -> None:
    task = get_task("pusht", image_size=64)
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task
    assert task_from_dict(get_task("lift").to_dict()) == get_task("lift")
    with pytest.raises(FiboError, match="'image_size'"):
        get_task("pusht", image_siz=64)
    with pytest.raises(FiboError, match="'golf' is not known"):
        task_from_dict({"kind": "golf"})


def test_a_policy_that_looks_is_not_told_where_the_block_is() -> None:
    meta = get_task("pusht").shape_meta(n_obs_steps=2, action_horizon=8, n_action_steps=8)
    assert {key: spec.shape for key, spec in meta.obs.items()} == {
        "top_image": (3, 96, 96),
        "agent_pos": (2,),
    }
    assert (meta.action.dim, meta.action.mode, meta.action.high) == (2, "absolute", (512.0, 512.0))
    assert get_task("pusht").shape_meta(["environment_state"]).obs["environment_state"].shape == (16,)
    with pytest.raises(FiboError, match="no observation 'objects'"):
        get_task("pusht").shape_meta(["objects"])


@pytest.mark.pusht
@pytest.mark.parametrize("action", [np.array([np.nan, 3.0]), np.array([3.0]), np.zeros((1, 2))])
def test_what_is_no_action_is_refused(action: np.ndarray) -> None:
    env = PushTEnv(PushTTask())
    env.reset(seed=0)
    with pytest.raises(FiboError, match=r"[Aa]n action"):
        env.step(action)


@pytest.mark.pusht
def test_an_episode_is_a_function_of_its_seed() -> None:
    actions = np.random.default_rng(0).uniform(100, 400, (8, 2))
    first, second = (PushTEnv(PushTTask()) for _ in range(2))
    second.reset(seed=1)
    second.advance(actions[0])
    traces = []
    for env in (first, second):
        observation, _ = env.reset(seed=7)
        rewards = [env.advance(action).reward for action in actions]
        traces.append((observation, env.observe(), env.scene()["state"], rewards))
    (begin, end, scene, rewards), (other_begin, other_end, other_scene, other_rewards) = traces
    assert rewards == other_rewards
    np.testing.assert_array_equal(scene, other_scene)
    for key in first.obs_keys:
        np.testing.assert_array_equal(begin[key], other_begin[key])
        np.testing.assert_array_equal(end[key], other_end[key])
    assert np.abs(end["agent_pos"] - begin["agent_pos"]).max() > 10, "nothing moved"
    assert np.abs(first.reset(seed=8)[0]["environment_state"] - begin["environment_state"]).max() > 1


@pytest.mark.pusht
def test_it_is_solved_where_the_block_covers_its_mark() -> None:
    env = PushTEnv(PushTTask(), ["agent_pos"])
    env.reset(seed=0)
    corner = np.array([30.0, 30.0])
    env._world._set_state([*corner, 256, 256, np.pi / 4])
    # gym-pusht places the block before it turns it: turned, it lies beside its mark.
    beside = env.advance(corner)
    assert not beside.success and 0 < beside.reward < 1
    env._world.block.position, env._world.block.angle = (256, 256), np.pi / 4
    solved = env.advance(corner)
    assert solved.success and solved.reward == 1.0


@pytest.mark.pusht
def test_gymnasium_knows_it() -> None:
    env = gymnasium.make("fibo_robot/PushT-v0", render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=False)
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray) and picture.shape == (256, 256, 3) and picture.std() > 10
    for _ in range(299):
        assert not env.step(np.array([256, 256], np.float32))[3]
    assert env.step(np.array([256, 256], np.float32))[3]
    env.close()


class Towards:
    """Goes to one point."""

    def __init__(self, shape_meta: ShapeMeta, goal: tuple[float, float] = (200.0, 300.0)) -> None:
        self.shape_meta, self.goal = shape_meta, goal
        self.meta: dict[str, Any] = {}

    def reset(self, episodes: Sequence[int]) -> None: ...
    def forget(self, episodes: Sequence[int]) -> None: ...
    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        rows = obs["agent_pos"].shape[0]
        return torch.tensor(self.goal).expand(rows, self.shape_meta.n_action_steps, 2)


@pytest.mark.pusht
def test_policies_are_rolled_out_on_it(tmp_path: Path) -> None:
    task = get_task("pusht", horizon=12)
    policy = Towards(task.shape_meta(action_horizon=4, n_action_steps=4))
    evaluation = rollout(policy, task, range(3), workers=1, output=tmp_path, videos=1, progress=False)
    assert [episode.length for episode in evaluation.episodes] == [12, 12, 12]
    assert evaluation.task["kind"] == "pusht" and evaluation.versions["gym-pusht"]
    video = evaluation.episodes[0].video
    assert video is not None and (tmp_path / video).stat().st_size > 1000
    again = rollout(policy, task, [2], workers=1, progress=False)
    assert again.episodes[0].trace == evaluation.episodes[2].trace
    policy.meta = {"task": get_task("lift").to_dict()}
    with pytest.raises(RolloutError, match="another task"):
        rollout(policy, task, [2], workers=1, progress=False)
