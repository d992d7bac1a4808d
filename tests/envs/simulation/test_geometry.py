"""Lift's cube has another size in every episode, as robosuite draws it, without building a model anew."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.hdf5 import DemonstrationFile
from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.simulation.geometry import draw_cube_size
from fibo_robot.envs.untyped import MjModel, import_mujoco

pytestmark = pytest.mark.sim
KEYS = ["robot0_eef_pos", "object"]


@pytest.fixture(scope="module")
def env() -> Iterator[SimulationEnv]:
    env = get_task("lift").make_env(KEYS)
    yield env
    env.close()


def arrays(model: MjModel) -> dict[str, np.ndarray]:
    values = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    numbers = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    statistics = {
        f"stat.{name}": getattr(model.stat, name)
        for name in ("extent", "meaninertia", "meanmass", "meansize")
    }
    return {name: np.array(value) for name, value in (numbers | statistics).items()}


def test_an_episode_is_the_one_that_robosuite_builds_a_model_for(env: SimulationEnv) -> None:
    import robosuite

    reference = robosuite.make("Lift", **{**env.task.robosuite_kwargs(), "hard_reset": True}, seed=0)
    for seed in (3, 4):
        reference.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        reference.reset()
        env.start(seed)
        np.testing.assert_array_equal(env.scene()["cube_size"], reference.cube.size)
        built, changed = arrays(reference.sim.model._model), arrays(env._model)
        assert len(built) > 200
        for name, value in built.items():
            if value.dtype.kind in "fiu":
                np.testing.assert_allclose(changed[name], value, atol=1e-9, rtol=0, err_msg=name)
        np.testing.assert_allclose(env.get_state(), reference.sim.get_state().flatten(), atol=1e-9)
    reference.close()


def test_sizes_are_distributed_as_robosuites() -> None:
    from robosuite.models.objects import BoxObject

    ours = np.array([draw_cube_size(np.random.default_rng(seed)) for seed in range(200)])
    low, high = [0.020] * 3, [0.022] * 3
    generators = [np.random.default_rng(seed) for seed in range(1000, 1200)]
    theirs = np.array([BoxObject("cube", size_min=low, size_max=high, rng=g).size for g in generators])
    # 200 draws from 2 mm have a mean within 0.58 mm / sqrt(200) = 0.041 mm of the middle, one standard error.
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=4 * 0.041e-3 * np.sqrt(2))
    np.testing.assert_allclose([ours.min(0), ours.max(0)], [theirs.min(0), theirs.max(0)], atol=1e-4)
    assert len(np.unique(ours[:, 0])) == 200


def test_the_seed_alone_decides_the_size(env: SimulationEnv) -> None:
    env.start(11)
    scene, xml = env.scene(), env.model_xml
    env.start(12)
    assert np.abs(env.scene()["cube_size"] - scene["cube_size"]).max() > 1e-5
    other = get_task("lift").make_env(KEYS)
    for again in (env, other):
        again.start(11)
        assert again.model_xml == xml
        for name, value in again.scene().items():
            np.testing.assert_array_equal(value, scene[name])
    other.close()


def test_a_recorded_model_brings_its_size_and_its_actions_replay(env: SimulationEnv) -> None:
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (5, 7))
    actions[:, 2] = -1  # down, towards the cube
    env.start(21)
    xml, size, states = env.model_xml, env.scene()["cube_size"], [env.get_state()]
    for action in actions:
        env.advance(action)
        states.append(env.get_state())
    assert import_mujoco().MjModel.from_xml_string(xml).geom("cube_g0_vis").size.tolist() == size.tolist()
    env.start(22)
    env.take_geometry(xml)
    np.testing.assert_array_equal(env.scene()["cube_size"], size)
    env.reset_to(states[0])
    for action, state in zip(actions, states[1:], strict=True):
        env.advance(action)
        np.testing.assert_array_equal(env.get_state(), state)


def test_without_a_recorded_model_the_size_does_not_depend_on_earlier_episodes(env: SimulationEnv) -> None:
    env.start(31)
    env.take_geometry(None)
    size = env.scene()["cube_size"]
    env.start(32)
    env.take_geometry(None)
    np.testing.assert_array_equal(env.scene()["cube_size"], size)
    with pytest.raises(DatasetError, match=r"cannot be matched .* body cube_main"):
        env.take_geometry("<mujoco/>")
    with pytest.raises(DatasetError, match="no XML"):
        env.take_geometry("cube")


@pytest.mark.data
def test_human_demonstrations_keep_their_cubes(env: SimulationEnv, shared_data: Path) -> None:
    with DemonstrationFile(shared_data / "robot" / "lift_panda_human29_raw.hdf5") as file:
        sizes = []
        for demo in file.demos:
            env.take_geometry(file.attributes(demo)["model_file"])
            env.show_state(file.states(demo)[0])
            sizes.append(env.scene()["cube_size"])
            # The cube lies on the table: its centre is half a side above it, up to what it sinks in.
            assert abs(env.object_positions()["cube"][2] - 0.8 - sizes[-1][2]) < 0.011
    assert len({tuple(size) for size in sizes}) == len(file.demos)
