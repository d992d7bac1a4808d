"""NutAssemblySquare: put a square nut over the square peg."""

import numpy as np

from fibo_robot.envs.demonstrations.experts.arm import (
    ArmState,
    Pose,
    World,
    heading,
    turn_between,
    wrist_angle,
)
from fibo_robot.envs.demonstrations.experts.grasping import Grip
from fibo_robot.envs.demonstrations.experts.placing import Place, PlacingExpert

# The nut's handle reaches out along its x axis; this is where to take it, outside the middle so that the
# fingers come down clear of the frame: metres from the centre of the nut.
_HANDLE = np.array([0.064, 0.0, 0.0])
# The peg's top above its centre, metres.
_PEG_TOP = 0.1


class SquareExpert(PlacingExpert):
    """Takes the nut by its handle, turns it to the peg, and drops it over the peg's top."""

    body = "SquareNut_main"
    # Off by more than this, the fingers would come down on the nut's frame.
    grip_distance = 0.008
    carry_height = 0.07
    # Between nut and peg there are 7 mm on each side.
    place_distance = 0.005
    place_turn = 0.06

    def grip(self, world: World, arm: ArmState) -> Grip:
        """The handle, fingers to its sides; the way round with less to turn until the nut is placed."""
        nut = Pose.of(world, self.body)
        handle = nut.position + nut.rotation.apply(_HANDLE) + np.array([0.0, 0.0, 0.005])
        yaws = [heading(nut.rotation), heading(nut.rotation) + np.pi]
        if self.phase in ("hover", "descend"):
            now = heading(arm.rotation)
            yaw = min(yaws, key=lambda yaw: _turn(now, yaw) + _turn(yaw, _final_yaw(yaw, nut)))
        else:
            yaw = min(yaws, key=lambda yaw: turn_between(yaw, heading(arm.rotation)))
        return Grip(handle, yaw)

    def place(self, world: World, thing: Pose, arm: ArmState) -> Place:
        """Around the peg just below its top."""
        peg = Pose.of(world, "peg1")
        yaw = _final_yaw(heading(arm.rotation), thing)
        return Place(peg.position + np.array([0.0, 0.0, _PEG_TOP - 0.02]), yaw)


def _final_yaw(yaw: float, nut: Pose) -> float:
    # Of the four ways round the peg, the one in which the handle points to the robot: the peg stands so far
    # out that the arm could not hold the handle on the other sides.
    return yaw + np.pi - heading(nut.rotation)


def _turn(start: float, end: float) -> float:
    return abs(wrist_angle(end) - wrist_angle(start))
