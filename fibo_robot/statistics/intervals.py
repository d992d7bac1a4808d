"""The interval of a single rate, and how rates and intervals are written."""

import math
from numbers import Real
from typing import NamedTuple

from scipy import special

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A confidence interval, both ends included: `low, high = interval`, `rate in interval`."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, Real) and self.low <= float(value) <= self.high


def wilson_interval(successes: float, episodes: float, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval for a binomial rate (Wilson 1927; Newcombe 1998a, method 3).

    Unlike the normal interval it is sound near 0 and 1 and for few episodes: 20 of 20 gives [0.84, 1].
    Fractional counts are allowed, for effective sample sizes. No episodes give [0, 1].
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"successes ({successes}) must lie between 0 and episodes ({episodes})")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, as 0.95 does, not {confidence}")
    if episodes == 0:
        return Interval(0.0, 1.0)
    z2 = float(special.ndtri(0.5 + confidence / 2)) ** 2
    rate = successes / episodes
    centre = (rate + z2 / (2 * episodes)) / (1 + z2 / episodes)
    half = math.sqrt(z2 * rate * (1 - rate) / episodes + z2 * z2 / (4 * episodes**2)) / (1 + z2 / episodes)
    # At 0 and all successes one end is exactly the rate; rounding must not push it past.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == episodes else min(1.0, centre + half)
    return Interval(low, high)


def format_rate(rate: float) -> str:
    """A rate as a percentage, a dash where there is none."""
    return "–" if math.isnan(rate) else f"{100 * rate:.1f} %"


def format_interval(low: float, high: float) -> str:
    """An interval of rates in percent, as `51.2 to 98.0 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%"
