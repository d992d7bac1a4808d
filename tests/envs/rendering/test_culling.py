"""Leaving out what a camera cannot see changes no pixel, and does leave something out."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fibo_robot.envs.rendering.culling import MeshCulling
from fibo_robot.envs.rendering.opengl import OpenGLRenderer
from fibo_robot.envs.rendering.settings import RenderQuality, prepare_rendering
from fibo_robot.envs.untyped import MjData, MjModel, import_mujoco

pytestmark = pytest.mark.sim
MESHES = 30


@pytest.fixture(scope="module")
def scene() -> tuple[MjModel, MjData]:
    """Long, flat and small meshes, none of them centred on its own origin, and a camera among them."""
    prepare_rendering("auto")
    mujoco = import_mujoco()
    generator = np.random.default_rng(0)
    assets, geoms = [], []
    for number in range(MESHES):
        corners = generator.uniform(-1, 1, (8, 3)) * generator.choice([0.05, 0.3, 2.0], 3)
        vertices = " ".join(f"{value:.4f}" for value in corners.ravel())
        colour = " ".join(f"{value:.2f}" for value in generator.uniform(0.3, 1, 3))
        assets.append(f"<mesh name='m{number}' vertex='{vertices}'/>")
        geoms.append(f"<geom type='mesh' mesh='m{number}' rgba='{colour} 1' group='1'/>")
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><asset>{''.join(assets)}</asset><worldbody><light pos='0 0 9' castshadow='false'/>"
        f"<camera name='eye' fovy='50'/>{''.join(geoms)}</worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def scatter(data: MjData, seed: int) -> None:
    """Put every mesh somewhere around the camera, and turn both at random."""
    generator = np.random.default_rng(seed)
    turned = Rotation.random(MESHES + 1, rng=generator).as_matrix().reshape(-1, 9)
    data.geom_xpos[:] = generator.uniform(-4, 4, (MESHES, 3))
    data.geom_xmat[:], data.cam_xmat[:] = turned[:-1], turned[-1:]


def test_pictures_are_the_same_with_and_without_what_lies_outside(scene: tuple[MjModel, MjData]) -> None:
    model, data = scene
    renderer = prepare_rendering("auto")
    # No light here casts a shadow, so drawing shadows changes nothing, except that every mesh is drawn.
    everything = OpenGLRenderer(model, renderer, RenderQuality(shadows=True))
    seen = OpenGLRenderer(model, renderer, RenderQuality())
    shown = []
    for seed in range(60):
        scatter(data, seed)
        height, width = [(48, 48), (36, 64), (64, 24)][seed % 3]
        picture = seen.render(data, "eye", height, width)
        shown.append(np.ptp(picture) > 50)
        np.testing.assert_array_equal(picture, everything.render(data, "eye", height, width))
    assert np.mean(shown) > 0.8  # else empty pictures would have been compared
    everything.close()
    seen.close()


def test_meshes_outside_are_hidden_while_drawing_and_shown_again_afterwards(
    scene: tuple[MjModel, MjData],
) -> None:
    model, data = scene
    culling = MeshCulling(model)
    before = model.geom_group.copy()
    hidden = []
    for seed in range(20):
        scatter(data, seed)
        with pytest.raises(KeyboardInterrupt), culling.hidden(data, 0, 48, 48):
            hidden.append(np.mean(model.geom_group != before))
            raise KeyboardInterrupt
        np.testing.assert_array_equal(model.geom_group, before)
    assert 0.3 < np.mean(hidden) < 1
