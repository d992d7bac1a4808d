"""Simulated tasks, demonstrations, rollouts and their statistics.

Importing this registers the tasks with gymnasium (`fibo_robot/Lift-v0`, `Can-v0`, `Square-v0`, `ToolHang-v0`,
`Transport-v0`) and starts no simulator.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fibo_robot.envs.tasks import TASKS, Task, get_task, register_environments

if TYPE_CHECKING:
    from fibo_robot.envs.results.comparison.compare import compare
    from fibo_robot.envs.results.evaluation import Evaluation
    from fibo_robot.envs.rollouts.api import rollout

register_environments()

# Imported when first used: simulator workers import this package too, and need neither torch nor scipy.
_ON_USE = {
    "Evaluation": "fibo_robot.envs.results.evaluation",
    "compare": "fibo_robot.envs.results.comparison.compare",
    "rollout": "fibo_robot.envs.rollouts.api",
}

__all__ = ["TASKS", "Evaluation", "Task", "compare", "get_task", "rollout"]


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ON_USE[name]), name)
