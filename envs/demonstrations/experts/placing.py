"""The part that experts share which put an object somewhere: raise, carry, lower, let go, retreat."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from fibo_robot.envs.demonstrations.experts.arm import (
    CLOSE,
    OPEN,
    ArmState,
    Pose,
    World,
    heading,
    servo,
    turn_between,
    wrist_angle,
)
from fibo_robot.envs.demonstrations.experts.grasping import GraspingExpert, Grip


@dataclass(frozen=True)
class Place:
    """Where a held object goes.

    Attributes:
        position: of the object when the gripper lets go, metres `(3,)`.
        yaw: angle of the gripper's x axis about the vertical then, radians.
    """

    position: np.ndarray
    yaw: float


class PlacingExpert(GraspingExpert):
    """Takes an object, carries it above everything that stands around, and lets it go at its place.

    The object is servoed, not the gripper: a grasp off its centre does not shift the place.

    Attributes:
        phase: `hover`, `descend`, `close`, `raise`, `carry`, `lower`, `release` or `retreat`.
    """

    body: str
    # Height of the object at which it is carried, metres above its place.
    carry_height: float
    # How near its place, seen from above, the object must be before it is lowered: metres, radians.
    place_distance: float
    place_turn: float
    # Far out the arm answers weakly: ask for more.
    gain = 1.5
    first_held_phase = "raise"

    def reset(self) -> None:
        """Begin an episode."""
        super().reset()
        self._retreat_height = np.nan

    @abstractmethod
    def place(self, world: World, thing: Pose, arm: ArmState) -> Place:
        """Where the object goes."""

    def act_on_held(self, world: World, arm: ArmState, grip: Grip) -> np.ndarray:
        """Raise, carry, lower, release, retreat; from the start again if the object is lost on the way."""
        thing = Pose.of(world, self.body)
        place = self.place(world, thing, arm)
        if self.phase in ("raise", "carry", "lower"):
            if self.slipped(arm, grip):
                return self.restart(arm, grip)
            self._carry_on(thing, place, arm)
        if self.phase == "release" and arm.opening > self.closed_opening:
            self.phase = "retreat"
            self._retreat_height = arm.position[2] + self.hover_height
        if self.phase == "retreat" and arm.position[2] > self._retreat_height - 0.02:
            # Whoever watches ends the episode at success: being here means that it failed.
            return self.restart(arm, grip)

        if self.phase == "retreat":
            up = np.array([arm.position[0], arm.position[1], self._retreat_height])
            return servo(arm, up, heading(arm.rotation), OPEN)
        if self.phase == "release":
            return servo(arm, arm.position, heading(arm.rotation), OPEN)
        target = place.position.copy()
        yaw = place.yaw
        if self.phase != "lower":
            target[2] += self.carry_height
        if self.phase == "raise":
            target[:2], yaw = thing.position[:2], heading(arm.rotation)
        # Where the gripper is above the object once both have turned: aiming from where it is now could
        # stretch the arm out straight on the way, and it would not come back from there.
        turn = wrist_angle(yaw) - wrist_angle(heading(arm.rotation))
        offset = Rotation.from_rotvec([0.0, 0.0, turn]).apply(arm.position - thing.position)
        return servo(arm, target + offset, yaw, CLOSE, self.gain)

    def _carry_on(self, thing: Pose, place: Place, arm: ArmState) -> None:
        missing = place.position - thing.position
        across = float(np.linalg.norm(missing[:2]))
        turned = turn_between(place.yaw, heading(arm.rotation))
        if self.phase == "raise" and missing[2] + self.carry_height < 0.02:
            self.phase = "carry"
        if self.phase == "carry" and across < self.place_distance and turned < self.place_turn:
            self.phase = "lower"
        elif self.phase == "lower" and across > 2 * self.place_distance:
            self.phase = "carry"
        elif self.phase == "lower" and abs(missing[2]) < 0.008:
            self.phase = "release"
