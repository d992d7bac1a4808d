"""Pictures by MuJoCo's own OpenGL renderer on an off-screen context."""

import atexit
import os
import weakref
from contextlib import nullcontext
from typing import Any

import numpy as np

from fibo_robot.envs.rendering.culling import MeshCulling
from fibo_robot.envs.rendering.settings import FIXES, RendererError, RenderQuality
from fibo_robot.envs.untyped import MjData, MjModel, import_mujoco

_drawing_process: int | None = None  # where EGL was started: a forked copy of it has none of its threads


class OpenGLRenderer:
    """Draws with MuJoCo's own OpenGL renderer on an off-screen context (EGL or OSMesa).

    Collision geometry (group 0) is hidden and visual geometry (group 1) shown, as robosuite does.
    """

    def __init__(self, model: MjModel, backend: str, quality: RenderQuality, max_size: int = 640) -> None:
        """Create the context.

        Args:
            model: the scene.
            backend: `egl` or `osmesa`.
            quality: what to draw.
            max_size: pixels of the off-screen buffer's sides; larger pictures replace the buffer.

        Raises:
            RendererError: if the context cannot be created, or the process was forked from one that has
                drawn.
        """
        mujoco = import_mujoco()

        self._mujoco = mujoco
        self._model = model
        self._backend = backend
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = quality.shadows
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = quality.reflections
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0
        self._options.geomgroup[1] = 1
        self._perturbation = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        see_through = quality.shadows or quality.reflections
        self._culling = None if see_through else MeshCulling(model)
        model.vis.quality.offsamples = quality.multisamples
        if not quality.shadows:
            model.vis.quality.shadowsize = 0  # a map of 64 MiB that nothing would be drawn into
        self._create_context(max_size)

    def _create_context(self, size: int) -> None:
        global _drawing_process
        if self._backend == "egl" and _drawing_process not in (None, os.getpid()):
            raise RendererError(
                "This process was forked from one that has drawn already; EGL would wait for ever in it. "
                "Start it anew: gymnasium.make_vec takes vector_kwargs={'context': 'spawn'}, PyTorch's "
                "DataLoader multiprocessing_context='spawn'."
            )
        _drawing_process = os.getpid()
        self._size = size
        self._model.vis.global_.offwidth = self._model.vis.global_.offheight = size
        try:
            if self._backend == "egl":
                from mujoco.egl import GLContext
            else:
                from mujoco.osmesa import GLContext
            self._gl = GLContext(size, size)
            self._gl.make_current()
            self._context = self._mujoco.MjrContext(self._model, self._mujoco.mjtFontScale.mjFONTSCALE_100)
        # PyOpenGL reports a missing driver as an attribute of None, and MuJoCo a failed context as fatal.
        except (AttributeError, ImportError, RuntimeError, OSError, self._mujoco.FatalError) as error:
            raise RendererError(
                f"The renderer {self._backend} did not start ({error}): {FIXES[self._backend]}."
            ) from error
        self._mujoco.mjr_setBuffer(self._mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        # At exit a context must go before its display, which MuJoCo closes in an exit handler that it has
        # just registered; a finalizer's own hook may run after that one.
        self._free = weakref.finalize(self, _free_context, self._context, self._gl)
        self._free.atexit = False
        atexit.register(self._free)

    @property
    def description(self) -> str:
        """OpenGL's GL_RENDERER, which tells a graphics card from llvmpipe."""
        from OpenGL import GL  # takes a while, and only this needs it

        self._gl.make_current()
        name: bytes | None = GL.glGetString(GL.GL_RENDERER)
        return "unknown" if name is None else name.decode()

    def render(self, data: MjData, camera: str, height: int, width: int) -> np.ndarray:
        """One picture, uint8 `(height, width, 3)`, right side up; raises KeyError for an unknown camera."""
        if max(height, width) > self._size:
            self.close()
            self._create_context(max(height, width))
        mujoco = self._mujoco
        self._camera.fixedcamid = self._model.camera(camera).id
        self._gl.make_current()
        camera_id = self._camera.fixedcamid
        with self._culling.hidden(data, camera_id, height, width) if self._culling else nullcontext():
            mujoco.mjv_updateScene(
                self._model,
                data,
                self._options,
                self._perturbation,
                self._camera,
                mujoco.mjtCatBit.mjCAT_ALL,
                self._scene,
            )
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._context)
        image = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(image, None, viewport, self._context)
        return image[::-1]  # OpenGL counts rows from the bottom

    def close(self) -> None:
        """Free the GL context; happens by itself when the renderer goes or the interpreter ends."""
        self._free()
        atexit.unregister(self._free)


def _free_context(context: Any, gl: Any) -> None:
    # Textures and buffers are numbered anew in each context: freed while another one is current, they would
    # be that one's.
    gl.make_current()
    context.free()
    gl.free()
