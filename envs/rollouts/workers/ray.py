"""Workers as Ray actors, one CPU each, spread over the machines of a cluster.

The same episode runner as in the local worker processes; only the transport differs. Every machine needs
fibo_robot installed. A lost machine is a failure of the workers that were on it.
"""

from typing import Any

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.rollouts.workers.episode_runner import (
    Command,
    EpisodeRunner,
    Failed,
    Reply,
    Setup,
    failure,
)
from fibo_robot.envs.rollouts.workers.processes import ONE_THREAD
from fibo_robot.extras import require

ray: Any = require("ray", extra="ray", purpose="The engine ray")


class RayWorkers:
    """Workers on the cluster at `RAY_ADDRESS`, or on one that is started on this machine."""

    def __init__(self, setup: Setup, count: int) -> None:
        """Connect, unless this process already is.

        Raises:
            RolloutError: the cluster has fewer CPUs than workers.
        """
        self._setup = setup
        self._actors: dict[int, Any] = {}
        self._futures: dict[Any, int] = {}
        self._owns_cluster = not ray.is_initialized()
        if self._owns_cluster:
            ray.init(log_to_driver=False)
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < count:
            self.close()
            raise RolloutError(
                f"{count} workers need {count} CPUs, the Ray cluster has {cpus}. Use --workers {cpus}."
            )

    def start(self, slot: int) -> None:
        """See :class:`fibo_robot.envs.rollouts.workers.processes.Workers`."""
        self.stop(slot)
        actor = _ACTOR.options(
            num_cpus=1, scheduling_strategy="SPREAD", runtime_env={"env_vars": ONE_THREAD}
        ).remote(self._setup)
        self._actors[slot] = actor
        self._futures[actor.start.remote()] = slot

    def send(self, slot: int, command: Command) -> None:
        """See :class:`fibo_robot.envs.rollouts.workers.processes.Workers`."""
        self._futures[self._actors[slot].handle.remote(command)] = slot

    def stop(self, slot: int) -> None:
        """See :class:`fibo_robot.envs.rollouts.workers.processes.Workers`."""
        actor = self._actors.pop(slot, None)
        if actor is not None:
            ray.kill(actor)
        self._futures = {future: owner for future, owner in self._futures.items() if owner != slot}

    def wait(self, timeout: float | None) -> list[tuple[int, Reply]]:
        """See :class:`fibo_robot.envs.rollouts.workers.processes.Workers`."""
        if not self._futures:
            return []
        ray.wait(list(self._futures), num_returns=1, timeout=timeout)
        ready, _ = ray.wait(list(self._futures), num_returns=len(self._futures), timeout=0)
        replies: list[tuple[int, Reply]] = []
        for future in ready:
            slot = self._futures.pop(future)
            try:
                reply = ray.get(future)
            except ray.exceptions.RayError as error:
                reply = Failed(
                    f"The Ray worker was lost ({type(error).__name__}): {str(error).splitlines()[0]}"
                )
            if isinstance(reply, Failed):
                self.stop(slot)
            replies.append((slot, reply))
        return replies

    def close(self) -> None:
        """See :class:`fibo_robot.envs.rollouts.workers.processes.Workers`."""
        for slot in list(self._actors):
            self.stop(slot)
        if self._owns_cluster:
            ray.shutdown()


class _Worker:
    """One environment in an actor's process."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def start(self) -> Reply:
        try:
            self._runner = EpisodeRunner(self._setup)
            return self._runner.started()
        except Exception as error:
            return failure(error)

    def handle(self, command: Command) -> Reply:
        try:
            return self._runner.handle(command)
        except Exception as error:
            return failure(error)


_ACTOR: Any = ray.remote(max_restarts=0)(_Worker)  # Ray's types do not say what this gives
