"""How many contacts and constraints there is room for in a world, and the memory that a world takes."""

import bisect
import dataclasses
from dataclasses import dataclass
from typing import Any

from fibo_robot.envs.untyped import MjModel


@dataclass(frozen=True)
class Capacity:
    """What MuJoCo Warp allocates; it drops what exceeds it.

    Attributes:
        contacts: per world on average: all worlds share one pool, which candidate pairs of geoms use, too.
        constraints: rows per world, strictly.
    """

    contacts: int
    constraints: int


# At least twice what was measured (docs/results). Contacts (with candidate pairs, mean over worlds) and rows
# that noisy experts' demonstrations took at most, 20 each: 19, 121 in PickPlaceCan; 87, 381 in
# NutAssemblySquare; in Lift and Stack MuJoCo counted, which has no candidates: 15, 57 in Lift.
# TwoArmTransport and ToolHang have no expert: random motion took 86, 289 in the former; the latter's solved
# state, in all worlds at once, 167, 538.
CAPACITIES = {
    "Lift": Capacity(40, 128),
    "PickPlaceCan": Capacity(64, 256),
    "NutAssemblySquare": Capacity(192, 768),
    "Stack": Capacity(64, 192),
    "ToolHang": Capacity(384, 1536),
    "TwoArmTransport": Capacity(200, 640),
}


def few_worlds(num_worlds: int) -> int:
    """How many worlds can begin anew in a small batch of their own; more at a time wait for all worlds."""
    return min(num_worlds // 8, 256)


@dataclass(frozen=True)
class Memory:
    """Bytes that worlds take on a device: once, and each."""

    fixed: int
    per_world: int

    def of(self, num_worlds: int) -> int:
        """What so many worlds take, with the small batch in which some of them begin anew."""
        return self.fixed + (num_worlds + few_worlds(num_worlds)) * self.per_world

    def most_worlds(self, free: int) -> int:
        """How many worlds at most fit into `free` bytes."""
        return bisect.bisect_right(range(1, free // self.per_world + 1), free, key=self.of)


def memory_needed(model: MjModel, capacity: Capacity, cameras: int = 0, pixels: int = 0) -> Memory:
    """What worlds take on a device, about; nothing is allocated there.

    One world is made on the host and its arrays are counted; what the solver and the collision search
    allocate while they step is computed from their shapes. What a policy takes is not counted here.

    Args:
        model: the compiled scene.
        capacity: room for contacts and constraints.
        cameras: how many are observed, of so many `pixels` each.
    """
    import mujoco_warp as mjw
    import warp as wp

    with wp.ScopedDevice("cpu"):
        data: Any = mjw.make_data(model, 1, nconmax=capacity.contacts, njmax=capacity.constraints)
    padded = data.efc.J.shape[2] if data.efc.J_rownnz.shape[1] == 0 else model.nv + _SPARSE_PADDING
    solver = 4 * (_SQUARES * padded**2 + _ROWS * capacity.constraints + _VECTORS * model.nv)
    # Once for the recorded physics step, which keeps its own, and once for what is launched beside it.
    scratch = 2 * (solver + _search_bytes(model) * capacity.contacts)
    pictures = _picture_bytes(model, cameras, pixels) if cameras else 0
    return Memory(_FIXED, int(_MARGIN * (_array_bytes(data) + scratch + pictures)))


def _picture_bytes(model: MjModel, cameras: int, pixels: int) -> int:
    """What a world's pictures take: two layers to draw into, each with a tree of boxes, and copies."""
    layer = 4 * pixels + _BOX * model.ngeom
    return 2 * layer + 3 * pixels * cameras * _COPIES


def _search_bytes(model: MjModel) -> int:
    """What the collision search allocates for each contact that there is room for.

    A candidate pair, the polytope that expands with every iteration, and the polygons that a mesh's faces are
    clipped to (`collision_convex.py` of mujoco-warp 3.9): most of what a world takes.
    """
    iterations = int(model.opt.ccd_iterations)
    vertices, faces = 10 + 2 * iterations, 6 + 5 * iterations
    corners = max(4, int(model.mesh_polyvertnum.max(initial=0)))
    normals = max(3, int(model.mesh_polymapnum.max(initial=0)))
    return 4 * (5 + 4 * vertices + 5 * faces + 24 + 22 * corners + 11 * normals)


# What the solver of mujoco-warp 3.9 allocates per world beside `Data`: three matrices (Hessian, its factor, a
# copy of the mass matrix), eight numbers per constraint row, ten vectors of degrees of freedom.
_SQUARES, _ROWS, _VECTORS = 3, 8, 10
_SPARSE_PADDING = 32
# Bytes per geom in a tree of boxes: corners and group (28), and two nodes of it. Copies of each picture, of a
# byte per colour: as drawn, as observed, as the present and the past of an episode.
_BOX, _COPIES = 128, 4
# Buffers of the controllers, sizes of each world's own, and what an allocator rounds up.
_MARGIN = 1.1
# Model, meshes, textures, kernels and the CUDA context.
_FIXED = 2**30


def _array_bytes(value: Any) -> int:
    """Bytes of all arrays in a dataclass, and in dataclasses within it."""
    if dataclasses.is_dataclass(value):
        return sum(_array_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    return int(getattr(value, "capacity", 0) or 0)
