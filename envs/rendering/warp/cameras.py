"""Pictures of many worlds at once by MuJoCo Warp's ray renderer, on its device and never on the host."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fibo_robot.envs.rendering.settings import FIXES, SHADING_VERSION, RendererError
from fibo_robot.envs.rendering.warp.shading import Shading, shade
from fibo_robot.envs.rendering.warp.streams import in_torchs_order
from fibo_robot.envs.untyped import MjModel

# What of a world's state is drawn; names are the same in `mujoco.MjData`.
POSES = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")


class WarpCameras:
    """Draws some cameras of N worlds of one model.

    Args:
        model: the compiled scene, with its meshes and textures; it is left as it is.
        warp_model: the same on Warp's device (`mujoco_warp.Model`); where its `geom_size` has a row per
            world, each world is drawn with its own sizes. Only sizes and kinds of geometry are read.
        cameras: names.
        height, width: pixels.
        num_worlds: N.
        shading: lights and colours; default: those of this version.

    Raises:
        KeyError: for an unknown camera.
    """

    def __init__(
        self,
        model: MjModel,
        warp_model: Any,
        cameras: Sequence[str],
        height: int,
        width: int,
        num_worlds: int = 1,
        shading: Shading | None = None,
    ) -> None:
        self._warp, self._mujoco_warp = import_warp()
        self._size = (num_worlds, height, width)
        self._device = warp_model.geom_type.device
        self._shaded = shade(model, shading)
        ids = {name: model.camera(name).id for name in cameras}
        with in_torchs_order(self._device):
            self._model = self._shade(warp_model)
            lights = (num_worlds, self._shaded.num_lights)
            self._light_xpos = self._warp.zeros(lights, dtype=self._warp.vec3)
            self._light_xdir = self._warp.zeros(lights, dtype=self._warp.vec3)
            self._layers = [self._contexts(ids, groups) for groups in self._shaded.layers]
        around = self._warp.to_torch(self._light_xpos).new_tensor(self._shaded.around)
        self._warp.to_torch(self._light_xpos)[:, self._shaded.spots : -1] = around

    def _shade(self, warp_model: Any) -> Any:
        """A view of the model with colours, textures and lights of its own."""
        arrays = {}
        for name, values in self._shaded.arrays.items():
            dtype = getattr(warp_model, name).dtype
            arrays[name] = self._warp.array(values, dtype=dtype)
        return dataclasses.replace(warp_model, nlight=self._shaded.num_lights, **arrays)

    def _contexts(self, ids: dict[str, int], groups: Sequence[int]) -> tuple[Any, dict[str, tuple[int, Any]]]:
        """The ray context of some groups, and by camera its number and a view: a lamp moves with each."""
        num_worlds, height, width = self._size
        host = self._shaded.host
        names = sorted(ids, key=ids.__getitem__)  # the order in which the context holds them
        context = self._mujoco_warp.create_render_context(
            host,
            nworld=num_worlds,
            cam_res=(width, height),
            # One camera after the other is drawn into the same memory.
            render_rgb=[index == 0 for index in range(len(names))],
            render_depth=False,
            render_seg=False,
            use_ambient_lighting=False,
            enabled_geom_groups=list(groups),
            cam_active=[index in ids.values() for index in range(host.ncam)],
            render_skybox=self._shaded.skybox,
        )
        views = {}
        pixels = height * width
        for index, name in enumerate(names):
            views[name] = dataclasses.replace(
                context,
                nrender=1,
                cam_res=context.cam_res[:1],
                cam_id_map=context.cam_id_map[index : index + 1],
                ray=context.ray[index * pixels : (index + 1) * pixels],
                render_rgb=context.render_rgb[:1],
                rgb_adr=context.rgb_adr[:1],
                total_rays=pixels,
            )
        return context, {name: (ids[name], views[name]) for name in ids}

    def draw(
        self, warp_data: Any, cameras: Sequence[str] | None = None, geom_size: Any = None
    ) -> dict[str, Tensor]:
        """Pictures of the present scene of every world.

        Args:
            warp_data: the worlds (`mujoco_warp.Data`), poses of geometry, cameras and lights up to date.
            cameras: which of the cameras; default: all.
            geom_size: sizes to draw with, one row per world or one for all; default: the model's.

        Returns:
            by camera, uint8 `(N, 3, height, width)` on the device, right side up.
        """
        warp = self._warp
        scene = dataclasses.replace(warp_data, light_xpos=self._light_xpos, light_xdir=self._light_xdir)
        positions, directions = warp.to_torch(self._light_xpos), warp.to_torch(self._light_xdir)
        spots = self._shaded.spots
        positions[:, :spots] = warp.to_torch(warp_data.light_xpos)
        directions[:, :spots] = warp.to_torch(warp_data.light_xdir)
        eyes, axes = warp.to_torch(warp_data.cam_xpos), warp.to_torch(warp_data.cam_xmat)
        model = self._model if geom_size is None else dataclasses.replace(self._model, geom_size=geom_size)
        pictures = {}
        with in_torchs_order(self._device):
            for context, _ in self._layers:
                self._mujoco_warp.refit_bvh(model, scene, context)
            for name in self._layers[0][1] if cameras is None else cameras:
                number, _ = self._layers[0][1][name]
                # A camera looks along its negative third axis: the lamp is behind it.
                positions[:, -1] = eyes[:, number] + self._shaded.lamp * axes[:, number, :, 2]
                drawn = [self._trace(model, scene, views[name][1]) for _, views in self._layers]
                if len(drawn) > 1:
                    mixed = torch.lerp(drawn[0].float(), drawn[1].float(), self._shaded.opacity)
                    drawn = [mixed.round().to(torch.uint8)]
                pictures[name] = drawn[0]
        return pictures

    def _trace(self, model: Any, scene: Any, context: Any) -> Tensor:
        """One camera of every world, uint8 `(N, 3, height, width)`."""
        self._mujoco_warp.render(model, scene, context)
        packed = self._warp.to_torch(context.rgb_data)  # blue, green, red, 255 from the lowest byte on
        texels = packed.view(torch.uint8).reshape(*self._size, 4)
        return texels[..., :3].flip(-1).permute(0, 3, 1, 2).contiguous()


def one_world(warp_data: Any, world: int) -> Any:
    """A view of one of many worlds, for a :class:`WarpCameras` of one; only what is drawn is its own."""
    poses = {name: getattr(warp_data, name)[world : world + 1] for name in POSES}
    return dataclasses.replace(warp_data, nworld=1, **poses)


def describe(device: Any) -> str:
    """What draws the pictures on a Warp device: the library, where it runs, and which version of shading."""
    return f"MuJoCo Warp on {device.name}, shading {SHADING_VERSION}"


def import_warp() -> tuple[Any, Any]:
    """Warp and MuJoCo Warp.

    Raises:
        RendererError: one is not installed.
    """
    try:
        import warp

        warp.config.log_level = warp.LOG_ERROR  # Warp reports every start otherwise
        import mujoco_warp
    except ImportError as error:
        raise RendererError(f"The renderer warp is not installed: {FIXES['warp']}.") from error
    return warp, mujoco_warp
