"""Compare evaluations: which method succeeds more often, by how much, and how sure that is.

A method is one evaluation, or several, one per training seed. Two methods of one evaluation each are
compared pair by pair on their common seeds (exact McNemar test, Newcombe's interval of the difference).
Where methods have several training seeds each, the training run is the sampling unit and their per-run
rates are compared with Welch's t: it is what a claim about the method, not about one checkpoint, rests on.
"""

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically, write_json
from fibo_robot.statistics import (
    CONFIDENCE,
    PairedCounts,
    average_over_training_seeds,
    episodes_to_resolve,
    mcnemar_exact,
    newcombe_interval,
)

SCHEMA_VERSION = 1


class ComparisonError(FiboError):
    """Evaluations that cannot be compared; the message says why."""


@dataclass(frozen=True)
class MethodRow:
    """One method's numbers. `low` and `high` bound `success_rate` with 95 % confidence."""

    method: str
    runs: int
    episodes: int
    successes: int
    success_rate: float
    low: float
    high: float
    success_at_end: float
    mean_length: float
    errors: int


@dataclass(frozen=True)
class PairRow:
    """Method `a` against method `b`.

    Attributes:
        difference: success rate of `a` minus that of `b`; `low` and `high` bound it with 95 % confidence.
        p_value: that both succeed equally often.
        p_holm: the same, adjusted for the number of pairs compared (Holm 1979).
        test: `mcnemar` on common seeds, or `welch` over training runs.
        common_seeds: seeds the comparison rests on.
        only_a: common seeds that only `a` solved; `only_b` likewise. None for `welch`.
        episodes_needed: common seeds that would tell a difference of this size apart four times in five;
            None where there is none, or for `welch`.
    """

    a: str
    b: str
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    test: str
    common_seeds: int
    only_a: int | None
    only_b: int | None
    episodes_needed: int | None


@dataclass(frozen=True)
class Comparison:
    """The outcome of :func:`compare`."""

    methods: tuple[MethodRow, ...]
    pairs: tuple[PairRow, ...]

    def save(self, directory: Path | str) -> None:
        """Write `comparison.json`, `methods.csv`, `pairs.csv` and `comparison.png`, each atomically."""
        from fibo_robot.envs.results.figures import rates_figure

        directory = Path(directory)
        methods, pairs = [asdict(row) for row in self.methods], [asdict(row) for row in self.pairs]
        write_json(
            directory / "comparison.json",
            {"schema_version": SCHEMA_VERSION, "confidence": CONFIDENCE, "methods": methods, "pairs": pairs},
        )
        _write_csv(directory / "methods.csv", [entry.name for entry in fields(MethodRow)], methods)
        _write_csv(directory / "pairs.csv", [entry.name for entry in fields(PairRow)], pairs)
        with replace_atomically(directory / "comparison.png") as temporary:
            rates_figure(self.methods).savefig(temporary, dpi=160)


def compare(methods: Mapping[str, Sequence[Evaluation]]) -> Comparison:
    """Compare methods with each other, every pair.

    Args:
        methods: by label; each with one evaluation, or one per training seed.

    Raises:
        ComparisonError: evaluations of different tasks or settings, no common seeds, seeds that begin in
            different scenes, or single runs beside several.
    """
    _check_comparable(methods)
    rows = tuple(_method_row(label, runs) for label, runs in methods.items())
    pairs = [_pair_row(a, methods[a], b, methods[b]) for a, b in itertools.combinations(methods, 2)]
    return Comparison(rows, tuple(_holm(pairs)))


def _check_comparable(methods: Mapping[str, Sequence[Evaluation]]) -> None:
    evaluations = [(label, evaluation) for label, runs in methods.items() for evaluation in runs]
    for label, evaluation in evaluations:
        if not evaluation.counted:
            raise ComparisonError(f"{label} has no episode that counts; there is nothing to compare.")
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


def _scene_settings(evaluation: Evaluation) -> dict[str, Any]:
    """The task without what only its observations depend on: policies may see different things."""
    unseen = ("cameras", "image_size", "renderer", "quality", "low_dim")
    return {key: value for key, value in evaluation.task.items() if key not in unseen}


