"""Statistics of a feature as LeRobot's datasets state them; exact, not from samples.

LeRobot itself estimates quantiles from histograms that grow, and pictures' statistics from some of them.
"""

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


def of_vectors(values: np.ndarray) -> dict[str, Any]:
    """Statistics over the steps of vectors `(T, D)`, one number per entry."""
    values = values.astype(np.float64)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "count": [len(values)],
        **{name: row.tolist() for name, row in zip(QUANTILES, quantiles)},
    }


def colour_counts(pictures: np.ndarray) -> np.ndarray:
    """How often each of 256 levels occurs in pictures, uint8 `(T, H, W, 3)`: int64 `(3, 256)`."""
    return np.stack([np.bincount(pictures[..., c].reshape(-1), minlength=256) for c in range(3)])


def of_pictures(counts: np.ndarray, pictures: int) -> dict[str, Any]:
    """Statistics of so many pictures from their :func:`colour_counts`: in [0, 1], shaped `(3, 1, 1)`."""
    levels = np.arange(256) / 255
    total = counts.sum(1)
    mean = counts @ levels / total
    cumulated = counts.cumsum(1)

    def level_at(share: float) -> np.ndarray:
        return np.array([levels[np.searchsorted(row, share * row[-1])] for row in cumulated])

    values = {
        "min": np.array([levels[np.flatnonzero(row)[0]] for row in counts]),
        "max": np.array([levels[np.flatnonzero(row)[-1]] for row in counts]),
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0)),
        **{name: level_at(share) for name, share in QUANTILES.items()},
    }
    shaped = {name: value.reshape(3, 1, 1).tolist() for name, value in values.items()}
    return {**shaped, "count": [pictures]}
