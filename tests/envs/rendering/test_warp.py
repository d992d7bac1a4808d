"""Warp's pictures: many worlds as one alone, close to OpenGL's, and never another version's unnoticed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.rendering.settings import SHADING_VERSION, RendererError, RenderQuality
from fibo_robot.envs.rollouts.identity import choose_task
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.tasks import Task, get_task
from fibo_robot.envs.untyped import import_mujoco
from tests.envs.toy_policy import ToyPolicy

LIFT = get_task("lift", renderer="warp")
SCENE = """
<mujoco>
  <asset>
    <texture name="checks" type="2d" builtin="checker" rgb1="1 0 0" rgb2="0 0 1" width="64" height="64"/>
    <texture name="bright" type="2d" builtin="flat" rgb1=".5 .5 .5" width="8" height="8" colorspace="sRGB"/>
    <material name="checks" texture="checks" texrepeat="4 6" texuniform="true"/>
    <material name="bright" texture="bright" rgba="1 .5 1 1"/>
    <material name="gloss" rgba=".2 .3 .4 1" specular=".3" shininess="0"/>
  </asset>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1"/>
    <geom name="floor" type="plane" size="3 3 .1" material="checks" group="1"/>
    <geom name="box" type="box" size=".1 .1 .1" material="checks" group="1"/>
    <geom name="srgb" type="box" size=".1 .1 .1" material="bright" group="1"/>
    <geom name="own" type="box" size=".1 .1 .1" material="gloss" rgba="0 1 0 1" group="1"/>
    <geom name="gloss" type="box" size=".1 .1 .1" material="gloss" group="1"/>
    <geom name="glass" type="box" size=".1 .1 .1" rgba="1 1 1 .3" group="1"/>
  </worldbody>
