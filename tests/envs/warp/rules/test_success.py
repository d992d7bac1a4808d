"""Success and vector observations agree with robosuite's on states that solve the task, and that do not."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.experts import get_expert
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.exporting.from_robosuite import export_task
from fibo_robot.envs.warp.rules.observation import observe
from fibo_robot.envs.warp.rules.scene import Scene
from fibo_robot.envs.warp.rules.success import judge

pytestmark = [pytest.mark.sim, pytest.mark.warp]


def scene_of(env: SimulationEnv, export: TaskExport) -> Scene:
    """The scene of one world, from MuJoCo itself in float64."""
    data = env._robosuite.sim.data._data
    geoms = [set(pair) for pair in data.contact.geom.tolist()]
    touching = {
        name: torch.tensor([any({a, b} in geoms for a in first for b in second)])
        for name, (first, second) in export.success.touching.items()
    }
    arrays = (data.qpos, data.qvel, data.xpos, data.xquat, data.site_xpos, data.geom_xpos)
    return Scene(env._model, *(torch.from_numpy(array[None].copy()) for array in arrays), touching)


def episode(env: SimulationEnv, seed: int) -> Iterator[None]:
    """An expert's episode, or random actions where there is none; and disturbed states."""
    generator = np.random.default_rng(seed)
    expert = None if env.task.name in ("tool_hang", "transport") else get_expert(env.task.name)
    env.start(seed)
    for step in range(200 if expert else 4):
        action = generator.uniform(-1, 1, env.task.action.dim) if expert is None else expert.act(env)
        solved = env.advance(action).success
        if expert is None or step % 8 == 0 or solved:
            state = env.get_state()
            yield
            for size in (0.003, 0.03):
                disturbed = state.copy()
                disturbed[1 : 1 + env._model.nq] += size * generator.normal(size=env._model.nq)
                env.show_state(disturbed)
                yield
            env.show_state(state)
        if solved:
            return


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lift", "can", "square", "stack", "tool_hang", "transport"])
def test_success_and_observations_are_robosuites(name: str) -> None:
    task = get_task(name, cameras=())
    export, env = export_task(task), task.make_env()
    outcomes = set()
    for _ in episode(env, seed=3):
        scene = scene_of(env, export)
        judgement = judge(task.env_name, export.success, scene)
        assert judgement.success.tolist() == [env.success]
        outcomes.add(env.success)
        mine = observe(export, scene, judgement.flags, list(task.low_dim))
        for key, value in env.observe().items():
            np.testing.assert_allclose(mine[key][0], value, atol=2e-6, err_msg=key)
    if name in ("lift", "can", "square", "stack"):
        assert outcomes == {False, True}
    env.close()


def placed(env: SimulationEnv, **poses: np.ndarray) -> None:
    """Put free objects, by joint, into poses `(7,)`."""
    for joint, pose in poses.items():
        env._robosuite.sim.data.set_joint_qpos(joint, pose)
    env._robosuite.sim.forward()


@pytest.mark.slow
def test_transport_is_solved_when_both_things_touch_their_bins() -> None:
    task = get_task("transport", cameras=())
    export, env = export_task(task), task.make_env([])
    env.start(0)
    outcomes = set()
    bins = {name: env.object_positions()[name] for name in ("target_bin", "trash_bin")}
    for heights in np.linspace(-0.02, 0.12, 29):
        upright = np.array([1.0, 0, 0, 0])
        placed(
            env,
            payload_joint0=np.concatenate([bins["target_bin"] + [0, 0, heights], upright]),
            trash_joint0=np.concatenate([bins["trash_bin"] + [0, 0, heights], upright]),
        )
        judgement = judge(task.env_name, export.success, scene_of(env, export))
        assert judgement.success.tolist() == [env.success]
        things = env._robosuite.transport
        assert judgement.flags["trash_in_trash_bin"].tolist() == [things.trash_in_trash_bin]
        outcomes.add(env.success)
    assert outcomes == {False, True}
    env.close()
