"""Labelled clips: what every reader of a data set returns, and what they share."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fibo_robot.errors import FiboError, did_you_mean

SPLIT_NAMES = ("train", "val", "valid", "validate", "validation", "test")


class ClipTableError(FiboError):
    """A folder or table of clips is missing or does not say what is needed; the message says what."""


class NoClipsFoundError(ClipTableError):
    """A folder holds nothing that is recognised as labelled clips."""


@dataclass(frozen=True)
class LabelledClip:
    """One clip.

    Attributes:
        path: the video file, a folder of its frames as pictures, or a video inside a tar file, written as
            if the tar file were a folder (`shards/train-000.tar/0001.mp4`).
        label: the name of its class.
        split: the part it belongs to (`train`, `test`, a fold's number …); empty where nothing says so.
    """

    path: Path
    label: str
    split: str = ""


@dataclass(frozen=True)
class ClipTable:
    """Labelled clips and where they came from.

    Attributes:
        clips: in the order in which they were listed.
        description: one line: which format was recognised, and how it was read.
    """

    clips: tuple[LabelledClip, ...]
    description: str

    @property
    def labels(self) -> list[str]:
        """Names of the classes: ascending as numbers where all are numbers, else by alphabet."""
        names = {clip.label for clip in self.clips}
        if all(name.isdecimal() for name in names):
            return sorted(names, key=int)
        return sorted(names)

    def part(self, split: str | int | None, exclude: str | int | None = None) -> list[LabelledClip]:
        """The clips of one split; with None, all clips but those of the split `exclude`.

        A split may be given as the number that its name is: configs read `0` so.

        Raises:
            ClipTableError: the part is empty; the message names the splits that exist.
        """
        if split is None:
            chosen = [clip for clip in self.clips if exclude is None or clip.split != str(exclude)]
        else:
            chosen = [clip for clip in self.clips if clip.split == str(split)]
        if not chosen:
            found = Counter(clip.split or "(none)" for clip in self.clips)
            listed = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
            raise ClipTableError(f"No clips in split {split!r}. The splits of {self.description}: {listed}.")
        return chosen


def choose_protocol(given: str | None, known: Sequence[str], dataset: str) -> str:
    """The evaluation protocol to use: the one that was asked for, or the first one of the data set.

    Raises:
        ClipTableError: the data set has no protocol of that name; the message names those it has.
    """
    if given is None:
        return known[0]
    if given not in known:
        raise ClipTableError(
            f"{dataset} has no protocol {given!r}. {did_you_mean(given, known)} It has {', '.join(known)}."
        )
    return given


def refuse_protocol(given: str | None, dataset: str) -> None:
    """For data whose splits are fixed.

    Raises:
        ClipTableError: a protocol was asked for.
    """
    if given is not None:
        raise ClipTableError(
            f"{dataset}: there are no protocols to choose from, so protocol {given!r} cannot be used; "
            "leave it out."
        )


def note_missing(clips: Sequence[LabelledClip], missing: int, looked_in: Path) -> str:
    """How many listed clips are not there, for a table's description.

    Raises:
        ClipTableError: all are missing.
    """
    if clips and missing == len(clips):
        raise ClipTableError(
            f"None of {len(clips)} listed clips is below {looked_in}; the first would be {clips[0].path}. "
            "Give the folder that holds the clips and the lists."
        )
    return f"; {missing} of {len(clips)} listed clips are missing" if missing else ""
