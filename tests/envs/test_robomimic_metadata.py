"""Environment metadata of robomimic's own files becomes a task."""

from pathlib import Path
from typing import Any

import pytest

from fibo_robot.envs import get_task
from fibo_robot.envs.controllers import composite_controller
from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.rendering.settings import RenderQuality
from fibo_robot.envs.robomimic_metadata import task_from_env_args
from fibo_robot.interfaces import ActionSpec

OLD_ARM = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_limits": [0, 10],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "control_delta": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
}


def metadata(**env_kwargs: Any) -> dict[str, Any]:
    kwargs = {"robots": "Panda", "controller_configs": OLD_ARM, "control_freq": 20, **env_kwargs}
    return {"env_name": "Lift", "type": 1, "env_kwargs": kwargs}


def test_an_old_controller_becomes_the_same_one_in_the_world_frame() -> None:
    task = task_from_env_args(metadata(), "old.hdf5")
    arm = task.controller["body_parts"]["right"]
    assert (arm["input_ref_frame"], arm["input_type"], arm["damping_ratio"]) == ("world", "delta", 1)
    assert task == get_task("lift")  # ours is robomimic's controller


def test_absolute_actions_stay_absolute() -> None:
    config = composite_controller({**OLD_ARM, "control_delta": False}, ["Panda"], "old.hdf5")
    assert config["body_parts"]["right"]["input_type"] == "absolute"


def test_pictures_without_our_settings_were_drawn_as_robosuite_draws() -> None:
    images = metadata(camera_names=["agentview"], camera_heights=128, camera_widths=128)
    task = task_from_env_args(images, "image.hdf5")
    assert (task.cameras, task.image_size) == (("agentview",), 128)
    assert task.quality == RenderQuality(shadows=True, reflections=True, multisamples=4)


def test_settings_of_the_scene_are_carried_and_travel_on() -> None:
    noise = {"magnitude": 0.05, "type": "uniform"}
    task = task_from_env_args(
        metadata(initialization_noise=noise, lite_physics=False, gripper_types="default", has_renderer=False),
        "x.hdf5",
    )
    assert task.options == {"initialization_noise": noise, "lite_physics": False}
    assert task_from_env_args(task.env_args(), "x.hdf5") == task.resolved()
    assert task.robosuite_kwargs()["lite_physics"] is False


def test_settings_that_would_be_lost_are_named() -> None:
    with pytest.raises(DatasetError, match=r"recorded with bin1_pos=\[0\.1\], tables=2"):
        task_from_env_args(metadata(tables=2, bin1_pos=[0.1], placement_initializer=None), "x.hdf5")


@pytest.mark.sim
def test_a_carried_setting_reaches_the_simulator() -> None:
    still = task_from_env_args(
        metadata(initialization_noise={"magnitude": 0.0, "type": "gaussian"}), "x.hdf5"
    )
    env = still.make_env(["robot0_eef_pos"])
    first, second = (env.reset(seed=seed)[0]["robot0_eef_pos"] for seed in (0, 1))
    assert (first == second).all()
    env.close()


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(DatasetError, match="JOINT_VELOCITY"):
        task_from_env_args(metadata(controller_configs={**OLD_ARM, "type": "JOINT_VELOCITY"}), "x.hdf5")
    with pytest.raises(DatasetError, match=r"environment Doors, .*; it has Door, Lift"):
        task_from_env_args({**metadata(), "env_name": "Doors"}, "x.hdf5")
    with pytest.raises(DatasetError, match="two arms"):
        task_from_env_args(metadata(robots="Baxter"), "x.hdf5")
    with pytest.raises(DatasetError, match="no controller"):
        task_from_env_args(metadata(controller_configs=None), "x.hdf5")
    with pytest.raises(DatasetError, match="different controllers"):
        task_from_env_args(metadata(controller_configs=[OLD_ARM, {**OLD_ARM, "kp": 50}]), "x.hdf5")


@pytest.mark.data
def test_the_human_demonstrations_are_of_lift(shared_data: Path) -> None:
    with DemonstrationFile(shared_data / "robot" / "lift_panda_human29_raw.hdf5") as file:
        assert file.task() == get_task("lift")
        assert len(file.demos) == 29
        assert len(file.mask("short150")) == 22
        assert sum(file.length(demo) for demo in file.demos) == 5308


def test_what_the_actions_are_follows_from_the_controller() -> None:
    assert task_from_env_args(metadata(), "old.hdf5").action == ActionSpec.deltas()
    absolute = metadata(controller_configs={**OLD_ARM, "control_delta": False})
    assert task_from_env_args(absolute, "absolute.hdf5").action == ActionSpec.poses()
    two = {**absolute, "env_name": "TwoArmTransport"}
    two["env_kwargs"] = {**absolute["env_kwargs"], "robots": ["Panda", "Panda"]}
    assert task_from_env_args(two, "two.hdf5").action == ActionSpec.poses(arms=2)
    composite = composite_controller({**OLD_ARM, "control_delta": False}, ["Panda"], "composite.hdf5")
    assert (
        task_from_env_args(metadata(controller_configs=composite), "composite.hdf5").action.mode == "absolute"
    )