</mujoco>
"""


@pytest.mark.sim
def test_materials_are_what_opengl_would_make_of_them() -> None:
    from fibo_robot.envs.rendering.warp.shading import Shading, shade

    model = import_mujoco().MjModel.from_xml_string(SCENE)
    shaded = shade(model, Shading(exposure=0.5, gloss=1.0, detail=1e-6))
    colour = {model.geom(g).name: shaded.arrays["mat_rgba"][0, g] for g in range(model.ngeom)}
    texture = {model.geom(g).name: shaded.arrays["mat_texid"][0, g, 1] for g in range(model.ngeom)}
    # A plane keeps its texture, and OpenGL repeats it half as often per metre, its rows turned round.
    assert texture["floor"] == model.texture("checks").id
    np.testing.assert_allclose(shaded.arrays["mat_texrepeat"][0, model.geom("floor").id], [2, -3])
    # A box has no coordinates for one: half red, half blue.
    assert texture["box"] == -1
    np.testing.assert_allclose(colour["box"], [0.25, 0, 0.25, 1], atol=0.01)
    # 128 of 255 in sRGB is 0.2158 in linear light (IEC 61966-2-1); 55 of 255 as a byte.
    np.testing.assert_allclose(colour["srgb"][:3], 0.5 * 55 / 255 * np.array([1, 0.5, 1]), atol=0.003)
    np.testing.assert_allclose(colour["own"][:3], 0.5 * (np.array([0, 1, 0]) + 0.3), atol=1e-6)
    np.testing.assert_allclose(colour["gloss"][:3], 0.5 * (np.array([0.2, 0.3, 0.4]) + 0.3), atol=1e-6)
    opaque, everything = shaded.layers
    drawn = [{g for g in range(6) if shaded.host.geom_group[g] in groups} for groups in (opaque, everything)]
    assert drawn[1] - drawn[0] == {model.geom("glass").id} and len(drawn[1]) == 6
    assert shaded.opacity == pytest.approx(0.3)
    # The model itself is left as it is.
    assert (model.geom_group == 1).all() and model.tex_data[model.texture("bright").adr[0]] in (127, 128)


def test_a_textures_detail_finer_than_a_pixel_is_smoothed() -> None:
    from fibo_robot.envs.rendering.warp.shading import Shading, shade

    model = import_mujoco().MjModel.from_xml_string(SCENE)
    texture = model.texture("checks")
    begin, size = texture.adr[0], 64 * 64 * 3

    def contrast(detail: float) -> float:
        host = shade(model, Shading(detail=detail)).host
        return float(host.tex_data[begin : begin + size].reshape(-1, 3).astype(float).std(0).max())

    # Four repeats in two metres: 64 texels are half a metre, one square of the checks a quarter.
    assert contrast(0.001) == pytest.approx(contrast(1e-6), rel=0.02)
    assert contrast(0.5) < 0.05 * contrast(1e-6)


def test_the_version_of_the_shading_travels_with_the_task_and_another_is_refused() -> None:
    resolved = LIFT.resolved()
    assert resolved.quality.shading == SHADING_VERSION
    assert Task.from_dict(resolved.to_dict()) == resolved
    # OpenGL's pictures do not depend on it, so nothing of it is recorded with them.
    opengl = replace(resolved, renderer="egl").resolved()
    assert "shading" not in opengl.to_dict()["quality"]
    # What was drawn before versions existed is the first, and not what would be drawn now.
    recorded = resolved.to_dict()
    del recorded["quality"]["shading"]
    old = Task.from_dict(recorded)
    assert old.quality.shading == 1 != SHADING_VERSION

    class Trained(ToyPolicy):
        meta: ClassVar = {"task": recorded}

    with pytest.raises(RolloutError, match="trained on another task: quality differs"):
        choose_task(Trained(LIFT.shape_meta()), LIFT, allow_other_task=False)
    with pytest.raises(RendererError, match="with version 1 of Warp's lights"):
        old.quality.check_shading()
    RenderQuality().check_shading()


@pytest.fixture(scope="module")
def lift() -> Iterator[SimulationEnv]:
    env = LIFT.make_env([])
    yield env
    env.close()


@pytest.mark.warp
@pytest.mark.slow  # Warp compiles its kernels on first use
def test_many_worlds_are_drawn_as_each_alone_and_with_their_own_sizes(lift: SimulationEnv) -> None:
    import mujoco_warp
    import warp

    from fibo_robot.envs.rendering.warp.cameras import POSES, WarpCameras, one_world

    model, alone, poses, sizes = lift._model, [], [], []
    for seed in (3, 4, 5):
        lift.start(seed)
        alone.append({camera: lift.render_image(camera, 32, 32) for camera in LIFT.cameras})
        data = lift._robosuite.sim.data._data
        poses.append({name: np.array(getattr(data, name)) for name in POSES})
        sizes.append(model.geom_size.copy())
    cube = model.geom("cube_g0_vis").id
    assert len({size[cube].tobytes() for size in sizes}) == 3
    on_device = mujoco_warp.put_model(model)
    on_device.geom_size = warp.array(np.stack(sizes), dtype=warp.vec3)
    worlds = mujoco_warp.make_data(model, nworld=3)
    for name in POSES:
        target = getattr(worlds, name)
        target.assign(np.stack([pose[name] for pose in poses]).reshape(target.numpy().shape))
    together = WarpCameras(model, on_device, LIFT.cameras, 32, 32, num_worlds=3).draw(worlds)
    single = WarpCameras(model, on_device, LIFT.cameras, 32, 32)
    for index, pictures in enumerate(alone):
        filmed = single.draw(one_world(worlds, index), geom_size=on_device.geom_size[index : index + 1])
        for camera, picture in pictures.items():
            many = together[camera]
            assert many.dtype.is_floating_point is False and many.shape == (3, 3, 32, 32)
            np.testing.assert_array_equal(many[index].permute(1, 2, 0).numpy(), picture, camera)
            np.testing.assert_array_equal(filmed[camera][0], many[index], camera)
    assert not np.array_equal(alone[0]["agentview"], alone[1]["agentview"])


@pytest.mark.warp
@pytest.mark.slow
def test_pictures_are_close_to_opengls(lift: SimulationEnv) -> None:
    opengl = replace(LIFT, renderer="auto", quality=RenderQuality(reflections=True)).make_env([])
    try:
        for env in (lift, opengl):
            env.start(12)
        for camera in LIFT.cameras:
            traced = lift.render_image(camera, 84, 84).astype(int)
            drawn = opengl.render_image(camera, 84, 84).astype(int)
            # Warp's own lights and materials were 26 (agentview) and 12 away.
            assert np.abs(traced - drawn).mean() < 12, camera
    finally:
        opengl.close()
