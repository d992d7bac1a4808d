"""Averages and differences over training runs: against analysis of variance, Welch's test and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from fibo_robot.statistics import (
    average_over_checkpoints,
    average_over_runs,
    difference_over_checkpoints,
    difference_over_runs,
    training_runs,
    wilson_interval,
)

NOMINAL = (0.93, 0.97)
SIMULATIONS = 2000


def run(outcomes, first_seed=0):
    return dict(enumerate((bool(outcome) for outcome in outcomes), start=first_seed))


def separate(table):
    """Each row a run on seeds of its own."""
    return [run(row, 1000 * number) for number, row in enumerate(table)]


def shared(table):
    """Each row a run, each column a seed."""
    return [run(row) for row in table]


def shares(row):
    """A run whose outcomes are shares of its checkpoints."""
    return dict(enumerate(map(float, row)))


def shared_shares(table):
    return [shares(row) for row in table]


def outcomes(generator, mean, run_effect, scene_effect, runs, seeds):
    """Runs and scenes move a latent score; `mean` in its units. Returns `(simulations, runs, seeds)`."""
    score = (
        mean
        + generator.normal(0, run_effect, (SIMULATIONS, runs, 1))
        + generator.normal(0, scene_effect, (SIMULATIONS, 1, seeds))
        + generator.normal(0, 1, (SIMULATIONS, runs, seeds))
    )
    return score > 0


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


def checkpoints_of_one_training(generator, truth, wandering, likeness, scene_effect, checkpoints, seeds):
    """Outcomes `(simulations, checkpoints, seeds)`, and each checkpoint's own rate over all scenes.

    Checkpoints wander around the rate `truth` by `wandering` in the units of a latent score; neighbours are
    correlated by `likeness`.
    """
    drift = np.zeros((SIMULATIONS, checkpoints, 1))
    drift[:, 0] = generator.normal(0, 1, (SIMULATIONS, 1))
    for now in range(1, checkpoints):
        fresh = generator.normal(0, 1, (SIMULATIONS, 1))
        drift[:, now] = likeness * drift[:, now - 1] + math.sqrt(1 - likeness**2) * fresh
    spread = math.sqrt(1 + scene_effect**2)
    score = stats.norm.ppf(truth) * spread + wandering * drift
    scenes = generator.normal(0, scene_effect, (SIMULATIONS, 1, seeds))
    chance = generator.normal(0, 1, (SIMULATIONS, checkpoints, seeds))
    return score + scenes + chance > 0, stats.norm.cdf(score / spread)[..., 0]


@pytest.mark.parametrize(
    ("checkpoints", "seeds", "truth", "wandering", "scene_effect"),
    [(3, 100, 0.7, 0.0, 0.7), (3, 100, 0.7, 0.4, 2.0), (3, 50, 0.93, 0.4, 0.7), (5, 100, 0.93, 0.15, 2.0)],
)
def test_an_average_over_checkpoints_covers_their_own_rate_on_all_scenes(
    checkpoints, seeds, truth, wandering, scene_effect
):
    generator = np.random.default_rng(9)
    tables, rates = checkpoints_of_one_training(
        generator, truth, wandering, 0.9, scene_effect, checkpoints, seeds
    )
    own = rates.mean(1)
    covered = [
        float(rate) in average_over_checkpoints(shared(table)).interval for rate, table in zip(own, tables)
    ]
    assert NOMINAL[0] < np.mean(covered) < NOMINAL[1]
    # Episodes of different checkpoints on one seed taken for independent: too sure of itself, most of all
    # where the scene decides.
    pooled = [float(r) in wilson_interval(int(t.sum()), t.size) for r, t in zip(own, tables)]
    assert np.mean(pooled) < 0.93


def test_the_spread_of_neighbouring_checkpoints_tells_nothing_of_another_moment():
    """Why checkpoints are not averaged as training runs are: they resemble each other, runs do not."""
    tables, _ = checkpoints_of_one_training(np.random.default_rng(10), 0.7, 0.4, 0.9, 0.7, 3, 100)
    # The rate expected of another moment; a wandering of 0.4 widens the latent score.
    moment = stats.norm.cdf(stats.norm.ppf(0.7) * math.sqrt(1.49 / (1.49 + 0.4**2)))
    as_runs = [float(moment) in average_over_runs(shared(table)).interval for table in tables]
    assert np.mean(as_runs) < 0.8


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


def runs_of_checkpoints(generator, truth, scenes, runs, checkpoints):
    """Outcomes `(simulations, runs, checkpoints, seeds)` whose expected rate is `truth`.

    Runs differ, also in which scenes they find hard, and a run's checkpoints wander little around it.
    """
    shape = SIMULATIONS, runs, 1, 1
    score = stats.norm.ppf(truth) * math.sqrt(1 + 0.3**2 + 0.2**2 + 0.7**2 + 1)
    score = score + scenes + generator.normal(0, 0.3, shape)
    score = score + generator.normal(0, 0.7, (SIMULATIONS, runs, 1, scenes.shape[-1]))
    score = score + generator.normal(0, 0.2, (SIMULATIONS, runs, checkpoints, 1))
    return score + generator.normal(0, 1, (SIMULATIONS, runs, checkpoints, scenes.shape[-1])) > 0


@pytest.mark.parametrize("runs", [3, 5])
def test_runs_judged_by_their_checkpoints_mean_cover_and_checkpoints_taken_for_runs_do_not(runs):
    generator = np.random.default_rng(12)
    scenes = generator.normal(0, 1, (SIMULATIONS, 1, 1, 30))
    a, b = (runs_of_checkpoints(generator, truth, scenes, runs, 3) for truth in (0.75, 0.6))
    rates = [0.75 in average_over_runs(shared_shares(table)).interval for table in a.mean(2)]
    assert NOMINAL[0] < np.mean(rates) < NOMINAL[1]

    def differences(tables_a, tables_b):
        found = [
            difference_over_runs(shared_shares(one), shared_shares(other)).interval
            for one, other in zip(tables_a, tables_b)
        ]
        return np.mean([interval is not None and 0.15 in interval for interval in found])

    assert NOMINAL[0] < differences(a.mean(2), b.mean(2)) < NOMINAL[1]
    assert differences(*(table.reshape(SIMULATIONS, 3 * runs, 30) for table in (a, b))) < 0.9


@pytest.mark.parametrize(("rates", "seeds"), [((0.75, 0.6), 50), ((0.97, 0.93), 30)])
def test_a_difference_over_checkpoints_covers_that_of_these_checkpoints(rates, seeds, monkeypatch):
    # The interval is judged; thousands of p-values beside it would take nearly all the time.
    monkeypatch.setattr(training_runs, "_sign_flip_p_value", lambda differences: math.nan)
    generator = np.random.default_rng(13)
    scenes = generator.normal(0, 1, (SIMULATIONS, 1, seeds))
    tables = [
        stats.norm.ppf(rate) * math.sqrt(2) + scenes + generator.normal(0, 1, (SIMULATIONS, 3, seeds)) > 0
        for rate in rates
    ]
    difference = rates[0] - rates[1]
    found = [difference_over_checkpoints(shared(one), shared(other)).interval for one, other in zip(*tables)]
    assert np.mean([interval is not None and difference in interval for interval in found]) > NOMINAL[0]
    if max(rates) > 0.9:
        # Student's t on the seeds' differences is too sure where few of them differ.
        paired = stats.ttest_rel(*(table.mean(1) for table in tables), axis=1).confidence_interval()
        assert np.mean((paired.low <= difference) & (difference <= paired.high)) < NOMINAL[0]


def test_a_difference_of_runs_that_agree_on_nearly_every_seed_is_covered(monkeypatch):
    """Checkpoints that solve the easiest scenes and nothing else; where no seed differs, that is chance."""
    monkeypatch.setattr(training_runs, "_sign_flip_p_value", lambda differences: math.nan)
    scenes = np.random.default_rng(14).random((SIMULATIONS, 20))
    found = [
        difference_over_checkpoints([run(hardness < 0.7)] * 2, [run(hardness < 0.6)] * 2).interval
        for hardness in scenes
    ]
    assert np.mean([interval is not None and 0.7 - 0.6 in interval for interval in found]) > NOMINAL[0]


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


def test_an_average_over_checkpoints_is_the_mean_outcome_of_each_seed():
    """Textbook's standard error of a mean over seeds, whatever the checkpoints of one seed share."""
    generator = np.random.default_rng(11)
    table = generator.random((3, 40)) < generator.random(40)
    found = average_over_checkpoints(shared(table))
    by_seed = table.mean(0)
    rate, error = by_seed.mean(), stats.sem(by_seed)
    assert found.rate == pytest.approx(rate)
    size = rate * (1 - rate) / error**2 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 39)) ** 2
    assert found.interval == pytest.approx(wilson_interval(rate * size, size))


