"""Off-screen pictures of a MuJoCo scene: which back end draws them, how, and what to do when one is missing.

MuJoCo chooses its OpenGL binding when it is imported, from `MUJOCO_GL`; :func:`prepare_rendering` sets that
first, in every process. Pictures depend on the settings here (reflections, shadows, multisampling), so they
belong to the task and travel with datasets and checkpoints.
"""

import atexit
import ctypes
import os
import sys
import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from fibo_robot.envs.simulation.culling import MeshCulling
from fibo_robot.envs.simulation.untyped import MjData, MjModel, import_mujoco
from fibo_robot.errors import FiboError

RENDERERS = ("egl", "osmesa", "warp")
# Changes with every number or rule in `warp_shading`: pictures of another version are another renderer's.
SHADING_VERSION = 2  # 1: Warp's own lights and materials, colours times 0.8
FIXES = {
    "egl": "install Debian's packages libegl1 and libgl1-mesa-dri (apt-get install libegl1 libgl1-mesa-dri)",
    "osmesa": "install Debian's package libosmesa6 (apt-get install libosmesa6)",
    "warp": "install the extra that brings MuJoCo Warp (pip install 'fibo-robot[warp]')",
}
_drawing_process: int | None = None  # where EGL was started: a forked copy of it has none of its threads
_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}


class RendererError(FiboError):
    """No picture can be drawn with the wanted renderer; the message names the package to install."""


@dataclass(frozen=True)
class RenderQuality:
    """What a picture of a scene includes.

    Attributes:
        shadows: draw shadow maps (robosuite's lights cast none, so its pictures do not change). OpenGL only,
            as the next two.
        reflections: draw reflective floors and tables; doubles the cost of a frame on a CPU.
        multisamples: samples a pixel edge is smoothed with; 0 turns smoothing off.
        shading: version of the lights and colours that Warp draws with
            (:mod:`fibo_robot.envs.simulation.warp_shading`); None: OpenGL draws, or nobody has chosen.
    """

    shadows: bool = False
    reflections: bool = False
    multisamples: int = 4
    shading: int | None = None

    def resolved(self, renderer: str) -> "RenderQuality":
        """The same for a resolved renderer: `warp` draws with the present shading, if no other was chosen."""
        if renderer != "warp":
            return replace(self, shading=None)
        return self if self.shading is not None else replace(self, shading=SHADING_VERSION)

    def check_shading(self) -> None:
        """Refuse to draw with Warp what was drawn with other lights and colours.

        Raises:
            RendererError: this is another version of the shading than the present one.
        """
        if self.shading not in (None, SHADING_VERSION):
            raise RendererError(
                f"These pictures are to be drawn with version {self.shading} of Warp's lights and colours, "
                f"this fibo_robot draws version {SHADING_VERSION}. Draw the demonstrations anew (fibo demos "
                "convert FILE --renderer warp) and train on them, or use the fibo_robot that drew them."
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_dict` reads it back."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], renderer: str | None) -> "RenderQuality":
        """Read what :meth:`to_dict` wrote beside a task's renderer.

        What Warp drew before its shading had versions is version 1.
        """
        return cls(**{"shading": 1 if renderer == "warp" else None, **values})


class SceneRenderer(Protocol):
    """What draws the cameras of one model."""

    @property
    def description(self) -> str:
        """What it is, as driver or library call it: two machines whose pictures may differ differ in it."""
        ...

    def render(self, data: MjData, camera: str, height: int, width: int) -> np.ndarray:
        """One picture, uint8 `(height, width, 3)`, right side up."""
        ...

    def close(self) -> None:
        """Release what the renderer holds."""
        ...


def resolve_renderer(name: str) -> str:
    """The renderer that `name` means on this machine: `auto` becomes `egl`, or `osmesa` where EGL is missing.

    `auto` follows `MUJOCO_GL` if that names one of the two. It never becomes `warp`, whose pictures differ.

    Raises:
        RendererError: if `name` is unknown, or `auto` finds neither library.
    """
    if name in RENDERERS:
        return name
    if name != "auto":
        raise RendererError(f"Unknown renderer {name!r}; choose auto, {', '.join(RENDERERS)}.")
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in _LIBRARIES:
        return wanted
    for candidate, library in _LIBRARIES.items():
        if _loads(library):
            return candidate
    raise RendererError(
        f"No library for off-screen rendering was found: {FIXES['egl']}, or set the task's renderer to warp."
    )


def prepare_rendering(name: str) -> str:
    """Point MuJoCo at the renderer `name` before it is imported; return the resolved name.

    Raises:
        RendererError: if the renderer's library is missing.
    """
    renderer = resolve_renderer(name)
    library = _LIBRARIES.get(renderer)
    if library is not None and not _loads(library):
        raise RendererError(f"The renderer {renderer} needs {library}: {FIXES[renderer]}.")
    if "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = renderer if library is not None else "disable"
        if "OpenGL" not in sys.modules:  # else a parent process that drew with another renderer decides
            os.environ.pop("PYOPENGL_PLATFORM", None)
    return renderer


def create_renderer(model: MjModel, renderer: str, quality: RenderQuality) -> SceneRenderer:
    """A renderer for `model`; `renderer` is a resolved name."""
    if renderer == "warp":
        quality.check_shading()
        from fibo_robot.envs.simulation.warp_rendering import WarpRenderer

        return WarpRenderer(model)
    return OpenGLRenderer(model, renderer, quality)


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


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
