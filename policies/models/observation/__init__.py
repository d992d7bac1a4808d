"""From a dict of observations to features: encoders, what is read from their tokens, proprioception."""

from fibo_robot.policies.models.observation.augment import CropRandomizer, Jitter
from fibo_robot.policies.models.observation.encoder import ObservationEncoder
from fibo_robot.policies.models.observation.errors import ObservationError

__all__ = ["CropRandomizer", "Jitter", "ObservationEncoder", "ObservationError"]
