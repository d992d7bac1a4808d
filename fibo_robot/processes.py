"""Processes that know of each other: workers that end with their parent, one writer per folder or file."""

import errno
import fcntl
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fibo_robot.errors import FiboError

LOCK_FILE = ".lock"
HELD = frozenset({errno.EACCES, errno.EAGAIN})  # what the system answers where another process holds a lock
# What a file system without locks answers; there, nothing can be promised.
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})


class BusyError(FiboError):
    """Another process is writing into the folder or file that this one was to write into."""


def exit_with_parent() -> None:
    """End this worker process as soon as its parent is gone, however that ended; call it in the worker."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def only_writer(folder: Path | str) -> Iterator[None]:
    """Be the only process that writes into `folder`, which is created where it is missing.

    The lock is the system's: it goes with the process that holds it, however that ends, and no child inherits
    it. Between machines it holds as far as their common file system carries locks.

    Raises:
        BusyError: another process holds the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / LOCK_FILE, _where(folder, "folder")):
        yield


@contextmanager
def only_writer_of(file: Path | str) -> Iterator[None]:
    """Be the only process that writes `file`, whose folder is created where it is missing.

    As :func:`only_writer`, with a lock of its own beside the file.

    Raises:
        BusyError: another process writes it.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    path = file.with_name(f".{file.name}{LOCK_FILE}")
    with _held(path, _where(file, "file")):
        yield


def _where(path: Path, kind: str) -> str:
    return f"{path} at this moment. Wait until it has ended, or choose another {kind}."


@contextmanager
def _held(path: Path, where: str) -> Iterator[None]:
    descriptor = _lock(path, where)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still held: see `_lock`
        os.close(descriptor)


def _lock(path: Path, where: str) -> int:
    """Open and lock a file that its holder removes; returns the descriptor. `where` ends the refusal."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return descriptor
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in HELD:
                raise
            who = f"Process {holder}" if holder else "Another process"
            raise BusyError(f"{who} is writing into {where}") from None
        try:
            same = os.path.samestat(os.fstat(descriptor), os.stat(path))
        except FileNotFoundError:
            same = False
        if same:
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)  # its holder removed it between the opening and the locking
