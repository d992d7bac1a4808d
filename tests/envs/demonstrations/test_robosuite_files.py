"""Files as robosuite's own collection script writes them, of environments that are not registered."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.convert import convert_demonstrations
from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.demonstrations.info import describe_demonstrations
from fibo_robot.envs.demonstrations.replay import replay_demonstrations
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.interfaces import ShapeMeta
from fibo_robot.policies.data.module import DemonstrationData

pytestmark = pytest.mark.sim
STEPS = 6


def collect(path: Path, env_name: str, robots: Sequence[str], **options: Any) -> dict[str, np.ndarray]:
    """A file of one demonstration, and what robosuite observed at each of its states, by its names."""
    import robosuite
    from robosuite.controllers import load_composite_controller_config

    controller = load_composite_controller_config(robot=robots[0])
    info = {"env_name": env_name, "robots": list(robots), "controller_configs": controller, **options}
    env = robosuite.make(
        **info,
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        ignore_done=True,
        seed=5,
    )
    env.reset()
    generator = np.random.default_rng(0)
    states, actions, seen = [], [], []
    for _ in range(STEPS):
        states.append(env.sim.get_state().flatten())
        env._get_observations(force_update=True)
        seen.append(env._get_observations(force_update=True))
        actions.append(generator.uniform(-1, 1, env.action_dim))
        env.step(actions[-1])
        env.sim.forward()
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_1")
        demo["states"], demo["actions"] = np.array(states), np.array(actions)
        demo.attrs["model_file"] = env.sim.model.get_xml()
        described = {"env": env_name, "env_info": json.dumps(info), "date": "1-1-2026", "time": "0:0:0"}
        file["data"].attrs.update(described | {"repository_version": robosuite.__version__})
    env.close()
    return {name: np.array([np.ravel(row[name]) for row in seen]) for name in seen[0]}


class Still:
    """Does nothing."""

    def __init__(self, shape_meta: ShapeMeta) -> None:
        self.shape_meta = shape_meta

    def reset(self, episodes: Sequence[int]) -> None: ...
    def forget(self, episodes: Sequence[int]) -> None: ...
    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        return torch.zeros(len(episodes), self.shape_meta.n_action_steps, self.shape_meta.action.dim)


@pytest.mark.slow
def test_a_door_is_converted_trained_on_and_rolled_out(tmp_path: Path) -> None:
    seen = collect(tmp_path / "demo.hdf5", "Door", ["Panda"], use_latch=True)
    with DemonstrationFile(tmp_path / "demo.hdf5") as file:
        task = file.task()
    assert (task.name, task.horizon, task.options) == ("door", 100, {"use_latch": True})
    assert list(task.object_entries) == [
        *("door_pos", "handle_pos", "hinge_qpos", "door_to_eef_pos", "handle_to_eef_pos", "handle_qpos")
    ]
    made = convert_demonstrations(tmp_path / "demo.hdf5", tmp_path / "image.hdf5", image_size=16)
    assert (made.episodes, made.steps) == (1, STEPS)
    with DemonstrationFile(tmp_path / "image.hdf5") as file:
        converted = file.task()
        assert file.observation("demo_1", "agentview_image").shape == (STEPS, 16, 16, 3)
        expected = np.concatenate([seen[name] for name in task.object_entries], axis=1)
        np.testing.assert_allclose(file.observation("demo_1", "object"), expected, atol=1e-5)
        for key in ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"):
            np.testing.assert_allclose(file.observation("demo_1", key), seen[key], atol=1e-5)
    assert replace(converted, cameras=(), image_size=84, renderer="auto") == replace(
        task, cameras=(), image_size=84, quality=converted.quality
    )
    # Its controller counts deltas in the frame of the robot's base: it is robosuite 1.5's, kept as it is.
    assert replay_demonstrations(tmp_path / "image.hdf5", "actions").to_dict()["max_object_drift"] < 1e-4
    keys = ["robot0_eef_pos", "object"]
    data = DemonstrationData(str(tmp_path / "image.hdf5"), keys, filter_key=None, valid_key=None)
    data.setup("fit")
    assert data.train is not None and data.train[0]["obs"]["object"].shape[-1] == 14
    shorter = replace(converted, horizon=3)
    evaluation = rollout(Still(shorter.shape_meta(keys)), shorter, [7], workers=1, progress=False)
    assert [episode.length for episode in evaluation.counted] == [3]
    assert {"door", "handle"} <= evaluation.episodes[0].object_positions.keys()


def test_another_robot_is_asked_of_the_simulator(tmp_path: Path) -> None:
    seen = collect(tmp_path / "demo.hdf5", "Lift", ["UR5e"])
    with DemonstrationFile(tmp_path / "demo.hdf5") as file:
        task = file.task()
        states, model_file = file.states("demo_1"), file.attributes("demo_1")["model_file"]
    lift = get_task("lift")
    assert (task.name, task.horizon, task.cameras) == ("lift_ur5e", lift.horizon, lift.cameras)
    assert task.low_dim == {**lift.low_dim, "robot0_gripper_qpos": 6}
    assert task.object_entries == {} and task.action == lift.action
    env = task.make_env(["object", "robot0_gripper_qpos"])
    env.take_geometry(model_file)
    for step, state in enumerate(states):
        env.show_state(state)
        shown = env.observe()
        np.testing.assert_allclose(shown["robot0_gripper_qpos"], seen["robot0_gripper_qpos"][step], atol=1e-5)
        np.testing.assert_allclose(shown["object"][:3], seen["cube_pos"][step], atol=1e-5)
        np.testing.assert_allclose(shown["object"][7:], seen["gripper_to_cube_pos"][step], atol=1e-5)
    env.close()
    assert describe_demonstrations(tmp_path / "demo.hdf5").versions == {"robosuite": "1.5.2"}


@pytest.mark.slow
def test_marks_that_were_wiped_stay_wiped_when_states_are_shown(tmp_path: Path) -> None:
    seen = collect(tmp_path / "demo.hdf5", "Wipe", ["Panda"])
    made = convert_demonstrations(tmp_path / "demo.hdf5", tmp_path / "image.hdf5", image_size=16)
    assert made.steps == STEPS
    with DemonstrationFile(tmp_path / "image.hdf5") as file:
        task = file.task()
        assert (task.action.dim, task.action.arms, task.action.rotation) == (6, 0, "none")
        shown = file.observation("demo_1", "object")
    expected = np.concatenate([seen[name] for name in task.object_entries], axis=1)
    np.testing.assert_allclose(shown, expected, atol=1e-4)


def test_attributes_that_name_no_environment_are_refused(tmp_path: Path) -> None:
    for info, reason in (("Lift", "do not name an environment"), ('{"robots": ["Panda"]}', "do not name")):
        with h5py.File(tmp_path / "bad.hdf5", "w") as file:
            file["data/demo_1/actions"] = np.zeros((2, 7))
            file["data"].attrs["env_info"] = info
        with pytest.raises(DatasetError, match=reason):
            DemonstrationFile(tmp_path / "bad.hdf5")
