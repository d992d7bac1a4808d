"""Two methods of a comparison: by how much one succeeds more often, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fibo_robot.envs.errors import ComparisonError
from fibo_robot.envs.results.runs import LastCheckpoints, Run, evaluations_of, outcomes_of
from fibo_robot.statistics import (
    PairedCounts,
    RunDifference,
    difference_over_checkpoints,
    difference_over_runs,
    episodes_to_resolve,
    mcnemar_exact,
    newcombe_interval,
)

Outcome = TypeVar("Outcome", bool, float)


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


def pair_row(a: str, runs_a: Sequence[Run], b: str, runs_b: Sequence[Run]) -> PairRow:
    """Compare two methods on their common seeds.

    Raises:
        ComparisonError: no common seeds, or seeds that begin in different scenes.
    """
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


def holm(pairs: Sequence[PairRow]) -> list[PairRow]:
    """Add Holm's step-down adjusted p-values."""
    known = sorted((pair.p_value, index) for index, pair in enumerate(pairs) if pair.p_value is not None)
    adjusted: dict[int, float] = {}
    floor = 0.0
    for rank, (p_value, index) in enumerate(known):
        floor = max(floor, min(1.0, (len(known) - rank) * p_value))
        adjusted[index] = floor
    return [replace(pair, p_holm=adjusted.get(index)) for index, pair in enumerate(pairs)]