def test_checkpoints_that_repeat_each_other_are_one_and_those_that_never_fail_are_honest():
    same = [[True] * 15 + [False] * 5] * 3
    once = average_over_checkpoints(shared(same[:2])).interval
    assert average_over_checkpoints(shared(same)).interval == pytest.approx(once)
    assert once.low < wilson_interval(15, 20).low
    assert average_over_checkpoints(shared([[True] * 20] * 3)).interval == wilson_interval(20, 20)
    with pytest.raises(ValueError, match="at least two checkpoints"):
        average_over_checkpoints(shared(same[:1]))
    one_seed = average_over_checkpoints([run([True]), run([False])])
    assert one_seed.interval == wilson_interval(0.5, 1)


def test_runs_that_agree_by_chance_are_no_surer_than_independent_episodes():
    half = [[True, False] * 25, [False, True] * 25]
    assert average_over_runs(separate(half)).interval == pytest.approx(wilson_interval(50, 100))


def test_runs_that_never_fail_keep_an_honest_lower_end():
    perfect = [[True] * 20] * 3
    assert average_over_runs(separate(perfect)).interval == wilson_interval(60, 60)
    assert average_over_runs(shared(perfect)).interval == wilson_interval(20, 20)


def test_runs_without_variation_or_without_partner_say_nothing_about_a_difference():
    perfect = shared([[True] * 5] * 2)
    assert difference_over_runs(perfect, shared([[False] * 5] * 2)).interval is None
    with pytest.raises(ValueError, match="at least two training runs"):
        difference_over_runs(perfect, perfect[:1])
    with pytest.raises(ValueError, match="same seeds"):
        difference_over_runs(perfect, separate([[True] * 5] * 2))
    with pytest.raises(ValueError, match="at least two training runs"):
        average_over_runs([run([True])])


def test_a_difference_over_checkpoints_of_unrelated_runs_adds_their_intervals():
    a = [run([True] * 10 + [False] * 10)] * 2
    b = [run([True, False] * 10)] * 2
    found = difference_over_checkpoints(a, b)
    own = average_over_checkpoints(a).interval
    half = math.hypot(own.high - 0.5, 0.5 - own.low)
    assert found.interval == pytest.approx((-half, half)) and found.p_value == 1
    same = difference_over_checkpoints(a, a)
    # Newcombe's φ of 10 agreeing successes and 10 agreeing failures is 0.9.
    half = (own.high - 0.5) * math.sqrt(2 * (1 - 0.9))
    assert same.difference == 0 and same.interval == pytest.approx((-half, half))
    with pytest.raises(ValueError, match="same seeds"):
        difference_over_checkpoints(a, [run([True])] * 2)
