"""MuJoCo as type checkers may see it: its names come out of compiled modules that declare no types.

Importing this imports no MuJoCo. The binding to OpenGL is chosen when MuJoCo is imported, so that happens
only after :func:`fibo_robot.envs.simulation.rendering.prepare_rendering`.
"""

import importlib
from typing import Any, TypeAlias

MjModel: TypeAlias = Any
MjData: TypeAlias = Any


def import_mujoco() -> Any:
    """The module `mujoco`."""
    return importlib.import_module("mujoco")
