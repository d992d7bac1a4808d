"""Normalisation whose statistics live in the state dict, so that a policy is never loaded without them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fibo_robot.errors import FiboError


class NormalizerNotFitted(FiboError):
    """A policy is used before its normaliser knows the data."""


class Normalizer(nn.Module):
    """Affine scaling of low-dimensional observations and actions.

    Observations are standardised (zero mean, unit variance); actions are mapped from their range in the
    data to [-1, 1]. A dimension that never varies keeps its scale.

    Args:
        dimensions: length of each low-dimensional key; the key `action` is treated as actions.
    """

    fitted: Tensor

    SMALLEST_SPREAD = 1e-4  # below this a dimension counts as constant: dividing by it would amplify noise

    def __init__(self, dimensions: Mapping[str, int]) -> None:
        super().__init__()
        for key, size in dimensions.items():
            self.register_buffer(f"{key}_shift", torch.zeros(size))
            self.register_buffer(f"{key}_scale", torch.ones(size))
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, data: Mapping[str, Tensor]) -> None:
        """Take the statistics from `data[key]` of shape (samples, D), for every key."""
        for key, values in data.items():
            if key == "action":
                low, high = values.amin(0), values.amax(0)
                shift, scale = (low + high) / 2, (high - low) / 2
            else:
                shift, scale = values.mean(0), values.std(0, unbiased=False)
            getattr(self, f"{key}_shift").copy_(shift)
            getattr(self, f"{key}_scale").copy_(torch.where(scale < self.SMALLEST_SPREAD, 1.0, scale))
        self.fitted.fill_(True)

    def normalize(self, key: str, values: Tensor) -> Tensor:
        """From data units to the network's; shape (..., D)."""
        self._check_fitted()
        return (values - getattr(self, f"{key}_shift")) / getattr(self, f"{key}_scale")

    def unnormalize(self, key: str, values: Tensor) -> Tensor:
        """From the network's units to data units; shape (..., D)."""
        self._check_fitted()
        return values * getattr(self, f"{key}_scale") + getattr(self, f"{key}_shift")

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise NormalizerNotFitted(
                "The normaliser has no statistics: fit it on data or load a checkpoint."
            )
