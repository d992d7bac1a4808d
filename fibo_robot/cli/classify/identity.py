"""A name for a classifier that another one cannot have."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def identity(classifier: "nn.Module", checkpoint: Path) -> str:
    """A classifier's folder, and a part of its weights' hash."""
    import torch

    weights = hashlib.sha256()
    for name, value in classifier.state_dict().items():
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"{checkpoint.name}@{weights.hexdigest()[:8]}"
