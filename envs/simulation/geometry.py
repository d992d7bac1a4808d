"""The part of a scene's model that differs from episode to episode: the size of Lift's cube.

robosuite draws the cube's half sides anew whenever it builds a model (20 to 22 mm each). Building takes a
third of a second; here the compiled model is changed instead. MuJoCo itself says what follows from a size: it
compiles the cube alone, and what it finds replaces the cube's part of the big model.
"""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.simulation.untyped import MjData, MjModel, import_mujoco

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


def recorded_cube_size(model_xml: str) -> np.ndarray | None:
    """The cube's half sides in a recorded model; None where it has no cube.

    Raises:
        DatasetError: if `model_xml` is no XML, or its cube has no size.
    """
    try:
        geoms = ElementTree.fromstring(model_xml).iter("geom")
    except ElementTree.ParseError as error:
        raise DatasetError(
            f"A demonstration's model_file is no XML ({error}); the file is damaged."
        ) from error
    for geom in geoms:
        if geom.get("name") == _COLLISION:
            size = np.array([float(number) for number in geom.get("size", "").split()])
            if size.shape != (3,) or (size <= 0).any():
                raise DatasetError(
                    f"A demonstration's model_file has a cube of size {geom.get('size')!r}: it is damaged."
                )
            return size
    return None


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
    numbers = " ".join(repr(float(number)) for number in size)
    changed, count = re.subn(r'(<geom name="cube_g0(?:_vis)?" size=")[^"]*', rf"\g<1>{numbers}", model_xml)
    if count != 2:
        raise ValueError(f"a model with a cube names two geoms with its size, not {count}")
    return changed
