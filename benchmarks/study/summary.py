"""What finished runs say: accuracies over seeds, and paired differences over the test pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fibo_robot.benchmarks.study.plan import CASTLING, DENSE, FIBOTTENTION, VARIANTS
from fibo_robot.benchmarks.study.runs import Record
from fibo_robot.statistics import average_over_runs, difference_over_runs

COMPARISONS = (
    (FIBOTTENTION, DENSE),
    ("fibottention, modified", DENSE),
    (CASTLING, DENSE),
    *((variant.controls_for, variant.name) for variant in VARIANTS if variant.controls_for is not None),
)


@dataclass(frozen=True)
class Accuracy:
    """A variant's test accuracy; the interval is None for one seed alone."""

    variant: str
    seeds: int
    learning_rate: float
    density: float | None
    rate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """A's accuracy minus B's, on the seeds that both have; interval for new training runs on new pictures."""

    a: str
    b: str
    seeds: int
    difference: float
    low: float | None
    high: float | None
    p_value: float | None


@dataclass(frozen=True)
class Summary:
    """All that can be said of a stage's finished runs."""

    accuracies: list[Accuracy]
    differences: list[Difference]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def summarise(records: Sequence[Record]) -> Summary:
    """Accuracies and differences of the runs that were tested.

    Intervals are those of fibo_robot.statistics.training_runs: training seeds and test pictures are two
    random effects, so they hold for another training on other pictures of the same kind.
    """
    tested: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.correct is not None:
            tested.setdefault(record.variant, {})[record.seed] = record
    accuracies = [_accuracy(tested[v.name]) for v in VARIANTS if v.name in tested]
    differences = []
    for a, b in COMPARISONS:
        seeds = sorted(tested.get(a, {}).keys() & tested.get(b, {}).keys())
        if seeds:
            differences.append(_difference([tested[a][s] for s in seeds], [tested[b][s] for s in seeds]))
    return Summary(accuracies, differences)


def _accuracy(runs: Mapping[int, Record]) -> Accuracy:
    records = list(runs.values())
    rates = [record.test_accuracy or 0.0 for record in records]
    first = records[0]
    interval = average_over_runs([r.outcomes() for r in records]).interval if len(records) > 1 else None
    low, high = interval if interval is not None else (None, None)
    about = (first.variant, len(records), first.learning_rate, first.density)
    return Accuracy(*about, sum(rates) / len(rates), low, high)


def _difference(a: Sequence[Record], b: Sequence[Record]) -> Difference:
    names = (a[0].variant, b[0].variant, len(a))
    if len(a) < 2:
        assert a[0].test_accuracy is not None and b[0].test_accuracy is not None
        return Difference(*names, a[0].test_accuracy - b[0].test_accuracy, None, None, None)
    found = difference_over_runs([r.outcomes() for r in a], [r.outcomes() for r in b])
    low, high = found.interval if found.interval is not None else (None, None)
    return Difference(*names, found.difference, low, high, found.p_value)
