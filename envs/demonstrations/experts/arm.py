"""What experts see and do: poses in the world, and actions that servo the gripper to a pose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from fibo_robot.envs.tasks import ARM_LOW_DIM

# An action of 1 asks robomimic's controller for this much motion (metres, radians).
POSITION_SCALE = 0.05
ROTATION_SCALE = 0.5
OPEN, CLOSE = -1.0, 1.0
# A Panda's wrist can turn a downward gripper from about -1.9 to 3.6 rad; this is the middle of that, for an
# arm whose base looks along x. Headings are counted half a turn to either side of it, so that no way between
# two of them leads through the wrist's stop.
_WRIST_MIDDLE = 0.85
# No further turn is asked for at once: near half a turn, the shorter way could be through the stop.
_LARGEST_TURN = 1.0
_DOWN = np.array([0.0, 0.0, -1.0])


class World(Protocol):
    """What an expert looks at; :class:`~fibo_robot.envs.simulation.environment.SimulationEnv` is one."""

    def observe(self, obs_keys: Sequence[str] | None = None) -> Mapping[str, np.ndarray]:
        """The present observation of `obs_keys`."""
        ...

    def body_pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Position, metres `(3,)`, and quaternion, x, y, z, w `(4,)`, of a body of the scene."""
        ...


@dataclass(frozen=True)
class Pose:
    """Where a body is.

    Attributes:
        position: metres `(3,)`.
        rotation: from the body's frame to the world's.
    """

    position: np.ndarray
    rotation: Rotation

    @classmethod
    def of(cls, world: World, body: str) -> "Pose":
        """The present pose of the body of that name; never an older one, as parts of `object` may be."""
        position, quaternion = world.body_pose(body)
        return cls(position, Rotation.from_quat(quaternion))


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
    def of(cls, world: World) -> "ArmState":
        """The first arm's present state."""
        observation = world.observe(tuple(ARM_LOW_DIM))
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
    now = wrist_angle(heading(arm.rotation))
    yaw = now + float(np.clip(wrist_angle(yaw) - now, -_LARGEST_TURN, _LARGEST_TURN))
    x_axis = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    target = Rotation.from_matrix(np.column_stack([x_axis, np.cross(_DOWN, x_axis), _DOWN]))
    turn = (target * arm.rotation.inv()).as_rotvec()
    motion = np.concatenate([gain * (position - arm.position) / POSITION_SCALE, turn / ROTATION_SCALE])
    return np.append(np.clip(motion, -1.0, 1.0), gripper)


def heading(rotation: Rotation) -> float:
    """Angle of a rotation's x axis about the vertical, radians."""
    x_axis = rotation.as_matrix()[:, 0]
    return float(np.arctan2(x_axis[1], x_axis[0]))


def wrist_angle(yaw: float) -> float:
    """The same heading, counted the way the wrist turns: it comes from one to another in a straight line."""
    return nearest_angle(yaw, _WRIST_MIDDLE, 2 * np.pi)


def nearest_angle(angle: float, reference: float, period: float) -> float:
    """`angle` plus the multiple of `period` that brings it nearest to `reference`."""
    return float(angle + period * np.round((reference - angle) / period))


def turn_between(angle: float, other: float) -> float:
    """How far two headings lie apart, radians in [0, pi]."""
    return abs(angle - nearest_angle(other, angle, 2 * np.pi))
