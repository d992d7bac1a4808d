"""Warp kernels that carry rows between all worlds and the few that begin anew."""

# Kernels are Warp's language in Python's clothes: what its arrays and vectors can do, no type checker knows.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportInvalidTypeForm=false, reportArgumentType=false, reportReturnType=false
# pyright: reportAssignmentType=false
from typing import Any

import warp as wp

wp.set_module_options({"enable_backward": False})

_OUT_OF_REACH = wp.constant(1.0e10)  # m


@wp.kernel
def take_rows(index: wp.array[int], source: wp.array2d[Any], target: wp.array2d[Any]):
    """`target[row] = source[index[row]]`."""
    row, column = wp.tid()  # pyright: ignore[reportGeneralTypeIssues]: an index for each dimension
    target[row, column] = source[index[row], column]


@wp.kernel
def put_rows(count: wp.array[int], index: wp.array[int], source: wp.array2d[Any], target: wp.array2d[Any]):
    """`target[index[row]] = source[row]` of the first `count` rows."""
    row, column = wp.tid()  # pyright: ignore[reportGeneralTypeIssues]: an index for each dimension
    if row < count[0]:
        target[index[row], column] = source[row, column]


@wp.kernel
def mark(count: wp.array[int], index: wp.array[int], chosen: wp.array[bool]):
    """Note which worlds begin anew; `chosen` is false everywhere before."""
    row = wp.tid()
    if row < count[0]:
        chosen[index[row]] = True


@wp.kernel
def free_slots(
    chosen: wp.array[bool],
    nacon: wp.array[int],
    worldid: wp.array[int],
    dist: wp.array[float],
    efc_address: wp.array2d[int],
    slots: wp.array[int],
    num_free: wp.array[int],
):
    """Empty the slots of the pool that hold contacts of worlds that begin anew, and list all empty ones.

    MuJoCo Warp's solver asks no slot whether it is empty, and index -1 is its last world. So an empty slot
    holds two geoms out of reach of each other, without constraints: these it passes over.
    """
    slot = wp.tid()
    if slot >= nacon[0]:
        return
    world = worldid[slot]
    if world >= 0 and not chosen[world]:
        return
    worldid[slot] = -1
    dist[slot] = _OUT_OF_REACH
    for dim in range(efc_address.shape[1]):
        efc_address[slot, dim] = -1
    slots[wp.atomic_add(num_free, 0, 1)] = slot


@wp.kernel
def assign_slots(
    count: wp.array[int],
    few_nacon: wp.array[int],
    few_worldid: wp.array[int],
    num_free: wp.array[int],
    slots: wp.array[int],
    nacon: wp.array[int],
    taken: wp.array[int],
    slot_of: wp.array[int],
):
    """A slot of the pool for each contact of the few worlds that count: an empty one, or one behind all."""
    contact = wp.tid()
    if contact >= few_nacon[0] or few_worldid[contact] >= count[0]:
        return
    number = wp.atomic_add(taken, 0, 1)
    if number < num_free[0]:
        slot_of[contact] = slots[number]
    else:
        slot_of[contact] = nacon[0] + number - num_free[0]


@wp.kernel
def put_contacts(slot_of: wp.array[int], source: wp.array2d[Any], target: wp.array2d[Any]):
    """`target[slot_of[contact]] = source[contact]` of the contacts that have a slot."""
    contact, column = wp.tid()  # pyright: ignore[reportGeneralTypeIssues]: an index for each dimension
    slot = slot_of[contact]
    if slot >= 0:
        target[slot, column] = source[contact, column]


@wp.kernel
def name_worlds(
    slot_of: wp.array[int], index: wp.array[int], few_worldid: wp.array[int], worldid: wp.array[int]
):
    """Write into each slot that was given away whose contact lies there."""
    contact = wp.tid()
    slot = slot_of[contact]
    if slot >= 0:
        worldid[slot] = index[few_worldid[contact]]


@wp.kernel
def point_to_slots(
    count: wp.array[int],
    index: wp.array[int],
    few_nefc: wp.array[int],
    few_type: wp.array2d[int],
    few_id: wp.array2d[int],
    first_contact_type: int,
    slot_of: wp.array[int],
    id: wp.array2d[int],
):
    """Let the constraints of contacts name their contacts' slots in the pool."""
    row, constraint = wp.tid()  # pyright: ignore[reportGeneralTypeIssues]: an index for each dimension
    if row >= count[0] or constraint >= few_nefc[row]:
        return
    if few_type[row, constraint] >= first_contact_type:
        id[index[row], constraint] = slot_of[few_id[row, constraint]]


@wp.kernel
def extend(num_free: wp.array[int], taken: wp.array[int], nacon: wp.array[int]):
    """Count the contacts that went behind all others."""
    nacon[0] = nacon[0] + wp.max(0, taken[0] - num_free[0])


# Said here, so that they are compiled at once.
for _dtype in (wp.uint8, wp.uint32):
    _rows = {"source": wp.array2d(dtype=_dtype), "target": wp.array2d(dtype=_dtype)}
    for _kernel in (take_rows, put_rows, put_contacts):
        wp.overload(_kernel, _rows)
