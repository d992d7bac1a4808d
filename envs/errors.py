"""Errors about files of demonstrations and evaluations; apart, because several rooms raise them."""

from fibo_robot.errors import FiboError


class DatasetError(FiboError):
    """A demonstration file is missing, damaged, of another layout, or not what was asked for."""


class EvaluationError(FiboError):
    """An evaluation on disk is missing, incomplete, or of another schema."""


class RolloutError(FiboError):
    """A rollout cannot start or go on; finished episodes are kept."""


class ComparisonError(FiboError):
    """Evaluations that cannot be compared; the message says why."""
