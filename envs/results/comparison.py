"""Compare evaluations: which method succeeds more often, by how much, and how sure that is.

A method is one evaluation, or several, one per training run. Two methods of one evaluation each are
compared pair by pair on their common seeds (exact McNemar test, Newcombe's interval of the difference).
Where methods have several training runs each, runs and seeds are both samples, and mean rates are compared
on the seeds that every run of both has (:func:`fibo_robot.statistics.difference_over_runs`): it is what a
claim about the method, not about one checkpoint, rests on. A run may be judged by its last checkpoints. They
are not runs: the mean of their outcomes on a seed is the run's outcome there.
"""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure

from fibo_robot.envs.results.comparison_notes import notes_on
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.results.figures import rates_figure
from fibo_robot.envs.results.runs import LastCheckpoints, Run, evaluations_of, outcomes_of
from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically, write_json
from fibo_robot.statistics import (
    CONFIDENCE,
    Interval,
    PairedCounts,
    RunDifference,
    average_over_runs,
    difference_over_checkpoints,
    difference_over_runs,
    episodes_to_resolve,
    mcnemar_exact,
    newcombe_interval,
)

SCHEMA_VERSION = 1
Outcome = TypeVar("Outcome", bool, float)


class ComparisonError(FiboError):
    """Evaluations that cannot be compared; the message says why."""


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


@dataclass(frozen=True)
class PairRow:
    """Method `a` against method `b`.

    Attributes:
        difference: success rate of `a` minus that of `b` on the common seeds; `low` and `high` bound it with
            95 % confidence.
        p_value: that both succeed equally often.
        p_holm: the same, adjusted for the number of pairs compared (Holm 1979).
        test: `mcnemar`; `runs`, a t test with variance between runs and between seeds; or `checkpoints`, a
            randomisation test on two single runs' mean outcomes over their last checkpoints.
        common_seeds: seeds the comparison rests on, which every run of both has.
        only_a: common seeds that only `a` solved; `only_b` likewise. None but for `mcnemar`.
        episodes_needed: common seeds that would tell a difference of this size apart four times in five;
            None where there is none, or but for `mcnemar`.
    """

    a: str
    b: str
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    test: str
    common_seeds: int
    p_holm: float | None = None
    only_a: int | None = None
    only_b: int | None = None
    episodes_needed: int | None = None


@dataclass(frozen=True)
class Comparison:
    """The outcome of :func:`compare`; `notes` are sentences about what may mislead."""

    methods: tuple[MethodRow, ...]
    pairs: tuple[PairRow, ...]
    notes: tuple[str, ...] = ()

    def save(self, directory: Path | str) -> None:
        """Write `comparison.json`, `methods.csv`, `pairs.csv` and `comparison.png`, each atomically."""
        directory = Path(directory)
        methods, pairs = [asdict(row) for row in self.methods], [asdict(row) for row in self.pairs]
        content = {"schema_version": SCHEMA_VERSION, "confidence": CONFIDENCE, "notes": list(self.notes)}
        write_json(directory / "comparison.json", {**content, "methods": methods, "pairs": pairs})
        _write_csv(directory / "methods.csv", [entry.name for entry in fields(MethodRow)], methods)
        _write_csv(directory / "pairs.csv", [entry.name for entry in fields(PairRow)], pairs)
        with replace_atomically(directory / "comparison.png") as temporary:
            self.figure().savefig(temporary, dpi=160)

    def figure(self) -> Figure:
        """Success rates with their intervals, one row per method."""
        return rates_figure(
            {row.method: (row.success_rate, Interval(row.low, row.high)) for row in self.methods}
        )


def compare(methods: Mapping[str, Sequence[Run]]) -> Comparison:
    """Compare methods with each other, every pair.

    Args:
        methods: by label; each with one run, or one per training seed.

    Raises:
        ComparisonError: evaluations of different tasks or settings, no common seeds, seeds that begin in
            different scenes, single runs beside several, or runs of other numbers of checkpoints.
    """
    _check_comparable(methods)
    rows = tuple(_method_row(label, runs) for label, runs in methods.items())
    pairs = [_pair_row(a, methods[a], b, methods[b]) for a, b in itertools.combinations(methods, 2)]
    evaluations = {
        label: [one for run in runs for one in evaluations_of(run)] for label, runs in methods.items()
    }
    return Comparison(rows, tuple(_holm(pairs)), tuple(notes_on(evaluations)))


