"""What a task is, without a simulator."""

import json
import subprocess
import sys

import pytest

from fibo_robot.envs import TASKS, Task, get_task
from fibo_robot.envs.simulation.rendering import (
    RendererError,
    RenderQuality,
    prepare_rendering,
    resolve_renderer,
)
from fibo_robot.errors import FiboError


@pytest.mark.parametrize("name", TASKS)
def test_task_survives_json(name: str) -> None:
    task = get_task(name, image_size=96, quality=RenderQuality(reflections=True))
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(FiboError, match="'square'"):
        get_task("sqare")
    with pytest.raises(FiboError, match="'image_size'"):
        get_task("lift", image_siz=96)
    with pytest.raises(FiboError, match="'robot0_eef_pos'"):
        get_task("lift").shape_meta(["robot0_eef_po"])


def test_shape_meta_leaves_the_privileged_object_state_out_unless_asked() -> None:
    task = get_task("lift")
    seen = task.shape_meta(n_obs_steps=2, action_horizon=8, n_action_steps=4)
    assert seen.keys("rgb") == ["agentview_image", "robot0_eye_in_hand_image"]
    assert seen.obs["agentview_image"].shape == (3, 84, 84)
    assert "object" not in seen.obs
    assert (seen.n_obs_steps, seen.action_horizon, seen.n_action_steps, seen.action_dim) == (2, 8, 4, 7)
    privileged = task.shape_meta(["robot0_eef_pos", "object"])
    assert {key: spec.shape for key, spec in privileged.obs.items()} == {
        "robot0_eef_pos": (3,),
        "object": (10,),
    }


def test_importing_the_tasks_starts_neither_simulator_nor_torch() -> None:
    code = (
        "import sys, gymnasium, fibo_robot.envs; assert 'fibo_robot/ToolHang-v0' in gymnasium.registry; "
        "print([name for name in ('mujoco', 'robosuite', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_env_args_name_the_renderer_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    env_args = get_task("lift").env_args()
    assert env_args["fibo_robot"]["task"]["renderer"] == "osmesa"
    assert env_args["fibo_robot"]["versions"]["mujoco"]
    json.dumps(env_args)


def test_a_missing_library_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(
        "fibo_robot.envs.simulation.rendering._LIBRARIES",
        {"egl": "libNoSuchEGL.so", "osmesa": "libNoSuchOSMesa.so"},
    )
    with pytest.raises(RendererError, match="libegl1 and libgl1-mesa-dri"):
        resolve_renderer("auto")
    with pytest.raises(RendererError, match="libosmesa6"):
        prepare_rendering("osmesa")
    with pytest.raises(RendererError, match="auto, egl, osmesa, warp"):
        resolve_renderer("vulkan")
