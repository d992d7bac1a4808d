"""Where everything is in all worlds at present, by name, as torch views of what MuJoCo Warp computed."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fibo_robot.envs.simulation.object_state import SceneObject
from fibo_robot.envs.untyped import MjModel


@dataclass(frozen=True)
class Scene:
    """Poses of W worlds. The tensors share memory with the simulation, and so are always of the present.

    Attributes:
        model: names and fixed poses of the elements.
        qpos, qvel: `(W, nq)` and `(W, nv)`.
        body_pos, site_pos, geom_pos: world positions `(W, elements, 3)`, metres.
        body_quat: rotations `(W, bodies, 4)`, w first.
        touching: whether groups of geoms touch, uint8 `(W,)` by name.
    """

    model: MjModel
    qpos: Tensor
    qvel: Tensor
    body_pos: Tensor
    body_quat: Tensor
    site_pos: Tensor
    geom_pos: Tensor
    touching: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: MjModel, data: Any, touching: Mapping[str, Tensor]) -> "Scene":
        """Views of a `mujoco_warp.Data`."""
        import warp as wp

        return cls(
            model,
            qpos=wp.to_torch(data.qpos),
            qvel=wp.to_torch(data.qvel),
            body_pos=wp.to_torch(data.xpos),
            body_quat=wp.to_torch(data.xquat),
            site_pos=wp.to_torch(data.site_xpos),
            geom_pos=wp.to_torch(data.geom_xpos),
            touching=touching,
        )

    def position(self, kind: str, name: str) -> Tensor:
        """World positions `(W, 3)` of a `body`, `site` or `geom`."""
        return getattr(self, f"{kind}_pos")[:, getattr(self.model, kind)(name).id]

    def pose(self, of: SceneObject) -> tuple[Tensor, Tensor]:
        """World positions `(W, 3)` and quaternions `(W, 4)`, w first, of an object."""
        kind, name = of.element
        element = getattr(self.model, kind)(name)
        position = self.position(kind, name)
        if kind == "body":
            return position, self.body_quat[:, element.id]
        carrier = self.body_quat[:, int(element.bodyid[0])]
        return position, multiply(carrier, constant(element.quat, carrier))


@functools.cache
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def constant(values: Iterable[float], like: Tensor) -> Tensor:
    """Numbers in a tensor of `like`'s type and device, made once: making one there waits for all its work."""
    return _on_device(tuple(map(float, values)), like.dtype, like.device)


def columns(values: Tensor, indices: tuple[int, ...]) -> Tensor:
    """Some columns of `(W, n)`, in a tensor of their own; the indices lie on its device already."""
    return values.index_select(1, _on_device(indices, torch.int64, values.device))


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Product of quaternions `(..., 4)`, w first."""
    a, b = torch.broadcast_tensors(a, b)
    vector = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + torch.linalg.cross(a[..., 1:], b[..., 1:])
    scalar = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdim=True)
    return torch.cat([scalar, vector], -1)


def conjugate(quaternion: Tensor) -> Tensor:
    """The inverse of unit quaternions `(..., 4)`, w first."""
    return torch.cat([quaternion[..., :1], -quaternion[..., 1:]], -1)


def rotate(quaternion: Tensor, vector: Tensor) -> Tensor:
    """Vectors `(..., 3)` turned by unit quaternions `(..., 4)`, w first."""
    axis = quaternion[..., 1:]
    twice = 2.0 * torch.linalg.cross(axis, vector)
    return vector + quaternion[..., :1] * twice + torch.linalg.cross(axis, twice)


def upper(quaternion: Tensor) -> Tensor:
    """Of the two quaternions of a rotation, w first, the one whose w is not negative."""
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def w_last(quaternion: Tensor) -> Tensor:
    """Quaternions `(..., 4)` as observations have them: x, y, z, w."""
    return quaternion.roll(-1, -1)