def _check_comparable(methods: Mapping[str, Sequence[Run]]) -> None:
    runs = [(label, run) for label, runs in methods.items() for run in runs]
    for label, run in runs:
        if not outcomes_of(run):
            raise ComparisonError(f"{label} has no episode that counts; there is nothing to compare.")
    evaluations = [(label, evaluation) for label, run in runs for evaluation in evaluations_of(run)]
    first_label, first = evaluations[0]
    for label, evaluation in evaluations[1:]:
        for what, ours, theirs in (
            ("task", _scene_settings(first), _scene_settings(evaluation)),
            ("success hold", first.rollout.get("success_hold"), evaluation.rollout.get("success_hold")),
        ):
            if ours != theirs:
                raise ComparisonError(
                    f"{first_label} and {label} were evaluated with another {what}; roll one out again."
                )
    if len(methods) > 1 and len({len(runs) > 1 for runs in methods.values()}) > 1:
        raise ComparisonError(
            "One method has a single run, another several. Give one evaluation of each, or at least two."
        )
    numbers = sorted({len(evaluations_of(run)) for _, run in runs})
    if len(numbers) > 1:
        raise ComparisonError(
            f"One run is judged by {numbers[0]} of its checkpoints, another by {numbers[-1]}. "
            "Roll all out with the same --last."
        )


def _scene_settings(evaluation: Evaluation) -> dict[str, Any]:
    """The task without what only its observations depend on: policies may see different things."""
    unseen = ("cameras", "image_size", "renderer", "quality", "low_dim")
    return {key: value for key, value in evaluation.task.items() if key not in unseen}


def _method_row(label: str, runs: Sequence[Run]) -> MethodRow:
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


def _pair_row(a: str, runs_a: Sequence[Run], b: str, runs_b: Sequence[Run]) -> PairRow:
    common = _common_seeds(a, runs_a, b, runs_b)
    if len(runs_a) > 1:
        means_a, means_b = ([_on(common, outcomes_of(run)) for run in runs] for runs in (runs_a, runs_b))
        return _difference_row(a, b, difference_over_runs(means_a, means_b), "runs", len(common))
    of_a, of_b = (
        [_on(common, evaluation.outcomes()) for evaluation in evaluations_of(run)]
        for run in (runs_a[0], runs_b[0])
    )
    if isinstance(runs_a[0], LastCheckpoints):
        return _difference_row(a, b, difference_over_checkpoints(of_a, of_b), "checkpoints", len(common))
    counts = PairedCounts.of(list(of_a[0].values()), list(of_b[0].values()))
    needed = episodes_to_resolve(*counts.rates, discordant=counts.discordant) if counts.difference else None
    low, high = newcombe_interval(counts)
    return PairRow(
        a=a,
        b=b,
        difference=counts.difference,
        low=low,
        high=high,
        p_value=mcnemar_exact(counts),
        test="mcnemar",
        common_seeds=len(common),
        only_a=counts.only_a,
        only_b=counts.only_b,
        episodes_needed=needed,
    )


def _difference_row(a: str, b: str, found: RunDifference, test: str, common_seeds: int) -> PairRow:
    low, high = found.interval or (None, None)
    return PairRow(
        a=a,
        b=b,
        difference=found.difference,
        low=low,
        high=high,
        p_value=found.p_value,
        test=test,
        common_seeds=common_seeds,
    )


def _on(seeds: Sequence[int], outcomes: Mapping[int, Outcome]) -> dict[int, Outcome]:
    """The outcomes on these seeds."""
    return {seed: outcomes[seed] for seed in seeds}


def _common_seeds(a: str, runs_a: Sequence[Run], b: str, runs_b: Sequence[Run]) -> list[int]:
    """Seeds that every run counts, after checking that they begin in the same scene everywhere."""
    runs = [evaluation.by_seed() for run in (*runs_a, *runs_b) for evaluation in evaluations_of(run)]
    common = sorted(set.intersection(*(set(run) for run in runs)))
    if not common:
        raise ComparisonError(f"{a} and {b} have no common seeds; roll both out with the same --seed.")
    for seed in common:
        if len({run[seed].scene for run in runs}) > 1:
            raise ComparisonError(
                f"Seed {seed} begins in different scenes for {a} and {b}, so they do not pair. "
                "Were they rolled out with different simulator versions?"
            )
    return common


def _holm(pairs: Sequence[PairRow]) -> list[PairRow]:
    """Add Holm's step-down adjusted p-values."""
    known = sorted((pair.p_value, index) for index, pair in enumerate(pairs) if pair.p_value is not None)
    adjusted: dict[int, float] = {}
    floor = 0.0
    for rank, (p_value, index) in enumerate(known):
        floor = max(floor, min(1.0, (len(known) - rank) * p_value))
        adjusted[index] = floor
    return [replace(pair, p_holm=adjusted.get(index)) for index, pair in enumerate(pairs)]


def _write_csv(target: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with (
        replace_atomically(target) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
