"""The part that all experts share: take an object from above, and take it again if it slips out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from fibo_robot.envs.demonstrations.experts.arm import (
    CLOSE,
    OPEN,
    ArmState,
    World,
    heading,
    servo,
    turn_between,
)

# Fingers close in ten steps; where they have not after this many, something is in their way.
_PATIENCE = 25


@dataclass(frozen=True)
class Grip:
    """Where the gripper takes an object.

    Attributes:
        position: of the gripper, metres `(3,)`.
        yaw: angle of the gripper's x axis about the vertical, radians; the fingers close across it.
    """

    position: np.ndarray
    yaw: float


class GraspingExpert(ABC):
    """Hovers above an object, turned to grip it; goes down and closes; what follows is the subclass's.

    Attributes:
        phase: what it is at: `hover`, `descend`, `close`, and then the phases of the subclass.
    """

    hover_height = 0.08
    # How far the object may be from where it was gripped before it counts as slipped out, metres.
    slip_distance = 0.03
    # Fingers further apart than this have not closed on anything yet, metres.
    closed_opening = 0.07
    # How near above its grip the gripper must be to go down, metres.
    grip_distance = 0.012
    # Part of the way to a pose that is asked for in one step while the hand is empty.
    gain = 1.0
    first_held_phase: str

    def __init__(self) -> None:
        """Start with an open gripper."""
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self.phase = "hover"
        self._previous_opening = np.inf
        self._steps_closing = 0

    @abstractmethod
    def grip(self, world: World, arm: ArmState) -> Grip:
        """Where to take the object, as it lies now."""

    @abstractmethod
    def act_on_held(self, world: World, arm: ArmState, grip: Grip) -> np.ndarray:
        """The next action `(7,)` once the gripper has closed; may change the phase."""

    def act(self, world: World) -> np.ndarray:
        """The next action `(7,)`, from what the world looks like now."""
        arm = ArmState.of(world)
        grip = self.grip(world, arm)
        above = float(np.linalg.norm(grip.position[:2] - arm.position[:2]))
        stopped = abs(arm.opening - self._previous_opening) < 5e-4
        self._previous_opening = arm.opening
        self._steps_closing = self._steps_closing + 1 if self.phase == "close" else 0
        turned = turn_between(grip.yaw, heading(arm.rotation))

        if self.phase == "hover" and above < self.grip_distance and turned < 0.15:
            self.phase = "descend"
        elif self.phase == "descend" and above > 2 * self.grip_distance:
            self.phase = "hover"
        elif self.phase == "descend" and abs(grip.position[2] - arm.position[2]) < 0.01:
            self.phase = "close"
        elif self.phase == "close" and stopped and arm.opening < self.closed_opening:
            self.phase = self.first_held_phase
        elif self._steps_closing > _PATIENCE:
            self.phase = "hover"

        if self.phase == "hover":
            return servo(arm, self._hover_position(arm, grip), grip.yaw, OPEN, self.gain)
        if self.phase == "descend":
            goal = grip.position.copy()
            if above > self.grip_distance:
                goal[2] = arm.position[2]  # wait: the arm sways on its way down
            return servo(arm, goal, grip.yaw, OPEN, self.gain)
        if self.phase == "close":
            return servo(arm, grip.position, grip.yaw, CLOSE)
        return self.act_on_held(world, arm, grip)

    def slipped(self, arm: ArmState, grip: Grip) -> bool:
        """Whether the object is no longer where the gripper took it."""
        return bool(np.linalg.norm(grip.position - arm.position) > self.slip_distance)

    def restart(self, arm: ArmState, grip: Grip) -> np.ndarray:
        """Give up what it is at, and take the object again; the first action `(7,)` of that."""
        self.phase = "hover"
        return servo(arm, self._hover_position(arm, grip), grip.yaw, OPEN, self.gain)

    def _hover_position(self, arm: ArmState, grip: Grip) -> np.ndarray:
        hover = grip.position + np.array([0.0, 0.0, self.hover_height])
        beside = np.linalg.norm(grip.position[:2] - arm.position[:2]) > 0.03
        if beside and arm.position[2] < hover[2] - 0.04:
            # Straight up first: sideways, a low hand would push the object along.
            hover[:2] = arm.position[:2]
        return hover
