"""Pictures by MuJoCo Warp's ray renderer, which needs no GL library and is the fastest on a CPU.

Its pictures are not OpenGL's: no mipmaps, no reflections, no smoothing of edges, brighter light, and what is
transparent is drawn opaque (Transport's bins hide what lies in them). So a policy is trained and evaluated on
one of the two, and the task says on which.
"""

from typing import Any

import numpy as np

from fibo_robot.envs.simulation.rendering import FIXES, RendererError
from fibo_robot.envs.simulation.untyped import MjData, MjModel, import_mujoco

_VISUAL_GROUP = 1  # robosuite's visual geometry; group 0 is its collision geometry
# Warp adds ambient light to lights of full strength: without this, white tables lose their shading.
_EXPOSURE = 0.8
_SIZES = ("geom_size", "geom_rbound", "geom_aabb")
_SYNCED = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")


class WarpRenderer:
    """Traces one camera of one scene at a time; the first picture of a camera builds its ray context."""

    def __init__(self, model: MjModel) -> None:
        """Put the model on Warp's device.

        Raises:
            RendererError: if MuJoCo Warp is not installed.
        """
        mujoco = import_mujoco()

        try:
            import warp
        except ImportError as error:
            raise RendererError(f"The renderer warp is not installed: {FIXES['warp']}.") from error
        warp.config.log_level = warp.LOG_ERROR  # Warp reports every start otherwise
        try:
            import mujoco_warp
        except ImportError as error:
            raise RendererError(f"The renderer warp is not installed: {FIXES['warp']}.") from error
        self._warp, self._mujoco_warp = warp, mujoco_warp
        self._model = model
        self._has_skybox = mujoco.mjtTexture.mjTEXTURE_SKYBOX in model.tex_type
        self._warp_model = mujoco_warp.put_model(model)
        for colours in (self._warp_model.geom_rgba, self._warp_model.mat_rgba):
            colours.assign(colours.numpy() * np.array([_EXPOSURE] * 3 + [1.0]))
        self._sizes = model.geom_size.copy()
        self._warp_data: Any = None
        self._contexts: dict[tuple[str, int, int], tuple[Any, Any]] = {}

    def render(self, data: MjData, camera: str, height: int, width: int) -> np.ndarray:
        """One picture, uint8 `(height, width, 3)`, right side up; raises KeyError for an unknown camera."""
        if self._warp_data is None:
            self._warp_data = self._mujoco_warp.put_data(self._model, data)
        self._take_sizes()
        for name in _SYNCED:
            target = getattr(self._warp_data, name)
            target.assign(getattr(data, name).reshape(target.numpy().shape))
        context, pixels = self._context(camera, height, width)
        self._mujoco_warp.refit_bvh(self._warp_model, self._warp_data, context)
        self._mujoco_warp.render(self._warp_model, self._warp_data, context)
        self._mujoco_warp.get_rgb(context, 0, pixels)
        return np.rint(np.clip(pixels.numpy()[0], 0.0, 1.0) * 255.0).astype(np.uint8)

    @property
    def description(self) -> str:
        """The library and its device."""
        return f"MuJoCo Warp on {self._warp.get_device().name}"

    def _take_sizes(self) -> None:
        """Objects may have been resized since the model was put on the device."""
        if np.array_equal(self._sizes, self._model.geom_size):
            return
        for name in _SIZES:
            target = getattr(self._warp_model, name)
            target.assign(np.asarray(getattr(self._model, name)).reshape(target.numpy().shape))
        self._sizes = self._model.geom_size.copy()

    def _context(self, camera: str, height: int, width: int) -> tuple[Any, Any]:
        key = (camera, height, width)
        if key not in self._contexts:
            wanted = self._model.camera(camera).id
            context = self._mujoco_warp.create_render_context(
                self._model,
                nworld=1,
                cam_res=(width, height),
                render_rgb=True,
                enabled_geom_groups=[_VISUAL_GROUP],
                cam_active=[index == wanted for index in range(self._model.ncam)],
                render_skybox=self._has_skybox,
            )
            pixels = self._warp.zeros((1, height, width), dtype=self._warp.vec3f)
            self._contexts[key] = (context, pixels)
        return self._contexts[key]

    def close(self) -> None:
        """Release the device's arrays."""
        self._contexts.clear()
        self._warp_data = None
