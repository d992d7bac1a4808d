"""One method of a comparison: its success rate with its interval, and what its training cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fibo_robot.envs.results.runs import LastCheckpoints, Run, evaluations_of, outcomes_of
from fibo_robot.statistics import average_over_runs


@dataclass(frozen=True)
class MethodRow:
    """One method's numbers. `low` and `high` bound `success_rate` with 95 % confidence.

    `checkpoints` of each run were evaluated; `episodes` and `successes` are those of all of them. Of the
    trainings, mean minutes of the clock and of the processor, and the most memory one needed (MiB); None
    where a run does not tell.
    """

    method: str
    runs: int
    checkpoints: int
    episodes: int
    successes: int
    success_rate: float
    low: float
    high: float
    success_at_end: float
    mean_length: float
    errors: int
    training_minutes: float | None = None
    training_cpu_minutes: float | None = None
    training_memory_mb: float | None = None


def method_row(label: str, runs: Sequence[Run]) -> MethodRow:
    """The numbers of one method's runs, all of the same number of checkpoints."""
    evaluations = [evaluation for run in runs for evaluation in evaluations_of(run)]
    counted = [episode for evaluation in evaluations for episode in evaluation.counted]
    if len(runs) > 1:
        found = average_over_runs([outcomes_of(run) for run in runs])
        rate, interval = found.rate, found.interval
    elif isinstance(runs[0], LastCheckpoints):
        average = runs[0].average
        rate, interval = average.rate, average.interval
    else:
        rate, interval = runs[0].success_rate, runs[0].interval
    return MethodRow(
        method=label,
        runs=len(runs),
        checkpoints=len(evaluations_of(runs[0])),
        episodes=len(counted),
        successes=sum(evaluation.successes for evaluation in evaluations),
        success_rate=rate,
        low=interval.low,
        high=interval.high,
        success_at_end=float(np.mean([evaluation.success_at_end_rate for evaluation in evaluations])),
        mean_length=float(np.mean([episode.length for episode in counted])),
        errors=sum(len(evaluation.errors) for evaluation in evaluations),
        **_training_cost(runs),
    )


def _training_cost(runs: Sequence[Run]) -> dict[str, float]:
    # Of a run's checkpoints, the last knows the whole of its training.
    costs = [evaluations_of(run)[-1].training.get("cost", {}) for run in runs]
    if not all(costs):
        return {}
    return {
        "training_minutes": float(np.mean([cost["seconds"] for cost in costs])) / 60,
        "training_cpu_minutes": float(np.mean([cost["cpu_seconds"] for cost in costs])) / 60,
        "training_memory_mb": max(cost["memory_mb"] for cost in costs),
    }
