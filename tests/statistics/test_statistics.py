"""Intervals and tests against their definitions, other implementations, and simulation of their coverage."""

import itertools
import time

import numpy as np
import pytest
from scipy import optimize, stats

from fibo_robot.statistics import (
    Interval,
    PairedCounts,
    episodes_to_resolve,
    format_interval,
    format_rate,
    mcnemar_exact,
    mcnemar_power,
    newcombe_interval,
    wilson_interval,
)

NOMINAL = (0.93, 0.97)


@pytest.mark.parametrize(("successes", "episodes"), [(81, 263), (15, 148), (1, 29), (17, 20), (0, 20)])
def test_wilson_interval_holds_the_rates_that_the_score_test_does_not_reject(successes, episodes):
    def beyond(rate):
        return abs(successes / episodes - rate) - stats.norm.ppf(0.975) * np.sqrt(
            rate * (1 - rate) / episodes
        )

    interval = wilson_interval(successes, episodes)
    observed = successes / episodes
    low = optimize.brentq(beyond, 1e-9, observed) if successes else 0.0
    high = optimize.brentq(beyond, max(observed, 1e-9), 1 - 1e-9)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_wilson_interval_equals_scipy_for_every_count_and_level():
    for confidence in (0.8, 0.95, 0.99):
        for episodes in (1, 7, 20, 60):
            for successes in range(episodes + 1):
                ours = wilson_interval(successes, episodes, confidence)
                expected = stats.binomtest(successes, episodes).proportion_ci(confidence, method="wilson")
                assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
                assert successes / episodes in ours


@pytest.mark.parametrize("percent", [0, 1, 95])
def test_what_is_no_share_is_refused_by_name(percent):
    """Of 95 percent given as 95 the interval was all of [0, 1]."""
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        wilson_interval(3, 10, percent)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        episodes_to_resolve(0.5, 0.8, confidence=percent)
    with pytest.raises(ValueError, match="power must lie between 0 and 1"):
        episodes_to_resolve(0.5, 0.8, power=percent)


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.int64])
def test_a_number_of_any_kind_is_looked_for_in_an_interval(kind):
    assert kind(1) in Interval(0.5, 1.0) and kind(0) not in Interval(0.5, 1.0)


def test_wilson_interval_without_episodes_says_nothing():
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)
    with pytest.raises(ValueError, match="between 0 and episodes"):
        wilson_interval(3, 2)


def test_newcombe_interval_equals_another_implementations():
    """The tests of the R package contingencytables (Newcombe_square_and_add_CI_paired_2x2) expect these."""
    interval = newcombe_interval(PairedCounts(59, 6, 16, 80))
    assert (round(interval.low, 4), round(interval.high, 4)) == (-0.1186, -0.0046)


def test_newcombe_interval_is_its_definition_for_every_small_table():
    """Method 10 from its parts: scipy's Wilson limits, and numpy's correlation of the outcomes, shrunk."""
    larger = [(36, 12, 2, 0), (53, 0, 1, 0), (30, 0, 0, 15), (14, 5, 0, 22), (1, 1, 7, 12)]
    small = [table for table in itertools.product(range(5), repeat=4) if sum(table)]
    for both, only_a, only_b, neither in [*small, *larger]:
        n = both + only_a + only_b + neither
        a = np.repeat([1.0, 1.0, 0.0, 0.0], [both, only_a, only_b, neither])
        b = np.repeat([1.0, 0.0, 1.0, 0.0], [both, only_a, only_b, neither])
        phi = 0.0
        if a.std() > 0 and b.std() > 0:
            covariance = np.cov(a, b, ddof=0)[0, 1]
            # Newcombe's correction, where positive: n / 2 off the products of counts, n^2 times this.
            covariance = max(covariance - 0.5 / n, 0.0) if covariance > 0 else covariance
            phi = covariance / (a.std() * b.std())
        limits = [stats.binomtest(int(x.sum()), n).proportion_ci(0.95, method="wilson") for x in (a, b)]
        (down_a, up_a), (down_b, up_b) = (
            (x.mean() - ends.low, ends.high - x.mean()) for x, ends in zip((a, b), limits)
        )
        low = a.mean() - b.mean() - np.sqrt(max(0, down_a**2 + up_b**2 - 2 * phi * down_a * up_b))
        high = a.mean() - b.mean() + np.sqrt(max(0, up_a**2 + down_b**2 - 2 * phi * up_a * down_b))
        interval = newcombe_interval(PairedCounts(both, only_a, only_b, neither))
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-7)


