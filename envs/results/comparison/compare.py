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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fibo_robot.envs.errors import ComparisonError
from fibo_robot.envs.results.comparison.methods import MethodRow, method_row
from fibo_robot.envs.results.comparison.notes import notes_on
from fibo_robot.envs.results.comparison.pairs import PairRow, holm, pair_row
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.results.figures import rates_figure
from fibo_robot.envs.results.runs import Run, evaluations_of, outcomes_of
from fibo_robot.files import replace_atomically, write_json
from fibo_robot.statistics import CONFIDENCE, Interval

SCHEMA_VERSION = 1


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
            different scenes, single runs beside several, one training given as several, or runs of other
            numbers of checkpoints.
    """
    _check_comparable(methods)
    rows = tuple(method_row(label, runs) for label, runs in methods.items())
    pairs = [pair_row(a, methods[a], b, methods[b]) for a, b in itertools.combinations(methods, 2)]
    evaluations = {
        label: [one for run in runs for one in evaluations_of(run)] for label, runs in methods.items()
    }
    return Comparison(rows, tuple(holm(pairs)), tuple(notes_on(evaluations)))


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
    for label, trainings in methods.items():
        if any(_one_training(one, other) for one, other in itertools.combinations(trainings, 2)):
            raise ComparisonError(
                f"Two of the training runs of {label} are one: the same weights, or checkpoints of one "
                "config and seed. Name each run once, for its last checkpoints by their last.json."
            )
    numbers = sorted({len(evaluations_of(run)) for _, run in runs})
    if len(numbers) > 1:
        raise ComparisonError(
            f"One run is judged by {numbers[0]} of its checkpoints, another by {numbers[-1]}. "
            "Roll all out with the same --last."
        )


def _one_training(one: Run, other: Run) -> bool:
    """Whether two runs are known to be of one training, whose luck would count as that of two."""
    ours, theirs = evaluations_of(one)[-1], evaluations_of(other)[-1]
    weights, config = ours.policy.get("weights"), ours.training.get("config") or {}
    same_weights = weights is not None and weights == theirs.policy.get("weights")
    return same_weights or ("seed" in config and config == theirs.training.get("config"))


def _scene_settings(evaluation: Evaluation) -> dict[str, Any]:
    """The task without what only its observations depend on: policies may see different things."""
    unseen = ("cameras", "image_size", "renderer", "quality", "low_dim")
    return {key: value for key, value in evaluation.task.items() if key not in unseen}


def _write_csv(target: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with (
        replace_atomically(target) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
