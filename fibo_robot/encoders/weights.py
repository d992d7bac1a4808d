"""Load pretrained weights into a ViT from a local safetensors file, and account for every key."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from fibo_robot.attention import AttentionModule
from fibo_robot.errors import FiboError

_CLASSIFIERS_ENCODER = "encoder."  # where a VideoClassifier keeps its encoder


class WeightsError(FiboError):
    """Weights could not be loaded; the message says which and why."""


@dataclass(frozen=True)
class WeightsReport:
    """What became of every key; each key of model and file stands in exactly one of these.

    Attributes:
        loaded: taken from the file as they were.
        resized: taken after timm resampled them to the model's grid or patch size.
        new: the model's keys that no pretrained file can have (parameters that an attention adds).
        missing: the model's other keys that the file lacks; they keep their fresh values.
        unexpected: the file's keys that the model has no place for.
    """

    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} weights loaded"]
        for word in ("resized", "new", "missing", "unexpected"):
            keys = getattr(self, word)
            if keys:
                parts.append(f"{len(keys)} {word} ({', '.join(keys[:6])}{', ...' if len(keys) > 6 else ''})")
        return ", ".join(parts)


def load_weights(model: VisionTransformer, path: str | Path) -> WeightsReport:
    """Load a timm-layout safetensors file into a timm ViT, whatever attention it has.

    Position embeddings and patch projections of another size are resampled by timm.

    Args:
        model: the ViT; changed in place.
        path: a `.safetensors` file.

    Returns:
        What became of every key.

    Raises:
        WeightsError: if the file is absent or unreadable, a shape does not fit, or nothing fits at all.
    """
    from_file = read_weights(path)
    weights: dict[str, Tensor] = checkpoint_filter_fn(from_file, model)
    resized = {key for key in weights if key in from_file and not _same(weights[key], from_file[key])}
    return fit_weights(model, weights, path, "timm's ViT key names", resized)


def holds_video_weights(path: str | Path) -> bool:
    """Whether a safetensors file is a trained video classifier's model.safetensors.

    Raises:
        WeightsError: if the file is absent or unreadable.
    """
    return any(key.startswith(f"{_CLASSIFIERS_ENCODER}vit.") for key in read_weights(path))


def load_video_weights(encoder: nn.Module, path: str | Path) -> WeightsReport:
    """Load the encoder of a trained video classifier into a `VideoEncoder`, to train it on other classes.

    Position embeddings of another number of frames are interpolated linearly over time; the classifier's head
    is reported as unexpected.

    Args:
        encoder: changed in place.
        path: model.safetensors of a run directory.

    Raises:
        WeightsError: if the file is absent or unreadable, a shape does not fit, or nothing fits at all.
    """
    weights = {key.removeprefix(_CLASSIFIERS_ENCODER): value for key, value in read_weights(path).items()}
    own, over_time = encoder.state_dict(), "temporal_embed"  # (1, T, 1, D)
    resized = []
    if over_time in own and over_time in weights and len(weights[over_time][0]) != len(own[over_time][0]):
        along_time = weights[over_time].squeeze(2).transpose(1, 2)
        along_time = F.interpolate(along_time, len(own[over_time][0]), mode="linear")
        weights[over_time] = along_time.transpose(1, 2).unsqueeze(2)
        resized.append(over_time)
    return fit_weights(encoder, weights, path, "a video classifier's key names", resized)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        WeightsError: if the file is absent or unreadable.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file at {path}.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}).") from error


def fit_weights(
    model: nn.Module,
    weights: dict[str, Tensor],
    path: str | Path,
    layout: str,
    resized: Collection[str] = (),
) -> WeightsReport:
    """Put weights of the model's own key names into it, and account for every key.

    Args:
        model: changed in place.
        weights: by key; those that the model does not have are reported as unexpected.
        path: where they came from, for messages.
        layout: the key names that are needed, for messages.
        resized: keys whose tensors are not as they were in the file.

    Raises:
        WeightsError: if a shape does not fit, or nothing fits at all.
    """
    own = model.state_dict()
    wrong = [f"{key} {tuple(weights[key].shape)}" for key in weights if _misfits(key, weights, own)]
    if wrong:
        raise WeightsError(
            f"{path} was made for another architecture: {len(wrong)} shapes do not fit, as {wrong[0]} where "
            f"the model has {tuple(own[wrong[0].split()[0]].shape)}. Choose the encoder the file belongs to."
        )
    known = [key for key in weights if key in own]
    if not known:
        raise WeightsError(f"{path} holds none of the model's weights; it needs {layout}.")
    model.load_state_dict(weights, strict=False)
    added = _attention_parameters(model)
    absent = [key for key in own if key not in weights]
    return WeightsReport(
        loaded=tuple(key for key in known if key not in resized),
        resized=tuple(key for key in known if key in resized),
        new=tuple(key for key in absent if key in added),
        missing=tuple(key for key in absent if key not in added),
        unexpected=tuple(key for key in weights if key not in own),
    )


def _misfits(key: str, weights: dict[str, Tensor], own: dict[str, Tensor]) -> bool:
    return key in own and weights[key].shape != own[key].shape


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def _attention_parameters(model: nn.Module) -> set[str]:
    """Keys of the weights that our attention modules have beyond timm's."""
    return {
        f"{path}.core.{key}"
        for path, module in model.named_modules()
        if isinstance(module, AttentionModule)
        for key in module.core.state_dict()
    }
