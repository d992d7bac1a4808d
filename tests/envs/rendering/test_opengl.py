"""Renderers that live side by side draw what each would alone."""

import numpy as np
import pytest

from fibo_robot.envs.rendering.opengl import OpenGLRenderer
from fibo_robot.envs.rendering.settings import RenderQuality, prepare_rendering
from fibo_robot.envs.untyped import import_mujoco

pytestmark = pytest.mark.sim
SCENE = """
<mujoco>
  <asset>
    <texture name='checks' type='2d' builtin='checker' width='64' height='64' rgb1='1 0 0' rgb2='0 0 1'/>
    <material name='checks' texture='checks'/>
  </asset>
  <worldbody>
    <light pos='0 0 3'/>
    <camera name='top' pos='0 0 2'/>
    <geom type='box' size='.5 .5 .5' material='checks' group='1'/>
  </worldbody>
</mujoco>
"""


def test_a_renderer_that_is_closed_leaves_another_one_whole() -> None:
    renderer = prepare_rendering("auto")
    mujoco = import_mujoco()
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    first, second = (OpenGLRenderer(model, renderer, RenderQuality()) for _ in range(2))
    before = second.render(data, "top", 32, 32)
    assert np.ptp(before) > 100  # it shows the checks
    first.close()
    np.testing.assert_array_equal(second.render(data, "top", 32, 32), before)
    second.close()
