"""PickPlaceCan: put a can into its compartment of the other bin."""

import numpy as np

from fibo_robot.envs.demonstrations.experts.arm import ArmState, Pose, World, heading, nearest_angle
from fibo_robot.envs.demonstrations.experts.grasping import Grip
from fibo_robot.envs.demonstrations.experts.placing import Place, PlacingExpert

# The marker stands in the middle of the compartment, where the arm would be stretched out straight and answer
# no more; from there nearer to the robot, and clear of the compartment's walls. Metres.
_BESIDE_MARKER = np.array([-0.035, -0.04, 0.02])


class CanExpert(PlacingExpert):
    """Takes the can from above, standing or lying, and sets it down where its marker stands."""

    body = "Can_main"
    # The can's top is 4 cm above its centre: the open fingers must pass over it.
    hover_height = 0.12
    # Its lower end, 6 cm below its centre, must pass over the walls, which are 10 cm high.
    carry_height = 0.13
    place_distance = 0.02
    place_turn = 0.3

    def grip(self, world: World, arm: ArmState) -> Grip:
        """A standing can near its top, with the fingers to its sides; a lying one around its middle."""
        can = Pose.of(world, self.body)
        axis = can.rotation.as_matrix()[:, 2]
        if abs(axis[2]) > 0.7:
            return Grip(can.position + np.array([0.0, 0.0, 0.015]), 0.0)
        yaw = float(np.arctan2(axis[1], axis[0]))
        return Grip(can.position, nearest_angle(yaw, heading(arm.rotation), np.pi))

    def place(self, world: World, thing: Pose, arm: ArmState) -> Place:
        """Beside the marker, a little above the floor of the bin."""
        return Place(Pose.of(world, "VisualCan_main").position + _BESIDE_MARKER, 0.0)
