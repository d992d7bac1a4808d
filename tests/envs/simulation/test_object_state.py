"""The observation `object`: of the present state, named, and the same for files of any robosuite."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fibo_robot.envs import TASKS, get_task
from fibo_robot.envs.demonstrations.hdf5 import DemonstrationFile
from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.simulation.object_state import OBJECT_STATES, object_slices
from fibo_robot.envs.simulation.stored_object_state import stored_object_state

pytestmark = pytest.mark.sim

BODIES = {
    "lift": ("cube", "cube_main"),
    "can": ("Can", "Can_main"),
    "square": ("SquareNut", "SquareNut_main"),
}


@pytest.fixture(scope="module", params=TASKS)
def env(request: pytest.FixtureRequest) -> Iterator[SimulationEnv]:
    task = get_task(request.param)
    env = task.make_env(list(task.low_dim))
    yield env
    env.close()


def move(env: SimulationEnv, seed: int, steps: int = 5) -> None:
    generator = np.random.default_rng(seed)
    env.start(seed)
    for _ in range(steps):
        env.advance(np.tile(generator.uniform(-1, 1, 7), len(env.task.robots)))


def same_rotation(name: str, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """`theirs`, or for a quaternion whose w is zero but for rounding, that one of its two that is nearer."""
    if name.endswith("quat") and abs(ours[3]) < 1e-4 and ours @ theirs < 0:
        return -theirs
    return theirs


def test_a_look_shows_the_present_state_whatever_was_looked_at_before(env: SimulationEnv) -> None:
    first = env.reset(seed=2)[0]["object"]
    np.testing.assert_array_equal(env.observe()["object"], first)
    move(env, seed=3)
    state, model, live = env.get_state(), env.model_xml, env.observe()
    env.advance(np.ones(7 * len(env.task.robots)))
    env.observe()
    env.show_state(state)
    fresh = get_task(env.task.name).make_env(list(env.task.low_dim))
    fresh.take_geometry(model)
    fresh.show_state(state)
    shown_after_another, shown_first = env.observe(), fresh.observe()
    fresh.close()
    for key in env.task.low_dim:
        np.testing.assert_array_equal(shown_after_another[key], live[key], err_msg=key)
        np.testing.assert_array_equal(shown_first[key], live[key], err_msg=key)
    assert np.abs(live["object"] - first).max() > 0.01, "nothing moved"


def sensed(env: SimulationEnv) -> dict[str, np.ndarray]:
    """robosuite's own observations, current: the second look has seen the present pose in the first."""
    env._robosuite._get_observations(force_update=True)
    return env._robosuite._get_observations(force_update=True)


def test_the_numbers_are_robosuites_by_name(env: SimulationEnv) -> None:
    move(env, seed=5)
    ours, theirs = env.observe()["object"], sensed(env)
    assert sum(entry.size for entry in OBJECT_STATES[env.task.env_name]) == len(ours)
    for name, where in object_slices(env.task.env_name).items():
        expected = same_rotation(name, ours[where], np.atleast_1d(theirs[name]))
        np.testing.assert_allclose(ours[where], expected, atol=1e-5, err_msg=name)


def test_object_positions_are_those_of_the_bodies(env: SimulationEnv) -> None:
    move(env, seed=6)
    positions = env.object_positions()
    assert all(position.shape == (3,) for position in positions.values())
    if env.task.name in BODIES:
        name, body = BODIES[env.task.name]
        sim = env._robosuite.sim
        assert list(positions) == [name]
        np.testing.assert_array_equal(positions[name], sim.data.body_xpos[sim.model.body_name2id(body)])


def file_of(env: SimulationEnv, version: str | None) -> dict[str, str]:
    return {"env_name": env.task.env_name} | ({} if version is None else {"env_version": version})


