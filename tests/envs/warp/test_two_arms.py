"""Two arms move in batched worlds as in robosuite, and so does what stands about."""

import numpy as np
import pytest
import torch

from fibo_robot.envs import get_task
from fibo_robot.envs.warp.task import WarpTask

pytestmark = [pytest.mark.sim, pytest.mark.warp, pytest.mark.slow]  # Warp compiles its kernels
STEPS = 5


def test_both_arms_of_transport_follow_robosuite_from_the_same_states() -> None:
    task = get_task("transport", cameras=())
    env = task.make_env([])
    worlds = WarpTask(task, 2, "cpu")
    worlds.reset(seed=[0, 1])
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 2, 14))
    batched = [worlds.states()]
    for action in actions:
        assert worlds.advance(torch.from_numpy(action))["valid"].all()
        batched.append(worlds.states())
    nq = worlds.mujoco_model.nq
    joints = [joint for arm in worlds.export.arms for joint in arm.qpos]
    things = np.setdiff1d(np.arange(nq), joints)
    for world in range(2):
        env.start(world)
        states = [env.get_state()]
        for action in actions[:, world]:
            env.advance(action)
            states.append(env.get_state())
        alone = np.array(states)[:, 1 : 1 + nq]
        beside = torch.stack(batched)[:, world, 1 : 1 + nq].numpy()
        difference = np.abs(beside - alone)
        moved = np.abs(alone[-1, joints] - alone[0, joints])
        print(world, difference[:, joints].max(1), difference[:, things].max(1), moved)
        assert (moved.reshape(2, -1).max(1) > 0.01).all(), "an arm stood still"
        # Radians; nothing is touched by the arms.
        np.testing.assert_array_less(difference[:, joints], 1e-4)
        np.testing.assert_array_less(difference[:, things], 1e-3)
    env.close()
