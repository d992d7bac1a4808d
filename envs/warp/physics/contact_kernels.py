"""Warp kernels that read contacts: whether there was room for them, and which geoms touch."""

# Kernels are Warp's language in Python's clothes: what its arrays and vectors can do, no type checker knows.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportInvalidTypeForm=false, reportArgumentType=false, reportReturnType=false
# pyright: reportAssignmentType=false
import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.kernel
def watch(
    nefc: wp.array[int],
    nacon: wp.array[int],
    ncollision: wp.array[int],
    sparse: bool,
    njmax: int,
    row_sizes: wp.array2d[int],
    row_addresses: wp.array2d[int],
    peak_constraints: wp.array[int],
    peak_nonzeros: wp.array[int],
    peak_contacts: wp.array[int],
):
    """Note the most constraints of each world, and the most contacts of all together, since last asked.

    MuJoCo Warp drops what exceeds its arrays and only prints so.
    """
    world = wp.tid()
    count = nefc[world]
    peak_constraints[world] = wp.max(peak_constraints[world], count)
    if sparse and count > 0:
        last = wp.min(count, njmax) - 1
        used = row_addresses[world, last] + row_sizes[world, last]
        peak_nonzeros[world] = wp.max(peak_nonzeros[world], used)
    if world == 0:
        # Broad phase and narrow phase share one limit.
        peak_contacts[0] = wp.max(peak_contacts[0], wp.max(nacon[0], ncollision[0]))


@wp.kernel
def find_touching(
    nacon: wp.array[int],
    contact_world: wp.array[int],
    contact_geom: wp.array[wp.vec2i],
    first: wp.array2d[wp.uint8],
    second: wp.array2d[wp.uint8],
    touching: wp.array2d[wp.uint8],
):
    """Set `touching[world, pair]` where a geom of the pair's first group touches one of its second."""
    contact, pair = wp.tid()  # pyright: ignore[reportGeneralTypeIssues]: an index for each dimension
    if contact >= nacon[0]:
        return
    a = contact_geom[contact][0]
    b = contact_geom[contact][1]
    world = contact_world[contact]
    if world < 0:  # a slot without a contact: see restarts.py
        return
    one = wp.uint8(1)
    there = first[pair, a] == one and second[pair, b] == one
    back = first[pair, b] == one and second[pair, a] == one
    if there or back:
        touching[world, pair] = one
