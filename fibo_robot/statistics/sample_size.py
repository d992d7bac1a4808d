"""How many common seeds it takes to tell two success rates apart."""

import math

import numpy as np
from scipy import special

from fibo_robot.statistics.intervals import CONFIDENCE

# Power rises with the number of seeds, apart from a ripple: the number of differing seeds is whole, and the
# test rejects at whole counts. Averaged over a number of differing seeds with this variance, a ripple of
# period 2 shrinks by exp(-pi^2 variance / 2), far below rounding.
_NO_RIPPLE_VARIANCE = 16.0
_TAIL_DEVIATIONS = 8.0  # of the number of differing seeds; what lies beyond adds less than 1e-14


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
        The first number of episodes, from the normal approximation on (Connor 1987; it asks for too few), at
        which the exact power of the test reaches `power`.

    Raises:
        ValueError: the rates are equal, no such pair of outcomes exists, or what is a share does not lie
            between 0 and 1.
    """
    for name, share in (("power", power), ("confidence", confidence)):
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie between 0 and 1, as 0.95 does, not {share}")
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

    def enough(episodes: int) -> bool:
        return mcnemar_power(episodes, difference, discordant, confidence) >= power

    z_level, z_power = special.ndtri(0.5 + confidence / 2), special.ndtri(power)
    root = z_level * math.sqrt(discordant) + z_power * math.sqrt(discordant - difference**2)
    low = max(1, math.ceil((root / difference) ** 2))
    if low * discordant * (1 - discordant) < _NO_RIPPLE_VARIANCE:
        while not enough(low):
            low += 1
        return low
    # Here power only rises: double the step until it suffices, then halve the gap. That counts are whole
    # costs about 1 / difference seeds (Fleiss's correction), so this is the first step.
    if enough(low):
        return low
    step = math.ceil(1 / difference)
    while not enough(low + step):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def mcnemar_power(
    episodes: int, difference: float, discordant: float, confidence: float = CONFIDENCE
) -> float:
    """Exact probability that :func:`fibo_robot.statistics.mcnemar_exact` rejects at level `1 - confidence`.

    Args:
        episodes: common seeds.
        difference: true difference of the success rates.
        discordant: true share of seeds on which the outcomes differ.
    """
    from scipy import stats  # takes half a second to import; an interval alone does without

    alpha = 1 - confidence
    # How many seeds differ: all numbers that occur with a chance worth mentioning.
    middle, deviation = episodes * discordant, math.sqrt(episodes * discordant * (1 - discordant))
    reach = _TAIL_DEVIATIONS * deviation + _TAIL_DEVIATIONS**2
    counts = np.arange(max(0, math.floor(middle - reach)), min(episodes, math.ceil(middle + reach)) + 1)
    # Largest c with 2 P(X <= c) <= alpha for X ~ Binomial(count, 1/2): the test rejects up to c and mirrored.
    # The normal quantile is hardly ever one off, and far cheaper than the binomial one.
    critical = np.floor((counts - 1 + special.ndtri(alpha / 2) * np.sqrt(counts)) / 2).clip(-1, None)
    while (lower := 2 * stats.binom.cdf(critical, counts, 0.5) > alpha).any():
        critical = critical - lower
    while (higher := 2 * stats.binom.cdf(critical + 1, counts, 0.5) <= alpha).any():
        critical = critical + higher
    share = (discordant + abs(difference)) / (2 * discordant)
    rejects = stats.binom.cdf(critical, counts, share) + stats.binom.sf(counts - critical - 1, counts, share)
    return float(
        np.sum(stats.binom.pmf(counts, episodes, discordant) * np.where(critical >= 0, rejects, 0.0))
    )
