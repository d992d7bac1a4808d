"""Files of every version and layout give the same observations for the same states.

The ground truth is what robosuite 1.4.1 observed of states of its own (`robosuite_1_4_1.json`, made by
`scripts/old_observations.py`), and for robosuite 1.5 what the installed one observes, both name by name.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fibo_robot.envs import TASKS, Task
from fibo_robot.envs.controllers import osc_pose_controller
from fibo_robot.envs.demonstrations.hdf5 import DemonstrationFile
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.simulation.object_state import object_slices

pytestmark = pytest.mark.sim

RECORDED = json.loads(Path(__file__).with_name("robosuite_1_4_1.json").read_text(encoding="utf-8"))
DELTAS = {record["env_name"]: record for record in RECORDED["recordings"][:-2]}
POSES = {record["env_name"]: record for record in RECORDED["recordings"][-2:]}
BY_ENV_NAME = {task.env_name: task for task in TASKS.values()}


@pytest.fixture(scope="module", params=DELTAS)
def old(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    return DELTAS[request.param]


@pytest.fixture(scope="module")
def env(old: Mapping[str, Any]) -> Iterator[SimulationEnv]:
    task = BY_ENV_NAME[old["env_name"]]
    env = task.make_env(list(task.low_dim))
    env.take_geometry(old["model_file"])
    yield env
    env.close()


def write(
    path: Path,
    record: Mapping[str, Any],
    attributes: Mapping[str, str],
    objects: np.ndarray | None,
) -> Path:
    """A file with one demonstration: the kept states, and the observation `object` where it has one."""
    kept = RECORDED["kept_steps"]
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs.update(attributes)
        demo = file.create_group("data/demo_1")
        demo["states"] = np.array(record["states"])
        demo["actions"] = np.array(record["actions"])[list(kept)]
        demo.attrs["model_file"] = record["model_file"]
        if objects is not None:
            demo["obs/object"] = objects
    return path


def env_args(record: Mapping[str, Any], version: str | None, **kwargs: Any) -> dict[str, str]:
    values = {"env_name": record["env_name"], "type": 1, "env_kwargs": {**record["env_kwargs"], **kwargs}}
    return {"env_args": json.dumps(values | ({} if version is None else {"env_version": version}))}


def files(folder: Path, record: Mapping[str, Any], env: SimulationEnv) -> dict[str, Path]:
    """The same states in every layout."""
    old = np.array([seen["object"] for seen in record["observations"]])
    first = copy.deepcopy(record["env_kwargs"]["controller_configs"])
    for controller in first:  # as robosuite called them before 1.4
        controller["damping"] = controller.pop("damping_ratio")
        controller["damping_limits"] = controller.pop("damping_ratio_limits")
    composite = [osc_pose_controller() for _ in first]
    present = np.array([sensed(env, state)["object-state"] for state in np.array(record["states"])])
    own = {**record["env_kwargs"], "env_name": record["env_name"]}
    raw = {"env": record["env_name"], "env_info": json.dumps(own), "repository_version": "1.4.1"}
    layouts = {
        "robomimic_v01": (env_args(record, None, controller_configs=first), old),
        "robomimic_v14": (env_args(record, "1.4.1"), old),
        "robomimic_v15": (env_args(record, "1.5.2", controller_configs=composite), present),
        "robosuite_raw": (raw, None),
    }
    return {
        name: write(folder / f"{name}.hdf5", record, attributes, objects)
        for name, (attributes, objects) in layouts.items()
    }


def sensed(env: SimulationEnv, state: np.ndarray) -> dict[str, np.ndarray]:
    """The installed robosuite's own observations of a state, current."""
    env.show_state(state)
    env._robosuite._get_observations(force_update=True)
    return env._robosuite._get_observations(force_update=True)


def assert_same(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    if name.endswith("quat") and ours @ theirs < 0 and abs(ours[3]) < 1e-4:
        theirs = -theirs  # w is zero but for rounding, so either of the two quaternions is right
    np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)


