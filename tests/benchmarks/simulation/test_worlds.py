"""Worlds on a device are timed against processes on the same work, and what is accounted for adds up."""

from typing import Any, cast

from fibo_robot.benchmarks.simulation.worlds import measure
from fibo_robot.interfaces import Policy
from tests.envs.rollouts.batched.toy_worlds import maker
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import ToyTask


def test_a_benchmark_row_says_where_the_time_goes() -> None:
    task = ToyTask()
    policy = cast(Policy, ToyPolicy(task.shape_meta()))
    rows = measure(policy, cast(Any, task), (1, 3), "cpu", (1,), steps=6, rounds=1, make=maker())
    assert [(row.case, row.worlds, row.cameras) for row in rows] == [
        ("processes", 1, 1),
        ("worlds", 1, 1),
        ("worlds", 3, 1),
    ]
    for row in rows:
        assert min(row.env_steps_per_s, row.physics, row.rendering, row.policy) > 0
        # What is accounted for is no more than what the wall clock says.
        assert row.physics + row.rendering + row.policy < 1.05 * 1000 / row.env_steps_per_s * row.worlds
        assert row.memory_mb is None
