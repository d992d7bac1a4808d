"""Worlds that begin anew, few at a time: what follows from their states is computed in a small batch apart.

MuJoCo Warp computes all worlds of a batch or none. So a second, small batch of the same model takes the
states of the worlds that begin anew, computes poses, velocities, contacts and constraints, and gives them
back: to each world's own rows, and to the pool of contacts that all worlds share. There, contacts of other
worlds keep their slots, for their constraints name them; new contacts take empty slots, which the worlds that
begin anew leave behind. A slot that stays empty has the world -1 and a distance out of reach.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import mujoco_warp as mjw
import torch
import warp as wp
from torch import Tensor

from fibo_robot.envs.untyped import MjModel, import_mujoco
from fibo_robot.envs.warp.physics import restart_kernels as kernels
from fibo_robot.envs.warp.physics.capacity import Capacity
from fibo_robot.envs.warp.physics.recording import Recorded
from fibo_robot.envs.warp.physics.sizes import WorldSizes

# What a world's state consists of (MuJoCo's `mjSTATE_INTEGRATION`): all else follows from it.
_STATE = (
    "time",
    "qpos",
    "qvel",
    "act",
    "history",
    "qacc_warmstart",
    "ctrl",
    "qfrc_applied",
    "xfrc_applied",
    "eq_active",
    "mocap_pos",
    "mocap_quat",
)
# This constraint's number and those above it are contacts.
_FIRST_CONTACT_TYPE = int(import_mujoco().mjtConstraint.mjCNSTR_CONTACT_FRICTIONLESS)


class FewRestarts:
    """A small batch that brings what follows from some worlds' states up to date.

    Attributes:
        size: how many worlds at most.
    """

    def __init__(
        self, size: int, mujoco_model: MjModel, model: Any, data: Any, sizes: WorldSizes, capacity: Capacity
    ) -> None:
        """Allocate on Warp's current device.

        Args:
            size: worlds of the small batch.
            mujoco_model: the compiled model on the host.
            model, data: MuJoCo Warp's, of all worlds.
            sizes: the model's arrays that have a row per world.
            capacity: room for contacts and constraints, as all worlds have it.
        """
        self.size = size
        self._all = data
        self._model, own_sizes = sizes.rows_of(model, size)
        self._few: Any = mjw.make_data(
            mujoco_model, size, nconmax=capacity.contacts, njmax=capacity.constraints
        )
        few, every = dict(_world_arrays(self._few)), dict(_world_arrays(data))
        self._in = [(every[name], few[name]) for name in _STATE if name in few]
        self._in += [(_rows(array), _rows(own)) for array, own in own_sizes]
        self._out = [(few[name], every[name]) for name in few if name not in _STATE]
        contacts = [field.name for field in dataclasses.fields(data.contact) if field.name != "worldid"]
        self._contacts = [
            (_rows(getattr(self._few.contact, name)), _rows(getattr(data.contact, name))) for name in contacts
        ]
        self._index = wp.zeros(size, dtype=int)
        self._count, self._taken, self._num_free = (wp.zeros(1, dtype=int) for _ in range(3))
        self._chosen = wp.zeros(data.nworld, dtype=bool)
        self._slots = wp.zeros(data.naconmax, dtype=int)
        self._slot_of = wp.zeros(self._few.naconmax, dtype=int)
        self._computation, self._return = Recorded(), Recorded()

    def refresh(self, worlds: Tensor) -> bool:
        """Bring these worlds up to date, and touch no other; False if contacts do not or did not fit.

        In that case nothing may be read of any world before all are brought up to date.

        Args:
            worlds: indices `(n,)` on the device, n from 1 to :attr:`size`.
        """
        count = len(worlds)
        index = wp.to_torch(self._index)
        index[:count] = worlds
        index[count:] = worlds[0]  # idle rows do again what another does
        self._count.fill_(count)
        self._computation(self._compute)
        few, every = self._few, self._all
        counts = (few.nacon, few.ncollision, every.nacon, every.ncollision, self._taken, self._num_free)
        numbers = torch.cat([wp.to_torch(count) for count in counts]).tolist()
        there, taken, free = numbers[2], *numbers[4:]
        if max(numbers[:2]) > few.naconmax:
            return False
        if max(there + max(0, taken - free), numbers[3]) > every.naconmax:
            return False
        self._return(self._give_back)
        return True

    def _compute(self) -> None:
        few, every = self._few, self._all
        for source, target in self._in:
            wp.launch(kernels.take_rows, dim=target.shape, inputs=[self._index, source, target])
        mjw.step1(self._model, few)
        self._chosen.zero_()
        self._taken.zero_()
        self._num_free.zero_()
        self._slot_of.fill_(-1)
        wp.launch(kernels.mark, dim=self.size, inputs=[self._count, self._index, self._chosen])
        pool = every.contact
        inputs = [self._chosen, every.nacon, pool.worldid, pool.dist, pool.efc_address]
        inputs += [self._slots, self._num_free]
        wp.launch(kernels.free_slots, dim=every.naconmax, inputs=inputs)
        inputs = [self._count, few.nacon, few.contact.worldid, self._num_free, self._slots, every.nacon]
        wp.launch(kernels.assign_slots, dim=few.naconmax, inputs=[*inputs, self._taken, self._slot_of])

    def _give_back(self) -> None:
        few, every = self._few, self._all
        for source, target in self._out:
            inputs = [self._count, self._index, source, target]
            wp.launch(kernels.put_rows, dim=source.shape, inputs=inputs)
        for source, target in self._contacts:
            wp.launch(kernels.put_contacts, dim=source.shape, inputs=[self._slot_of, source, target])
        inputs = [self._slot_of, self._index, few.contact.worldid, every.contact.worldid]
        wp.launch(kernels.name_worlds, dim=few.naconmax, inputs=inputs)
        inputs = [few.nefc, few.efc.type, few.efc.id, _FIRST_CONTACT_TYPE, self._slot_of, every.efc.id]
        wp.launch(
            kernels.point_to_slots, dim=(self.size, few.njmax), inputs=[self._count, self._index, *inputs]
        )
        wp.launch(kernels.extend, dim=1, inputs=[self._num_free, self._taken, every.nacon])


def _world_arrays(data: Any) -> Iterator[tuple[str, Any]]:
    """Names and rows of all arrays of a batch that have a row per world."""
    for owner, prefix in ((data, ""), (data.efc, "efc.")):
        for field in dataclasses.fields(owner):
            array = getattr(owner, field.name)
            if isinstance(array, wp.array) and array.size and field.name not in ("nacon", "ncollision"):
                yield prefix + field.name, _rows(array)


def _rows(array: Any) -> Any:
    """An array as rows of 4-byte words, or of bytes: a view."""
    assert array.is_contiguous
    count = array.shape[0]
    width = array.size * wp.types.type_size_in_bytes(array.dtype) // count
    dtype, width = (wp.uint32, width // 4) if width % 4 == 0 else (wp.uint8, width)
    return wp.array(ptr=array.ptr, shape=(count, width), dtype=dtype, device=array.device)
