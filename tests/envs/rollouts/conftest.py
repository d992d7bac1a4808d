"""The rollout that others are compared with."""

import pytest

from fibo_robot.envs.rollouts.api import rollout
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import ToyTask

SEEDS = range(200, 212)


@pytest.fixture
def policy():
    return ToyPolicy(ToyTask().shape_meta(), noise=0.2)


@pytest.fixture(scope="session")
def reference():
    """The outcomes that every other way of running must reproduce."""
    task = ToyTask()
    return rollout(ToyPolicy(task.shape_meta(), noise=0.2), task, SEEDS, workers=1)


def without_history(evaluation):
    """Episodes as they were played, without what went wrong before they were."""
    return [
        (e.seed, e.scene, e.trace, e.success_once, e.success_at_end, e.length) for e in evaluation.episodes
    ]
