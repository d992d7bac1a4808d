"""Warp kernels of robosuite's operational-space controller and gripper.

One thread is one world (and arm). They are Warp's and not torch's so that physics and controller are one
stream and one CUDA graph. Each thread computes in float64, from what the physics gives in float32: a 7 x 7
system costs nothing beside a physics step, and near singular postures float32 would not do.
"""

# Kernels are Warp's language in Python's clothes: what its arrays and vectors can do, no type checker knows.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportInvalidTypeForm=false, reportArgumentType=false, reportReturnType=false
# pyright: reportAssignmentType=false
import warp as wp

wp.set_module_options({"enable_backward": False, "max_unroll": 1})

JOINTS = 7
NULL_SPACE_GAIN = 10.0  # robosuite's `joint_kp` of the term that draws the joints to their initial posture

vec7d = wp.types.vector(length=7, dtype=wp.float64)
mat77d = wp.types.matrix(shape=(7, 7), dtype=wp.float64)


@wp.func
def cholesky(A: mat77d, n: int) -> mat77d:
    """Lower factor of the leading n x n block; what has no inertia is left out, as a pseudoinverse does."""
    L = mat77d()
    largest = wp.float64(0.0)
    for i in range(n):
        largest = wp.max(largest, A[i, i])
    for j in range(n):
        pivot = A[j, j]
        for k in range(j):
            pivot -= L[j, k] * L[j, k]
        if pivot > wp.float64(1.0e-15) * largest:
            root = wp.sqrt(pivot)
            L[j, j] = root
            for i in range(j + 1, n):
                value = A[i, j]
                for k in range(j):
                    value -= L[i, k] * L[j, k]
                L[i, j] = value / root
    return L


@wp.func
def solve(L: mat77d, b: vec7d, n: int) -> vec7d:
    """x with L L' x = b."""
    x = vec7d()
    for i in range(n):
        value = b[i]
        for k in range(i):
            value -= L[i, k] * x[k]
        if L[i, i] > wp.float64(0.0):
            x[i] = value / L[i, i]
    for reverse in range(n):
        i = n - 1 - reverse
        value = x[i]
        for k in range(i + 1, n):
            value -= L[k, i] * x[k]
        x[i] = wp.float64(0.0)
        if L[i, i] > wp.float64(0.0):
            x[i] = value / L[i, i]
    return x


@wp.func
def block(A: mat77d, first: int, n: int) -> mat77d:
    """The n x n block of A that begins at (first, first), moved to the corner."""
    B = mat77d()
    for i in range(n):
        for j in range(n):
            B[i, j] = A[first + i, first + j]
    return B


@wp.func
def rotation(axis_angle: wp.vec3d) -> wp.mat33d:
    """Rotation matrix of an axis-angle vector."""
    angle = wp.length(axis_angle)
    if angle == wp.float64(0.0):
        return wp.identity(n=3, dtype=wp.float64)
    axis = axis_angle / angle
    K = wp.skew(axis)
    return (
        wp.identity(n=3, dtype=wp.float64) + wp.sin(angle) * K + (wp.float64(1.0) - wp.cos(angle)) * (K * K)
    )


@wp.kernel
def set_goals(
    actions: wp.array2d[wp.float64],
    first: int,
    resting: wp.array[bool],
    absolute: bool,
    scale: wp.array[wp.float64],
    shift: wp.array[wp.float64],
    low: wp.array[wp.float64],
    high: wp.array[wp.float64],
    site: int,
    site_xpos: wp.array2d[wp.vec3],
    site_xmat: wp.array2d[wp.mat33],
    fingers: wp.array[int],
    finger_signs: wp.array[wp.float64],
    finger_speed: wp.float64,
    ctrlrange: wp.array2d[wp.vec2],
    finger_commands: wp.array2d[wp.float64],
    goal_pos: wp.array[wp.vec3d],
    goal_mat: wp.array[wp.mat33d],
    ctrl: wp.array2d[float],
):
    """Take one action of an arm, entries `first` to `first + 6`, at the start of a control step.

    Deltas count from the present pose, in the world's axes, scaled as robosuite's `scale_action` does. The
    fingers' commands move by their speed towards the sign of the last entry, and hold through the step.
    """
    world = wp.tid()
    position = wp.vec3d(site_xpos[world, site])
    orientation = wp.mat33d(site_xmat[world, site])
    grip = wp.float64(0.0)
    if not resting[world]:
        move = wp.vec3d()
        turn = wp.vec3d()
        for i in range(3):
            move[i] = actions[world, first + i]
            turn[i] = actions[world, first + 3 + i]
        grip = wp.sign(actions[world, first + 6])
        if actions[world, first + 6] == wp.float64(0.0):
            grip = wp.float64(0.0)
        if absolute:
            position = move
            orientation = rotation(turn)
        else:
            for i in range(3):
                move[i] = wp.clamp(move[i], low[i], high[i]) * scale[i] + shift[i]
                turn[i] = wp.clamp(turn[i], low[3 + i], high[3 + i]) * scale[3 + i] + shift[3 + i]
            position = position + move
            orientation = rotation(turn) * orientation
    goal_pos[world] = position
    goal_mat[world] = orientation
    for f in range(fingers.shape[0]):
        command = finger_commands[world, f] + finger_signs[f] * finger_speed * grip
        command = wp.clamp(command, wp.float64(-1.0), wp.float64(1.0))
        finger_commands[world, f] = command
        actuator = fingers[f]
        limits = ctrlrange[world % ctrlrange.shape[0], actuator]
        lower = wp.float64(limits[0])
        upper = wp.float64(limits[1])
        half = wp.float64(0.5)
        ctrl[world, actuator] = float(half * (upper + lower) + half * (upper - lower) * command)


