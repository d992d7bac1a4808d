"""A task's compiled model with all that must be known of it, in one file: a GPU machine needs no robosuite.

The file is a zip of the model's bytes (MuJoCo's MJB, which belongs to one version of MuJoCo), its XML and JSON.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task


@dataclass(frozen=True)
class Arm:
    """One robot arm with its operational-space controller and gripper; ids are of the compiled model.

    Attributes:
        prefix: of its observations, `robot0`.
        qpos, qvel: addresses of its joints, `(7,)` each.
        actuators: of its joints, `(7,)`; torque limits are the model's control ranges.
        site: the site that the controller moves.
        hand_body: the body whose quaternion is `eef_quat`.
        eef_site: the site whose position is `eef_pos`.
        gripper_qpos, gripper_qvel: addresses of the fingers' joints.
        gripper_actuators: of the fingers.
        gripper_signs: which way each moves when closing.
        gripper_speed: share of the range that a finger's command moves per control step.
        kp, kd: gains `(6,)`.
        output_max, output_min, input_max, input_min: scaling of deltas, `(6,)` each.
        absolute: actions are poses, not deltas.
    """

    prefix: str
    qpos: tuple[int, ...]
    qvel: tuple[int, ...]
    actuators: tuple[int, ...]
    site: int
    hand_body: int
    eef_site: int
    gripper_qpos: tuple[int, ...]
    gripper_qvel: tuple[int, ...]
    gripper_actuators: tuple[int, ...]
    gripper_signs: tuple[float, ...]
    gripper_speed: float
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    input_min: tuple[float, ...]
    input_max: tuple[float, ...]
    output_min: tuple[float, ...]
    output_max: tuple[float, ...]
    absolute: bool


@dataclass(frozen=True)
class TaskExport:
    """What is needed to simulate a task without robosuite.

    Attributes:
        task: the task, resolved.
        model: MuJoCo's compiled model as bytes (MJB).
        model_xml: the same as XML; sizes of objects are changed by it.
        arms: one per robot.
        success: numbers that the success rule needs, by name (positions and sizes of bins, pegs, …).
        substeps: physics steps per control step.
        versions: of the packages that made it; `mujoco` must be the one that reads it.
    """

    task: "Task"
    model: bytes
    model_xml: str
    arms: tuple[Arm, ...]
    success: dict[str, np.ndarray]
    substeps: int
    versions: dict[str, str]

    def save(self, path: Path | str) -> None:
        """Write one file."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path | str) -> "TaskExport":
        """Read what :meth:`save` wrote.

        Raises:
            WarpError: the file is missing or damaged, or another version of MuJoCo wrote it.
        """
        raise NotImplementedError

    def mujoco_model(self) -> Any:
        """The compiled model, as a new `mujoco.MjModel`."""
        raise NotImplementedError


def export_task(task: "Task") -> TaskExport:
    """Compile a task with robosuite and note all that must be known of it.

    Raises:
        WarpError: its controller, gripper, observations or success rule have no counterpart here.
    """
    raise NotImplementedError


def cached_export(task: "Task", folder: Path | None = None) -> TaskExport:
    """:func:`export_task`, kept in `folder` (default: :func:`cache_folder` of the task)."""
    raise NotImplementedError


def cache_folder(task: "Task") -> Path:
    """Where a task's export (`model.zip`) and start states (`starts.npz`) are kept.

    `$XDG_CACHE_HOME/fibo_robot/warp/<name>-<digest of all that decides the simulation>`; pictures do not. The
    folder may be copied to a machine without robosuite.
    """
    raise NotImplementedError
