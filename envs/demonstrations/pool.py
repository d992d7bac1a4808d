"""Spread work with the simulator over processes, one environment in each."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from fibo_robot.envs.rendering.settings import prepare_rendering
from fibo_robot.envs.tasks import Task
from fibo_robot.errors import FiboError
from fibo_robot.processes import exit_with_parent

if TYPE_CHECKING:
    from fibo_robot.envs.simulation.environment import SimulationEnv

Item = TypeVar("Item")
Result = TypeVar("Result")

# In a worker process: what each item is given to, and what it works with.
_work: Callable[[Any], Any] | None = None


class WorkerError(FiboError):
    """A worker process died, most often for lack of memory."""


def map_with_environment(
    function: "Callable[[SimulationEnv, Item], Result]",
    items: Sequence[Item],
    task: Task,
    obs_keys: Sequence[str] | None,
    workers: int,
) -> Iterator[Result]:
    """Yield `function(env, item)` for every item, in the order in which they finish.

    Args:
        function: importable by name; it travels to each other process once, and what is bound to it (by
            `functools.partial`) stays there from item to item, as an open file does.
        items: what to work on.
        task: what to build each worker's environment of.
        obs_keys: observations of these environments (default: all).
        workers: number of processes; 1 works in this one.

    Raises:
        RendererError: if the task's renderer is missing here.
        WorkerError: if a process died.
    """
    if workers < 1:
        raise FiboError(f"The number of workers must be at least 1, not {workers}.")
    prepare_rendering(task.renderer)
    if workers == 1:
        environment = task.make_env(obs_keys)
        try:
            for item in items:
                yield function(environment, item)
        finally:
            environment.close()
        return
    # Forked workers hang as soon as they render: start them afresh.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(
        min(workers, max(len(items), 1)), context, _prepare_worker, (function, task, obs_keys)
    )
    try:
        futures = [executor.submit(_call, item) for item in items]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise WorkerError(
            "A simulator process died, most often for lack of memory (about 1 GiB each); use fewer workers."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _prepare_worker(
    function: "Callable[[SimulationEnv, Item], Result]", task: Task, obs_keys: Sequence[str] | None
) -> None:
    global _work
    # The parent decides when to stop, and takes its workers along if it is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent()
    # Mesa's software renderer would start a thread per core in every worker.
    os.environ["LP_NUM_THREADS"] = "0"
    environment: SimulationEnv | None = None

    def work(item: Any) -> Any:
        nonlocal environment
        # Made with the first item: what goes wrong in it is the item's error, not a broken process.
        environment = environment or task.make_env(obs_keys)
        return function(environment, item)

    _work = work


def _call(item: Any) -> Any:
    assert _work is not None
    return _work(item)