@wp.kernel
def set_torques(
    xanchor: wp.array2d[wp.vec3],
    xaxis: wp.array2d[wp.vec3],
    mass: wp.array2d[float],
    mass_address: wp.array2d[int],
    bias: wp.array2d[float],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    site: int,
    site_xpos: wp.array2d[wp.vec3],
    site_xmat: wp.array2d[wp.mat33],
    joints: wp.array[int],
    angles: wp.array[int],
    dofs: wp.array[int],
    actuators: wp.array[int],
    kp: wp.array[wp.float64],
    kd: wp.array[wp.float64],
    uncoupled: bool,
    initial: wp.array2d[wp.float64],
    goal_pos: wp.array[wp.vec3d],
    goal_mat: wp.array[wp.mat33d],
    ctrlrange: wp.array2d[wp.vec2],
    ctrl: wp.array2d[float],
):
    """Torques of one arm that pull its site to the goal: Khatib (1987), as robosuite 1.5 has it.

    With J the site's Jacobian and M the arm's block of the mass matrix: F = L (kp e - kd v) with L the
    inverse of J M^-1 J', of position and orientation each by itself where `uncoupled`; torque = J' F + bias +
    N' M (k (q0 - q) - 2 sqrt(k) q'), where N projects onto what does not move the site.
    """
    world = wp.tid()
    M = mat77d()
    J = mat77d()  # rows 0 to 5
    q_rate = vec7d()
    posture = vec7d()
    point = wp.vec3d(site_xpos[world, site])
    null_gain = wp.float64(NULL_SPACE_GAIN)
    null_damping = wp.float64(2.0) * wp.sqrt(null_gain)
    for i in range(JOINTS):
        q_rate[i] = wp.float64(qvel[world, dofs[i]])
        angle = wp.float64(qpos[world, angles[i]])
        posture[i] = null_gain * (initial[world, i] - angle) - null_damping * q_rate[i]
        # All joints are hinges on the way to the site.
        axis = wp.vec3d(xaxis[world, joints[i]])
        lever = point - wp.vec3d(xanchor[world, joints[i]])
        linear = wp.cross(axis, lever)
        for j in range(3):
            J[j, i] = linear[j]
            J[3 + j, i] = axis[j]
        for j in range(JOINTS):
            M[i, j] = wp.float64(mass[world, mass_address[i, j]])

    # e: how far the goal is, position in metres and orientation as robosuite's sum of cross products.
    error = vec7d()
    offset = goal_pos[world] - point
    here = wp.mat33d(site_xmat[world, site])
    there = goal_mat[world]
    turn = wp.vec3d()
    for column in range(3):
        a = wp.vec3d(here[0, column], here[1, column], here[2, column])
        b = wp.vec3d(there[0, column], there[1, column], there[2, column])
        turn += wp.float64(0.5) * wp.cross(a, b)
    wanted = vec7d()
    for i in range(3):
        error[i] = offset[i]
        error[3 + i] = turn[i]
    for i in range(6):
        rate = wp.float64(0.0)
        for j in range(JOINTS):
            rate += J[i, j] * q_rate[j]
        wanted[i] = kp[i] * error[i] - kd[i] * rate

    # A = J M^-1 J', column by column.
    L = cholesky(M, JOINTS)
    A = mat77d()
    for i in range(6):
        row = vec7d()
        for j in range(JOINTS):
            row[j] = J[i, j]
        response = solve(L, row, JOINTS)
        for k in range(6):
            value = wp.float64(0.0)
            for j in range(JOINTS):
                value += J[k, j] * response[j]
            A[k, i] = value
    whole = cholesky(A, 6)

    wrench = vec7d()
    if uncoupled:
        turning = vec7d()
        for i in range(3):
            turning[i] = wanted[3 + i]
        force = solve(cholesky(block(A, 0, 3), 3), wanted, 3)
        torque = solve(cholesky(block(A, 3, 3), 3), turning, 3)
        for i in range(3):
            wrench[i] = force[i]
            wrench[3 + i] = torque[i]
    else:
        wrench = solve(whole, wanted, 6)

    # N' M p = M p - J' (A^-1 (J p)): no other part of the null-space projection is needed.
    moved = vec7d()
    for i in range(6):
        for j in range(JOINTS):
            moved[i] += J[i, j] * posture[j]
    held = solve(whole, moved, 6)
    for j in range(JOINTS):
        value = wp.float64(bias[world, dofs[j]])
        for i in range(JOINTS):
            value += M[j, i] * posture[i]
        for i in range(6):
            value += J[i, j] * (wrench[i] - held[i])
        actuator = actuators[j]
        limits = ctrlrange[world % ctrlrange.shape[0], actuator]
        ctrl[world, actuator] = wp.clamp(float(value), limits[0], limits[1])
