"""Writing files so that a reader never meets half of one: write beside the target, then rename.

What was written is on the disk before it takes the target's name, so that after a power cut too the target is
the old file or the new one. An error of the disk names the file that was to be written, whoever wrote to it.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Errors of a write, which come without the name of the file: full, over quota, too large, broken, read-only.
WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


@contextmanager
def replace_atomically(target: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success it takes the target's place, on error it goes.

    The temporary name keeps the target's suffix (writers choose a format by it). It works for a file
    or a directory; an existing directory at `target` is replaced as a whole.

    Raises:
        OSError: it cannot be written; `filename` is the target.
    """
    target = Path(target)
    temporary = _beside(target)
    try:
        with name_write_errors(target, temporary):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush_to_disk(temporary)
            if temporary.is_dir() and target.exists():
                retired = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
                os.rename(target, retired)
                os.rename(temporary, target)
                shutil.rmtree(retired)
            else:
                os.replace(temporary, target)
            _flush_entry(target.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def check_writable(target: Path | str) -> None:
    """Find out whether a file can be written, before much work is done for it; its folder is created.

    Raises:
        OSError: it cannot be, or it is a folder; `filename` is the target.
    """
    target = Path(target)
    temporary = _beside(target)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    with name_write_errors(target, temporary):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        temporary.unlink()


def _beside(target: Path) -> Path:
    """A name in the same folder that nobody has, for what is to become `target`."""
    if not target.name:  # the working folder, or the root
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")


@contextmanager
def name_write_errors(target: Path | str, temporary: Path | None = None) -> Iterator[None]:
    """Let an OSError that a write raises name `target`: by itself it names no file, or the temporary one."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None and error.errno in WRITE_ERRORS
        if unnamed or (temporary is not None and str(error.filename) == str(temporary)):
            error.filename = str(target)
            error.strerror = os.strerror(error.errno or 0)  # h5py says there all that it knows
        raise


def write_json(target: Path | str, value: Any) -> None:
    """Write `value` as indented JSON to `target`, atomically; NaN is refused (it is not JSON)."""
    text = json.dumps(value, indent=2, allow_nan=False)
    with replace_atomically(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_bytes(target: Path | str, content: bytes) -> None:
    """Write `content` to `target`, atomically."""
    with replace_atomically(target) as temporary:
        temporary.write_bytes(content)


def _flush_to_disk(path: Path) -> None:
    """Wait until a file, or every file of a folder, has reached the disk."""
    if path.is_dir():
        for entry in path.iterdir():
            _flush_to_disk(entry)
    _flush_entry(path)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
