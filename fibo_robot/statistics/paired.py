"""Two policies on the same seeds: whether they differ, and by how much."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from fibo_robot.statistics.intervals import CONFIDENCE, Interval, wilson_interval


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
    def rates(self) -> tuple[float, float]:
        """Success rates of A and of B."""
        return (self.both + self.only_a) / self.episodes, (self.both + self.only_b) / self.episodes

    @property
    def difference(self) -> float:
        """Success rate of A minus success rate of B."""
        return (self.only_a - self.only_b) / self.episodes

    @property
    def discordant(self) -> float:
        """Share of seeds on which A and B differ."""
        return (self.only_a + self.only_b) / self.episodes


def mcnemar_exact(counts: PairedCounts) -> float:
    """Two-sided exact McNemar p-value that A and B succeed equally often (McNemar 1947, binomial form).

    Only seeds on which the two differ carry information; without any the p-value is 1.
    """
    discordant = counts.only_a + counts.only_b
    # Binomial with chance one half is symmetric: both tails are the smaller one's, twice.
    return min(1.0, 2 * float(special.bdtr(min(counts.only_a, counts.only_b), discordant, 0.5)))


def newcombe_interval(counts: PairedCounts, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the paired difference of success rates, A minus B (Newcombe 1998b, method 10).

    Squares and adds the Wilson limits of both rates, corrected for their correlation φ. Reference:
    R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions
    based on paired data", Statistics in Medicine 17:2635-2650, 1998.
    """
    n = counts.episodes
    if n == 0:
        return Interval(-1.0, 1.0)
    rate_a, rate_b = counts.rates
    wilson_a = wilson_interval(counts.both + counts.only_a, n, confidence)
    wilson_b = wilson_interval(counts.both + counts.only_b, n, confidence)
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
