"""Which meshes a camera cannot see: most of the time of a picture on a CPU goes into their vertices.

A mesh is left out where its bounding box lies wholly beyond one of the frustum's sides or behind the camera.
What is left out covers no pixel, so the picture stays the same, bit for bit, as long as it has neither
shadows nor reflections, through which hidden things show.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fibo_robot.envs.untyped import MjData, MjModel, import_mujoco

_HIDDEN_GROUP = 5  # of MuJoCo's six groups of geoms; drawn by nobody here


class MeshCulling:
    """Hides meshes outside a camera's view while it draws.

    Boxes, spheres and the like are always drawn: they are cheap, and tasks change their sizes.
    """

    def __init__(self, model: MjModel) -> None:
        """Note the meshes of `model` and their bounding boxes, which are fixed once it is compiled."""
        self._model = model
        self._meshes = np.flatnonzero(model.geom_type == import_mujoco().mjtGeom.mjGEOM_MESH)
        boxes = model.geom_aabb[self._meshes]
        self._centres, self._half_sizes = boxes[:, :3], boxes[:, 3:]

    @contextmanager
    def hidden(self, data: MjData, camera: int, height: int, width: int) -> Iterator[None]:
        """Put the unseen meshes of a picture of `height` x `width` pixels into a group that is not drawn."""
        groups = self._model.geom_group
        before = groups.copy()
        groups[self._meshes[self._unseen(data, camera, width / height)]] = _HIDDEN_GROUP
        try:
            yield
        finally:
            groups[:] = before

    def _unseen(self, data: MjData, camera: int, aspect: float) -> np.ndarray:
        to_camera = data.cam_xmat[camera].reshape(3, 3)  # columns: right, up, backwards, in world coordinates
        axes = data.geom_xmat[self._meshes].reshape(-1, 3, 3)
        centres = data.geom_xpos[self._meshes] + np.einsum("gij,gj->gi", axes, self._centres)
        centres = (centres - data.cam_xpos[camera]) @ to_camera
        # Half of each box's three edges, in the camera's coordinates: (meshes, edge, xyz).
        edges = np.swapaxes(axes, 1, 2) @ to_camera * self._half_sizes[:, :, None]
        tangent = np.tan(np.deg2rad(self._model.cam_fovy[camera]) / 2)
        # Normals that point out of the view; their lengths do not matter.
        x, y = aspect * tangent, tangent
        sides = np.array([[1, 0, x], [-1, 0, x], [0, 1, y], [0, -1, y], [0, 0, 1]])
        nearest = centres @ sides.T - np.abs(edges @ sides.T).sum(1)
        return (nearest > 0).any(1)
