"""Test pictures that one variant gets right and another wrong, and where both look on them.

A picture flips where every seed of the one variant is right and every seed of the other wrong: with a single
pair of runs, most differences are those of any two trainings. The pictures with the lowest numbers are shown,
so nobody has chosen them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.maps import blend, heat_map, watch_received
from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.study.plan import VARIANTS, Run
from fibo_robot.benchmarks.study.runs import Record, read_records
from fibo_robot.errors import did_you_mean
from fibo_robot.files import replace_atomically
from fibo_robot.training.checkpoint import load_checkpoint
from fibo_robot.video.images.classifier import ImageClassifier
from fibo_robot.video.images.dataset import ImageDataset, collate_images
from fibo_robot.video.images.predict import load_image_classifier
from fibo_robot.video.images.table import PictureTable, read_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4  # pictures that flip in one direction
PIXELS = 128  # side of a picture on the sheet, at least


@dataclass(frozen=True)
class Flips:
    """The test pictures that flip between two variants in one direction.

    Attributes:
        right: the variant whose every seed is right.
        wrong: the variant whose every seed is wrong.
        seeds: that both have.
        pictures: their numbers in the test part, ascending.
    """

    right: str
    wrong: str
    seeds: tuple[int, ...]
    pictures: tuple[int, ...]

    @property
    def shown(self) -> tuple[int, ...]:
        """The pictures that a sheet shows."""
        return self.pictures[:SHOWN]


@dataclass(frozen=True)
class Seen:
    """What one variant makes of some pictures, by their numbers.

    Attributes:
        answers: the class that each seed names.
        heat: `(H', W')` in [0, 1]: how much each patch is attended to by all in the last layer, averaged
            over heads and seeds.
    """

    answers: dict[int, list[str]]
    heat: dict[int, np.ndarray]


def find_flips(records: Sequence[Record], a: str, b: str) -> tuple[Flips, Flips]:
    """The pictures that `a` gets right and `b` wrong, and those of the other direction.

    Raises:
        BenchmarkError: a variant is unknown, or no seed of both was tested on the same number of pictures.
    """
    for name in (a, b):
        if name not in {variant.name for variant in VARIANTS}:
            hint = did_you_mean(name, [variant.name for variant in VARIANTS])
            raise BenchmarkError(f"The study has no variant '{name}'. {hint}")
    correct = {
        name: {
            r.seed: np.array([*r.outcomes().values()])
            for r in records
            if r.variant == name and r.correct is not None
        }
        for name in (a, b)
    }
    seeds = tuple(sorted(correct[a].keys() & correct[b].keys()))
    if a == b or not seeds:
        raise BenchmarkError(
            f"Flips between '{a}' and '{b}' need two variants with a tested run of the same seed: "
            "let `fibo bench study --data FOLDER` finish them first."
        )
    of_a, of_b = (np.stack([correct[name][seed] for seed in seeds]) for name in (a, b))
    first, second = of_a.all(0) & ~of_b.any(0), of_b.all(0) & ~of_a.any(0)
    return (
        Flips(a, b, seeds, tuple(np.flatnonzero(first).tolist())),
        Flips(b, a, seeds, tuple(np.flatnonzero(second).tolist())),
    )


def write_sheet(folder: Path, a: str, b: str, path: Path) -> tuple[Flips, Flips]:
    """Draw the first pictures that flip between two variants, in both directions, with both variants' maps.

    Args:
        folder: holds a stage's run directories; the pictures are read from where these were trained on.
        a, b: names of variants.
        path: takes the picture, in a format that matplotlib writes.

    Returns:
        All flips from wrong by `b` to right by `a`, and those of the other direction.

    Raises:
        BenchmarkError: as :func:`find_flips`; or nothing flips, or a run's model does not answer as it is
            recorded.
        PictureError: the pictures are no longer where they were.
    """
    records = read_records(folder)
    flips = find_flips(records, a, b)
    if not any(found.pictures for found in flips):
        raise BenchmarkError(f"No test picture flips between '{a}' and '{b}' with every seed.")
    runs = {name: [_run(name, seed, folder) for seed in flips[0].seeds] for name in (a, b)}
    table = read_pictures(load_checkpoint(runs[a][0]).config["data"]["root"])
    numbers = [number for found in flips for number in found.shown]
    seen = {name: _look(folders, table, numbers) for name, folders in runs.items()}
    _check_answers(flips, seen, table)
    with replace_atomically(path) as temporary:
        sheet(flips, seen, table).savefig(temporary, dpi=150)
    return flips


def sheet(flips: Sequence[Flips], seen: Mapping[str, Seen], table: PictureTable) -> "Figure":
    """One column per picture: itself, and each variant's map over it, with what its seeds answer below.

    Args:
        flips: the directions.
        seen: what each variant makes of the pictures that are shown, by its name.
        table: the pictures, with a test part.
    """
    from matplotlib.figure import Figure

    test, columns = table.part("test"), [max(1, len(found.shown)) for found in flips]
    figure = Figure(figsize=(1.5 * sum(columns) + 0.5, 6), layout="constrained")
    parts = figure.subfigures(1, len(flips), width_ratios=columns, squeeze=False)
    for part, found, width in zip(parts.flat, flips, columns, strict=True):
        part.suptitle(
            f"{found.right} right, {found.wrong} wrong:\n{len(found.pictures)} pictures", fontsize=9
        )
        axes = part.subplots(1 + len(seen), width, squeeze=False)
        for ax in axes.flat:
            ax.set_xticks([])
            ax.set_yticks([])
        for row, name in enumerate(seen, start=1):
            axes[row, 0].set_ylabel(name, fontsize=8)
        for column, number in enumerate(found.shown):
            picture = test.read(number).permute(1, 2, 0).numpy()
            axes[0, column].imshow(picture)
            label = table.labels[int(test.targets[number])]
            axes[0, column].set_title(f"{label}\n(no. {number})", fontsize=8)
            enlarged = -(-PIXELS // min(picture.shape[:2]))
            large = picture.repeat(enlarged, 0).repeat(enlarged, 1)
            for row, view in enumerate(seen.values(), start=1):
                axes[row, column].imshow(blend(large, view.heat[number]))
                axes[row, column].set_xlabel("\n".join(view.answers[number]), fontsize=7)
    return figure


def _run(variant: str, seed: int, folder: Path) -> Path:
    (found,) = (v for v in VARIANTS if v.name == variant)
    return folder / Run(found, seed, learning_rate=None).folder


def _look(folders: Sequence[Path], table: PictureTable, numbers: Sequence[int]) -> Seen:
    """Show pictures of the test part to one variant's models."""
    answers: dict[int, list[str]] = {number: [] for number in numbers}
    maps = []
    for folder in folders:
        classifier = load_image_classifier(folder)
        test, size = table.part("test"), classifier.image_size
        pictures = ImageDataset(test, classifier.cropping, size, training=False)
        images = collate_images([pictures[number, 0] for number in numbers])["images"]
        scores, received = _scores_and_received(classifier, images)
        for number, best in zip(numbers, scores.argmax(1).tolist(), strict=True):
            answers[number].append(classifier.labels[best])
        maps.append(received)
    mean = torch.stack(maps).mean(0)
    return Seen(answers, {number: heat_map(of_one) for number, of_one in zip(numbers, mean, strict=True)})


@torch.no_grad()
def _scores_and_received(classifier: ImageClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scores `(B, classes)`, and what patches receive in the last layer, `(B, H', W')`."""
    encoder = classifier.encoder
    (core,) = (part for part in encoder.vit.blocks[-1].modules() if isinstance(part, AttentionCore))
    with watch_received(core, encoder.num_prefix_tokens) as seen:
        scores = classifier(images)
    return scores, seen[0].unflatten(1, encoder.grid_size)


def _check_answers(flips: Sequence[Flips], seen: Mapping[str, Seen], table: PictureTable) -> None:
    """That the models say of the pictures what was recorded of them: else these are others.

    Raises:
        BenchmarkError: one of them does not.
    """
    test = table.part("test")
    for found in flips:
        for number in found.shown:
            label = table.labels[int(test.targets[number])]
            right, wrong = (seen[name].answers[number] for name in (found.right, found.wrong))
            if set(right) != {label} or label in wrong:
                raise BenchmarkError(
                    f"On test picture {number} the models do not answer as the runs have recorded: the "
                    "pictures or the weights have changed since. Train these runs again."
                )
