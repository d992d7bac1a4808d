"""Pictures of one world by MuJoCo Warp's ray renderer, which needs no GL library and is the fastest on a CPU.

They are the batched renderer's (:mod:`fibo_robot.envs.rendering.warp.cameras`), bit for bit, and close to
OpenGL's but not the same: no reflections, no smoothing of edges, textures only on planes and meshes. So a
policy is trained and evaluated on one of the two, and the task says on which.
"""

from typing import Any

import numpy as np

from fibo_robot.envs.rendering.warp.cameras import POSES, WarpCameras, describe, import_warp
from fibo_robot.envs.untyped import MjData, MjModel

_SIZES = ("geom_size", "geom_rbound", "geom_aabb")


class WarpRenderer:
    """Traces one camera of one scene at a time; the first picture of a size builds its ray context."""

    def __init__(self, model: MjModel) -> None:
        """Put the model on Warp's device.

        Raises:
            RendererError: if MuJoCo Warp is not installed.
        """
        _, mujoco_warp = import_warp()
        self._model = model
        self._warp_model = mujoco_warp.put_model(model)
        self._warp_data: Any = mujoco_warp.make_data(model)
        self._names = [model.camera(index).name for index in range(model.ncam)]
        self._sizes = model.geom_size.copy()
        self._cameras: dict[tuple[int, int], WarpCameras] = {}

    def render(self, data: MjData, camera: str, height: int, width: int) -> np.ndarray:
        """One picture, uint8 `(height, width, 3)`, right side up; raises KeyError for an unknown camera."""
        self._model.camera(camera)
        self._take_sizes()
        for name in POSES:
            target = getattr(self._warp_data, name)
            target.assign(getattr(data, name).reshape(target.numpy().shape))
        if (height, width) not in self._cameras:
            self._cameras[height, width] = WarpCameras(
                self._model, self._warp_model, self._names, height, width
            )
        picture = self._cameras[height, width].draw(self._warp_data, [camera])[camera]
        return picture[0].permute(1, 2, 0).cpu().numpy()

    @property
    def description(self) -> str:
        """The library and its device."""
        return describe(self._warp_model.geom_type.device)

    def _take_sizes(self) -> None:
        """Objects may have been resized since the model was put on the device."""
        if np.array_equal(self._sizes, self._model.geom_size):
            return
        for name in _SIZES:
            target = getattr(self._warp_model, name)
            target.assign(np.asarray(getattr(self._model, name)).reshape(target.numpy().shape))
        self._sizes = self._model.geom_size.copy()

    def close(self) -> None:
        """Release the device's arrays."""
        self._cameras.clear()
        self._warp_data = None
