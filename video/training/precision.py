"""How well each class of a multi-label data set was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClassPrecision:
    """How one class was found.

    Attributes:
        label: its name.
        videos: how many have it.
        average_precision: see :func:`fibo_robot.statistics.average_precision`; None where none has it.
    """

    label: str
    videos: int
    average_precision: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the name."""
        return {"videos": self.videos, "average_precision": self.average_precision}


def per_class_precision(
    targets: np.ndarray, of_class: np.ndarray, labels: Sequence[str]
) -> list[ClassPrecision]:
    """One result per class.

    Args:
        targets: 0 and 1, `(N, classes)`.
        of_class: average precision `(classes,)`, NaN where there is no positive.
        labels: names of the classes.
    """
    counts = targets.astype(bool).sum(0)
    return [
        ClassPrecision(label, int(count), None if np.isnan(value) else float(value))
        for label, count, value in zip(labels, counts, of_class)
    ]


def precision_table(results: Sequence[ClassPrecision]) -> str:
    """A Markdown table, the class that was found worst first; without those that no video has."""
    rows = ["| class | videos | average precision |", "|---|---|---|"]
    found = [(result.average_precision, result) for result in results if result.average_precision is not None]
    for value, result in sorted(found, key=lambda item: item[0]):
        rows.append(f"| {result.label} | {result.videos} | {value:.1%} |")
    return "\n".join(rows)
