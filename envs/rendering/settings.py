"""Off-screen pictures of a MuJoCo scene: which back end draws, how, and what to do when it is missing.

MuJoCo chooses its OpenGL binding when it is imported, from `MUJOCO_GL`; :func:`prepare_rendering` sets that
first, in every process. Pictures depend on the settings here (reflections, shadows, multisampling), so they
belong to the task and travel with datasets and checkpoints.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fibo_robot.errors import FiboError

RENDERERS = ("egl", "osmesa", "warp")
# Changes with every number or rule in `warp/shading.py`: pictures of another version are another renderer's.
SHADING_VERSION = 2  # 1: Warp's own lights and materials, colours times 0.8
FIXES = {
    "egl": "install Debian's packages libegl1 and libgl1-mesa-dri (apt-get install libegl1 libgl1-mesa-dri)",
    "osmesa": "install Debian's package libosmesa6 (apt-get install libosmesa6)",
    "warp": "install the extra that brings MuJoCo Warp (pip install 'fibo-robot[warp]')",
}
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
            (:mod:`fibo_robot.envs.rendering.warp.shading`); None: OpenGL draws, or nobody has chosen.
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


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
