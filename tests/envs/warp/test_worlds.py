"""Worlds follow robosuite, each its own seed's episode, whatever the others do."""

import gc
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from fibo_robot.envs.rollouts.engine import scene_digest
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.exporting.start_states import StartStates
from fibo_robot.envs.warp.task import WarpTask
from fibo_robot.errors import FiboError
from tests.envs.warp.conftest import LIFT

pytestmark = [pytest.mark.sim, pytest.mark.warp, pytest.mark.slow]  # Warp compiles its kernels
STEPS = 4


def actions_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (STEPS, 7))


def robosuite_episode(env: SimulationEnv, seed: int) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    env.start(seed)
    states, observations = [env.get_state()], [env.observe()]
    for action in actions_of(seed):
        env.advance(action)
        states.append(env.get_state())
        observations.append(env.observe())
    return np.array(states), observations


def test_worlds_follow_robosuite_while_others_restart_beside_them(
    lift: SimulationEnv, all_worlds: WarpTask
) -> None:
    seeds = {0: 0, 1: 1, 2: 2}
    observation, info = all_worlds.reset(seed=[0, 1, 2])
    assert info["running"].all() and info["valid"].all() and not info["success"].any()
    begun = {world: 0 for world in seeds}
    for step in range(STEPS + 2):
        if step == 2:  # a fresh episode in the middle of the others
            observation, info = all_worlds.reset(seed=[5], worlds=[1])
            seeds[1], begun[1] = 5, step
            assert info["elapsed"].tolist() == [2, 0, 2]
        for world, seed in seeds.items():
            age = step - begun[world]
            if age > STEPS:
                continue
            states, observations = robosuite_episode(lift, seed)
            # Nothing is touched in these steps: what remains is what float32 rounds.
            np.testing.assert_allclose(all_worlds.states()[world, :11], states[age, :11], atol=2e-5)
            np.testing.assert_allclose(all_worlds.states()[world, 11:17], states[age, 11:17], atol=2e-4)
            for key, value in observations[age].items():
                assert observation[key].dtype == torch.float32
                np.testing.assert_allclose(observation[key][world], value, atol=3e-4, err_msg=key)
        ages = {world: min(step - begun[world], STEPS - 1) for world in seeds}
        rows = [actions_of(seed)[ages[world]] for world, seed in seeds.items()]
        observation, reward, terminated, truncated, info = all_worlds.step(torch.tensor(np.stack(rows)))
        assert not terminated.any() and not truncated.any() and reward.dtype == torch.float32
    assert all_worlds.starts[1] is not None and all_worlds.starts[1].seed == 5
    lift.start(5)
    assert all_worlds.starts[1].digest == scene_digest(lift.scene())


def test_each_world_has_its_own_cube(worlds: WarpTask, lift: SimulationEnv) -> None:
    body = worlds.mujoco_model.body("cube_main").id
    for world in (0, 1):
        lift.start(world)
        geom = lift._model.geom("cube_g0").id
        size, mass = worlds.model.geom_size.numpy()[world, geom], worlds.model.body_mass.numpy()[world, body]
        np.testing.assert_allclose(size, lift._model.geom_size[geom], rtol=1e-6)
        np.testing.assert_allclose(mass, lift._model.body_mass[body], rtol=1e-6)
        weights = worlds.model.body_invweight0.numpy()[world, body]
        np.testing.assert_allclose(weights, lift._model.body_invweight0[body], rtol=1e-5)
    # What the seed decides in the host's model and what has a row per world are the same.
    first = {
        name: getattr(lift._model, name).copy() for name in worlds._physics._sizes._views if "." not in name
    }
    lift.start(0)
    assert all(not np.array_equal(getattr(lift._model, name), value) for name, value in first.items())


def test_resting_worlds_hold_still_and_count_for_nothing(worlds: WarpTask) -> None:
    before = worlds.states()[2]
    info = worlds.advance(torch.ones(3, 7))
    assert info["running"].tolist() == [True, True, False]
    assert info["elapsed"].tolist()[:2] == [1, 1]
    moved = (worlds.states()[:, 1:8] - before[1:8]).abs().amax(1)
    assert moved[2] < 1e-3 < 0.01 < moved[0]
    worlds.rest([0])
    assert worlds.starts[0] is None and worlds.info()["running"].tolist() == [False, True, False]


def test_episodes_are_cut_off_at_the_horizon(worlds: WarpTask) -> None:
    horizon = worlds.task.horizon
    worlds._elapsed[:] = horizon - 2
    assert not worlds.step(torch.zeros(3, 7))[3].any()
    assert worlds.step(torch.zeros(3, 7))[3].tolist() == [True, True, False]


def test_it_is_a_vector_environment(worlds: WarpTask) -> None:
    assert isinstance(worlds, gymnasium.vector.VectorEnv) and worlds.num_envs == worlds.num_worlds == 3
    assert worlds.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    observation, _ = worlds.reset(seed=0)  # gymnasium's way: 0, 1, 2
    assert [start.seed for start in worlds.starts if start is not None] == [0, 1, 2]
    values = {key: value.numpy() for key, value in observation.items()}
    assert worlds.observation_space.contains(values)
    assert set(values) == set(LIFT.low_dim)
    assert worlds.action_space.shape == (3, 7)


def test_wrong_requests_are_refused(worlds: WarpTask) -> None:
    with pytest.raises(WarpError, match=r"There is no world 3: there are 3"):
        worlds.start([0], [3])
    with pytest.raises(WarpError, match="need as many distinct worlds"):
        worlds.start([0, 1], [1, 1])
    with pytest.raises(WarpError, match=r"have shape \(3, 7\), not \(2, 7\)"):
        worlds.advance(torch.zeros(2, 7))
    with pytest.raises(WarpError, match="no reset options; reset_mask"):
        worlds.reset(seed=[0], options={"reset_mask": [True]})
    with pytest.raises(FiboError, match="no observation 'objekt'"):
        worlds.observe(["objekt"])


def test_a_recorded_control_step_is_the_launched_one_bit_for_bit(
    worlds: WarpTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    physics, actions = worlds._physics, torch.rand(3, 7)
    worlds.advance(actions)
    worlds.start([0, 1])
    if physics._recorded._graph is None:
        pytest.skip("Warp records on a CPU since 1.15")
    worlds.advance(actions)
    replayed = worlds.states()
    monkeypatch.setattr(physics, "_recorded", lambda launch: launch())
    worlds.start([0, 1])
    worlds.advance(actions)
    assert torch.equal(worlds.states()[:2], replayed[:2])


def test_closed_worlds_let_go_of_their_memory_at_once(
    lift_export: TaskExport, lift_starts: StartStates
) -> None:
    """Fewer worlds may take their place at once, and a device has no room for both."""
    worlds = WarpTask(LIFT, 3, "cpu", export=lift_export, start_states=lift_starts)
    worlds.start([0, 1, 2])
    worlds.advance(torch.zeros(3, 7))
    physics = weakref.ref(worlds._physics)
    gc.disable()
    try:
        worlds.close()
        assert physics() is None
    finally:
        gc.enable()
