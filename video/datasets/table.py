"""Labelled clips: what every reader of a data set returns, and what they share."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fibo_robot.errors import FiboError, did_you_mean
from fibo_robot.video.reading.excerpt import Span

# What folders, lists and columns call the three usual parts, in small letters.
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}
_CANONICAL = {name: split for split, names in _SPLITS.items() for name in names}


class ClipTableError(FiboError):
    """A folder or table of clips is missing or does not say what is needed; the message says what."""


class NoClipsFoundError(ClipTableError):
    """A folder holds nothing that is recognised as labelled clips."""


class UnreadableDataError(ClipTableError):
    """A folder or list of a data set may not be read."""


def canonical_split(name: str) -> str | None:
    """`train`, `val` or `test` for what people call them (`Training`, `validation` …); else None."""
    return _CANONICAL.get(name.lower())


@dataclass(frozen=True)
class LabelledClip:
    """One clip.

    Attributes:
        path: the video file, a folder of its frames as pictures, or a video inside a tar file, written as
            if the tar file were a folder (`shards/train-000.tar/0001.mp4`).
        labels: the names of its classes: one, or any number of them in a multi-label data set.
        split: the part it belongs to (`train`, `test`, a fold's number …); empty where nothing says so.
        span: the seconds of the file that are the clip; None where it is all of it.
    """

    path: Path
    labels: tuple[str, ...]
    split: str = ""
    span: Span | None = None

    @property
    def label(self) -> str:
        """The name of its only class."""
        (label,) = self.labels
        return label

    @property
    def name(self) -> Path:
        """What tells it from all others: its path, and its seconds as in a URL (`match.mp4#t=10,12.5`)."""
        return self.path if self.span is None else self.path.with_name(f"{self.path.name}#t={self.span}")


@dataclass(frozen=True)
class ClipTable:
    """Labelled clips and where they came from.

    Attributes:
        clips: in the order in which they were listed.
        description: one line: which format was recognised, and how it was read.
        left_out: clips that lie there, too, but have no label.
        multi_label: whether each clip has any number of labels instead of one.
    """

    clips: tuple[LabelledClip, ...]
    description: str
    left_out: tuple[Path, ...] = ()
    multi_label: bool = False

    @property
    def labels(self) -> list[str]:
        """Names of the classes: ascending as numbers where all are numbers, else by alphabet."""
        names = {label for clip in self.clips for label in clip.labels}
        if all(name.isdecimal() for name in names):
            return sorted(names, key=lambda name: (int(name), name))  # 1 and 01 are two classes
        return sorted(names)

    def part(self, split: str | int | None, exclude: str | int | None = None) -> list[LabelledClip]:
        """The clips of one split; with None, all clips but those of the split `exclude`.

        A split may be given as the number that its name is: configs read `0` so. `val` is also what is
        called `validation`, and so for the others that :func:`canonical_split` knows.

        Raises:
            ClipTableError: the part is empty; the message names the splits that exist.
        """
        if split is None:
            chosen = [clip for clip in self.clips if exclude is None or not _same(clip.split, exclude)]
        else:
            chosen = [clip for clip in self.clips if _same(clip.split, split)]
        if not chosen:
            raise ClipTableError(
                f"No clips in split {split!r}. The splits of {self.description}: {self.splits}."
            )
        return chosen

    @property
    def splits(self) -> str:
        """The names of the splits with their numbers of clips, for messages."""
        found = Counter(clip.split or "(none)" for clip in self.clips)
        return ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))

    def test_part(self) -> list[LabelledClip]:
        """The clips to test on where nobody says which: the test split, or all where nothing is split.

        Raises:
            ClipTableError: there are splits, but none for testing; the message names them.
        """
        names = {clip.split for clip in self.clips}
        if names == {""}:
            return list(self.clips)
        if not any(_same(name, "test") for name in names):
            raise ClipTableError(
                f"{self.description} has no split for testing: say with --split which it shall be. Its "
                f"splits: {self.splits}."
            )
        return self.part("test")


def in_both(one: Sequence[LabelledClip], other: Sequence[LabelledClip]) -> list[LabelledClip]:
    """Those of `one` that `other` has, too, or of which it has some seconds."""
    spans: dict[Path, list[Span | None]] = {}
    for clip in other:
        spans.setdefault(clip.path, []).append(clip.span)
    return [clip for clip in one if any(_overlap(clip.span, span) for span in spans.get(clip.path, ()))]


def _overlap(one: Span | None, other: Span | None) -> bool:
    return one is None or other is None or (one.start < other.stop and other.start < one.stop)


def _same(name: str, split: str | int) -> bool:
    other = str(split)
    return name == other or canonical_split(name) == canonical_split(other) is not None


def read_text(path: Path) -> str:
    """The content of a list or table.

    Raises:
        ClipTableError: it is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ClipTableError(
            f"{path} is not text in UTF-8 (byte {error.object[error.start]:#04x} in line "
            f"{error.object.count(10, 0, error.start) + 1}); save it as UTF-8."
        ) from error


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
