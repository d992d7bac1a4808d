"""Labelled pictures on disk: torchvision's image folders, and parquet files as on the Hugging Face Hub."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from fibo_robot.errors import FiboError
from fibo_robot.extras import require
from fibo_robot.video.datasets.files import split_folders, subfolders, walk
from fibo_robot.video.datasets.table import canonical_split
from fibo_robot.video.reading.pictures import upright_rgb

PICTURE_COLUMNS = ("img", "image")
NO_LABEL = -1  # as the Hub marks it
ALL = "all"  # the one part of a set that is not split

# As datasets writes parquet files: train-00000-of-00001.parquet; earlier, with a hash behind.
_SHARD = re.compile(r"(?P<split>.+?)-\d+-of-\d+(-[0-9a-f]{16})?")


class PictureError(FiboError):
    """A set of pictures is laid out in a way that is not known, or a picture cannot be read."""


@dataclass(frozen=True)
class PictureSet:
    """Labelled pictures of one part.

    Attributes:
        names: how messages and results call them; a file's path where there is one.
        sources: each a file's path, or its content.
        targets: int64 `(n,)`, numbers of their classes.
    """

    names: Sequence[str]
    sources: Sequence[Path | bytes]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.sources)

    def read(self, index: int) -> Tensor:
        """A picture as uint8 RGB `(3, H, W)`.

        Raises:
            PictureError: it cannot be read; the message names it.
        """
        return read_picture(self.sources[index], self.names[index])

    def take(self, indices: np.ndarray) -> "PictureSet":
        """Some of the pictures, in this order."""
        numbers: list[int] = indices.tolist()
        names, sources = [self.names[i] for i in numbers], [self.sources[i] for i in numbers]
        return PictureSet(names, sources, self.targets[indices])


@dataclass(frozen=True)
class PictureTable:
    """A set of labelled pictures.

    Attributes:
        labels: names of the classes; targets are numbers in this list.
        parts: pictures by the name of the split (`train`, `val`, `test`, or `all` where nothing is split).
        description: what was found, for people.
        unlabelled: splits that lie there, too, but whose labels are kept back, as a challenge's test split's.
    """

    labels: list[str]
    parts: dict[str, PictureSet]
    description: str
    unlabelled: tuple[str, ...] = ()

    def part(self, split: str) -> PictureSet:
        """The pictures of one split.

        Raises:
            PictureError: there is no such split, or it is empty, or has no labels.
        """
        name = _split_name(split)
        if name in self.unlabelled:
            raise PictureError(f"The pictures of split '{split}' have no labels; choose another.")
        if name not in self.parts or not len(self.parts[name]):
            raise PictureError(f"There are no pictures in split '{split}'; known: {', '.join(self.parts)}.")
        return self.parts[name]


def _split_name(name: str) -> str:
    return canonical_split(name) or name


def read_picture(source: Path | bytes, name: str) -> Tensor:
    """A picture as uint8 RGB `(3, H, W)`; see :func:`fibo_robot.video.reading.pictures.upright_rgb`.

    Raises:
        PictureError: it cannot be read; the message begins with `name`.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            pixels = np.array(upright_rgb(picture))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{name} cannot be read as a picture: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_pictures(root: Path | str) -> PictureTable:
    """Read a set of labelled pictures; contents of parquet files are kept in memory, as they are compressed.

    Known layouts:

    * `root/SPLIT/CLASS/*.jpg` or `root/CLASS/*.jpg`: torchvision's ImageFolder, once per split;
    * a parquet file, or a folder of `SPLIT-00000-of-00001.parquet`: a column `img` or `image` of
      `{bytes, path}` and a column `label` of class numbers, whose names stand in the schema's metadata.

    Raises:
        PictureError: nothing of this kind is found, or splits have different classes.
    """
    root = Path(root)
    if root.is_file():
        return _read_parquet({ALL: [root]}, root)
    if not root.is_dir():
        raise PictureError(f"There is no {root}: give a folder of pictures or a parquet file.")
    shards: dict[str, list[Path]] = {}
    for file in sorted(root.glob("*.parquet")):
        match = _SHARD.fullmatch(file.stem)
        shards.setdefault(_split_name(match["split"] if match else file.stem), []).append(file)
    return _read_parquet(shards, root) if shards else _read_folders(root)


def _read_folders(root: Path) -> PictureTable:
    labels: list[str] | None = None
    parts = {}
    for name, folder in _split_folders(root).items():
        try:
            found = _ClassFolders(str(folder))
        except FileNotFoundError as error:
            raise PictureError(
                f"{folder} holds no folders of pictures, one per class, and {root} no parquet files: {error}"
            ) from error
        if labels is not None and found.classes != labels:
            raise PictureError(f"{folder} has other classes than the splits beside it: {found.classes}.")
        labels = found.classes
        files = [Path(path) for path, _ in found.samples]
        parts[name] = PictureSet(
            [str(file) for file in files], files, np.array([label for _, label in found.samples])
        )
    assert labels is not None
    return PictureTable(labels, parts, f"class folders in {root}")


