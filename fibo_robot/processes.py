"""Processes that know of each other: workers that end with their parent, and one writer per folder."""

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
    """Another process is writing into the folder that this one was to write into."""


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
    path = Path(folder) / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still held: see `_lock`
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Open and lock a file that its holder removes; returns the descriptor."""
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
            raise BusyError(
                f"{who} is writing into {path.parent} at this moment. Wait until it has ended, or choose "
                "another folder."
            ) from None
        try:
            same = os.path.samestat(os.fstat(descriptor), os.stat(path))
        except FileNotFoundError:
            same = False
        if same:
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)  # its holder removed it between the opening and the locking
