"""Where the bytes of a clip lie: in a file of their own, or inside a tar file.

A video in a tar file is named as if the tar file were a folder (`shards/train-000.tar/0001.mp4`). FFmpeg
decodes it from there, so nothing is extracted and nothing but the clip is read.
"""

import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from fibo_robot.video.reading.errors import VideoDecodeError


@dataclass(frozen=True)
class StoredClip:
    """The bytes of a clip: a whole file, or a part of a tar file.

    Attributes:
        file: the file that holds them.
        start, size: where they begin in it, and how many they are.
        modified_ns: when the file was changed last.
        whole: whether they are all of the file.
    """

    file: Path
    start: int
    size: int
    modified_ns: int
    whole: bool

    @property
    def url(self) -> str:
        """What FFmpeg opens: `subfile` is its protocol for a range of bytes."""
        if self.whole:
            return f"file:{self.file}"
        return f"subfile,,start,{self.start},end,{self.start + self.size},,:{self.file}"

    @property
    def protocols(self) -> str:
        """FFmpeg's protocols that opening it needs; all others stay off."""
        return "file" if self.whole else "subfile,file"


def stored_clip(path: Path) -> StoredClip | None:
    """Where the bytes of a clip lie; None where there is no such file or member of a tar file.

    Raises:
        VideoDecodeError: the tar file it would lie in cannot be read.
    """
    if path.is_file():
        status = path.stat()
        return StoredClip(path, 0, status.st_size, status.st_mtime_ns, whole=True)
    for tar in path.parents:
        if tar.suffix == ".tar" and tar.is_file():
            place = tar_members(tar).get(path.relative_to(tar).as_posix())
            return place and StoredClip(tar, *place, tar.stat().st_mtime_ns, whole=False)
    return None


def tar_members(tar: Path) -> dict[str, tuple[int, int]]:
    """Start and size of every file in a tar file, by name; answered from memory while it does not change.

    Raises:
        VideoDecodeError: the file is damaged, cut off, or no tar file.
    """
    status = tar.stat()
    return _tar_members(tar, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _tar_members(tar: Path, size: int, modified_ns: int) -> dict[str, tuple[int, int]]:
    members = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isreg() or member.issparse():
                    continue
                if name.is_absolute() or ".." in name.parts:
                    raise VideoDecodeError(
                        f"{tar}: the name {member.name!r} leads out of the tar file; pack it anew."
                    )
                if member.offset_data + member.size > size:
                    raise VideoDecodeError(
                        f"{tar}: the file is cut off within {member.name}; fetch it again."
                    )
                members[name.as_posix()] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise VideoDecodeError(
            f"{tar}: not a readable tar file ({error}); fetch it again, or unpack it if it is compressed."
        ) from error
    return members
