"""Roll a policy out: seeds in, one episode per seed out, the same whoever runs them and in which order.

Workers (:mod:`fibo_robot.envs.rollouts.processes`) step one environment each; the policy decides here, for
whichever workers are ready, so a slow environment delays nobody. Three rules make an outcome depend on seed
and policy only:

* an episode begins from its seed alone (environments keep nothing from the episode before), and the policy
  draws an episode's noise from that episode's generator;
* the policy always sees batches of `batch_size` rows, padded with rows of zeros. How a row's sum is rounded
  depends on the shape of the batch, not on the other rows. `batch_size=1`, the default, suits a CPU; it is
  part of the result, written down with it and checked on resume;
* numerics in this process run on one thread while the policy decides, as the split of a sum among threads
  also rounds it. The workers have the other cores.

What fails is told apart. A worker that dies, hangs or raises is replaced and its episode begun again; after
three failures the episode is an error and does not count. A policy that returns a number that is not finite
has failed at its own task: that episode is reported as an error of the policy and counts as a failure.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.rollouts.episode_runner import Setup
from fibo_robot.envs.rollouts.episodes import Episode, Session
from fibo_robot.envs.rollouts.log import EpisodeLog
from fibo_robot.envs.rollouts.processes import LocalWorkers, Workers
from fibo_robot.envs.rollouts.scheduler import RolloutError, Scheduler, Timeouts
from fibo_robot.envs.rollouts.videos import VideoSpec
from fibo_robot.envs.tasks import simulator_versions
from fibo_robot.interfaces import Policy
from fibo_robot.progress import trials_bar

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task

__all__ = ["SUCCESS_HOLD", "RolloutError", "Timeouts", "rollout"]

SUCCESS_HOLD = 10  # half a second at the tasks' 20 actions per second


def rollout(
    policy: Policy,
    task: "Task",
    seeds: Sequence[int],
    workers: int = 2,
    *,
    output: Path | str | None = None,
    resume: bool = False,
    videos: int = 0,
    film: VideoSpec | None = None,
    batch_size: int = 1,
    success_hold: int | None = SUCCESS_HOLD,
    engine: Literal["local", "ray"] = "local",
    timeouts: Timeouts | None = None,
    policy_info: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    training: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run one episode per seed and return what happened.

    Args:
        policy: decides; see :class:`fibo_robot.interfaces.Policy`.
        task: what is simulated.
        seeds: distinct; one episode each, reported in this order.
        workers: environments stepped side by side.
        output: folder for `episodes.jsonl` (as episodes finish), `videos/`, `timelines/` and `eval.json` (at
            the end).
        resume: continue the evaluation in `output`; only missing seeds, and those whose worker failed, run.
        videos: film the first so many seeds, and keep their actions; needs `output`.
        film: how; default: the task's first camera.
        batch_size: rows in every batch the policy sees. Part of the result: see above.
        success_hold: an episode ends once success has held for this many consecutive steps; None runs every
            episode to the horizon.
        engine: `local` processes, or `ray` actors on the cluster that Ray is connected to.
        timeouts: when a worker counts as hanging; default: those of :class:`Timeouts`.
        policy_info: what to record about the policy (checkpoint, its digest, device); JSON-ready.
        notes: sentences to keep with the result.
        training: how the policy was trained, to keep with the result: its `config`, and `history` with one
            row of metrics an epoch; JSON-ready.
        progress: show a progress bar where standard output is a terminal.

    Raises:
        RolloutError: the environment cannot be built, or the policy returns actions of a wrong shape.
        EvaluationError: `output` already holds an evaluation, or one of another policy, task or set of seeds;
            or the log or the result cannot be written.
        KeyboardInterrupt: on Ctrl-C; what finished is in `output`.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError("seeds must be distinct, and at least one: one episode per seed")
    if workers < 1 or batch_size < 1:
        raise ValueError("workers and batch_size must be at least 1")
    if videos and output is None:
        raise ValueError("videos need an output folder")
    output = None if output is None else Path(output)
    header = _header(policy, task, batch_size, success_hold, policy_info)
    log = None if output is None else EpisodeLog(output, header, resume)
    if log is not None:
        log.check_seeds(seeds)
    finished = {} if log is None else {seed: log.episodes[seed] for seed in seeds if _is_final(log, seed)}
    sessions: list[Session] = [] if log is None else log.sessions

    pending = [seed for seed in seeds if seed not in finished]
    workers = min(workers, len(pending))
    if pending:
        film = film or VideoSpec(task.cameras[0]) if videos else None
        films = {seed: film for seed in seeds[:videos] if film is not None}
        counted = [episode.success_once for episode in finished.values()]
        bar = trials_bar(
            "Rolling out", len(seeds), len(counted), sum(counted), done=len(finished), enabled=progress
        )

        def keep(episode: Episode) -> None:
            finished[episode.seed] = episode
            if log is not None:
                log.add(episode)
            show(episode.success_once if episode.counts else None)

        pool = _workers(engine, Setup.of(task, policy.shape_meta, success_hold), workers)
        scheduler = Scheduler(policy, pool, batch_size, timeouts or Timeouts(), films, output, keep)
        try:
            with bar as show, _one_thread():
                scheduler.run(pending, workers)
        finally:
            pool.close()
            if log is not None:
                log.add_session(scheduler.session())
            else:
                sessions.append(scheduler.session())

    evaluation = Evaluation(
        episodes=tuple(finished[seed] for seed in seeds),
        **header,
        sessions=tuple(sessions),
        notes=tuple(notes),
        training=dict(training or {}),
    )
    if output is not None:
        evaluation.save(output)
    return evaluation


def _header(
    policy: Policy,
    task: "Task",
    batch_size: int,
    success_hold: int | None,
    policy_info: Mapping[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """What must be equal for two episodes of one seed to be equal."""
    header = {
        "task": task.to_dict(),
        "policy": dict(policy_info or {}),
        "rollout": {
            "batch_size": batch_size,
            "success_hold": success_hold,
            "n_obs_steps": policy.shape_meta.n_obs_steps,
            "n_action_steps": policy.shape_meta.n_action_steps,
        },
        "versions": {**simulator_versions(), "torch": metadata.version("torch")},
    }
    return json.loads(json.dumps(header))  # as it will be read back: tuples are lists


def _is_final(log: EpisodeLog, seed: int) -> bool:
    """Whether a seed need not run again: it has an episode that no worker failure cut short."""
    return seed in log.episodes and log.episodes[seed].counts


def _workers(engine: str, setup: Setup, count: int) -> Workers:
    if engine == "local":
        return LocalWorkers(setup, count)
    if engine == "ray":
        from fibo_robot.envs.rollouts.ray import RayWorkers

        return RayWorkers(setup, count)
    raise ValueError(f"engine must be local or ray, not {engine!r}")


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
