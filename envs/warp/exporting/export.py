"""A task's compiled model with all that must be known of it, in one file: a GPU machine needs no robosuite.

The file is a zip of the model's bytes (MuJoCo's MJB), its XML, and JSON. An MJB can be read by the version of
MuJoCo that wrote it and by no other; the JSON says which that was.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fibo_robot.envs.untyped import MjModel, import_mujoco
from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.runtime import versions
from fibo_robot.files import replace_atomically

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task

# Counts up when the file's contents change, so that an old cache is not read.
LAYOUT = 1
_MODEL, _XML, _NOTES = "model.mjb", "model.xml", "export.json"


@dataclass(frozen=True)
class Arm:
    """One robot arm with its operational-space controller and gripper; ids are of the compiled model.

    Attributes:
        prefix: of its observations, `robot0`.
        joints, qpos, qvel: ids and addresses of its seven joints.
        actuators: of its joints; torque limits are the model's control ranges.
        site: the site that the controller moves.
        hand_body: the body whose quaternion is `eef_quat`.
        eef_site: the site whose position is `eef_pos`.
        finger_qpos, finger_qvel: addresses of the fingers' joints.
        finger_actuators: of the fingers.
        finger_signs: which way each moves when closing.
        finger_speed: share of half the range that a finger's command moves per control step.
        kp, kd: gains `(6,)`.
        input_min, input_max, output_min, output_max: how deltas are scaled, `(6,)` each.
        absolute: actions are poses, not deltas.
        uncoupled: position and orientation are controlled each by itself.
    """

    prefix: str
    joints: tuple[int, ...]
    qpos: tuple[int, ...]
    qvel: tuple[int, ...]
    actuators: tuple[int, ...]
    site: int
    hand_body: int
    eef_site: int
    finger_qpos: tuple[int, ...]
    finger_qvel: tuple[int, ...]
    finger_actuators: tuple[int, ...]
    finger_signs: tuple[float, ...]
    finger_speed: float
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    input_min: tuple[float, ...]
    input_max: tuple[float, ...]
    output_min: tuple[float, ...]
    output_max: tuple[float, ...]
    absolute: bool
    uncoupled: bool

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Arm":
        """Read what `asdict` and JSON made of an arm."""
        read: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**read)


@dataclass(frozen=True)
class SuccessRule:
    """What a task's success rule needs to know of the scene.

    Attributes:
        numbers: lengths and positions by name, in metres.
        touching: pairs of groups of geoms by name: whether any of the first touches any of the second.
    """

    numbers: Mapping[str, tuple[float, ...]]
    touching: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SuccessRule":
        """Read what `asdict` and JSON made of a rule."""
        return cls(
            {name: tuple(numbers) for name, numbers in values["numbers"].items()},
            {name: (tuple(pair[0]), tuple(pair[1])) for name, pair in values["touching"].items()},
        )


@dataclass(frozen=True)
class TaskExport:
    """What is needed to simulate a task without robosuite.

    Attributes:
        settings: what decides the simulation, see :func:`simulation_settings`.
        model: MuJoCo's compiled model as bytes (MJB).
        model_xml: the same as XML; objects are resized by it.
        arms: one per robot.
        success: what the success rule needs.
        substeps: physics steps per control step.
        versions: of the packages that made it; `mujoco` must be the one that reads it.
    """

    settings: Mapping[str, Any]
    model: bytes
    model_xml: str
    arms: tuple[Arm, ...]
    success: SuccessRule
    substeps: int
    versions: Mapping[str, str]

    def save(self, path: Path | str) -> None:
        """Write one file."""
        notes = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("model", "model_xml")
        }
        notes |= {
            "arms": [asdict(arm) for arm in self.arms],
            "success": asdict(self.success),
            "layout": LAYOUT,
        }
        with (
            replace_atomically(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            archive.writestr(_NOTES, json.dumps(notes))
            archive.writestr(_XML, self.model_xml)
            archive.writestr(_MODEL, self.model)

    @classmethod
    def load(cls, path: Path | str) -> "TaskExport":
        """Read what :meth:`save` wrote.

        Raises:
            WarpError: the file is missing or damaged, or of another version of this program or of MuJoCo.
        """
        contents: dict[str, Any] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                notes = json.loads(archive.read(_NOTES))
                layout = notes.pop("layout")
                if layout == LAYOUT:
                    contents = {"model": archive.read(_MODEL), "model_xml": archive.read(_XML).decode()}
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, AttributeError) as error:
            raise WarpError(
                f"{path} cannot be read as an exported task ({error}): delete it, and it is made again where "
                "robosuite is installed."
            ) from error
        here = versions()["mujoco"]
        if layout != LAYOUT or notes["versions"].get("mujoco") != here:
            made = f"mujoco {notes.get('versions', {}).get('mujoco')} (layout {layout})"
            raise WarpError(
                f"{path} was exported with {made} and cannot be read with mujoco {here} (layout {LAYOUT}): "
                "export the task again on a machine with robosuite and this version."
            )
        notes["arms"] = tuple(Arm.from_dict(arm) for arm in notes["arms"])
        return cls(**{**notes, "success": SuccessRule.from_dict(notes["success"])}, **contents)

    def mujoco_model(self) -> MjModel:
        """The compiled model, as a new `mujoco.MjModel`."""
        name = "exported.mjb"
        return import_mujoco().MjModel.from_binary_path(name, {name: self.model})

    def check_fits(self, task: "Task", source: str = "The exported task") -> None:
        """Refuse a task that is simulated otherwise; raises WarpError."""
        wanted = simulation_settings(task)
        differing = [name for name, value in wanted.items() if self.settings.get(name) != value]
        if differing:
            raise WarpError(
                f"{source} has another {' and '.join(differing)} than the task {task.name}: export that one."
            )


def simulation_settings(task: "Task") -> dict[str, Any]:
    """What decides how a task is simulated, JSON-ready; pictures and horizon do not."""
    values = task.to_dict()
    names = ("env_name", "robots", "control_freq", "controller", "options")
    return json.loads(json.dumps({name: values[name] for name in names}))


def cache_folder(task: "Task") -> Path:
    """Where a task's export (`model.zip`) and start states (`starts.npz`) are kept.

    `$XDG_CACHE_HOME/fibo_robot/warp/<name>-<digest of the simulation's settings>`. The folder may be copied
    to a machine without robosuite.
    """
    settings = json.dumps([LAYOUT, simulation_settings(task)], sort_keys=True)
    digest = hashlib.blake2b(settings.encode(), digest_size=6).hexdigest()
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return users / "fibo_robot" / "warp" / f"{task.env_name}-{digest}"


def flat(values: Any) -> tuple[float, ...]:
    """Numbers of any shape as a tuple of floats, for JSON."""
    return tuple(float(value) for value in np.asarray(values, np.float64).ravel())
