"""Average precision against its definition written out and torchmetrics; its interval against draws."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multilabel_average_precision

from fibo_robot.statistics import average_precision, mean_average_precision_interval


def by_definition(targets: np.ndarray, scores: np.ndarray) -> float:
    """Sum over thresholds t, from the highest down, of (recall(t) - recall before) times precision(t)."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        recall = (targets & chosen).sum() / targets.sum()
        total += (recall - before) * (targets & chosen).sum() / chosen.sum()
        before = recall
    return float(total)


@pytest.fixture
def example() -> tuple[np.ndarray, np.ndarray]:
    """60 examples of 5 classes; scores in tenths, so that many are equal."""
    generator = np.random.default_rng(0)
    targets = generator.random((60, 5)) < [0.5, 0.3, 0.1, 0.9, 0.4]
    scores = np.round(np.clip(0.3 * targets + 0.7 * generator.random((60, 5)), 0, 1), 1)
    return targets, scores


def test_it_is_the_definition_with_equal_scores_as_one_threshold(example) -> None:
    targets, scores = example
    expected = [by_definition(target, score) for target, score in zip(targets.T, scores.T)]
    np.testing.assert_allclose(average_precision(targets, scores), expected, rtol=1e-12)


def test_it_is_what_torchmetrics_has(example) -> None:
    targets, scores = example
    expected = multilabel_average_precision(
        torch.from_numpy(scores), torch.from_numpy(targets).long(), num_labels=5, average=None
    )
    np.testing.assert_allclose(average_precision(targets, scores), expected.numpy(), rtol=1e-5)


def test_by_hand() -> None:
    # Ranks 1 and 3 are right: (1/2)(1/1) + (1/2)(2/3).
    found = average_precision(np.array([[1], [0], [1], [0]]), np.array([[0.9], [0.8], [0.7], [0.1]]))
    assert found.tolist() == pytest.approx([5 / 6])


def test_a_class_without_positives_has_none() -> None:
    targets = np.array([[1, 0], [0, 0]])
    found = average_precision(targets, np.array([[0.9, 0.5], [0.1, 0.4]]))
    assert found[0] == 1 and np.isnan(found[1])
    # It is in no mean either: the other class is perfect in each resample that has it.
    assert mean_average_precision_interval(targets, np.array([[0.9, 0.5], [0.1, 0.4]])) == (1, 1)
    assert mean_average_precision_interval(np.zeros((2, 1)), np.zeros((2, 1))) == (0, 1)


def test_without_examples_nothing_is_known() -> None:
    nothing = np.zeros((0, 3))
    assert np.isnan(average_precision(nothing, nothing)).tolist() == [True] * 3
    assert mean_average_precision_interval(nothing, nothing) == (0, 1)


def test_the_interval_is_that_of_resampled_examples(example) -> None:
    targets, scores = example
    draws = np.random.default_rng(3).multinomial(60, np.full(60, 1 / 60), size=40)
    means = []
    for counts in draws:
        chosen = np.repeat(np.arange(60), counts)
        means.append(np.mean([by_definition(targets[chosen, k], scores[chosen, k]) for k in range(5)]))
    low, high = mean_average_precision_interval(targets, scores, seed=3, resamples=40)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert low < average_precision(targets, scores).mean() < high


def test_many_examples_are_resampled_in_parts_to_the_same_interval(
    example, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mean_average_precision_interval(*example)
    monkeypatch.setattr("fibo_robot.statistics.multi_label._AT_ONCE", 60 * 8 * 7)
    assert mean_average_precision_interval(*example) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("targets", "scores"), [(np.zeros((2, 3)), np.zeros((2, 2))), (np.ones((2, 1)), np.full((2, 1), np.nan))]
)
def test_wrong_input_is_refused(targets: np.ndarray, scores: np.ndarray) -> None:
    for function in (average_precision, mean_average_precision_interval):
        with pytest.raises(ValueError, match="scores"):
            function(targets, scores)