def test_every_layout_names_the_same_task(old: Mapping[str, Any], env: SimulationEnv, tmp_path: Path) -> None:
    tasks: dict[str, Task] = {}
    for name, path in files(tmp_path, old, env).items():
        with DemonstrationFile(path) as file:
            tasks[name] = file.task()
    expected = BY_ENV_NAME[old["env_name"]]
    assert {name: task for name, task in tasks.items() if task != expected} == {}


def test_states_show_what_robosuite_1_4_observed(old: Mapping[str, Any], env: SimulationEnv) -> None:
    where = object_slices(old["env_name"])
    for state, seen in zip(np.array(old["states"]), old["observations"], strict=True):
        env.show_state(state)
        ours = env.observe()
        for key in env.task.low_dim:
            if key != "object":
                assert_same(key, ours[key], np.array(seen[key]))
        for name, entry in where.items():
            # robosuite 1.4: the gripper's position minus the cube's
            sign = -1.0 if name == "gripper_to_cube_pos" else 1.0
            assert_same(name, ours["object"][entry], sign * np.array(seen[name]))


def test_stored_objects_are_read_alike(old: Mapping[str, Any], env: SimulationEnv, tmp_path: Path) -> None:
    where = object_slices(old["env_name"])
    for name, path in files(tmp_path, old, env).items():
        if name == "robosuite_raw":
            continue
        with DemonstrationFile(path) as file:
            read = file.observation("demo_1", "object")
        for state, row in zip(np.array(old["states"]), read, strict=True):
            env.show_state(state)
            shown = env.observe()["object"]
            for entry_name, entry in where.items():
                assert_same(entry_name, shown[entry], row[entry])


@pytest.mark.parametrize("record", [POSES["Lift"], POSES["TwoArmTransport"], DELTAS["TwoArmTransport"]])
def test_actions_of_old_controllers_move_the_hands_as_they_did(
    record: Mapping[str, Any], tmp_path: Path
) -> None:
    # Both bases of Transport are turned by 90 degrees: in their frames these would be other motions.
    path = write(tmp_path / "old.hdf5", record, env_args(record, "1.4.1"), None)
    with DemonstrationFile(path) as file:
        task = file.task()
    assert task.action.mode == ("absolute" if record in POSES.values() else "delta")
    env = task.make_env(["robot0_eef_pos"])
    env.take_geometry(record["model_file"])
    env.reset_to(np.array(record["states"][0]))
    arms = range(len(task.robots))
    travelled = np.zeros(len(arms))
    for action, hands in zip(np.array(record["actions"]), np.array(record["hands"]), strict=True):
        seen = env.observe([f"robot{arm}_eef_pos" for arm in arms])
        here = np.stack([seen[f"robot{arm}_eef_pos"] for arm in arms])
        np.testing.assert_allclose(here, hands, atol=2e-3)
        travelled = np.maximum(travelled, np.linalg.norm(hands - np.array(record["hands"][0]), axis=1))
        env.advance(action)
    env.close()
    assert travelled.min() > 0.03, "the hands hardly moved"


def test_a_recorded_models_sizes_are_taken_over(tmp_path: Path) -> None:
    record = DELTAS["TwoArmTransport"]
    with DemonstrationFile(write(tmp_path / "a.hdf5", record, env_args(record, "1.4.1"), None)) as file:
        task, model_file = file.task(), file.attributes("demo_1")["model_file"]
    env = task.make_env(["object"])
    built = env.reset(seed=3)[0]["object"]
    built_scene, built_hammer = env.scene(), env._model.geom("payload_head").size.copy()
    env.take_geometry(model_file)
    text = model_file.split('name="payload_head"')[1].split('size="')[1].split('"')[0]
    recorded = np.array([float(number) for number in text.split()])
    np.testing.assert_allclose(env._model.geom("payload_head").size, recorded, rtol=1e-12)
    assert np.abs(recorded - built_hammer).max() > 1e-4, "the two hammers are the same"
    # An episode is a function of its seed, whatever was shown before.
    np.testing.assert_array_equal(env.reset(seed=3)[0]["object"], built)
    np.testing.assert_array_equal(env.scene()["state"], built_scene["state"])
    np.testing.assert_array_equal(env._model.geom("payload_head").size, built_hammer)
    env.close()
