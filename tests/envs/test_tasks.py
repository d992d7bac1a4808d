"""What a task is, without a simulator."""

import json
import math
import subprocess
import sys

import pytest

from fibo_robot.envs import TASKS, Task, get_task
from fibo_robot.envs.controllers import osc_pose_controller
from fibo_robot.envs.rendering.settings import (
    RendererError,
    RenderQuality,
    prepare_rendering,
    resolve_renderer,
)
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ActionSpec, ShapeError, ShapeMeta


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
    assert (seen.n_obs_steps, seen.action_horizon, seen.n_action_steps, seen.action.dim) == (2, 8, 4, 7)
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
        "fibo_robot.envs.rendering.settings._LIBRARIES",
        {"egl": "libNoSuchEGL.so", "osmesa": "libNoSuchOSMesa.so"},
    )
    with pytest.raises(RendererError, match="libegl1 and libgl1-mesa-dri"):
        resolve_renderer("auto")
    with pytest.raises(RendererError, match="libosmesa6"):
        prepare_rendering("osmesa")
    with pytest.raises(RendererError, match="auto, egl, osmesa, warp"):
        resolve_renderer("vulkan")


def test_what_an_action_is_stands_in_valid_json() -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    for spec in (ActionSpec.deltas(), ActionSpec.poses(arms=2)):
        text = json.dumps(spec.to_dict(), allow_nan=False)
        assert ActionSpec.from_dict(json.loads(text, parse_constant=refuse)) == spec
    meta = get_task("transport").shape_meta(action_horizon=8)
    assert ShapeMeta.from_dict(json.loads(json.dumps(meta.to_dict()))) == meta
    assert (meta.action.dim, meta.action.arms, meta.action.mode) == (14, 2, "delta")


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        ((-1.0,), (1.0, 1.0), "as many bounds"),
        ((-1.0, -math.inf), (1.0, 1.0), "finite"),
        ((-1.0, 1.0), (1.0, 1.0), "below"),
    ],
)
def test_bounds_that_bound_nothing_are_refused(low: tuple, high: tuple, reason: str) -> None:
    with pytest.raises(ShapeError, match=reason):
        ActionSpec(2, low, high, arms=0)


def test_shapes_of_another_version_are_refused_with_what_to_do() -> None:
    earlier = {"obs": {}, "action_dim": 7, "n_obs_steps": 1, "action_horizon": 1, "n_action_steps": 1}
    with pytest.raises(ShapeError, match="Train the policy again"):
        ShapeMeta.from_dict(earlier)


def test_a_task_recorded_before_actions_had_a_specification_is_read() -> None:
    earlier = {key: value for key, value in get_task("transport").to_dict().items() if key != "action"}
    assert Task.from_dict({**earlier, "action_dim": 14}) == get_task("transport")


def test_a_controller_that_reads_actions_otherwise_than_the_task_is_refused() -> None:
    controller = osc_pose_controller()
    controller["body_parts"]["right"]["input_type"] = "absolute"
    with pytest.raises(FiboError, match=r"takes absolute actions, its action is delta"):
        get_task("lift", controller=controller)
    assert get_task("lift", controller=controller, action=ActionSpec.poses()).action.mode == "absolute"
