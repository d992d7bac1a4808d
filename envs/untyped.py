"""MuJoCo as type checkers may see it: its names come out of compiled modules that declare no types.

Importing this imports no MuJoCo. The binding to OpenGL is chosen when MuJoCo is imported, so that happens
only after :func:`fibo_robot.envs.rendering.settings.prepare_rendering`.
"""

from typing import Any, TypeAlias

from fibo_robot.extras import require

MjModel: TypeAlias = Any
MjData: TypeAlias = Any


def import_mujoco() -> Any:
    """The module `mujoco`; raises FiboError where the extra that brings it is not installed."""
    return require("mujoco", extra="sim", purpose="The simulator")
