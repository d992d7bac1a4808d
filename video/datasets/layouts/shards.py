"""Webdataset shards: tar files with `KEY.mp4` and its label beside it as `KEY.cls`, `KEY.json` or `KEY.txt`.

Clips are decoded where they lie: the decoder reads their bytes out of the tar file, so nothing is extracted.
Labels are read as text or JSON; pickled members, which webdataset also allows, are never opened. The layout
is described at https://github.com/webdataset/webdataset.
"""

import json
import re
from pathlib import Path, PurePosixPath

from fibo_robot.video.datasets.files import VIDEO_SUFFIXES, split_folders
from fibo_robot.video.datasets.table import (
    ClipTable,
    ClipTableError,
    LabelledClip,
    canonical_split,
    refuse_protocol,
)
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.reading.stored import tar_members

_LABEL_SUFFIXES = ("cls", "json", "txt")
_MAX_LABEL_BYTES = 1 << 20


def read_shards(root: Path, protocol: str | None) -> ClipTable | None:
    """Clips in the tar files of a folder, or of its folders `train`, `val` and so on; or in one tar file.

    A clip's split is the `split` in its JSON, else the name of the folder, else the beginning of the tar
    file's name (`train-000000.tar`). Its label is the text of `.cls`, the `label` in `.json`, or `.txt`.

    Returns:
        None where there are no tar files.

    Raises:
        ClipTableError: a tar file is damaged, or a clip has no label.
    """
    if root.is_file():
        parts = [("", root)]
    else:
        splits = split_folders(root).values()
        parts = [(part.name, tar) for part in splits for tar in sorted(part.glob("*.tar"))]
        parts = parts or [("", tar) for tar in sorted(root.glob("*.tar"))]
    if not parts:
        return None
    refuse_protocol(protocol, str(root))
    clips = [clip for split, tar in parts for clip in _read_shard(tar, split or _split_in_name(tar))]
    if not clips:
        raise ClipTableError(f"The tar files in {root} hold no videos.")
    return ClipTable(tuple(clips), f"{root} (webdataset shards: {len(parts)} tar files)")


def _split_in_name(tar: Path) -> str:
    word = re.split(r"[-_.]", tar.stem)[0]
    return word if canonical_split(word) else ""


def _read_shard(tar: Path, split: str) -> list[LabelledClip]:
    try:
        members = tar_members(tar)
    except VideoDecodeError as error:
        raise ClipTableError(str(error)) from error
    clips = []
    with tar.open("rb") as stream:

        def content(name: str) -> str | None:
            if name not in members:
                return None
            start, size = members[name]
            stream.seek(start)
            try:
                return stream.read(min(size, _MAX_LABEL_BYTES)).decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise ClipTableError(f"{tar / name} is no text; a label must be text or JSON.") from error

        for name in members:
            # A key ends at the first dot of the file's name.
            folder, _, file = name.rpartition("/")
            key = f"{folder}/{file.split('.')[0]}" if folder else file.split(".")[0]
            if PurePosixPath(name).suffix.lower() not in VIDEO_SUFFIXES:
                continue
            label, own_split = _label(tar / key, [content(f"{key}.{suffix}") for suffix in _LABEL_SUFFIXES])
            clips.append(LabelledClip(tar / name, (label,), own_split or split))
    return clips


def _label(key: Path, contents: list[str | None]) -> tuple[str, str]:
    """The label and, where it is told, the split of one clip."""
    number, fields_text, text = contents
    fields = {}
    if fields_text is not None:
        try:
            fields = json.loads(fields_text)
        except json.JSONDecodeError as error:
            raise ClipTableError(f"{key}.json is no JSON: {error}.") from error
        if not isinstance(fields, dict):
            raise ClipTableError(f"{key}.json must be an object with a field 'label'.")
    label = number or fields.get("label", text)
    if isinstance(label, list | dict):
        raise ClipTableError(
            f"{key}.json: the field 'label' must be one name or number, not {json.dumps(label)[:40]}: "
            "several labels are read from tables and lists."
        )
    if label is None or label == "":
        has = f" {key.name}.json has {', '.join(fields)}." if fields else ""
        raise ClipTableError(
            f"{key} has no label: it needs {key.name}.cls, {key.name}.json with a field 'label', or "
            f"{key.name}.txt beside the video.{has}"
        )
    return str(label), str(fields.get("split", ""))
