"""Where a policy looks: the attention of any layer and head, laid over the camera's picture."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.maps import OverlayError, attention_weights, blend, heat_map
from fibo_robot.encoders.image import ImageEncoder
from fibo_robot.interfaces import Policy

PIXELS_PER_PIXEL = 4  # a 76-pixel crop becomes large enough to look at


@dataclass(frozen=True)
class SeenImage:
    """What one camera's encoder saw and where it attended.

    Attributes:
        camera: observation key.
        image: uint8 `(H, W, 3)`, the crop that the encoder saw.
        weights: one `(heads, N, N)` tensor per layer; rows are queries.
        grid: patches along height and width.
        num_prefix_tokens: tokens before the first patch.
    """

    camera: str
    image: np.ndarray
    weights: tuple[Tensor, ...]
    grid: tuple[int, int]
    num_prefix_tokens: int

    def heat(self, layer: int, head: int | None = None) -> np.ndarray:
        """How much each patch is attended to by all patches, `(grid_h, grid_w)` scaled to [0, 1].

        Args:
            layer: counted from 0; negative counts from the last.
            head: counted from 0; None averages the heads.

        Raises:
            OverlayError: there is no such layer or head.
        """
        try:
            weights = self.weights[layer]
            weights = weights.mean(0) if head is None else weights[head]
        except IndexError:
            raise OverlayError(
                f"There is no layer {layer}, head {head}: the encoder has {len(self.weights)} layers of "
                f"{len(self.weights[0])} heads, counted from 0."
            ) from None
        received = weights[self.num_prefix_tokens :, self.num_prefix_tokens :].abs().mean(0)
        return heat_map(received.reshape(self.grid))

    def overlay(self, layer: int, head: int | None = None, enlarge: int = PIXELS_PER_PIXEL) -> np.ndarray:
        """The picture with :meth:`heat` over it, uint8 `(enlarge H, enlarge W, 3)`."""
        return blend(self.image.repeat(enlarge, 0).repeat(enlarge, 1), self.heat(layer, head))

    def heads(self, layer: int, enlarge: int = 2) -> np.ndarray:
        """One layer's heads row by row in the most square grid, each an :meth:`overlay`."""
        pictures = [self.overlay(layer, head, enlarge) for head in range(len(self.weights[layer]))]
        columns = math.ceil(math.sqrt(len(pictures)))
        pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
        rows = [np.hstack(pictures[begin : begin + columns]) for begin in range(0, len(pictures), columns)]
        return np.vstack(rows)


@runtime_checkable
class SeesThroughEncoders(Protocol):
    """A policy that says which `ImageEncoder` it sees each camera through."""

    def image_encoders(self) -> Mapping[str, ImageEncoder]:
        """By observation key."""
        ...


def image_encoders(policy: Policy) -> Mapping[str, ImageEncoder]:
    """The encoder of each camera that a policy sees through an `ImageEncoder`, by observation key."""
    return policy.image_encoders() if isinstance(policy, SeesThroughEncoders) else {}


@torch.inference_mode()
def look(policy: Policy, obs: Mapping[str, Tensor], episode: int = 0) -> list[SeenImage]:
    """Let a policy decide on one observation `(1, n_obs_steps, ...)` and watch every camera's attention.

    Args:
        policy: it says by `image_encoders()` what it sees through.
        obs: as for `policy.act`; the last step is shown.
        episode: whose sampling noise is used; it does not change the attention.

    Raises:
        OverlayError: the policy sees no pictures through an `ImageEncoder`.
    """
    encoders = image_encoders(policy)
    if not encoders:
        raise OverlayError("This policy has no image encoder, so there is nothing to lay over.")
    with _recorded(encoders) as recorded:
        policy.reset([episode])
        policy.act(obs, [episode])
    return [
        SeenImage(
            camera=key,
            image=_to_image(recorded[key].image),
            weights=tuple(recorded[key].weights),
            grid=encoder.grid_size,
            num_prefix_tokens=encoder.num_prefix_tokens,
        )
        for key, encoder in encoders.items()
    ]


@dataclass
class _Record:
    image: Tensor
    weights: list[Tensor]


@contextmanager
def _recorded(encoders: Mapping[str, ImageEncoder]) -> Iterator[dict[str, _Record]]:
    """Record, for the last of the images that pass, the input of each encoder and its layers' weights."""
    records = {key: _Record(torch.empty(0), []) for key in encoders}
    handles = []
    for key, encoder in encoders.items():
        record = records[key]

        def see(module: nn.Module, inputs: tuple, record: _Record = record) -> None:
            record.image, record.weights = inputs[0][-1].cpu(), []

        def attend(core: nn.Module, inputs: tuple, record: _Record = record) -> None:
            assert isinstance(core, AttentionCore)
            q, k = inputs[0][-1:], inputs[1][-1:]
            record.weights.append(attention_weights(core, q, k)[0].float().cpu())

        handles.append(encoder.register_forward_pre_hook(see))
        for module in encoder.modules():
            if isinstance(module, AttentionCore):
                handles.append(module.register_forward_pre_hook(attend))
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _to_image(image: Tensor) -> np.ndarray:
    """What an encoder takes, `(3, H, W)` uint8 or float in [0, 1], as uint8 `(H, W, 3)`."""
    image = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).numpy()
