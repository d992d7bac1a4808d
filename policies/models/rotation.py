"""Rotations as a network should see them: six numbers that change smoothly, where axis-angle vectors jump.

An axis-angle vector of length pi equals its negative, so a hand that points down, as over a table, sits where
neighbouring orientations have far-off vectors. The first two columns of the rotation matrix have no such seam
(Zhou et al., "On the continuity of rotation representations in neural networks", CVPR 2019). Environments
keep their axis-angle; a policy turns its actions over before normalising and back after predicting.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ActionSpec

ActionRotation = Literal["axis_angle", "6d"]

# An arm's entries: position, axis-angle, gripper.
_POSITION, _ROTATION, _ARM = 3, 3, 7


class RotationError(FiboError, ValueError):
    """A representation of rotations that is not known, or actions that have no rotation there."""


def axis_angle_to_matrix(vectors: Tensor) -> Tensor:
    """Axis-angle vectors `(..., 3)`, radians, to rotation matrices `(..., 3, 3)` by Rodrigues' formula."""
    angle = torch.linalg.vector_norm(vectors, dim=-1)[..., None, None]
    zero = torch.zeros_like(vectors[..., 0])
    x, y, z = vectors.unbind(-1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    # sin(a) / a and (1 - cos(a)) / a^2 = (sin(a / 2) / (a / 2))^2 / 2 without dividing by 0.
    first, second = torch.sinc(angle / math.pi), torch.sinc(angle / (2 * math.pi)) ** 2 / 2
    return torch.eye(3, dtype=vectors.dtype, device=vectors.device) + first * cross + second * (cross @ cross)


def matrix_to_axis_angle(matrices: Tensor) -> Tensor:
    """Rotation matrices `(..., 3, 3)` to axis-angle vectors `(..., 3)` of length at most pi.

    Over the unit quaternion, read from the largest of its four entries (Shepperd, "Quaternion from rotation
    matrix", Journal of Guidance and Control 1, 1978), so that no angle is special. At an angle of exactly pi
    either axis is right.
    """
    xx, xy, xz, yx, yy, yz, zx, zy, zz = matrices.flatten(-2).unbind(-1)
    # Row i is the quaternion (w, x, y, z) times four times its i-th entry.
    rows = (
        (1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, 1 + xx - yy - zz, yx + xy, xz + zx),
        (xz - zx, yx + xy, 1 - xx + yy - zz, zy + yz),
        (yx - xy, xz + zx, zy + yz, 1 - xx - yy + zz),
    )
    rows = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = torch.take_along_dim(rows, largest[..., None, None], dim=-2).squeeze(-2)
    quaternion = F.normalize(quaternion, dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    sine = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    half_angle = torch.atan2(sine, w)
    # For small angles 2 half_angle / sine tends to 2 / w.
    return vector * torch.where(sine > 1e-6, 2 * half_angle / sine.clamp(min=1e-6), 2 / w.clamp(min=0.5))


def axis_angle_to_6d(vectors: Tensor) -> Tensor:
    """Axis-angle vectors `(..., 3)` to the first two columns of their matrices, end to end `(..., 6)`."""
    return axis_angle_to_matrix(vectors)[..., :2].transpose(-1, -2).flatten(-2)


def axis_angle_from_6d(columns: Tensor) -> Tensor:
    """Two columns `(..., 6)`, of any length and angle, to axis-angle vectors `(..., 3)`.

    They are made orthonormal as Gram and Schmidt do (Zhou et al., section 4.1), so what a network predicts
    is always a rotation; only columns of zeros, or in one line, have no direction of their own.
    """
    first, second = columns.unflatten(-1, (2, 3)).unbind(-2)
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return matrix_to_axis_angle(torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1))


class ActionTransform:
    """Actions of an environment to those that a network predicts, and back.

    With `6d`, each arm of an absolute action has its axis-angle replaced by six numbers: position (3),
    rotation (6), gripper (1). Deltas are small rotations, far from the seam, and stay as they are; so do
    actions without arms.

    Args:
        spec: the environment's actions.
        rotation: `axis_angle` or `6d`.

    Attributes:
        dim: length of a transformed action.

    Raises:
        RotationError: for another `rotation`, or an absolute action whose arms have not seven entries each.
    """

    def __init__(self, spec: ActionSpec, rotation: ActionRotation) -> None:
        if rotation not in get_args(ActionRotation):
            raise RotationError(f"action_rotation must be axis_angle or 6d, not {rotation!r}.")
        self.spec = spec
        turns = spec.rotation == "axis_angle" and spec.mode == "absolute" and spec.arms > 0
        self.active = turns and rotation == "6d"
        if self.active and spec.dim != _ARM * spec.arms:
            raise RotationError(
                f"An absolute action of {spec.arms} arms has {_ARM * spec.arms} entries, not {spec.dim}: "
                "set policy.action_rotation=axis_angle."
            )
        self.dim = spec.dim + 3 * spec.arms if self.active else spec.dim

    def encode(self, actions: Tensor) -> Tensor:
        """The environment's actions `(..., A)` to the network's `(..., dim)`, still in metres."""
        if not self.active:
            return actions
        arms = actions.unflatten(-1, (self.spec.arms, _ARM))
        position, rotation, gripper = arms.split([_POSITION, _ROTATION, 1], dim=-1)
        return torch.cat([position, axis_angle_to_6d(rotation), gripper], dim=-1).flatten(-2)

    def decode(self, actions: Tensor) -> Tensor:
        """The network's actions `(..., dim)` to the environment's `(..., A)`."""
        if not self.active:
            return actions
        arms = actions.unflatten(-1, (self.spec.arms, _ARM + 3))
        position, rotation, gripper = arms.split([_POSITION, 6, 1], dim=-1)
        return torch.cat([position, axis_angle_from_6d(rotation), gripper], dim=-1).flatten(-2)
