"""Data sets that come with official lists of their parts: UCF-101, HMDB51, Something-Something v2."""

import json
import re
from pathlib import Path
from typing import Any

from fibo_robot.video.datasets.files import ClipFinder, subfolders
from fibo_robot.video.datasets.table import (
    ClipTable,
    ClipTableError,
    LabelledClip,
    choose_protocol,
    note_missing,
    read_text,
    refuse_protocol,
)

_HMDB_PARTS = {"1": "train", "2": "test"}  # 0: not used in this split
_SSV2_PREFIX = "something-something-v2-"  # the official files were named with and without it


def read_ucf101(root: Path, protocol: str | None) -> ClipTable | None:
    """UCF-101: `trainlist01.txt` and `testlist01.txt`, in the folder or one directly below; else None.

    The lists are those of https://www.crcv.ucf.edu/data/UCF101.php: a train list has `CLASS/CLIP.avi NUMBER`
    per line, a test list `CLASS/CLIP.avi`. Protocols: `split_1`, `split_2`, `split_3`.

    Raises:
        ClipTableError: a list is missing, or none of its clips is there.
    """
    lists = _folder_with(root, "trainlist*.txt")
    if lists is None:
        return None
    known = [f"split_{int(path.stem[-2:])}" for path in sorted(lists.glob("trainlist[0-9][0-9].txt"))]
    chosen = choose_protocol(protocol, known, "UCF-101")
    number = int(chosen.removeprefix("split_"))
    entries = []
    for part in ("train", "test"):
        path = lists / f"{part}list{number:02d}.txt"
        if not path.is_file():
            raise ClipTableError(f"{path} is missing: UCF-101's {chosen} needs it.")
        for line in _lines(path):
            # Only a train list ends with the number of the class; the folder names it in both.
            name = re.sub(r"\s+\d+$", "", line) if part == "train" else line
            entries.append((name, name.rpartition("/")[0], part))
    return _listed(root, entries, f"UCF-101, {chosen} of {', '.join(known)}")


def read_hmdb51(root: Path, protocol: str | None) -> ClipTable | None:
    """HMDB51: `CLASS_test_split1.txt` and so on, in the folder or one directly below; else None.

    The lists are those of
    https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database: `CLIP.avi NUMBER` per line,
    1 for training, 2 for testing, 0 for clips that this split does not use; they are left out here.
    Protocols: `split_1`, `split_2`, `split_3`.

    Raises:
        ClipTableError: a line is not of this form, or none of the clips is there.
    """
    lists = _folder_with(root, "*_test_split[0-9].txt")
    if lists is None:
        return None
    files = sorted(lists.glob("*_test_split[0-9].txt"))
    known = sorted({f"split_{path.stem[-1]}" for path in files})
    chosen = choose_protocol(protocol, known, "HMDB51")
    entries, unused = [], 0
    for path in files:
        label, number = path.stem.rsplit("_test_split", 1)
        if f"split_{number}" != chosen:
            continue
        for line in _lines(path):
            name, _, part = line.rpartition(" ")
            if part not in ("0", *_HMDB_PARTS):
                raise ClipTableError(f"{path}: {line[:80]!r} must be a clip and 0, 1 or 2.")
            if part == "0":
                unused += 1
            else:
                entries.append((f"{label}/{name.strip()}", label, _HMDB_PARTS[part]))
    return _listed(root, entries, f"HMDB51, {chosen} of {', '.join(known)}; {unused} clips unused")


def read_something_something(root: Path, protocol: str | None) -> ClipTable | None:
    """Something-Something v2: `labels.json`, `train.json`, `validation.json`; else None.

    They lie in the folder or one directly below, and may be named `something-something-v2-train.json` and so
    on, as first published (Goyal et al., arXiv 1706.04261). A clip's class is its template without the
    brackets around the placeholders. Clips are `ID.webm`, or folders `ID` of pictures.

    Raises:
        ClipTableError: a list is damaged or names a class that labels.json does not know, or none of its
            clips is there.
    """
    folder = next((place for place in (root, *subfolders(root)) if _ssv2_file(place, "labels")), None)
    if folder is None or not _ssv2_file(folder, "train"):
        return None
    refuse_protocol(protocol, "Something-Something v2")
    labels_file = _ssv2_file(folder, "labels")
    assert labels_file is not None
    labels = _json(labels_file)
    entries = []
    for split in ("train", "validation"):
        path = _ssv2_file(folder, split)
        if path is None:
            continue
        for item in _json(path):
            try:
                name, label = str(item["id"]), re.sub(r"[\[\]]", "", item["template"])
            except (TypeError, KeyError) as error:
                raise ClipTableError(f"{path}: each clip needs 'id' and 'template'; found {item}.") from error
            if label not in labels:
                raise ClipTableError(
                    f"{path}: clip {name} has the class {label!r}, not in {labels_file.name}."
                )
            entries.append((f"{name}.webm", label, split))
    return _listed(root, entries, "Something-Something v2")


def _listed(root: Path, entries: list[tuple[str, str, str]], dataset: str) -> ClipTable:
    """The table of (name, label, split), once the clips are found."""
    if not entries:
        raise ClipTableError(f"The lists of {dataset} in {root} name no clips.")
    finder = ClipFinder(root, [name for name, _, _ in entries])
    clips = [LabelledClip(finder.find(name), (label,), split) for name, label, split in entries]
    note = note_missing(clips, finder.missing, root)
    return ClipTable(tuple(clips), f"{root} ({dataset}{note})")


def _folder_with(root: Path, pattern: str) -> Path | None:
    return next((place for place in (root, *subfolders(root)) if any(place.glob(pattern))), None)


def _ssv2_file(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}.json", folder / f"{_SSV2_PREFIX}{name}.json")
    return next((path for path in candidates if path.is_file()), None)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ClipTableError(f"{path} is no JSON ({error}); fetch it again.") from error
