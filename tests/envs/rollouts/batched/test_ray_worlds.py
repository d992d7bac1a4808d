"""Worlds on the devices of a cluster play the episodes of one device, also when an actor is lost."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.rollouts.batched.engine import BatchedEngine
from fibo_robot.envs.rollouts.batched.worlds import BatchedEnv, BatchedStep, MakeWorlds
from fibo_robot.envs.rollouts.workers.scheduler import Timeouts
from fibo_robot.interfaces import ShapeMeta, Task
from tests.conftest import REPOSITORY
from tests.envs.rollouts.batched.toy_worlds import ToyWorlds, maker
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import ToyTask

ray: Any = None
with suppress(ModuleNotFoundError):
    ray = import_module("ray")

pytestmark = [pytest.mark.slow, pytest.mark.ray]
SEEDS = range(200, 208)
TASK = ToyTask()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs, whose actors find the toy task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("RAY_worker_niceness", "0")  # else whatever runs beside the tests holds them up
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


class ActorKillingPolicy(ToyPolicy):
    """Takes its actor's process away in the third decision of a seed, once for all copies."""

    def __init__(self, shape_meta: ShapeMeta, struck: Path) -> None:
        super().__init__(shape_meta, noise=0.2)
        self.struck = str(struck)

    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        if SEEDS[5] in episodes and len(self.calls) > 40 and not Path(self.struck).exists():
            Path(self.struck).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().act(obs, episodes)


class SleepingWorlds(ToyWorlds):
    """Never come back from the fourth control step that one of them plays a seed for, once for all copies."""

    struck: Path

    def advance(self, actions: Tensor) -> BatchedStep:
        if any(world.seed == SEEDS[5] and world.steps == 3 for world in self._worlds):
            with suppress(FileExistsError):
                self.struck.touch(exist_ok=False)
                time.sleep(3600)
        return super().advance(actions)


def sleeping(struck: Path) -> MakeWorlds:
    """What builds them."""

    def make(task: Task, num_worlds: int, obs_keys: Sequence[str], device: torch.device) -> BatchedEnv:
        assert isinstance(task, ToyTask)
        worlds = SleepingWorlds(task, num_worlds, obs_keys, {}, [])
        worlds.struck = struck
        return worlds

    return make


def traces(evaluation: Evaluation) -> list[tuple]:
    return [(e.seed, e.scene, e.trace, e.success_once) for e in evaluation.episodes]


def test_devices_share_the_seeds_and_a_lost_one_is_replaced(cluster: None, tmp_path: Path) -> None:
    from fibo_robot.envs.rollouts.batched.ray import RayBatchedEngine

    one = rollout(ToyPolicy(TASK.shape_meta(), 0.2), TASK, SEEDS, engine=BatchedEngine(2, "cpu", maker()))
    engine = RayBatchedEngine(2, "cpu", actors=2, make=maker())
    shared = rollout(ToyPolicy(TASK.shape_meta(), 0.2), TASK, SEEDS, engine=engine)
    assert traces(shared) == traces(one)
    assert shared.rollout["simulation"] == one.rollout["simulation"]
    (session,) = shared.sessions
    assert (session.engine, session.workers, session.episodes) == ("ray", 4, len(SEEDS))

    struck = tmp_path / "struck"
    policy = ActorKillingPolicy(TASK.shape_meta(), struck)
    halved = rollout(policy, TASK, SEEDS, engine=RayBatchedEngine(2, "cpu", actors=2, make=maker()))
    assert struck.exists(), "no actor was taken away"
    assert traces(halved) == traces(one) and not halved.errors
    again = [episode.seed for episode in halved.episodes if episode.worker_errors]
    assert SEEDS[5] in again and SEEDS[0] not in again

    with pytest.raises(RolloutError, match="3 actors need 3 CPUs"):
        rollout(policy, TASK, SEEDS, engine=RayBatchedEngine(2, "cpu", actors=3, make=maker()))
    lying = ToyTask(lying=True)
    with pytest.raises(RolloutError, match=r"gave top_image of shape"):
        rollout(policy, lying, SEEDS, engine=RayBatchedEngine(2, "cpu", make=maker()))


def test_an_actor_that_hangs_is_ended_and_its_episodes_are_dealt_out_again(
    cluster: None, tmp_path: Path
) -> None:
    from fibo_robot.envs.rollouts.batched.ray import RayBatchedEngine

    one = rollout(ToyPolicy(TASK.shape_meta(), 0.2), TASK, SEEDS, engine=BatchedEngine(2, "cpu", maker()))
    struck = tmp_path / "struck"
    engine = RayBatchedEngine(2, "cpu", actors=2, make=sleeping(struck), timeouts=Timeouts(command=8.0))
    evaluation = rollout(ToyPolicy(TASK.shape_meta(), 0.2), TASK, SEEDS, engine=engine)
    assert struck.exists(), "no world hung"
    assert traces(evaluation) == traces(one) and not evaluation.errors
    again = {e.seed: e.worker_errors for e in evaluation.episodes if e.worker_errors}
    assert "A Ray actor did not answer for 8 s." in again[SEEDS[5]] and SEEDS[0] not in again