def test_newcombe_interval_mirrors_when_the_policies_swap():
    forth = newcombe_interval(PairedCounts(10, 7, 2, 5))
    back = newcombe_interval(PairedCounts(10, 2, 7, 5))
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 7), (7, 1), (2, 4), (0, 9), (3, 3), (5, 6)])
def test_mcnemar_is_the_share_of_all_coin_flips_that_differ_as_much(only_a, only_b):
    """If both succeed equally often, each seed on which they differ falls to either with equal chance."""
    flips = itertools.product((0, 1), repeat=only_a + only_b)
    as_extreme = [abs(2 * sum(flip) - len(flip)) >= abs(only_a - only_b) for flip in flips]
    for both, neither in ((1, 12), (500, 0)):
        p = mcnemar_exact(PairedCounts(both, only_a, only_b, neither))
        assert p == pytest.approx(np.mean(as_extreme))


def test_mcnemar_without_differing_seeds_finds_no_difference():
    assert mcnemar_exact(PairedCounts(9, 0, 0, 9)) == 1.0


def test_paired_counts_need_common_seeds():
    counts = PairedCounts.of([True, True, False, False], [True, False, True, False])
    assert (counts.both, counts.only_a, counts.only_b, counts.neither) == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="same seeds"):
        PairedCounts.of([True], [True, False])


@pytest.mark.parametrize("episodes", [20, 50, 200])
def test_wilson_interval_covers_the_truth_as_often_as_it_says(episodes):
    generator = np.random.default_rng(0)
    rates = generator.uniform(0.1, 0.95, size=4000)
    covered = [rate in wilson_interval(int(generator.binomial(episodes, rate)), episodes) for rate in rates]
    assert NOMINAL[0] < np.mean(covered) < NOMINAL[1]


@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_newcombe_interval_covers_the_true_difference_as_often_as_it_says(shared):
    """`shared`: chance that both policies meet the same luck on a seed, which correlates their outcomes."""
    generator = np.random.default_rng(1)
    covered = []
    for _ in range(4000):
        rate_a, rate_b = generator.uniform(0.2, 0.9, size=2)
        luck_a, luck_b = generator.random((2, 100))
        luck_b = np.where(generator.random(100) < shared, luck_a, luck_b)
        counts = PairedCounts.of(luck_a < rate_a, luck_b < rate_b)
        covered.append(rate_a - rate_b in newcombe_interval(counts))
    assert NOMINAL[0] < np.mean(covered) < NOMINAL[1]


@pytest.mark.parametrize(("episodes", "difference", "discordant"), [(25, 0.3, 0.5), (40, 0.2, 0.25)])
def test_power_of_the_exact_test_is_the_chance_of_all_tables_that_it_rejects(
    episodes, difference, discordant
):
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    power = 0.0
    for only_a in range(episodes + 1):
        for only_b in range(episodes + 1 - only_a):
            same = episodes - only_a - only_b
            if mcnemar_exact(PairedCounts(same, only_a, only_b, 0)) <= 0.05:
                power += stats.multinomial.pmf([only_a, only_b, same], episodes, shares)
    assert 0.2 < power < 0.9
    assert mcnemar_power(episodes, difference, discordant) == pytest.approx(power)


