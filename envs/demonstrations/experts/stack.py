"""Stack: put the small cube on the large one."""

import numpy as np

from fibo_robot.envs.demonstrations.experts.arm import ArmState, Pose, World, heading, nearest_angle
from fibo_robot.envs.demonstrations.experts.grasping import Grip
from fibo_robot.envs.demonstrations.experts.placing import Place, PlacingExpert

# Half the sides of the two cubes together, metres: the height of one centre above the other when stacked.
_STACKED = 0.02 + 0.025


class StackExpert(PlacingExpert):
    """Takes the small cube by a pair of faces, and sets it on the large one, edges along edges."""

    body = "cubeA_main"
    carry_height = 0.06
    place_distance = 0.008
    place_turn = 0.15

    def grip(self, world: World, arm: ArmState) -> Grip:
        """At the small cube's centre."""
        cube = Pose.of(world, self.body)
        return Grip(cube.position, nearest_angle(heading(cube.rotation), heading(arm.rotation), np.pi / 2))

    def place(self, world: World, thing: Pose, arm: ArmState) -> Place:
        """On the large cube."""
        base = Pose.of(world, "cubeB_main")
        turn = heading(base.rotation) - heading(thing.rotation)
        yaw = nearest_angle(heading(arm.rotation) + turn, heading(arm.rotation), np.pi / 2)
        return Place(base.position + np.array([0.0, 0.0, _STACKED + 0.003]), yaw)
