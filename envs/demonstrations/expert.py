"""Scripted experts that solve a task from the true poses of its objects, to record demonstrations with.

An expert is a phase machine: each phase is a pose of the gripper, servoed to in proportion to the error, and
the next one begins when the pose is reached. A phase is decided from what is observed, so that the expert
recovers when noise or a slipped grasp throws it back: the demonstrations then show how to recover, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from fibo_robot.errors import FiboError

# An action of 1 asks robomimic's controller for this much motion (metres, radians).
POSITION_SCALE = 0.05
ROTATION_SCALE = 0.5
OPEN, CLOSE = -1.0, 1.0
_DOWN = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True)
class ArmState:
    """What the experts see of the arm.

    Attributes:
        position: of the gripper, metres `(3,)`.
        rotation: of the gripper; its z axis points out of the hand and its fingers open along y.
        opening: distance of the fingers, metres.
    """

    position: np.ndarray
    rotation: Rotation
    opening: float

    @classmethod
    def from_observation(cls, observation: Mapping[str, np.ndarray]) -> "ArmState":
        """Read the first arm's state out of an environment's observation."""
        return cls(
            observation["robot0_eef_pos"].astype(np.float64),
            Rotation.from_quat(observation["robot0_eef_quat"]),
            float(np.abs(observation["robot0_gripper_qpos"]).sum()),
        )


def servo(arm: ArmState, position: np.ndarray, yaw: float, gripper: float, gain: float = 1.0) -> np.ndarray:
    """The action `(7,)` that moves a downward gripper towards `position` and `yaw`.

    Args:
        arm: where it is.
        position: where it should be, metres `(3,)`.
        yaw: angle of the gripper's x axis about the vertical, radians.
        gripper: :data:`OPEN` or :data:`CLOSE`.
        gain: part of the position error asked for in one step.
    """
    x_axis = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    target = Rotation.from_matrix(np.column_stack([x_axis, np.cross(_DOWN, x_axis), _DOWN]))
    turn = (target * arm.rotation.inv()).as_rotvec()
    motion = np.concatenate([gain * (position - arm.position) / POSITION_SCALE, turn / ROTATION_SCALE])
    return np.append(np.clip(motion, -1.0, 1.0), gripper)


def heading(rotation: Rotation) -> float:
    """Angle of a rotation's x axis about the vertical, radians."""
    x_axis = rotation.as_matrix()[:, 0]
    return float(np.arctan2(x_axis[1], x_axis[0]))


def nearest_angle(angle: float, reference: float, period: float) -> float:
    """`angle` plus the multiple of `period` that brings it nearest to `reference`."""
    return angle + period * np.round((reference - angle) / period)


class LiftExpert:
    """Hovers above the cube, turned to its nearest pair of faces; goes down, closes, and lifts.

    Attributes:
        phase: what it is at: `hover`, `descend`, `close` or `lift`.
    """

    hover_height = 0.08
    lift_height = 0.12

    def __init__(self) -> None:
        """Start with an open gripper."""
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self.phase = "hover"
        self._previous_opening = np.inf
        self._table_height = np.nan

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """The next action `(7,)`, from `robot0_*` and `object` of one observation."""
        arm = ArmState.from_observation(observation)
        cube = observation["object"][:3].astype(np.float64)
        cube_yaw = heading(Rotation.from_quat(observation["object"][3:7]))
        yaw = nearest_angle(cube_yaw, heading(arm.rotation), np.pi / 2)
        if np.isnan(self._table_height):
            self._table_height = cube[2]
        above = float(np.linalg.norm(cube[:2] - arm.position[:2]))
        stopped = abs(arm.opening - self._previous_opening) < 5e-4
        self._previous_opening = arm.opening

        if self.phase == "lift" and np.linalg.norm(cube - arm.position) > 0.03:
            self.phase = "hover"  # the cube slipped out
        if self.phase == "hover" and above < 0.012 and _angle_between(yaw, arm) < 0.15:
            self.phase = "descend"
        elif self.phase == "descend" and above > 0.025:
            self.phase = "hover"
        elif self.phase == "descend" and abs(cube[2] - arm.position[2]) < 0.01:
            self.phase = "close"
        elif self.phase == "close" and stopped and arm.opening < 0.07:
            self.phase = "lift"

        if self.phase == "hover":
            return servo(arm, cube + np.array([0.0, 0.0, self.hover_height]), yaw, OPEN)
        if self.phase == "descend":
            return servo(arm, cube, yaw, OPEN)
        if self.phase == "close":
            return servo(arm, cube, yaw, CLOSE)
        goal = np.array([arm.position[0], arm.position[1], self._table_height + self.lift_height])
        return servo(arm, goal, yaw, CLOSE)


def _angle_between(yaw: float, arm: ArmState) -> float:
    return abs(yaw - nearest_angle(heading(arm.rotation), yaw, 2 * np.pi))


EXPERTS: dict[str, Callable[[], LiftExpert]] = {"lift": LiftExpert}


def get_expert(task: str) -> LiftExpert:
    """A fresh expert for the task called `task`; raises FiboError where there is none."""
    if task not in EXPERTS:
        raise FiboError(f"There is no scripted expert for the task {task!r}, only for {', '.join(EXPERTS)}.")
    return EXPERTS[task]()
