"""Torques are robosuite's own for the same state, action and initial posture."""

import dataclasses

import numpy as np
import pytest
import torch
import warp as wp
from scipy.spatial.transform import Rotation

from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.warp.exporting.export import Arm
from fibo_robot.envs.warp.exporting.start_states import StartState
from fibo_robot.envs.warp.task import WarpTask

pytestmark = [pytest.mark.sim, pytest.mark.warp, pytest.mark.slow]  # Warp compiles its kernels

VARIANTS = {
    "delta": {},
    "absolute": {"absolute": True},
    "coupled": {"uncoupled": False},
    "other_gains": {"kp": (80.0, 90.0, 100.0, 30.0, 40.0, 50.0), "kd": (9.0,) * 6},
}


def robosuite_control(env: SimulationEnv, arm: Arm, action: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """What robosuite writes to the actuators in the first physics step of a control step."""
    robosuite = env._robosuite
    controller = robosuite.robots[0].composite_controller.get_controller("right")
    kept = {name: getattr(controller, name) for name in ("input_type", "uncoupling", "kp", "kd")}
    controller.input_type = "absolute" if arm.absolute else "delta"
    controller.uncoupling = arm.uncoupled
    controller.kp, controller.kd = np.array(arm.kp), np.array(arm.kd)
    controller.initial_joint = initial
    robosuite.sim.step1()
    robosuite._pre_action(action, policy_step=True)
    for name, value in kept.items():
        setattr(controller, name, value)
    return robosuite.sim.data.ctrl.copy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_torques_are_robosuites_on_the_same_states(
    variant: str, lift: SimulationEnv, worlds: WarpTask
) -> None:
    (controller,) = worlds._physics._arms
    own = controller.arm
    controller = type(controller)(dataclasses.replace(own, **VARIANTS[variant]), 0, worlds.model, worlds.data)
    generator = np.random.default_rng(3)
    saturated = 0
    for episode in range(4):
        lift.start(episode)
        for _ in range(3 * episode):
            lift.advance(generator.uniform(-1, 1, 7))
        state = lift.get_state()
        initial = state[1:8] + generator.normal(0, 0.1, 7)
        action = generator.uniform(-0.4, 0.4, 7)
        lift.reset_to(state)
        if controller.arm.absolute:
            arm = lift._robosuite.robots[0].composite_controller.get_controller("right")
            turn = Rotation.from_rotvec(0.5 * action[3:6]) * Rotation.from_matrix(arm.ref_ori_mat)
            action = np.concatenate([arm.ref_pos + 0.05 * action[:3], turn.as_rotvec(), action[6:]])
        worlds.start_from([StartState.of(lift)], [0])
        wp.to_torch(controller.initial)[0] = torch.from_numpy(initial)
        controller.finger_commands.zero_()
        worlds._physics.actions[0] = torch.from_numpy(action)
        worlds._physics.resting[0] = False
        controller.set_goals(worlds._physics._actions, worlds._physics._resting)
        controller.set_torques()
        wanted = robosuite_control(lift, controller.arm, action, initial)
        limits = lift._model.actuator_ctrlrange[:7, 1]
        saturated += int((np.abs(wanted[:7]) == limits).sum())
        # Jacobian, mass matrix and pose come in float32.
        np.testing.assert_allclose(worlds._physics.controls()[0], wanted, atol=1e-3 * 80, rtol=0)
        np.testing.assert_allclose(worlds._physics.controls()[0, 7:], wanted[7:], atol=1e-7)
    assert saturated < 28 / 2, "the test must compare torques, not their limits"


def test_fingers_move_at_robosuites_speed_and_hold_at_zero(lift: SimulationEnv, worlds: WarpTask) -> None:
    lift.start(0)
    for grip in (1.0, 1.0, 0.0, -0.3, -1.0, -1.0):
        action = np.array([0, 0, 0, 0, 0, 0, grip])
        lift.advance(action)
        worlds.advance(torch.from_numpy(np.stack([action] * 3)))
        wanted = lift._robosuite.sim.data.ctrl[7:9]
        np.testing.assert_allclose(worlds._physics.controls()[0, 7:9], wanted, atol=1e-7)
