"""Lift: pick up a cube."""

import numpy as np

from fibo_robot.envs.demonstrations.experts.arm import (
    CLOSE,
    ArmState,
    Pose,
    World,
    heading,
    nearest_angle,
    servo,
)
from fibo_robot.envs.demonstrations.experts.grasping import GraspingExpert, Grip


class LiftExpert(GraspingExpert):
    """Takes the cube by its nearest pair of faces, and lifts it.

    Attributes:
        phase: `hover`, `descend`, `close` or `lift`.
    """

    lift_height = 0.12
    first_held_phase = "lift"

    def reset(self) -> None:
        """Begin an episode."""
        super().reset()
        self._rest_height = np.nan

    def grip(self, world: World, arm: ArmState) -> Grip:
        """At the cube's centre."""
        cube = Pose.of(world, "cube_main")
        if np.isnan(self._rest_height):
            self._rest_height = cube.position[2]
        return Grip(cube.position, nearest_angle(heading(cube.rotation), heading(arm.rotation), np.pi / 2))

    def act_on_held(self, world: World, arm: ArmState, grip: Grip) -> np.ndarray:
        """Straight up."""
        if self.slipped(arm, grip):
            return self.restart(arm, grip)
        goal = np.array([arm.position[0], arm.position[1], self._rest_height + self.lift_height])
        return servo(arm, goal, grip.yaw, CLOSE)
