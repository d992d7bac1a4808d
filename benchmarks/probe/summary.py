"""What the rows of `fibo attention probe` say: means over folds, and differences fold by fold."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fibo_robot.benchmarks.probe.cross_validation import ProbeRow


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over folds."""

    mean: float
    sd: float


@dataclass(frozen=True)
class ProbeSummary:
    """One input and attention over all folds; in a fold, the mean over seeds counts.

    Attributes:
        inputs, attention: which probe.
        in_order, shuffled: share of clips labelled rightly.
        by_order: `in_order` minus `shuffled`, fold by fold.
        beyond_first: in order, this attention minus the first one that read the same, fold by fold.
    """

    inputs: str
    attention: str
    in_order: Spread
    shuffled: Spread
    by_order: Spread
    beyond_first: Spread


def summarise(rows: Sequence[ProbeRow]) -> list[ProbeSummary]:
    """One summary per input and attention, in the order of the rows.

    Args:
        rows: of a finished cross-validation over two folds or more.
    """
    summaries: list[ProbeSummary] = []
    first: dict[str, list[float]] = {}
    for inputs, attention in dict.fromkeys((row.inputs, row.attention) for row in rows):
        own = [row for row in rows if (row.inputs, row.attention) == (inputs, attention)]
        in_order, shuffled = _by_fold(own, False), _by_fold(own, True)
        baseline = first.setdefault(inputs, in_order)
        summaries.append(
            ProbeSummary(
                inputs,
                attention,
                _spread(in_order),
                _spread(shuffled),
                by_order=_spread([a - b for a, b in zip(in_order, shuffled, strict=True)]),
                beyond_first=_spread([a - b for a, b in zip(in_order, baseline, strict=True)]),
            )
        )
    return summaries


def _by_fold(rows: Sequence[ProbeRow], shuffled: bool) -> list[float]:
    """Share of clips labelled rightly in each fold: the mean over seeds."""
    folds = sorted({row.fold for row in rows})
    return [
        statistics.mean(
            row.correct / row.clips for row in rows if (row.fold, row.shuffled) == (fold, shuffled)
        )
        for fold in folds
    ]


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.mean(values), statistics.stdev(values))