def _method_row(label: str, runs: Sequence[Evaluation]) -> MethodRow:
    counted = [episode for run in runs for episode in run.counted]
    if len(runs) == 1:
        rate, interval = runs[0].success_rate, runs[0].interval
    else:
        average = average_over_training_seeds(
            [run.successes for run in runs], [len(run.counted) for run in runs]
        )
        rate, interval = average.rate, average.interval
    return MethodRow(
        method=label,
        runs=len(runs),
        episodes=len(counted),
        successes=sum(run.successes for run in runs),
        success_rate=rate,
        low=interval.low,
        high=interval.high,
        success_at_end=float(np.mean([run.success_at_end_rate for run in runs])),
        mean_length=float(np.mean([episode.length for episode in counted])),
        errors=sum(len(run.errors) for run in runs),
    )


def _pair_row(a: str, runs_a: Sequence[Evaluation], b: str, runs_b: Sequence[Evaluation]) -> PairRow:
    common = _common_seeds(a, runs_a, b, runs_b)
    if len(runs_a) > 1:
        return _welch(a, runs_a, b, runs_b, len(common))
    outcomes_a, outcomes_b = runs_a[0].by_seed(), runs_b[0].by_seed()
    counts = PairedCounts.of(
        [outcomes_a[seed].success_once for seed in common], [outcomes_b[seed].success_once for seed in common]
    )
    interval = newcombe_interval(counts)
    needed = None
    if counts.difference:
        rate_a, rate_b = (
            (counts.both + counts.only_a) / len(common),
            (counts.both + counts.only_b) / len(common),
        )
        discordant = (counts.only_a + counts.only_b) / len(common)
        needed = episodes_to_resolve(rate_a, rate_b, discordant=discordant)
    p_value = mcnemar_exact(counts)
    return PairRow(
        a, b, counts.difference, interval.low, interval.high, p_value, None, "mcnemar",
        len(common), counts.only_a, counts.only_b, needed,
    )  # fmt: skip


def _common_seeds(a: str, runs_a: Sequence[Evaluation], b: str, runs_b: Sequence[Evaluation]) -> list[int]:
    """Seeds that every run counts, after checking that they begin in the same scene everywhere."""
    runs = [run.by_seed() for run in (*runs_a, *runs_b)]
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


def _welch(
    a: str, runs_a: Sequence[Evaluation], b: str, runs_b: Sequence[Evaluation], common: int
) -> PairRow:
    rates_a, rates_b = [run.success_rate for run in runs_a], [run.success_rate for run in runs_b]
    difference = float(np.mean(rates_a) - np.mean(rates_b))
    low = high = p_value = None
    if np.ptp(rates_a) > 0 or np.ptp(rates_b) > 0:  # without any spread t says nothing
        from scipy import stats  # half a second

        test = stats.ttest_ind(rates_a, rates_b, equal_var=False)
        low, high = (float(end) for end in test.confidence_interval(CONFIDENCE))
        p_value = float(test.pvalue)
    return PairRow(a, b, difference, low, high, p_value, None, "welch", common, None, None, None)


def _holm(pairs: Sequence[PairRow]) -> list[PairRow]:
    """Add Holm's step-down adjusted p-values."""
    order = sorted(
        (index for index, pair in enumerate(pairs) if pair.p_value is not None),
        key=lambda index: pairs[index].p_value,
    )
    adjusted: dict[int, float] = {}
    floor = 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(order) - rank) * pairs[index].p_value))
        adjusted[index] = floor
    return [PairRow(**{**asdict(pair), "p_holm": adjusted.get(index)}) for index, pair in enumerate(pairs)]


def _write_csv(target: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with (
        replace_atomically(target) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def load_method(argument: str) -> tuple[str, list[Path]]:
    """Read `[LABEL=]PATH[,PATH…]`; without a label, the folder that names the run."""
    label, _, paths = argument.rpartition("=")
    folders = [Path(path) for path in paths.split(",")]
    if not label:
        folder = folders[0].parent if folders[0].name == "eval.json" else folders[0]
        folder = folder.resolve()
        label = folder.parent.name if folder.name == "rollouts" else folder.name
    return label, folders


def format_rate(rate: float) -> str:
    """A rate as a percentage, a dash where there is none."""
    return "–" if math.isnan(rate) else f"{100 * rate:.1f} %"


def format_interval(low: float, high: float) -> str:
    """An interval of rates in percent, as `51.2 to 98.0 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%"
