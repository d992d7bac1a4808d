"""Roll a policy out: seeds in, one episode per seed out, the same whoever runs them and in which order.

An engine (:mod:`fibo_robot.envs.rollouts.engine`) plays the episodes. Here is what all engines have in
common: which task is meant, what the result rests on, the log that lets a run resume, and what is kept.

What fails is told apart. A worker that dies, hangs or raises is replaced and its episode begun again; after
three failures the episode is an error and does not count. A policy that returns a number that is not finite
has failed at its own task: that episode is reported as an error of the policy and counts as a failure.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

from fibo_robot.envs.errors import EvaluationError, RolloutError
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.rollouts.artifacts import store
from fibo_robot.envs.rollouts.engine import Engine, Finished, Plan
from fibo_robot.envs.rollouts.episodes import Episode, Session
from fibo_robot.envs.rollouts.identity import (
    can_be_identified,
    check_layout,
    choose_task,
    describe_policy,
    other_task_note,
    seen_in_training,
)
from fibo_robot.envs.rollouts.log import EpisodeLog
from fibo_robot.envs.rollouts.videos import VideoSpec
from fibo_robot.envs.rollouts.workers.engine import EngineName, make_engine
from fibo_robot.envs.rollouts.workers.scheduler import Timeouts
from fibo_robot.envs.tasks import simulator_versions
from fibo_robot.interfaces import Policy, Task
from fibo_robot.processes import only_writer
from fibo_robot.progress import trials_bar
from fibo_robot.training.checkpoint import version_differences

__all__ = ["DEFAULT_SEEDS", "SUCCESS_HOLD", "RolloutError", "Timeouts", "rollout"]

SUCCESS_HOLD = 10  # half a second at the tasks' 20 actions per second
DEFAULT_SEEDS = range(100_000, 100_050)  # demonstrations are recorded from seed 0 on


def rollout(
    policy: Policy,
    task: Task | None = None,
    seeds: Sequence[int] = DEFAULT_SEEDS,
    workers: int = 2,
    *,
    output: Path | str | None = None,
    resume: bool = False,
    videos: int = 0,
    video: VideoSpec | None = None,
    batch_size: int = 1,
    success_hold: int | None = SUCCESS_HOLD,
    engine: EngineName | Engine = "local",
    timeouts: Timeouts | None = None,
    allow_other_task: bool = False,
    policy_info: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    training: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run one episode per seed and return what happened.

    Args:
        policy: decides; see :class:`fibo_robot.interfaces.Policy`.
        task: what is simulated; default: the task that the policy was trained for.
        seeds: distinct; one episode each, reported in this order.
        workers: environments stepped side by side by an engine given by its name.
        output: folder for `episodes.jsonl` (as episodes finish), `videos/`, `action_traces/` and `eval.json`
            (at the end).
        resume: continue the evaluation in `output`; only missing seeds, and those whose worker failed, run.
        videos: film the first so many seeds, and keep their actions; needs `output`.
        video: how; default: :meth:`VideoSpec.in_real_time`.
        batch_size: rows in every batch the policy sees; 1 suits a CPU. Part of the result: how a sum is
            rounded depends on it; with Intel's MKL and several rows also on memory, unless the environment
            has MKL_CBWR=AUTO,STRICT before PyTorch computes anything.
        success_hold: an episode ends once success has held for this many consecutive steps; None runs every
            episode to the horizon.
        engine: `local` processes, `ray` actors on the cluster that Ray is connected to, or an engine of its
            own kind. Episodes are equal bit for bit within an engine, and between `local` and `ray`.
        timeouts: when a worker of an engine given by its name counts as hanging; default: :class:`Timeouts`.
        allow_other_task: evaluate on another task than the policy was trained for; the result says so.
        policy_info: what else to record about the policy (checkpoint, data set); JSON-ready. A policy that is
            no `nn.Module` is told from others by this alone.
        notes: sentences to keep with the result.
        training: how the policy was trained, to keep with the result: its `config`, and `history` with one
            row of metrics an epoch; JSON-ready.
        progress: show a progress bar where standard output is a terminal.

    Raises:
        RolloutError: the task is not the policy's, its observations are not what the policy sees, the
            environment cannot be built, or the policy returns actions of a wrong shape.
        EvaluationError: `output` already holds an evaluation, or one of another policy, task or set of seeds;
            or the log or the result cannot be written.
        BusyError: another process writes into `output`.
        KeyboardInterrupt: on Ctrl-C; what finished is in `output`.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError("seeds must be distinct, and at least one: one episode per seed")
    if workers < 1 or batch_size < 1:
        raise ValueError("workers and batch_size must be at least 1")
    if success_hold is not None and success_hold < 1:
        raise ValueError("success_hold must be at least 1 step, or None to go on to the horizon")
    if videos and output is None:
        raise ValueError("videos need an output folder")
    output = None if output is None else Path(output)
    task, other_task = choose_task(policy, task, allow_other_task)
    check_layout(task, policy.shape_meta)
    player = make_engine(engine, workers, timeouts)
    filmed = {seed: video or VideoSpec.in_real_time(task) for seed in seeds[:videos]}
    plan = Plan(task, success_hold, batch_size, filmed)
    header = _header(policy, plan, player, policy_info)
    if resume and not can_be_identified(policy, policy_info):
        raise EvaluationError(
            f"Whether {output} was begun with this {type(policy).__name__} cannot be told, because it is no "
            "nn.Module. Say what it is (policy_info=...), when you begin and when you resume."
        )
    with nullcontext() if output is None else only_writer(output):
        log = None if output is None else EpisodeLog(output, header, resume)
        if log is not None:
            log.check_seeds(seeds)
        finished = {} if log is None else {seed: log.episodes[seed] for seed in seeds if log.is_final(seed)}
        sessions: list[Session] = [] if log is None else log.sessions
        if len(finished) < len(seeds):
            _play(policy, plan, player, seeds, finished, sessions, log, progress)
        remarks = [other_task_note(other_task)] if other_task else []
        if (seen := seen_in_training(policy, seeds, other_task)) is not None:
            remarks.append(seen)
        remarks += version_differences(getattr(policy, "meta", None) or {})
        if not player.reproducible:
            remarks.append(
                "This simulation is not exact: an episode may end otherwise when the same seed is played "
                "again. Roll out twice and compare the two: the comparison says how many do."
            )
        evaluation = Evaluation(
            episodes=tuple(finished[seed] for seed in seeds),
            **header,
            other_task=other_task,
            sessions=tuple(sessions),
            notes=(*remarks, *notes),
            training=dict(training or {}),
        )
        if output is not None:
            evaluation.save(output)
    return evaluation


def _play(
    policy: Policy,
    plan: Plan,
    player: Engine,
    seeds: Sequence[int],
    finished: dict[int, Episode],
    sessions: list[Session],
    log: EpisodeLog | None,
    progress: bool,
) -> None:
    """Play the seeds that are not in `finished`, into it and into the log.

    `sessions`, the log's where there is one, gets the account of the work, also of an interrupted one.
    """
    pending = [seed for seed in seeds if seed not in finished]
    successes = [episode.success_once for episode in finished.values()]
    bar = trials_bar(
        "Rolling out", len(seeds), len(successes), sum(successes), done=len(finished), enabled=progress
    )
    try:
        with bar as show:

            def keep(done: Finished) -> None:
                episode = done.episode if log is None else store(done, log.path.parent)
                finished[episode.seed] = episode
                if log is not None:
                    log.add(episode)
                show(episode.success_once if episode.counts else None)

            player.open(plan)
            player.run(policy, pending, keep)
    finally:
        player.close()
        session = player.session()
        if session is not None and log is not None:
            log.add_session(session)
        elif session is not None:
            sessions.append(session)


def _header(
    policy: Policy, plan: Plan, engine: Engine, policy_info: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """What must be equal for two episodes of one seed to be equal."""
    header = {
        "task": plan.task.to_dict(),
        "policy": describe_policy(policy, policy_info),
        "rollout": {
            "batch_size": plan.batch_size,
            "success_hold": plan.success_hold,
            "n_obs_steps": policy.shape_meta.n_obs_steps,
            "n_action_steps": policy.shape_meta.n_action_steps,
            "simulation": engine.simulation,
            "reproducible": engine.reproducible,
        },
        "versions": {**simulator_versions(), "torch": metadata.version("torch")},
    }
    return json.loads(json.dumps(header))  # as it will be read back: tuples are lists
