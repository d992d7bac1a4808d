"""Success rates over several training runs, for claims about a method rather than about one checkpoint.

Episodes share luck in two ways. Those of one run share that run's: a good initialisation helps all of them.
And where runs are rolled out on the same seeds, episodes of one seed share that scene's: an easy one is
solved by every run. Treating them as independent, or only runs as sharing nothing, understates the
uncertainty. The variance of a mean over R runs with rates m_r is

    Var = s^2 / R + c,

s^2 the sample variance of the rates and c the mean covariance of two runs' rates, which they owe to the seeds
that they share: the outcomes' sample covariance over these, times their number, over the product of the runs'
numbers of episodes. Where every run has the same seeds this is the two-way random effects estimate (run mean
square + seed mean square - residual mean square) / episodes (Searle, Casella & McCulloch, "Variance
components", 1992, chapter 4); where none is shared c is 0, and runs alone are the sampling unit. Degrees of
freedom are Satterthwaite's (1946).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from fibo_robot.statistics.intervals import CONFIDENCE, Interval, wilson_interval


@dataclass(frozen=True)
class RunAverage:
    """A success rate over several training runs.

    Attributes:
        rate: mean of the runs' rates.
        interval: for the rate expected of a new training run on new seeds, not only of these.
        run_std: standard deviation of the runs' rates.
        seed_std: standard deviation of the mean that comes from the seeds which the runs share.
    """

    rate: float
    interval: Interval
    run_std: float
    seed_std: float


@dataclass(frozen=True)
class CheckpointAverage:
    """The mean success rate of given checkpoints, and an interval for the same checkpoints on other seeds."""

    rate: float
    interval: Interval


@dataclass(frozen=True)
class RunDifference:
    """The difference of two methods' mean rates, A minus B.

    `interval` and `p_value` (that both methods succeed equally often) are None where neither runs nor seeds
    vary, which says nothing about either.
    """

    difference: float
    interval: Interval | None
    p_value: float | None


def average_over_runs(runs: Sequence[Mapping[int, float]], confidence: float = CONFIDENCE) -> RunAverage:
    """Success rate of a method from several training runs.

    The interval is Wilson's at the effective number of episodes which the variance of the mean and Student's
    t imply, which keeps it inside [0, 1] (Korn & Graubard 1998, with Wilson's interval as in Dean & Pagano
    2015). It is never narrower than if the runs' luck were equal, as rates that happen to agree would have
    it; and where nothing ever fails, or nothing succeeds, only the seeds count, for nothing tells how much
    runs share.

    Args:
        runs: outcomes by seed, one mapping per training run; runs may share seeds or not. An outcome is a
            success or failure, or the share of the run's checkpoints that succeeded.

    Raises:
        ValueError: fewer than two runs, or a run without episodes.
    """
    if len(runs) < 2 or not all(runs):
        raise ValueError("averaging needs at least two training runs, each with at least one episode")
    rates = np.array([np.mean(list(run.values())) for run in runs], dtype=float)
    count, rate = len(runs), float(rates.mean())
    seeds = set().union(*runs)
    run_variance = float(rates.var(ddof=1))
    shared = max(0.0, float(np.mean([_covariance(a, b) for a, b in itertools.combinations(runs, 2)])))
    if 0 < rate < 1:
        chance = float(np.mean([np.var(list(run.values())) / len(run) for run in runs]))
        least = chance / count + (count - 1) / count * shared
        sizes = [rate * (1 - rate) / least] if least > 0 else []
        variance = run_variance / count + shared
        if variance > 0:
            z = special.ndtri(0.5 + confidence / 2)
            t = _student(confidence, [(run_variance / count, count - 1), (shared, len(seeds) - 1)])
            sizes.append(rate * (1 - rate) / variance * (z / t) ** 2)
        size = min([*sizes, float(sum(map(len, runs)))])
    else:
        size = float(len(seeds))
    interval = wilson_interval(rate * size, size, confidence)
    return RunAverage(rate, interval, math.sqrt(run_variance), math.sqrt(shared))


def average_over_checkpoints(
    checkpoints: Sequence[Mapping[int, bool]], confidence: float = CONFIDENCE
) -> CheckpointAverage:
    """Mean success rate of several checkpoints of one training run on common seeds.

    The checkpoints are what is judged, no sample of anything: neighbours of one training resemble each other,
    so their spread tells neither how far another moment of it nor how far another training would be off. Only
    seeds are drawn. All outcomes of one seed are one observation, as a cluster in a survey, and the interval
    is Wilson's at the effective number of episodes that their variance implies (Korn & Graubard 1998).

    Args:
        checkpoints: outcomes by seed, one mapping each; a seed may be missing where an episode did not count.

    Raises:
        ValueError: fewer than two checkpoints, or one without episodes.
    """
    if len(checkpoints) < 2 or not all(checkpoints):
        raise ValueError("averaging needs at least two checkpoints, each with at least one episode")
    seeds = sorted(set().union(*checkpoints))
    rates = [float(np.mean(list(outcomes.values()))) for outcomes in checkpoints]
    rate = float(np.mean(rates))
    if not 0 < rate < 1 or len(seeds) == 1:
        return CheckpointAverage(rate, wilson_interval(rate * len(seeds), len(seeds), confidence))
    # What each seed adds to the mean rate's deviation; where all have every seed, its mean outcome's share.
    shares = [
        sum((o[seed] - r) / len(o) for o, r in zip(checkpoints, rates) if seed in o) / len(checkpoints)
        for seed in seeds
    ]
    variance = len(seeds) / (len(seeds) - 1) * float(np.square(shares).sum())
    size = float(sum(map(len, checkpoints)))
    if variance > 0:
        z = float(special.ndtri(0.5 + confidence / 2))
        t = _student(confidence, [(variance, len(seeds) - 1)])
        size = min(size, rate * (1 - rate) / variance * (z / t) ** 2)
    return CheckpointAverage(rate, wilson_interval(rate * size, size, confidence))


def difference_over_runs(
    a: Sequence[Mapping[int, float]], b: Sequence[Mapping[int, float]], confidence: float = CONFIDENCE
) -> RunDifference:
    """Difference of two methods' success rates, every run of both on the same seeds.

    Scenes that are equally hard for both methods cancel. What remains of them is how much the methods' mean
    outcomes on a seed differ in different ways from seed to seed; where there is none of that, this is
    Welch's t test over runs.

    Args:
        a, b: outcomes by seed, one mapping per training run, as of :func:`average_over_runs`.

    Raises:
        ValueError: fewer than two runs of either, or runs on different seeds.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError("a comparison over runs needs at least two training runs of each method")
    seeds = sorted(a[0])
    if not seeds or any(set(run) != set(seeds) for run in (*a, *b)):
        raise ValueError("a comparison over runs needs every run on the same seeds")
    tables = [np.array([[run[seed] for seed in seeds] for run in runs], dtype=float) for runs in (a, b)]
    difference = float(tables[0].mean() - tables[1].mean())
    parts = [(float(table.mean(1).var(ddof=1)) / len(table), len(table) - 1) for table in tables]
    if len(seeds) > 1:
        # The mean outcomes' differences also scatter by the chance within single runs, which is no
        # interaction.
        by_seed = (tables[0].mean(0) - tables[1].mean(0)).var(ddof=1) / len(seeds)
        interaction = by_seed - sum(_residual(table) for table in tables)
        parts.append((max(0.0, float(interaction)), len(seeds) - 1))
    error = math.sqrt(sum(variance for variance, _ in parts))
    if error == 0:
        return RunDifference(difference, None, None)
    half = _student(confidence, parts) * error
    freedom = _degrees_of_freedom(parts)
    p_value = 2 * float(special.stdtr(freedom, -abs(difference) / error))
    interval = Interval(max(-1.0, difference - half), min(1.0, difference + half))
    return RunDifference(difference, interval, p_value)


