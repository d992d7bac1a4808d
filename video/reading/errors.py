"""What can be wrong with a clip, and how it is said."""

import errno
from pathlib import Path

from fibo_robot.errors import FiboError

# The system's own refusals, of a file that may be whole. FFmpeg uses other numbers for damaged content, too.
_SYSTEM_REFUSALS = {errno.EACCES, errno.EMFILE, errno.ENFILE}


class VideoDecodeError(FiboError):
    """A file holds no readable video; the message names the file, what is wrong and what to do."""


class FrameTimeError(FiboError, ValueError):
    """A stretch of a clip in seconds that is none; the message says why."""


def reason(error: Exception) -> str:
    """What a library says is wrong, without its error numbers."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def may_not_read(path: Path, error: Exception) -> VideoDecodeError | None:
    """The error to raise where the system, not the content, keeps a file from being read; else None."""
    if isinstance(error, OSError) and error.errno in _SYSTEM_REFUSALS:
        return VideoDecodeError(
            f"{path}: cannot be read ({reason(error)}); nothing is known to be wrong with it."
        )
    return None
