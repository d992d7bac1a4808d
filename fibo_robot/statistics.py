"""How much a success rate can be trusted, and what it takes to tell two of them apart.

A rollout yields one success or failure per seed. This file turns those into intervals, compares two
policies on the same seeds (paired, so the difficulty of a seed cancels), averages over training seeds
without pretending that their episodes are independent, and says how many episodes a comparison needs.
All rates and interval ends lie in [0, 1] (differences in [-1, 1]); `confidence` is two-sided.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A confidence interval, both ends included: `low, high = interval`, `rate in interval`."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class PairedCounts:
    """Outcomes of two policies A and B on common seeds: how many seeds went which way."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, a: Sequence[bool], b: Sequence[bool]) -> "PairedCounts":
        """Count outcomes; `a[i]` and `b[i]` belong to the same seed. Raises ValueError on unequal lengths."""
        if len(a) != len(b):
            raise ValueError(f"paired outcomes need the same seeds: got {len(a)} and {len(b)} episodes")
        first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
        return cls(
            both=int((first & second).sum()),
            only_a=int((first & ~second).sum()),
            only_b=int((~first & second).sum()),
            neither=int((~first & ~second).sum()),
        )

    @property
    def episodes(self) -> int:
        """Number of common seeds."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Success rate of A minus success rate of B."""
        return (self.only_a - self.only_b) / self.episodes


@dataclass(frozen=True)
class SeedAverage:
    """A success rate over several training seeds.

    Attributes:
        rate: mean of the per-training-seed success rates.
        interval: for the rate expected of a new training run, not only of these checkpoints.
        between_std: standard deviation of the per-training-seed rates.
        within_std: the part of that deviation which the finite number of episodes alone would cause.
    """

    rate: float
    interval: Interval
    between_std: float
    within_std: float


def wilson_interval(successes: float, episodes: float, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval for a binomial rate (Wilson 1927; Newcombe 1998a, method 3).

    Unlike the normal interval it is sound near 0 and 1 and for few episodes: 20 of 20 gives [0.84, 1].
    Fractional counts are allowed, for effective sample sizes. No episodes give [0, 1].
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"successes ({successes}) must lie between 0 and episodes ({episodes})")
    if episodes == 0:
        return Interval(0.0, 1.0)
    z2 = special.ndtri(0.5 + confidence / 2) ** 2
    rate = successes / episodes
    centre = (rate + z2 / (2 * episodes)) / (1 + z2 / episodes)
    half = math.sqrt(z2 * rate * (1 - rate) / episodes + z2 * z2 / (4 * episodes**2)) / (1 + z2 / episodes)
    # At 0 and all successes one end is exactly the rate; rounding must not push it past.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == episodes else min(1.0, centre + half)
    return Interval(low, high)


def mcnemar_exact(counts: PairedCounts) -> float:
    """Two-sided exact McNemar p-value that A and B succeed equally often (McNemar 1947, binomial form).

    Only seeds on which the two differ carry information; without any the p-value is 1.
    """
    discordant = counts.only_a + counts.only_b
    if discordant == 0:
        return 1.0
    from scipy import stats  # half a second, and comparisons alone need it

    return float(stats.binomtest(counts.only_a, discordant, 0.5).pvalue)


