"""Many worlds of one task on one device: robosuite's models, controller and success rules on MuJoCo Warp.

:class:`WarpTask` is the door. Importing this imports neither torch nor warp.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fibo_robot.envs.warp.exporting.export import TaskExport
    from fibo_robot.envs.warp.exporting.start_states import StartState, StartStates
    from fibo_robot.envs.warp.guard import Fault
    from fibo_robot.envs.warp.task import WarpTask

_ON_USE = {
    "Fault": "fibo_robot.envs.warp.guard",
    "StartState": "fibo_robot.envs.warp.exporting.start_states",
    "StartStates": "fibo_robot.envs.warp.exporting.start_states",
    "TaskExport": "fibo_robot.envs.warp.exporting.export",
    "WarpTask": "fibo_robot.envs.warp.task",
}

__all__ = ["Fault", "StartState", "StartStates", "TaskExport", "WarpTask"]


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ON_USE[name]), name)
