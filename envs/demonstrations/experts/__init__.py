"""Scripted experts that solve a task from the true poses of its objects, to record demonstrations with.

An expert is a phase machine: each phase is a pose of the gripper, servoed to in proportion to the error, and
the next one begins when the pose is reached. A phase is decided from what is seen, so that the expert
recovers when noise or a slipped grasp throws it back: the demonstrations then show how to recover, too.
"""

from collections.abc import Callable

from fibo_robot.envs.demonstrations.experts.can import CanExpert
from fibo_robot.envs.demonstrations.experts.grasping import GraspingExpert
from fibo_robot.envs.demonstrations.experts.lift import LiftExpert
from fibo_robot.envs.demonstrations.experts.square import SquareExpert
from fibo_robot.envs.demonstrations.experts.stack import StackExpert
from fibo_robot.errors import FiboError

EXPERTS: dict[str, Callable[[], GraspingExpert]] = {
    "lift": LiftExpert,
    "can": CanExpert,
    "square": SquareExpert,
    "stack": StackExpert,
}


def get_expert(task: str) -> GraspingExpert:
    """A fresh expert for the task called `task`; raises FiboError where there is none."""
    if task not in EXPERTS:
        raise FiboError(f"There is no scripted expert for the task {task!r}, only for {', '.join(EXPERTS)}.")
    return EXPERTS[task]()