def newcombe_interval(counts: PairedCounts, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the paired difference of success rates, A minus B (Newcombe 1998b, method 10).

    Squares and adds the Wilson limits of both rates, corrected for their correlation φ. Reference:
    R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions
    based on paired data", Statistics in Medicine 17:2635-2650, 1998.
    """
    n = counts.episodes
    if n == 0:
        return Interval(-1.0, 1.0)
    successes_a, successes_b = counts.both + counts.only_a, counts.both + counts.only_b
    rate_a, rate_b = successes_a / n, successes_b / n
    wilson_a, wilson_b = (
        wilson_interval(successes_a, n, confidence),
        wilson_interval(successes_b, n, confidence),
    )
    phi = _correlation(counts)
    down_a, up_a = rate_a - wilson_a.low, wilson_a.high - rate_a
    down_b, up_b = rate_b - wilson_b.low, wilson_b.high - rate_b
    below = math.sqrt(max(0.0, down_a**2 - 2 * phi * down_a * up_b + up_b**2))
    above = math.sqrt(max(0.0, up_a**2 - 2 * phi * up_a * down_b + down_b**2))
    return Interval(counts.difference - below, counts.difference + above)


def _correlation(counts: PairedCounts) -> float:
    """Newcombe's φ: the correlation of paired outcomes, shrunk by a continuity correction where positive."""
    margins = (
        (counts.both + counts.only_a)
        * (counts.only_b + counts.neither)
        * (counts.both + counts.only_b)
        * (counts.only_a + counts.neither)
    )
    if margins == 0:
        return 0.0
    covariance = counts.both * counts.neither - counts.only_a * counts.only_b
    if covariance > 0:
        covariance = max(covariance - counts.episodes / 2, 0.0)
    return covariance / math.sqrt(margins)


def average_over_training_seeds(
    successes: Sequence[int], episodes: Sequence[int], confidence: float = CONFIDENCE
) -> SeedAverage:
    """Success rate of a method from several training runs, each evaluated on its own episodes.

    Episodes of one checkpoint share its luck, so pooling them all would understate the uncertainty.
    The training run is the sampling unit: the variance of the mean is that of the per-run rates, the
    critical value is Student's t with one degree of freedom fewer than runs, and the interval is
    Wilson's at the effective sample size those two imply, which keeps it inside [0, 1] and sound when
    every run succeeds always (Korn & Graubard 1998, with Wilson's interval as in Dean & Pagano 2015).
    Never narrower than treating all episodes as independent.

    Args:
        successes: per training run.
        episodes: per training run; each at least 1.

    Raises:
        ValueError: unequal lengths, fewer than two runs, or a run without episodes.
    """
    if len(successes) != len(episodes) or len(episodes) < 2 or min(episodes) < 1:
        raise ValueError("averaging needs at least two training runs, each with at least one episode")
    totals = np.asarray(episodes, dtype=float)
    rates = np.asarray(successes, dtype=float) / totals
    runs, rate = len(rates), float(rates.mean())
    between_variance = float(rates.var(ddof=1))
    within_variance = float(np.mean(rates * (1 - rates) / totals))

    size = totals.sum()
    variance_of_mean = between_variance / runs
    if 0 < rate < 1 and variance_of_mean > 0:
        z = special.ndtri(0.5 + confidence / 2)
        t = special.stdtrit(runs - 1, 0.5 + confidence / 2)
        size = min(size, rate * (1 - rate) / variance_of_mean * (z / t) ** 2)
    interval = wilson_interval(rate * size, size, confidence)
    return SeedAverage(rate, interval, math.sqrt(between_variance), math.sqrt(within_variance))


def episodes_to_resolve(
    rate_a: float,
    rate_b: float,
    *,
    power: float = 0.8,
    confidence: float = CONFIDENCE,
    discordant: float | None = None,
) -> int:
    """Common seeds needed before the exact McNemar test tells two success rates apart.

    Args:
        rate_a: expected success rate of A.
        rate_b: expected success rate of B.
        power: wanted probability that the test rejects equality.
        confidence: one minus the test's level.
        discordant: expected share of seeds on which A and B differ. Default: as if the outcomes were
            independent, which asks for more seeds than policies that fail on the same hard ones need.

    Returns:
        The first number of episodes, counted up from the normal approximation (Connor 1987), at which
        the exact power of the test reaches `power`.

    Raises:
        ValueError: the rates are equal, or no such pair of outcomes exists.
    """
    difference = abs(rate_a - rate_b)
    if difference == 0:
        raise ValueError("equal success rates cannot be told apart by any number of episodes")
    if discordant is None:
        discordant = rate_a * (1 - rate_b) + rate_b * (1 - rate_a)
    if math.isclose(discordant, difference, abs_tol=1e-9):
        discordant = difference  # every differing seed on one side; rounding must not tell them apart
    if not difference <= discordant <= 1:
        raise ValueError(
            f"the share of differing seeds must lie between {difference:g} and 1, not {discordant:g}"
        )
    z_level, z_power = special.ndtri(0.5 + confidence / 2), special.ndtri(power)
    root = z_level * math.sqrt(discordant) + z_power * math.sqrt(discordant - difference**2)
    episodes = math.ceil((root / difference) ** 2)
    while mcnemar_power(episodes, difference, discordant, confidence) < power:
        episodes += 1
    return episodes


def mcnemar_power(
    episodes: int, difference: float, discordant: float, confidence: float = CONFIDENCE
) -> float:
    """Exact probability that :func:`mcnemar_exact` rejects at level `1 - confidence`.

    Args:
        episodes: common seeds.
        difference: true difference of the success rates.
        discordant: true share of seeds on which the outcomes differ.
    """
    from scipy import stats

    alpha = 1 - confidence
    counts = np.arange(episodes + 1)
    # Largest c with 2 P(X <= c) <= alpha for X ~ Binomial(m, 1/2): the test rejects up to c, and mirrored.
    critical = stats.binom.ppf(alpha / 2, counts, 0.5)
    critical = np.where(2 * stats.binom.cdf(critical, counts, 0.5) <= alpha, critical, critical - 1)
    share = (discordant + abs(difference)) / (2 * discordant)
    rejects = stats.binom.cdf(critical, counts, share) + stats.binom.sf(counts - critical - 1, counts, share)
    return float(
        np.sum(stats.binom.pmf(counts, episodes, discordant) * np.where(critical >= 0, rejects, 0.0))
    )
