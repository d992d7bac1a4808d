"""Public video data sets: where they come from, what they hold, and how they are laid out for training.

They are listed in catalogue.toml. None of them is downloaded by this program.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from fibo_robot.errors import FiboError, did_you_mean


class UnknownDatasetError(FiboError):
    """There is no data set of this name in the catalogue."""


@dataclass(frozen=True)
class PublicDataset:
    """One data set.

    Attributes:
        name: how the command calls it.
        title: its own name, with the paper that introduces it.
        page: where it is obtained.
        clips, classes: how many.
        size: on disk.
        terms: licence, or what has to be agreed to.
        obtain: what to fetch, in a sentence.
        tree: the folder that is expected, one entry per line.
        experiment: the recipe to train with; `video_skills`, our smallest, where there is none for it.
        overrides: of `fibo train`, beside the experiment.
    """

    name: str
    title: str
    page: str
    clips: str
    classes: int
    size: str
    terms: str
    obtain: str
    tree: str
    experiment: str
    overrides: tuple[str, ...]

    @property
    def train_command(self) -> str:
        """A line that trains on it."""
        return " ".join([f"fibo train experiment={self.experiment}", *self.overrides])


def _read_catalogue() -> tuple[PublicDataset, ...]:
    entries = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["dataset"]
    return tuple(PublicDataset(**{**entry, "overrides": tuple(entry["overrides"])}) for entry in entries)


DATASETS = _read_catalogue()


def find_dataset(name: str) -> PublicDataset:
    """The data set of this name.

    Raises:
        UnknownDatasetError: there is none; the message names the nearest one.
    """
    for dataset in DATASETS:
        if dataset.name == name:
            return dataset
    names = [dataset.name for dataset in DATASETS]
    raise UnknownDatasetError(
        f"There is no data set named {name!r}. {did_you_mean(name, names)} `fibo data list` shows all."
    )