def test_episodes_to_resolve_reaches_the_power_and_not_long_before():
    n = episodes_to_resolve(0.9, 0.8)
    discordant = 0.9 * 0.2 + 0.8 * 0.1
    assert mcnemar_power(n, 0.1, discordant) >= 0.8
    assert mcnemar_power(int(0.9 * n), 0.1, discordant) < 0.8
    # Policies that fail on the same seeds need fewer.
    assert episodes_to_resolve(0.9, 0.8, discordant=0.12) < n / 2
    # All differing seeds on one side: 24 / 30 and 16 / 30 differ by more than 8 / 30, in the last bit.
    assert 24 / 30 - 16 / 30 > 8 / 30
    assert episodes_to_resolve(24 / 30, 16 / 30, discordant=8 / 30) < 50
    with pytest.raises(ValueError, match="equal success rates"):
        episodes_to_resolve(0.5, 0.5)
    with pytest.raises(ValueError, match="share of differing seeds"):
        episodes_to_resolve(0.9, 0.8, discordant=0.05)


def slow_power(episodes, difference, discordant):
    """The exact power, summed over every number of differing seeds with scipy's own quantiles."""
    counts = np.arange(episodes + 1)
    critical = stats.binom.ppf(0.025, counts, 0.5)
    critical = np.where(2 * stats.binom.cdf(critical, counts, 0.5) <= 0.05, critical, critical - 1)
    share = (discordant + difference) / (2 * discordant)
    rejects = stats.binom.cdf(critical, counts, share) + stats.binom.sf(counts - critical - 1, counts, share)
    return np.sum(stats.binom.pmf(counts, episodes, discordant) * np.where(critical >= 0, rejects, 0.0))


def counted_up(difference, discordant):
    """The first number of episodes, one by one from the normal approximation, that reaches a power of 0.8."""
    root = stats.norm.ppf(0.975) * np.sqrt(discordant) + stats.norm.ppf(0.8) * np.sqrt(
        discordant - difference**2
    )
    episodes = int(np.ceil((root / difference) ** 2))
    while slow_power(episodes, difference, discordant) < 0.8:
        episodes += 1
    return episodes


@pytest.mark.parametrize(
    ("difference", "shares"),
    [
        (0.02, (0.02, 0.04, 0.1)),
        (0.05, (0.05, 0.06, 0.2)),
        (0.1, (0.1, 0.11, 0.3, 0.6, 0.9, 0.99, 1.0)),
        (0.25, (0.25, 0.4, 0.9, 1.0)),
        (0.5, (0.5, 0.7, 1.0)),
        (0.9, (0.9, 0.95, 1.0)),
    ],
)
def test_episodes_to_resolve_are_those_that_counting_up_finds(difference, shares):
    for discordant in shares:
        found = episodes_to_resolve(difference, 0.0, discordant=discordant)
        assert found == counted_up(difference, discordant), discordant


def test_the_power_of_many_episodes_is_summed_where_it_lies():
    for episodes, difference, discordant in ((3000, 0.02, 0.2), (5000, 0.03, 0.97), (900, 0.05, 0.05)):
        expected = slow_power(episodes, difference, discordant)
        assert mcnemar_power(episodes, difference, discordant) == pytest.approx(expected, abs=1e-12)


def test_one_success_apart_among_a_thousand_episodes_is_resolved_at_once():
    """Counting up would take hours: the answer is 1.6 million, each step a sum over all of them."""
    started = time.process_time()
    episodes = episodes_to_resolve(0.5, 0.499, discordant=0.2)
    assert time.process_time() - started < 5
    assert mcnemar_power(episodes, 0.001, 0.2) >= 0.8 > mcnemar_power(episodes - 1, 0.001, 0.2)


def test_rates_are_written_in_percent():
    assert (format_rate(17 / 20), format_rate(float("nan"))) == ("85.0 %", "–")
    assert format_interval(*wilson_interval(36, 36)) == "90.4 to 100.0\N{NO-BREAK SPACE}%"
