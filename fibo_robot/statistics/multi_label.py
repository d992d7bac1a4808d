"""Average precision of multi-label scores, and how far its mean over classes can be trusted."""

from collections.abc import Iterator

import numpy as np

from fibo_robot.statistics.intervals import CONFIDENCE, Interval

RESAMPLES = 1000
_AT_ONCE = 50_000_000  # bytes of weights that are worked on together


def average_precision(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision of each class, float `(classes,)`; NaN where a class has no positive.

    The sum, over thresholds from the highest score down, of the rise in recall times the precision there:
    scikit-learn's and mmaction2's definition, without interpolation. Equal scores share one threshold.
    torchmetrics' `multilabel_average_precision` is the same, but for a class without positives, which it
    gives a number; and it takes no weights, which resampling needs.

    Args:
        targets: bool or 0 and 1, `(N, classes)`.
        scores: `(N, classes)`, higher for what is more likely there.

    Raises:
        ValueError: the shapes differ, or a score is no number.
    """
    _check(targets, scores)
    if not len(targets):
        return np.full(targets.shape[1], np.nan)
    weights = np.ones((1, len(targets)))
    columns = zip(targets.T, scores.T)
    return np.array([_weighted(of_class, score, weights)[0] for of_class, score in columns])


def mean_average_precision_interval(
    targets: np.ndarray,
    scores: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile bootstrap interval of the mean of :func:`average_precision` over classes (Efron 1979).

    Examples are drawn anew, all of an example's labels together. A class without a positive in a resample is
    left out of that resample's mean, as it is out of the estimate; resamples without any positive count
    nowhere. Where every class is ranked perfectly, resamples are, too: the interval is then a point, and no
    promise. Without a single positive the interval is [0, 1].

    Args:
        targets, scores: as :func:`average_precision` takes them.
        seed: of the resampling.
        resamples: how many.
        confidence: two-sided.

    Raises:
        ValueError: as :func:`average_precision`.
    """
    _check(targets, scores)
    if not len(targets):
        return Interval(0.0, 1.0)
    means = np.concatenate(list(_resampled_means(targets, scores, seed, resamples)))
    means = means[~np.isnan(means)]
    if not len(means):
        return Interval(0.0, 1.0)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(low), float(high))


def _check(targets: np.ndarray, scores: np.ndarray) -> None:
    if targets.shape != scores.shape or targets.ndim != 2:
        raise ValueError(f"targets {targets.shape} and scores {scores.shape} must both be (N, classes).")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite numbers.")


def _resampled_means(
    targets: np.ndarray, scores: np.ndarray, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    """Means over classes of a few resamples at a time."""
    generator = np.random.default_rng(seed)
    count = len(targets)
    at_once = max(1, _AT_ONCE // (8 * count))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=rows).astype(np.float64)
        total, classes = np.zeros(rows), np.zeros(rows)
        for of_class, score in zip(targets.T, scores.T):
            found = _weighted(of_class, score, weights)
            there = ~np.isnan(found)
            total[there] += found[there]
            classes += there
        yield np.divide(total, classes, out=np.full(rows, np.nan), where=classes > 0)


def _weighted(targets: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision `(R,)` of one class under weights `(R, N)` of the examples; NaN without positives."""
    order = np.argsort(-scores, kind="stable")
    weights = weights[:, order]
    last_of_equals = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    positive = np.cumsum(weights * targets[order].astype(bool), axis=1)[:, last_of_equals]
    chosen = np.cumsum(weights, axis=1)[:, last_of_equals]
    precision = np.divide(positive, chosen, out=np.zeros_like(positive), where=chosen > 0)
    gained = np.diff(positive, axis=1, prepend=0)
    total = positive[:, -1]
    return np.divide((gained * precision).sum(1), total, out=np.full(len(total), np.nan), where=total > 0)
