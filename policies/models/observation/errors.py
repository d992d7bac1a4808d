"""What can be wrong with a policy's view."""

from fibo_robot.errors import FiboError


class ObservationError(FiboError, ValueError):
    """A policy's view of its observations cannot be built: an encoder is missing or does not fit."""
