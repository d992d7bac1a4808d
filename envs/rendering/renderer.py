"""What draws the cameras of a scene, whichever back end does."""

from typing import Protocol

import numpy as np

from fibo_robot.envs.rendering.opengl import OpenGLRenderer
from fibo_robot.envs.rendering.settings import RenderQuality
from fibo_robot.envs.untyped import MjData, MjModel


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


def create_renderer(model: MjModel, renderer: str, quality: RenderQuality) -> SceneRenderer:
    """A renderer for `model`; `renderer` is a resolved name."""
    if renderer == "warp":
        quality.check_shading()
        from fibo_robot.envs.rendering.warp.one_world import WarpRenderer

        return WarpRenderer(model)
    return OpenGLRenderer(model, renderer, quality)
