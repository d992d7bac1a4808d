"""Averages and differences over training runs: against analysis of variance, Welch's test and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from fibo_robot.statistics import (
    average_over_runs,
    difference_over_runs,
    wilson_interval,
)
from tests.statistics.simulated import (
    NOMINAL,
    SIMULATIONS,
    outcomes,
    run,
    separate,
    shared,
)


@pytest.mark.parametrize(
    ("runs", "run_effect", "scene_effect"),
    [(3, 0.3, 0.7), (3, 0.0, 2.0), (3, 0.3, 2.0), (5, 0.0, 0.7), (5, 0.0, 2.0), (5, 0.3, 0.7), (5, 0.3, 2.0)],
)
def test_an_average_over_runs_on_the_same_seeds_covers_the_expected_rate(runs, run_effect, scene_effect):
    """A run effect of 0.3 spreads rates by 12 points, a scene effect of 2 makes most scenes easy or hard.

    Taking episodes of different runs for independent covers 91 to 96 % with three runs, 74 to 93 % with five.
    """
    generator = np.random.default_rng(5)
    truth = 0.7
    mean = stats.norm.ppf(truth) * math.sqrt(1 + run_effect**2 + scene_effect**2)
    tables = outcomes(generator, mean, run_effect, scene_effect, runs, 50)
    covered = [truth in average_over_runs(shared(table)).interval for table in tables]
    assert NOMINAL[0] < np.mean(covered) < NOMINAL[1]
    if scene_effect == 2.0:
        # The same outcomes without knowing which belong to one seed: the interval is far too sure of itself.
        ignorant = [truth in average_over_runs(separate(table)).interval for table in tables]
        assert np.mean(ignorant) < NOMINAL[0]


@pytest.mark.parametrize(("runs", "run_effect"), [(3, 0.3), (5, 0.3), (10, 0.15)])
def test_an_average_over_runs_on_seeds_of_their_own_covers_the_expected_rate(runs, run_effect):
    truth = 0.7
    mean = stats.norm.ppf(truth) * math.sqrt(1 + run_effect**2 + 0.7**2)
    generator = np.random.default_rng(6)
    rates = stats.norm.cdf(
        (mean + generator.normal(0, run_effect, (SIMULATIONS, runs, 1))) / math.sqrt(1 + 0.7**2)
    )
    tables = generator.random((SIMULATIONS, runs, 50)) < rates
    covered = [truth in average_over_runs(separate(table)).interval for table in tables]
    assert NOMINAL[0] < np.mean(covered) < NOMINAL[1]


@pytest.mark.parametrize("interaction", [0.0, 1.5])
def test_a_difference_over_runs_covers_the_true_difference(interaction):
    """Scenes are hard for both methods alike, and with `interaction` also for each in its own way."""
    generator = np.random.default_rng(7)
    spread = math.sqrt(1 + 0.2**2 + 1 + interaction**2)
    common = generator.normal(0, 1, (SIMULATIONS, 1, 50))
    tables = []
    for truth in (0.75, 0.6):
        own = generator.normal(0, interaction, (SIMULATIONS, 1, 50))
        score = stats.norm.ppf(truth) * spread + common + own
        score = score + generator.normal(0, 0.2, (SIMULATIONS, 5, 1))
        tables.append(score + generator.normal(0, 1, (SIMULATIONS, 5, 50)) > 0)
    found = [difference_over_runs(shared(a), shared(b)).interval for a, b in zip(*tables)]
    assert (
        NOMINAL[0] < np.mean([interval is not None and 0.15 in interval for interval in found]) < NOMINAL[1]
    )
    if interaction:
        rates = (table.mean(2) for table in tables)
        welch = stats.ttest_ind(*rates, axis=1, equal_var=False).confidence_interval(0.95)
        assert np.mean((welch.low <= 0.15) & (welch.high >= 0.15)) < 0.9


def mean_squares(table):
    """Of runs, of seeds, and what is left, by the textbook's sums of squares."""
    runs, seeds = table.shape
    grand = table.mean()
    of_runs = seeds * sum((row.mean() - grand) ** 2 for row in table) / (runs - 1)
    of_seeds = runs * sum((column.mean() - grand) ** 2 for column in table.T) / (seeds - 1)
    rest = 0.0
    for row in range(runs):
        for column in range(seeds):
            rest += (table[row, column] - table[row].mean() - table[:, column].mean() + grand) ** 2
    return of_runs, of_seeds, rest / ((runs - 1) * (seeds - 1))


def test_variance_parts_are_those_of_the_two_way_analysis_of_variance():
    generator = np.random.default_rng(8)
    table = generator.random((4, 30)) < generator.random(30)
    of_runs, of_seeds, rest = mean_squares(table)
    average = average_over_runs(shared(table))
    assert of_seeds > rest
    assert average.run_std**2 == pytest.approx(of_runs / 30)
    assert average.seed_std**2 == pytest.approx((of_seeds - rest) / (4 * 30))


def test_a_difference_without_interaction_is_welchs_test():
    """Scenes scatter the methods' outcomes less than chance would: nothing is added to Welch's variance."""
    a = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]])
    b = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 1]])
    found = difference_over_runs(shared(a), shared(b))
    expected = stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False)
    assert found.p_value == pytest.approx(expected[1])
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_an_interaction_of_scene_and_method_widens_the_difference():
    """Each method solves its own half of the scenes: the difference rests on which scenes were drawn."""
    a = np.array([[1] * 12 + [0] * 8, [1] * 12 + [0] * 7 + [1]])
    b = np.array([[0] * 12 + [1] * 8, [0] * 12 + [1] * 7 + [0]])
    welch = np.asarray(stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False))
    found = difference_over_runs(shared(a), shared(b))
    assert found.p_value is not None and found.p_value > 0.2
    assert welch[1] < 0.05
    squares = [mean_squares(np.asarray(table, float)) for table in (a, b)]
    by_seed = np.var(a.mean(0) - b.mean(0), ddof=1) / 20 - sum(rest for *_, rest in squares) / 40
    parts = [*(of_runs / 40 for of_runs, *_ in squares), by_seed]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2 / 19)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert found.interval == pytest.approx((found.difference - half, found.difference + half))


def test_pooling_the_episodes_of_three_training_runs_would_be_overconfident():
    table = [[True] * count + [False] * (50 - count) for count in (48, 30, 12)]
    average, pooled = average_over_runs(separate(table)), wilson_interval(90, 150)
    assert average.rate == pytest.approx(0.6)
    assert (average.run_std, average.seed_std) == (pytest.approx(0.36), 0.0)
    assert average.interval.low < pooled.low
    assert average.interval.high > pooled.high


def test_runs_without_variation_or_without_partner_say_nothing_about_a_difference():
    perfect = shared([[True] * 5] * 2)
    assert difference_over_runs(perfect, shared([[False] * 5] * 2)).interval is None
    with pytest.raises(ValueError, match="at least two training runs"):
        difference_over_runs(perfect, perfect[:1])
    with pytest.raises(ValueError, match="same seeds"):
        difference_over_runs(perfect, separate([[True] * 5] * 2))
    with pytest.raises(ValueError, match="at least two training runs"):
        average_over_runs([run([True])])