class _ClassFolders(ImageFolder):
    """torchvision's ImageFolder, but for hidden folders, which tools leave behind: they are no classes."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        classes = [folder.name for folder in subfolders(Path(directory))]
        if not classes:
            raise FileNotFoundError(f"Couldn't find any class folder in {directory}.")
        return classes, {name: number for number, name in enumerate(classes)}


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of a set's parts by their names; the folder itself where its classes lie on top.

    Raises:
        PictureError: two folders mean one part, or some are named like parts beside others that are not.
    """
    found = split_folders(root, PictureError, "put their pictures into one of them")
    others = [folder for folder in subfolders(root) if canonical_split(folder.name) is None]
    others = [folder for folder in others if any(True for _ in picture_files(folder, []))]
    if not found or (others and not any(subfolders(folder) for folder in found.values())):
        return {ALL: root}  # a class may be named `test`: its pictures lie in it as those of the others do
    if others:
        raise PictureError(
            f"{root} holds {next(iter(found.values())).name}, named like a part of the data, beside "
            f"{others[0].name}, which is not: give a folder of parts or one of classes."
        )
    return found


def picture_files(folder: Path, refused: list[Path]) -> Iterator[Path]:
    """Pictures below a folder, which :func:`walk` goes through; `refused` takes folders not to be read."""
    for place, _, names in walk(folder, refused):
        yield from (place / name for name in names if Path(name).suffix.lower() in IMG_EXTENSIONS)


def _read_parquet(shards: dict[str, list[Path]], root: Path) -> PictureTable:
    parquet: Any = require("pyarrow.parquet", extra="parquet", purpose="Reading parquet files")
    labels: list[str] | None = None
    parts: dict[str, PictureSet] = {}
    unlabelled: list[str] = []
    for split, files in shards.items():
        names: list[str] = []
        sources: list[bytes] = []
        targets: list[int] = []
        for file in files:
            schema, column = _schema(parquet, file)
            classes = _class_names(schema, file)
            if labels is not None and classes != labels:
                raise PictureError(f"{file} has other classes than the files beside it.")
            labels = classes
            try:
                table = parquet.ParquetFile(file).read(columns=[f"{column}.bytes", "label"])
            except (OSError, ValueError) as error:
                raise PictureError(f"{file} is damaged ({error}); fetch it again.") from error
            contents = table.column(column).combine_chunks().field("bytes").to_pylist()
            if None in contents:
                raise PictureError(
                    f"{file}: row {contents.index(None)} holds no picture, only a path to one perhaps. "
                    "Use files that hold the pictures' bytes."
                )
            sources += contents
            names += [f"{file.name}, row {row}" for row in range(len(contents))]
            targets += table.column("label").fill_null(NO_LABEL).to_pylist()
        numbers = np.array(targets, dtype=np.int64)
        if len(numbers) and (numbers == NO_LABEL).all():
            unlabelled.append(split)
            continue
        if labels is None or not len(numbers) or numbers.min() < 0 or numbers.max() >= len(labels):
            raise PictureError(f"Split '{split}' of {root} is empty, or labels lie outside the class names.")
        parts[split] = PictureSet(names, sources, numbers)
    assert labels is not None
    if not parts:
        raise PictureError(f"The pictures of {root} have no labels; give files that do.")
    description = f"parquet files in {root}" if root.is_dir() else str(root)
    return PictureTable(labels, parts, description, tuple(unlabelled))


def _schema(parquet: Any, file: Path) -> tuple[Any, str]:
    """A file's schema, and which of its columns holds the pictures."""
    try:
        schema = parquet.read_schema(file)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise PictureError(f"{file} cannot be read as parquet: {error}") from error
    for column in PICTURE_COLUMNS:
        if column in schema.names and "label" in schema.names:
            kind = schema.field(column).type
            if "bytes" in [kind.field(number).name for number in range(kind.num_fields)]:
                return schema, column
    raise PictureError(
        f"{file} has columns {', '.join(schema.names)}: needed are one of {' or '.join(PICTURE_COLUMNS)} "
        "that holds {bytes, path}, and label."
    )


def _class_names(schema: Any, file: Path) -> list[str]:
    """The class names that the Hub's `datasets` writes into the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError) as error:
        raise PictureError(
            f"{file} does not say the names of its classes: its schema's metadata needs huggingface's "
            "info.features.label.names."
        ) from error
