"""Where the bytes of a clip lie: in a file of their own, inside a tar file, or in memory.

A video in a tar file is named as if the tar file were a folder (`shards/train-000.tar/0001.mp4`). FFmpeg
decodes it from there, so nothing is extracted and nothing but the clip is read.
"""

import tarfile
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import av
from av.container import InputContainer

from fibo_robot.video.reading.errors import VideoDecodeError, may_not_read, reason


@dataclass(frozen=True)
class StoredClip:
    """The bytes of a clip: a whole file, or a part of a tar file.

    Attributes:
        path: how the clip is named.
        file: the file that holds them.
        start, size: where they begin in it, and how many they are.
        modified_ns: when the file was changed last.
        whole: whether they are all of the file.
    """

    path: Path
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

    def open(self) -> InputContainer:
        """Open it with PyAV; other protocols (playlists that fetch from a network) are off.

        Raises:
            FFmpegError: it is no video.
        """
        return av.open(
            self.url, mode="r", options={"protocol_whitelist": self.protocols}, metadata_errors="replace"
        )


@dataclass(frozen=True)
class ClipInMemory:
    """The bytes of a clip that are in memory.

    Attributes:
        path: what messages call it; there is no such file.
        content: the bytes.
    """

    path: Path
    content: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.content)

    def open(self) -> InputContainer:
        """As :meth:`StoredClip.open`; a playlist in memory can open no file."""
        return av.open(
            BytesIO(self.content), mode="r", options={"protocol_whitelist": "none"}, metadata_errors="replace"
        )


def find_source(video: Path | str | bytes | BinaryIO) -> StoredClip | ClipInMemory:
    """Where the bytes of a video lie, however it is given.

    Args:
        video: a path; the bytes of a video file; or an open file, of which the rest is read into memory.

    Raises:
        VideoDecodeError: there is no such file, it is a folder, the open file gives no bytes, or it is none
            of these.
    """
    if isinstance(video, str | Path):
        return require_stored(Path(video))
    if isinstance(video, bytes | bytearray | memoryview):
        return ClipInMemory(Path("video in memory"), bytes(video))
    if not hasattr(video, "read"):
        raise VideoDecodeError(
            f"A video is a path, the bytes of one, or a file opened in binary mode; {video!r:.60} is none."
        )
    name = getattr(video, "name", None)
    path = Path(name) if isinstance(name, str) else Path("video in memory")
    try:
        content = video.read()
    except UnicodeDecodeError:
        content = ""
    except (OSError, ValueError) as error:  # closed, or not opened for reading
        raise VideoDecodeError(f"{path}: the open file cannot be read ({reason(error)}).") from error
    if not isinstance(content, bytes):
        raise VideoDecodeError(f"{path}: opened as text; open it in binary mode ('rb').")
    if not content:
        raise VideoDecodeError(f"{path}: the open file is at its end; go back with seek(0) before reading.")
    return ClipInMemory(path, content)


def require_stored(path: Path) -> StoredClip:
    """Where the bytes of a clip lie.

    Raises:
        VideoDecodeError: there is no such file, or it is a folder.
    """
    try:
        stored = stored_clip(path)
    except OSError as error:  # a folder on the way may not be entered
        raise may_not_read(path, error) or VideoDecodeError(f"{path}: {reason(error)}.") from error
    if stored is None:
        raise VideoDecodeError(f"{path}: {'not a file' if path.exists() else 'no such file'}.")
    return stored


def stored_clip(path: Path) -> StoredClip | None:
    """Where the bytes of a clip lie; None where there is no such file or member of a tar file.

    Raises:
        VideoDecodeError: the tar file it would lie in cannot be read.
    """
    if path.is_file():
        status = path.stat()
        return StoredClip(path, path, 0, status.st_size, status.st_mtime_ns, whole=True)
    for tar in path.parents:
        if tar.suffix == ".tar" and tar.is_file():
            place = tar_members(tar).get(path.relative_to(tar).as_posix())
            return place and StoredClip(path, tar, *place, tar.stat().st_mtime_ns, whole=False)
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
            # tarfile takes whatever is no entry for the end, and all that lies behind it would be missing.
            _require_end(tar, archive.offset, len(archive.getmembers()))
    except tarfile.TarError as error:
        raise VideoDecodeError(
            f"{tar}: not a readable tar file ({error}); fetch it again, or unpack it if it is compressed."
        ) from error
    return members


def _require_end(tar: Path, position: int, entries: int) -> None:
    """Raise unless a block of zeros, which ends a tar file, lies at this position."""
    with tar.open("rb") as stream:
        stream.seek(position)
        block = stream.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        raise VideoDecodeError(
            f"{tar}: the file is {'damaged' if len(block) == tarfile.BLOCKSIZE else 'cut off'} after "
            f"{entries} entries; fetch it again."
        )
