"""How MuJoCo Warp's ray renderer is made to look like OpenGL: colours, textures and lights for one model.

Warp's renderer knows white lights of full strength, ambient light of its own, one texture per material by
plane or mesh coordinates, and no transparency. MuJoCo's OpenGL has a lamp on the camera (0.4), ambient light
(0.1), spots with a soft edge, and textures on boxes. What is set here brings the first close to the second:

* every geom has a material of its own. Where Warp has no texture coordinates (boxes, cylinders, meshes
  without any) its colour is the texture's mean. A highlight without a direction brightens the colour;
* textures in sRGB are made linear, as OpenGL reads them, and smoothed: Warp has no mipmaps;
* Warp's ambient light is off. A light of strength s far away is a point light at the distance where Warp's
  attenuation is s: six of them around the scene are ambient light, one behind each camera its lamp;
* what is transparent is drawn opaque in a second picture, which is laid over the first with its opacity.

Whoever changes a number or a rule here changes :data:`fibo_robot.envs.rendering.settings.SHADING_VERSION`.
The numbers were chosen on scenes of seeds 0 and 1; docs/gpu-rollouts.md reports on others.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from fibo_robot.envs.untyped import MjModel, import_mujoco

_VISUAL_GROUP, _GLASS_GROUP = 1, 5  # robosuite draws group 1; of six groups, nothing else uses the last
_DEFAULT_COLOUR = np.array((0.5, 0.5, 0.5, 1.0), np.float32)  # of a geom without one: its material's counts


@dataclass(frozen=True)
class Shading:
    """The numbers.

    Attributes:
        exposure: factor of all colours; with it, the strength of a spot light relative to the others.
        headlight: strength of the lamp behind a camera, before `exposure`.
        ambient: of each of the six lights around the scene, before `exposure`.
        detail: textures are smoothed over so many metres.
        gloss: how much a highlight without a direction adds to a colour, per unit of its strength.
    """

    exposure: float = 0.62
    headlight: float = 0.8
    ambient: float = 0.12
    detail: float = 0.01
    gloss: float = 0.45


@dataclass(frozen=True)
class ShadedModel:
    """What to render a model with.

    Attributes:
        host: a copy of the model for `create_render_context`; its groups tell opaque from transparent.
        layers: geom groups to draw: what is opaque, and where something is transparent, everything.
        opacity: of the second layer; the mean of all that is transparent.
        skybox: whether missed rays show a sky.
        arrays: fields of `mujoco_warp.Model` by name, as numpy arrays, that replace the model's own.
        spots: how many lights the model itself has; the others follow them.
        around: positions of the ambient lights `(6, 3)`, metres.
        lamp: metres from a camera to the lamp behind it.
    """

    host: MjModel
    layers: tuple[tuple[int, ...], ...]
    opacity: float
    skybox: bool
    arrays: dict[str, np.ndarray]
    spots: int
    around: np.ndarray
    lamp: float

    @property
    def num_lights(self) -> int:
        """The model's own, six around the scene, one behind the camera."""
        return self.spots + len(self.around) + 1