def difference_over_checkpoints(
    a: Sequence[Mapping[int, bool]], b: Sequence[Mapping[int, bool]], confidence: float = CONFIDENCE
) -> RunDifference:
    """Difference of two single runs' mean success rates over their checkpoints, all on the same seeds.

    Only seeds are drawn: what other training runs would give is not in it. The interval squares and adds the
    limits of :func:`average_over_checkpoints`, corrected for the correlation of the mean outcomes on a seed,
    as Newcombe (1998, method 10) does with Wilson's; it holds near 0 and 1, where Student's t does not. The
    p-value is that of flipping the signs of the seeds' differences (Fisher's randomisation test).

    Args:
        a, b: outcomes by seed, one mapping per checkpoint.

    Raises:
        ValueError: fewer than two checkpoints of either, or checkpoints on different seeds.
    """
    seeds = sorted(a[0]) if a else []
    if not seeds or any(set(checkpoint) != set(seeds) for checkpoint in (*a, *b)):
        raise ValueError("a comparison over checkpoints needs every checkpoint on the same seeds")
    means = [np.mean([[run[seed] for seed in seeds] for run in runs], axis=0, dtype=float) for runs in (a, b)]
    (rate_a, (low_a, high_a)), (rate_b, (low_b, high_b)) = (
        (found.rate, found.interval)
        for found in (average_over_checkpoints(runs, confidence) for runs in (a, b))
    )
    correlation = _newcombes_correlation(*means)
    down = rate_a - low_a, high_b - rate_b
    up = high_a - rate_a, rate_b - low_b
    below, above = (
        math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2)) for one, other in (down, up)
    )
    difference = rate_a - rate_b
    interval = Interval(max(-1.0, difference - below), min(1.0, difference + above))
    return RunDifference(difference, interval, _sign_flip_p_value(means[0] - means[1]))


