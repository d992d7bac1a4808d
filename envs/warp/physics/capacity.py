"""How many contacts and constraints there is room for in a world, and the memory that a world takes."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from fibo_robot.envs.simulation.untyped import MjModel


@dataclass(frozen=True)
class Capacity:
    """What MuJoCo Warp allocates; it drops what exceeds it.

    Attributes:
        contacts: per world on average: all worlds share one pool, which candidate pairs of geoms use, too.
        constraints: rows per world, strictly.
    """

    contacts: int
    constraints: int


# At least twice what MuJoCo counts at most over demonstrations by noisy experts (20 each, 5 of Stack):
# contacts and rows 15, 57 in Lift; 19, 85 in PickPlaceCan; 66, 273 in NutAssemblySquare. ToolHang and
# TwoArmTransport have no expert: theirs are several times what random motion takes.
CAPACITIES = {
    "Lift": Capacity(40, 128),
    "PickPlaceCan": Capacity(64, 192),
    "NutAssemblySquare": Capacity(160, 576),
    "Stack": Capacity(64, 192),
    "ToolHang": Capacity(200, 640),
    "TwoArmTransport": Capacity(200, 640),
}


@dataclass(frozen=True)
class Memory:
    """Bytes that worlds take on a device: once, and each."""

    fixed: int
    per_world: int


def memory_needed(model: MjModel, capacity: Capacity) -> Memory:
    """What worlds take on a device, about; nothing is allocated there.

    One world is made on the host and its arrays are counted; what the solver and the collision search
    allocate while they step is computed from their shapes. Cameras take more, and are not counted here.
    """
    import mujoco_warp as mjw
    import warp as wp

    with wp.ScopedDevice("cpu"):
        data: Any = mjw.make_data(model, 1, nconmax=capacity.contacts, njmax=capacity.constraints)
    padded = data.efc.J.shape[2] if data.efc.J_rownnz.shape[1] == 0 else model.nv + _SPARSE_PADDING
    scratch = 4 * (_SQUARES * padded**2 + _ROWS * capacity.constraints + _VECTORS * model.nv)
    scratch += _PAIR_BYTES * capacity.contacts
    return Memory(_FIXED, _array_bytes(data) + scratch)


# What a step of mujoco-warp 3.9 allocates per world beside `Data`: three matrices of the solver (Hessian, its
# factor, a copy of the mass matrix), eight numbers per constraint row, ten vectors of degrees of freedom, and
# per contact a candidate pair of geoms with what the convex search needs.
_SQUARES, _ROWS, _VECTORS, _PAIR_BYTES = 3, 8, 10, 64
_SPARSE_PADDING = 32
# Model, meshes, textures, kernels and the CUDA context.
_FIXED = 2**30


def _array_bytes(value: Any) -> int:
    """Bytes of all arrays in a dataclass, and in dataclasses within it."""
    if dataclasses.is_dataclass(value):
        return sum(_array_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    return int(getattr(value, "capacity", 0) or 0)
