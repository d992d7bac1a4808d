"""The same outcomes from a Ray cluster of two nodes, also when one of them is lost on the way."""

import time
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from fibo_robot.envs.rollouts.api import RolloutError, Timeouts, rollout
from tests.conftest import REPOSITORY
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import ToyTask

ray: Any = None
cluster_utils: Any = None
with suppress(ModuleNotFoundError):
    ray, cluster_utils = import_module("ray"), import_module("ray.cluster_utils")

pytestmark = [pytest.mark.slow, pytest.mark.ray]
SEEDS = range(200, 208)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one CPU each, which find the toy task; the last test takes one away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("RAY_worker_niceness", "0")  # else whatever runs beside the tests holds them up
        nodes = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        nodes.second = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        ray.init(address=nodes.address, log_to_driver=False)
        yield nodes
        ray.shutdown()
        nodes.shutdown()


def traces(evaluation):
    return [(episode.seed, episode.trace, episode.success_once) for episode in evaluation.episodes]


class NodeKillingPolicy(ToyPolicy):
    """Takes the second node away while its episode runs."""

    cluster = None

    def act(self, obs, episodes):
        time.sleep(0.1)  # so that both workers are up before the first has done all the work
        *_, before, last = [(), (), *self.calls]
        both_at_work = before != last and before == tuple(episodes)
        if both_at_work and self.cluster is not None:
            self.cluster.remove_node(self.cluster.second, allow_graceful=False)
            self.cluster = None
            time.sleep(5)  # the node's processes notice that it is gone
        return super().act(obs, episodes)


def test_more_workers_than_the_cluster_has_cpus_are_refused(cluster):
    task = ToyTask()
    with pytest.raises(RolloutError, match="8 workers need 8 CPUs"):
        rollout(ToyPolicy(task.shape_meta()), task, SEEDS, workers=8, engine="ray")


def test_a_cluster_gives_the_outcomes_of_one_machine_and_survives_a_lost_node(cluster):
    task = ToyTask()
    local = rollout(ToyPolicy(task.shape_meta(), noise=0.2), task, SEEDS, workers=1)
    spread = rollout(ToyPolicy(task.shape_meta(), noise=0.2), task, SEEDS, workers=2, engine="ray")
    assert spread.sessions[0].engine == "ray"
    assert traces(spread) == traces(local)

    policy = NodeKillingPolicy(task.shape_meta(), noise=0.2)
    policy.cluster = cluster
    # Ray takes up to a minute to declare a silent node dead; our own patience ends before.
    patience = Timeouts(start=120.0, command=20.0)
    halved = rollout(policy, task, SEEDS, workers=2, engine="ray", timeouts=patience)
    assert policy.cluster is None, "the node was never taken away"
    assert traces(halved) == traces(local)
    assert not halved.errors
    assert any(episode.worker_errors for episode in halved.episodes), "nobody missed the node"
