"""Which classes are taken for which: counts as a picture and as tables by class name."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fibo_robot.files import replace_atomically, write_json

_FULL_NAMES_UP_TO = 40  # more class names than this cannot be read beside the picture
_DOTS_PER_INCH = 120


@dataclass(frozen=True)
class ClassResult:
    """How one class was recognised.

    Attributes:
        label: its name.
        videos: how many belong to it.
        accuracy: share of them that was recognised; None where there are none.
        predicted: what they were taken for: counts by class name, most frequent first.
    """

    label: str
    videos: int
    accuracy: float | None
    predicted: dict[str, int]

    @property
    def mistaken_for(self) -> str:
        """The most frequent wrong class and how often, as `name (count)`; empty where there is none."""
        wrong = (f"{other} ({count})" for other, count in self.predicted.items() if other != self.label)
        return next(wrong, "")


def per_class(counts: np.ndarray, labels: Sequence[str]) -> list[ClassResult]:
    """What became of each class.

    Args:
        counts: `(classes, classes)`: row the true class, column the predicted one.
        labels: names of the classes.
    """
    results = []
    for number, (label, row) in enumerate(zip(labels, counts)):
        order = sorted(np.flatnonzero(row), key=lambda column: -row[column])
        accuracy = float(row[number] / row.sum()) if row.sum() else None
        predicted = {labels[int(column)]: int(row[column]) for column in order}
        results.append(ClassResult(label, int(row.sum()), accuracy, predicted))
    return results


def per_class_json(results: Sequence[ClassResult]) -> dict[str, Any]:
    """JSON-ready: by class name `videos`, `accuracy` and `predicted`."""
    rows = (asdict(result) for result in results)
    return {row.pop("label"): row for row in rows}


def class_table(counts: np.ndarray, labels: Sequence[str]) -> str:
    """:func:`per_class` as a Markdown table, the worst recognised class first."""
    rows = ["| class | videos | accuracy | most often mistaken for |", "|---|---|---|---|"]
    found = [(result.accuracy, result) for result in per_class(counts, labels) if result.accuracy is not None]
    for accuracy, result in sorted(found, key=lambda item: item[0]):
        rows.append(f"| {result.label} | {result.videos} | {accuracy:.1%} | {result.mistaken_for} |")
    return "\n".join(rows)


def confusion_image(counts: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Draw `(classes, classes)` counts as shares of each true class; uint8 `(H, W, 3)`.

    Counts and class names are written where there is room to read them.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 3 + 0.35 * min(len(labels), _FULL_NAMES_UP_TO)
    figure = Figure(figsize=(side, side), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    if len(labels) <= _FULL_NAMES_UP_TO:
        axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_confusion(counts: np.ndarray, labels: Sequence[str], folder: Path, **about: Any) -> np.ndarray:
    """Write confusion.png and per_class.json, with `about` in it, to `folder`; returns the picture."""
    picture = confusion_image(counts, labels)
    classes = per_class_json(per_class(counts, labels))
    write_json(folder / "per_class.json", {**about, "classes": classes})
    with replace_atomically(folder / "confusion.png") as temporary:
        Image.fromarray(picture).save(temporary)
    return picture
