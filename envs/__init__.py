"""Simulated tasks, demonstrations, rollouts and their statistics.

Importing this registers the tasks with gymnasium (`fibo_robot/Lift-v0`, `Can-v0`, `Square-v0`, `ToolHang-v0`,
`Transport-v0`) and starts no simulator.
"""

from fibo_robot.envs.tasks import TASKS, Task, get_task, register_environments

register_environments()

__all__ = ["TASKS", "Task", "get_task"]
