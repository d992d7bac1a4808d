"""robosuite's operational-space controller and gripper for one arm in all worlds, as Warp kernels.

What the kernels read and write lies in arrays that are allocated once, so that a captured control step can be
replayed: goals, finger commands and initial postures change in place.
"""

from typing import Any

import numpy as np
import warp as wp

from fibo_robot.envs.warp.exporting.export import Arm
from fibo_robot.envs.warp.physics import controller_kernels as kernels

JOINTS = kernels.JOINTS


class ArmController:
    """One arm of every world.

    Attributes:
        initial: joint positions `(W, 7)` that the null-space term draws to: those at the episode's start.
        finger_commands: where the fingers were last sent, in [-1, 1], `(W, fingers)`; 0 at the start.
    """

    def __init__(self, arm: Arm, first_action: int, model: Any, data: Any) -> None:
        """Allocate on the model's device.

        Args:
            arm: ids and gains.
            first_action: where this arm's seven entries of an action begin.
            model, data: MuJoCo Warp's.
        """
        self.arm, self._first, self._model, self._data = arm, first_action, model, data
        device, worlds = data.qpos.device, data.nworld

        def numbers(values: Any) -> Any:
            return wp.array(np.asarray(values, np.float64), dtype=wp.float64, device=device)

        def indices(values: Any) -> Any:
            return wp.array(np.asarray(values, np.int32), dtype=int, device=device)

        low, high = np.array(arm.input_min), np.array(arm.input_max)
        output_low, output_high = np.array(arm.output_min), np.array(arm.output_max)
        scale = np.abs(output_high - output_low) / np.abs(high - low)
        self._scale = numbers(scale)
        self._shift = numbers((output_high + output_low) / 2 - scale * (high + low) / 2)
        self._low, self._high, self._kp, self._kd = map(numbers, (low, high, arm.kp, arm.kd))
        self._joints, self._angles, self._dofs = map(indices, (arm.joints, arm.qpos, arm.qvel))
        self._actuators, self._fingers = map(indices, (arm.actuators, arm.finger_actuators))
        self._finger_signs = numbers(arm.finger_signs)
        self._mass = data.M.reshape((worlds, -1))
        self._mass_address = indices(_mass_addresses(arm, model, data))
        self._goal_pos = wp.zeros(worlds, dtype=wp.vec3d, device=device)
        self._goal_mat = wp.zeros(worlds, dtype=wp.mat33d, device=device)
        self.initial = wp.zeros((worlds, JOINTS), dtype=wp.float64, device=device)
        self.finger_commands = wp.zeros((worlds, len(arm.finger_signs)), dtype=wp.float64, device=device)

    def set_goals(self, actions: Any, resting: Any) -> None:
        """Take actions, float64 `(W, A)`, where the world is not `resting` `(W,)`; the others hold still."""
        data, model = self._data, self._model
        self._launch(
            kernels.set_goals,
            actions,
            self._first,
            resting,
            self.arm.absolute,
            self._scale,
            self._shift,
            self._low,
            self._high,
            self.arm.site,
            data.site_xpos,
            data.site_xmat,
            self._fingers,
            self._finger_signs,
            self.arm.finger_speed,
            model.actuator_ctrlrange,
            self.finger_commands,
            self._goal_pos,
            self._goal_mat,
            data.ctrl,
        )

    def set_torques(self) -> None:
        """Write the arm's torques for the next physics step into `data.ctrl`."""
        data, model = self._data, self._model
        self._launch(
            kernels.set_torques,
            data.xanchor,
            data.xaxis,
            self._mass,
            self._mass_address,
            data.qfrc_bias,
            data.qpos,
            data.qvel,
            self.arm.site,
            data.site_xpos,
            data.site_xmat,
            self._joints,
            self._angles,
            self._dofs,
            self._actuators,
            self._kp,
            self._kd,
            self.arm.uncoupled,
            self.initial,
            self._goal_pos,
            self._goal_mat,
            model.actuator_ctrlrange,
            data.ctrl,
        )

    def _launch(self, kernel: Any, *inputs: Any) -> None:
        wp.launch(kernel, dim=self._data.nworld, inputs=list(inputs), device=self._data.qpos.device)


def _mass_addresses(arm: Arm, model: Any, data: Any) -> np.ndarray:
    """Where MuJoCo Warp keeps the arm's 7 x 7 block of the mass matrix in one world's flat array.

    The array is a padded dense matrix, or MuJoCo's rows of the lower triangle where there are many joints.
    """
    if not model.is_sparse:
        return np.array([[row * data.M.shape[2] + column for column in arm.qvel] for row in arm.qvel])
    entries = model.M_elemid.numpy()
    return np.array([[entries[max(a, b), min(a, b)] for b in arm.qvel] for a in arm.qvel])