def shade(model: MjModel, shading: Shading | None = None) -> ShadedModel:
    """Prepare a model for pictures that look like OpenGL's; it is left as it is.

    Args:
        model: the compiled scene.
        shading: the numbers; another version of them draws other pictures.
    """
    shading = shading or Shading()
    mujoco = import_mujoco()
    host = copy.copy(model)
    for texture in range(model.ntex):
        if model.tex_colorspace[texture] == mujoco.mjtColorSpace.mjCOLORSPACE_SRGB:
            texels = _texels(host, texture)
            texels[...] = np.rint(255 * _linear(texels / 255.0))
    materials = [_material(host, geom, shading) for geom in range(model.ngeom)]
    smoothing: dict[int, int] = {}  # the least that any of its geoms asks for, in texels
    for geom, material in enumerate(materials):
        if model.geom_group[geom] == _VISUAL_GROUP and material.colour[3] < 1:
            host.geom_group[geom] = _GLASS_GROUP
        if material.texture >= 0:
            known = smoothing.get(material.texture, material.smoothing)
            smoothing[material.texture] = min(material.smoothing, known)
    for texture, texels in smoothing.items():
        image = _texels(host, texture)
        smooth = image.astype(np.float32)
        for axis in (0, 1):
            smooth = uniform_filter1d(smooth, texels, axis, mode="wrap")
        image[...] = np.rint(smooth)
    colours = np.array([material.colour for material in materials], np.float32)
    colours[:, :3] *= shading.exposure
    glass = host.geom_group == _GLASS_GROUP
    layers = ((_VISUAL_GROUP,), (_VISUAL_GROUP, _GLASS_GROUP)) if glass.any() else ((_VISUAL_GROUP,),)
    textures = np.full((1, model.ngeom, model.mat_texid.shape[1]), -1, np.int32)
    textures[0, :, int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = [material.texture for material in materials]
    lights = model.nlight + 7
    arrays = {
        "geom_matid": np.arange(model.ngeom, dtype=np.int32)[None],
        "mat_rgba": colours[None],
        "mat_texid": textures,
        "mat_texrepeat": np.array([material.repeat for material in materials], np.float32)[None],
        "light_type": np.array([[*model.light_type, *[mujoco.mjtLightType.mjLIGHT_POINT] * 7]], np.int32),
        "light_active": np.ones((1, lights), bool),
        "light_castshadow": np.zeros((1, lights), bool),
    }
    arrays["light_active"][0, : model.nlight] = model.light_active
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    return ShadedModel(
        host=host,
        layers=layers,
        opacity=float(colours[glass, 3].mean()) if glass.any() else 1.0,
        skybox=mujoco.mjtTexture.mjTEXTURE_SKYBOX in model.tex_type,
        arrays=arrays,
        spots=model.nlight,
        around=(_distance(shading.ambient) * axes + model.stat.center).astype(np.float32),
        lamp=_distance(shading.headlight),
    )


@dataclass(frozen=True)
class _Material:
    """What one geom looks like; `smoothing`: texels that make up the detail of its texture."""

    colour: np.ndarray
    texture: int = -1
    repeat: tuple[float, float] = (1.0, 1.0)
    smoothing: int = 1


def _material(model: MjModel, geom: int, shading: Shading) -> _Material:
    """What one geom looks like in OpenGL, as far as Warp can draw it."""
    mujoco = import_mujoco()
    own, number = model.geom_rgba[geom], model.geom_matid[geom]
    if number < 0:
        return _Material(own)
    # A geom's own colour counts where it was given one.
    colour = own if not np.array_equal(own, _DEFAULT_COLOUR) else model.mat_rgba[number].copy()
    gloss = shading.gloss * model.mat_specular[number] * (model.mat_shininess[number] == 0)
    texture = int(model.mat_texid[number, int(mujoco.mjtTextureRole.mjTEXROLE_RGB)])
    if texture < 0:
        return _Material(_brighter(colour, gloss))
    flat = model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_2D
    kind, mesh = model.geom_type[geom], model.geom_dataid[geom]
    repeat = model.mat_texrepeat[number].astype(float)
    width = model.tex_width[texture]
    if flat and kind == mujoco.mjtGeom.mjGEOM_PLANE and model.mat_texuniform[number]:
        # OpenGL repeats a texture that often in two metres, and counts its rows the other way.
        smoothing = math.ceil(shading.detail * width * repeat[0] / 2)
        return _Material(_brighter(colour, gloss), texture, (repeat[0] / 2, -repeat[1] / 2), smoothing)
    if flat and kind == mujoco.mjtGeom.mjGEOM_MESH and model.mesh_texcoordadr[mesh] >= 0:
        smoothing = math.ceil(shading.detail * width * repeat[0] / (2 * model.geom_rbound[geom]))
        return _Material(
            _brighter(colour, gloss), texture, (repeat[0], repeat[1]), min(smoothing, int(width))
        )
    mean = _texels(model, texture)[..., :3].mean((0, 1)) / 255.0
    return _Material(_brighter(np.append(colour[:3] * mean, colour[3]), gloss))


def _brighter(colour: np.ndarray, gloss: float) -> np.ndarray:
    return np.append(colour[:3] + gloss, colour[3])


def _texels(model: MjModel, texture: int) -> np.ndarray:
    """A texture's bytes `(height, width, channels)`, as a view into the model."""
    begin, shape = model.tex_adr[texture], (model.tex_height, model.tex_width, model.tex_nchannel)
    height, width, channels = (int(entry[texture]) for entry in shape)
    return model.tex_data[begin : begin + height * width * channels].reshape(height, width, channels)


def _linear(colour: np.ndarray) -> np.ndarray:
    """sRGB to linear, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def _distance(strength: float) -> float:
    """Metres at which Warp's point light, whose attenuation is 1 / (1 + 0.02 d^2), has a strength."""
    return math.sqrt((1.0 / strength - 1.0) / 0.02)
