"""What can be wrong with a clip."""

from fibo_robot.errors import FiboError


class VideoDecodeError(FiboError):
    """A file holds no readable video; the message names the file, what is wrong and what to do."""
