"""The error that everything in this folder raises."""

from fibo_robot.errors import FiboError


class AttentionError(FiboError, ValueError):
    """An attention was asked for something it cannot do; the message names the argument."""
