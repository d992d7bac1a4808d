"""The parts of a scene's model that differ from episode to episode: Lift's cube, and bodies moved at a reset.

robosuite draws the cube's half sides anew whenever it builds a model (20 to 22 mm each). Building takes a
third of a second; here the compiled model is changed instead. MuJoCo itself says what follows from a size: it
compiles the cube alone, and what it finds replaces the cube's part of the big model.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

import numpy as np

from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.simulation.recorded_model import Changes, Element
from fibo_robot.envs.untyped import MjData, MjModel, import_mujoco

CUBE_BODY = "cube_main"
_COLLISION, _VISUAL = "cube_g0", "cube_g0_vis"
# Half sides in metres, as robosuite's Lift has them.
SMALLEST, LARGEST = (0.020,) * 3, (0.022,) * 3

# Everything in a compiled model that belongs to one geom or one body and follows from its size.
_OF_GEOM = ("geom_size", "geom_rbound", "geom_aabb")
_OF_BODY = ("body_mass", "body_inertia", "body_ipos", "body_iquat")


def draw_cube_size(generator: np.random.Generator) -> np.ndarray:
    """Half sides `(3,)` in metres, drawn as robosuite draws them when it builds Lift."""
    pairs = zip(SMALLEST, LARGEST, strict=True)
    return np.array([generator.uniform(low, high) for low, high in pairs])


def taken_cube_size(built: str, changes: dict[Element, Mapping[str, str | None]]) -> np.ndarray:
    """The cube's half sides `(3,)` in the model `built`, or, taken out of `changes` of it, a recorded one's.

    Raises:
        DatasetError: if the recorded cube has no size.
    """
    recorded = dict(changes.get(("geom", _COLLISION), {}))
    text = recorded.pop("size", _size_of(built)) or ""
    size = np.array([float(number) for number in text.split()])
    if size.shape != (3,) or (size <= 0).any():
        raise DatasetError(f"A demonstration's model_file has a cube of size {text!r}: it is damaged.")
    for name in (_COLLISION, _VISUAL):
        rest = {key: value for key, value in changes.pop(("geom", name), {}).items() if key != "size"}
        if rest:
            changes["geom", name] = rest
    return size


def _size_of(model_xml: str) -> str:
    geoms = ElementTree.fromstring(model_xml).iter("geom")
    return next(geom.get("size", "") for geom in geoms if geom.get("name") == _COLLISION)


class BodyPoses:
    """Where the bodies of one model stood when it was compiled; robosuite moves some, and hides geoms."""

    def __init__(self, model: MjModel) -> None:
        self._model = model
        self._compiled, self._colours = self._present(), model.geom_rgba.copy()

    def in_another(self, model: MjModel) -> "BodyPoses":
        """The same bodies in `model`, another compilation of the scene, moved to where they stood here."""
        other = BodyPoses(model)
        other._compiled, other._colours = self._compiled, self._colours
        other.put_back()
        return other

    def put_back(self) -> None:
        """Move every body to where it stood, and show what is hidden since."""
        self._model.body_pos[:], self._model.body_quat[:] = self._compiled[:, :3], self._compiled[:, 3:]
        self._model.geom_rgba[:] = self._colours

    def moved(self) -> dict[str, np.ndarray]:
        """Present position and quaternion, w first, `(7,)`, in the parent's frame, of bodies moved since."""
        now = self._present()
        rows = np.flatnonzero((now != self._compiled).any(axis=1))
        return {self._model.body(int(row)).name: now[row] for row in rows}

    def changes(self) -> Changes:
        """:meth:`moved` as attributes of a model's XML."""
        return {
            ("body", name): {"pos": _numbers(pose[:3]), "quat": _numbers(pose[3:])}
            for name, pose in self.moved().items()
        }

    def _present(self) -> np.ndarray:
        return np.concatenate([self._model.body_pos, self._model.body_quat], axis=1)


class CubeGeometry:
    """Resizes the cube of one compiled model.

    Attributes:
        size: the cube's half sides `(3,)`, metres.
    """

    def __init__(self, model: MjModel, model_xml: str) -> None:
        """Take hold of the cube.

        Args:
            model: the compiled scene; it is changed in place.
            model_xml: the XML that MuJoCo saved of it.
        """
        self._model = model
        self._cube_xml = _cube_alone(model_xml)
        self.size = model.geom(_COLLISION).size.copy()

    def resize(self, size: np.ndarray, data: MjData) -> None:
        """Make the model what it would be if it had been built with half sides `size` `(3,)`, in metres.

        Args:
            size: the half sides.
            data: of this model; MuJoCo computes in it, so its state is to be set afterwards.
        """
        if np.array_equal(size, self.size):
            return
        mujoco = import_mujoco()

        cube = mujoco.MjModel.from_xml_string(_with_size(self._cube_xml, size))
        for name in (_COLLISION, _VISUAL):
            here, there = self._model.geom(name).id, cube.geom(name).id
            for quantity in _OF_GEOM:
                getattr(self._model, quantity)[here] = getattr(cube, quantity)[there]
        here, there = self._model.body(CUBE_BODY).id, cube.body(CUBE_BODY).id
        for quantity in _OF_BODY:
            getattr(self._model, quantity)[here] = getattr(cube, quantity)[there]
        boxes, own = self._model.body_bvhadr[here], cube.body_bvhadr[there]
        count = cube.body_bvhnum[there]
        self._model.bvh_aabb[boxes : boxes + count] = cube.bvh_aabb[own : own + count]
        mujoco.mj_setConst(self._model, data)  # masses of subtrees, inverse weights and statistics
        self.size = np.array(size, np.float64)

    def write(self, model_xml: str) -> str:
        """The scene's XML with the present size in it, to the last digit."""
        return _with_size(model_xml, self.size)


def _cube_alone(model_xml: str) -> str:
    """A model of the cube's body and nothing else."""
    bodies = ElementTree.fromstring(model_xml).iter("body")
    body = next(body for body in bodies if body.get("name") == CUBE_BODY)
    for geom in body.iter("geom"):
        geom.attrib.pop("material", None)
    return f"<mujoco><worldbody>{ElementTree.tostring(body, encoding='unicode')}</worldbody></mujoco>"


def _with_size(model_xml: str, size: np.ndarray) -> str:
    changed, count = re.subn(
        r'(<geom name="cube_g0(?:_vis)?" size=")[^"]*', rf"\g<1>{_numbers(size)}", model_xml
    )
    if count != 2:
        raise ValueError(f"a model with a cube names two geoms with its size, not {count}")
    return changed


def _numbers(values: np.ndarray) -> str:
    """To the last digit."""
    return " ".join(repr(float(value)) for value in values)
