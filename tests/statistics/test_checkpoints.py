"""Averages and differences over the checkpoints of a training: coverage, by simulation, and limits."""

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
from tests.statistics.simulated import (
    NOMINAL,
    SIMULATIONS,
    run,
    separate,
    shared,
    shared_shares,
)


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
