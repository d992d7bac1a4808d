"""Intervals against published values, against scipy, and by simulation of their coverage."""

import numpy as np
import pytest
from scipy import stats

from fibo_robot.envs.statistics import (
    Interval,
    PairedCounts,
    average_over_training_seeds,
    episodes_to_resolve,
    mcnemar_exact,
    mcnemar_power,
    newcombe_interval,
    wilson_interval,
)

NOMINAL = (0.93, 0.97)


# Newcombe 1998 (Statistics in Medicine 17:857-872), table I, method 3.
@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_published_values(successes, episodes, low, high):
    interval = wilson_interval(successes, episodes)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-5)


def test_wilson_interval_equals_scipy_for_every_count_and_level():
    for confidence in (0.8, 0.95, 0.99):
        for episodes in (1, 7, 20, 60):
            for successes in range(episodes + 1):
                ours = wilson_interval(successes, episodes, confidence)
                expected = stats.binomtest(successes, episodes).proportion_ci(confidence, method="wilson")
                assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
                assert successes / episodes in ours


def test_wilson_interval_without_episodes_says_nothing():
    assert wilson_interval(0, 0) == Interval(0.0, 1.0)
    with pytest.raises(ValueError, match="between 0 and episodes"):
        wilson_interval(3, 2)


# (36, 12, 2, 0) and the three after it: Newcombe 1998 (17:2635-2650), method 10. (14, 5, 0, 22): Altman et
# al., Statistics with Confidence, 2000, table 6.2. (1, 1, 7, 12): Bentur et al. 2009 in Fagerland, Lydersen
# & Laake 2014, whose table holds three decimals.
@pytest.mark.parametrize(
    ("table", "low", "high", "digits"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404, 4),
        ((54, 0, 0, 0), -0.0664, 0.0664, 4),
        ((53, 0, 1, 0), -0.0977, 0.0496, 4),
        ((30, 0, 0, 15), -0.0493, 0.0493, 4),
        ((14, 5, 0, 22), 0.011, 0.226, 3),
        ((1, 1, 7, 12), -0.507, -0.026, 3),
    ],
)
def test_newcombe_interval_equals_published_values(table, low, high, digits):
    interval = newcombe_interval(PairedCounts(*table))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.6 * 10**-digits)


def test_newcombe_interval_mirrors_when_the_policies_swap():
    forth = newcombe_interval(PairedCounts(10, 7, 2, 5))
    back = newcombe_interval(PairedCounts(10, 2, 7, 5))
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))


def test_mcnemar_counts_only_the_seeds_that_differ():
    # 1 of 8 discordant seeds: 2 (1 + 8) / 2^8, by hand.
    assert mcnemar_exact(PairedCounts(1, 1, 7, 12)) == pytest.approx(18 / 256)
    assert mcnemar_exact(PairedCounts(500, 1, 7, 0)) == pytest.approx(18 / 256)
    assert mcnemar_exact(PairedCounts(4, 3, 3, 4)) == 1.0
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


@pytest.mark.parametrize(("runs", "spread"), [(3, 0.15), (5, 0.1), (10, 0.05)])
def test_average_over_training_seeds_covers_the_expected_rate(runs, spread):
    """Per-run rates scatter with standard deviation `spread` around the method's own rate (beta-binomial)."""
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(3000):
        rate = generator.uniform(0.4, 0.8)
        total = rate * (1 - rate) / spread**2 - 1
        run_rates = generator.beta(rate * total, (1 - rate) * total, size=runs)
        average = average_over_training_seeds(generator.binomial(50, run_rates).tolist(), [50] * runs)
        covered.append(rate in average.interval)
    assert NOMINAL[0] < np.mean(covered) < NOMINAL[1]


def test_pooling_the_episodes_of_three_training_seeds_would_be_overconfident():
    average = average_over_training_seeds([48, 30, 12], [50, 50, 50])
    pooled = wilson_interval(90, 150)
    assert average.rate == pytest.approx(0.6)
    assert average.between_std == pytest.approx(0.36)
    assert average.within_std < 0.1
    assert average.interval.low < pooled.low
    assert average.interval.high > pooled.high


def test_average_of_perfect_runs_keeps_an_honest_lower_end():
    assert average_over_training_seeds([20, 20, 20], [20, 20, 20]).interval == wilson_interval(60, 60)
    with pytest.raises(ValueError, match="at least two training runs"):
        average_over_training_seeds([20], [20])


def test_power_of_the_exact_test_equals_its_rejection_rate():
    generator = np.random.default_rng(3)
    n, difference, discordant = 120, 0.15, 0.3
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    draws = generator.multinomial(n, shares, size=2000)
    rejected = [mcnemar_exact(PairedCounts(int(same), int(a), int(b), 0)) <= 0.05 for a, b, same in draws]
    assert mcnemar_power(n, difference, discordant) == pytest.approx(np.mean(rejected), abs=0.035)


def test_episodes_to_resolve_reaches_the_power_and_not_long_before():
    n = episodes_to_resolve(0.9, 0.8)
    discordant = 0.9 * 0.2 + 0.8 * 0.1
    assert mcnemar_power(n, 0.1, discordant) >= 0.8
    assert mcnemar_power(int(0.9 * n), 0.1, discordant) < 0.8
    # Policies that fail on the same seeds need fewer.
    assert episodes_to_resolve(0.9, 0.8, discordant=0.12) < n / 2
    with pytest.raises(ValueError, match="equal success rates"):
        episodes_to_resolve(0.5, 0.5)
    with pytest.raises(ValueError, match="share of differing seeds"):
        episodes_to_resolve(0.9, 0.8, discordant=0.05)
