"""Why a batched simulation cannot start or go on."""

from fibo_robot.errors import FiboError


class WarpError(FiboError):
    """The device, the installed versions, the task or the memory do not allow a batched simulation."""