def _newcombes_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two runs' mean outcomes by seed, shrunk where positive as Newcombe's φ is.

    Without that the interval of two runs that agree on every one of a few seeds is a point.
    """
    spread = float(a.std() * b.std())
    if spread == 0:
        return 0.0
    covariance = float(np.mean((a - a.mean()) * (b - b.mean())))
    if covariance > 0:
        covariance = max(0.0, covariance - 1 / (2 * len(a)))
    return covariance / spread


def _sign_flip_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value that differences are as likely positive as negative; exact for up to 13 beside 0."""
    differences = differences[differences != 0]
    count, observed = len(differences), abs(differences.sum()) - 1e-9
    if count <= 13:
        signs = np.array(list(itertools.product((1, -1), repeat=count)))
        return float(np.mean(np.abs(signs @ differences) >= observed))
    signs = np.random.default_rng(0).choice((1, -1), size=(9999, count))
    return float(1 + np.sum(np.abs(signs @ differences) >= observed)) / 10_000


def _covariance(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """Covariance of two runs' rates through the seeds that they share; 0 for fewer than two of these."""
    common = sorted(a.keys() & b.keys())
    if len(common) < 2:
        return 0.0
    outcomes = np.array([[run[seed] for seed in common] for run in (a, b)], dtype=float)
    return float(np.cov(outcomes)[0, 1]) * len(common) / (len(a) * len(b))


def _residual(table: np.ndarray) -> float:
    """Variance of a method's mean that comes from neither run nor seed, of outcomes `(runs, seeds)`."""
    runs, seeds = table.shape
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return float((rest**2).sum()) / ((runs - 1) * (seeds - 1) * runs * seeds)


def _degrees_of_freedom(parts: Sequence[tuple[float, int]]) -> float:
    """Satterthwaite's, of a sum of variances, each given with its own degrees of freedom."""
    whole = sum(variance for variance, _ in parts)
    return whole**2 / sum(variance**2 / freedom for variance, freedom in parts if variance > 0)


def _student(confidence: float, parts: Sequence[tuple[float, int]]) -> float:
    """Critical value of Student's t for a sum of variances."""
    return float(special.stdtrit(_degrees_of_freedom(parts), 0.5 + confidence / 2))