def test_files_of_robosuite_1_5_are_put_into_order(env: SimulationEnv) -> None:
    move(env, seed=7)
    ours = env.observe()["object"]
    stored = np.stack([sensed(env)["object-state"]] * 2)
    read = stored_object_state(stored, file_of(env, "1.5.1"), "a.hdf5")
    assert read.shape == stored.shape
    for name, where in object_slices(env.task.env_name).items():
        expected = same_rotation(name, ours[where], read[1, where])
        np.testing.assert_allclose(ours[where], expected, atol=1e-5, err_msg=name)


def test_files_of_robosuite_1_4_have_the_pose_in_the_world_first(env: SimulationEnv) -> None:
    move(env, seed=8)
    ours, theirs = env.observe()["object"], sensed(env)
    if env.task.name == "lift":
        # robosuite 1.4: gripper_to_cube_pos is eef_pos - cube_pos
        old = [theirs["cube_pos"], theirs["cube_quat"], theirs["robot0_eef_pos"] - theirs["cube_pos"]]
    else:
        # robosuite 1.4: [X_pos, X_quat, X_to_robot0_eef_pos, X_to_robot0_eef_quat] of every object
        names = [entry.name for entry in OBJECT_STATES[env.task.env_name]]
        if env.task.name == "transport":  # there the flags came last
            names = [*names[:8], *names[10:], "payload_in_target_bin", "trash_in_trash_bin"]
        old = [np.atleast_1d(theirs[name]) for name in names]
    read = stored_object_state(np.concatenate(old)[None], file_of(env, "1.4.1"), "a.hdf5")[0]
    for name, where in object_slices(env.task.env_name).items():
        expected = same_rotation(name, ours[where], read[where])
        np.testing.assert_allclose(ours[where], expected, atol=1e-5, err_msg=name)


def test_files_recorded_here_are_read_as_they_are(env: SimulationEnv) -> None:
    values = np.arange(10.0)[None]
    assert stored_object_state(values, get_task(env.task.name).env_args(), "a.hdf5") is values
    other = get_task(env.task.name).env_args()
    other["fibo_robot"]["object_state"].reverse()
    with pytest.raises(DatasetError, match="Convert"):
        stored_object_state(values, other, "a.hdf5")


@pytest.mark.parametrize("version", ["1.6.0", "2.0", None, "newest"])
def test_files_of_an_unknown_order_are_refused(env: SimulationEnv, version: str | None) -> None:
    with pytest.raises(DatasetError, match=r"a\.hdf5 does not say in which order.*fibo demos convert"):
        stored_object_state(np.zeros((1, 10)), file_of(env, version), "a.hdf5")


def test_a_file_is_read_in_this_order(tmp_path: Path) -> None:
    import h5py

    values = np.arange(20.0).reshape(2, 10)
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((2, 7))
        file["data/demo_0/obs/object"] = values
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "env_version": "1.4.1"})
    with DemonstrationFile(tmp_path / "old.hdf5") as read:
        np.testing.assert_array_equal(read.observation("demo_0", "object")[:, :7], values[:, :7])
        np.testing.assert_array_equal(read.observation("demo_0", "object")[:, 7:], -values[:, 7:])


@pytest.mark.data
def test_shown_human_demonstrations_have_robosuite_1_4s_numbers(shared_data: Path) -> None:
    # Computed here from the simulator's poses by the old definition, over whole demonstrations.
    task = get_task("lift")
    env = task.make_env(["object", "robot0_eef_pos"])
    with DemonstrationFile(shared_data / "robot" / "lift_panda_human29_raw.hdf5") as file:
        for demo in file.demos[:2]:
            env.take_geometry(file.attributes(demo)["model_file"])
            for state in file.states(demo)[::10]:
                env.show_state(state)
                seen = env.observe()
                cube = env._robosuite.sim.data._data.body("cube_main")
                old = np.concatenate([cube.xpos, np.roll(cube.xquat, -1), seen["robot0_eef_pos"] - cube.xpos])
                read = stored_object_state(old[None], file.env_args, "a.hdf5")[0]
                np.testing.assert_allclose(seen["object"], read, atol=1e-5)
    env.close()
