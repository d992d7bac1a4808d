"""Video encoders as transformers publishes them, frozen, for :mod:`fibo_robot.video.attentive_probe`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from fibo_robot.encoders.image import EncoderOutput
from fibo_robot.encoders.normalise import EncoderError
from fibo_robot.extras import require
from fibo_robot.hub.source import local_folder
from fibo_robot.plugins import register
from fibo_robot.video.published import CONFIG, SAMPLING, PublishedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_UNUSED = ("pooler.", "predictor.")  # behind the last layer's tokens, or beside them


class PublishedEncoder(nn.Module):
    """A video model of transformers: clips in, its last layer's tokens out.

    Args:
        model: transformers' model without a head.
        frames: T, frames per clip.
        image_size: S, pixels of the square frames.
        black, white: what its preprocessing makes of these pixels, `(3, 1, 1)`; others lie between.

    Attributes:
        embed_dim: D, the width of tokens.
    """

    black: Tensor
    white: Tensor

    def __init__(
        self, model: "PreTrainedModel", frames: int, image_size: int, black: Tensor, white: Tensor
    ) -> None:
        super().__init__()
        self.model, self.frames, self.image_size = model, frames, (image_size, image_size)
        self.embed_dim: int = model.config.hidden_size
        self.register_buffer("black", black, persistent=False)
        self.register_buffer("white", white, persistent=False)
        # V-JEPA 2's predictor, which no probe reads, is as deep as many an encoder.
        self._options = {"skip_predictor": True} if model.config.model_type == "vjepa2" else {}

    def forward(self, clips: Tensor) -> EncoderOutput:
        """Encode `(B, T, 3, S, S)`, float in [0, 1] or uint8: tokens `(B, N, D)`, and their mean `(B, D)`.

        Raises:
            EncoderError: if the shape does not fit.
        """
        wanted = (self.frames, 3, *self.image_size)
        if tuple(clips.shape[1:]) != wanted:
            raise EncoderError(f"clips must be (B, {', '.join(map(str, wanted))}), not {tuple(clips.shape)}.")
        pixels = clips / 255 if clips.dtype == torch.uint8 else clips
        pixels = self.black + pixels * (self.white - self.black)
        found = self.model(**{self.model.main_input_name: pixels}, **self._options)
        return EncoderOutput(found.last_hidden_state, found.last_hidden_state.mean(1))


@register
def published_encoder(
    source: str | Path, *, frames: int, image_size: int, pretrained: bool = True
) -> PublishedEncoder:
    """The encoder of a checkpoint that transformers saved; no code of it is run, and no pickle is read.

    Args:
        source: a folder, or `hf:owner/name`. A trained probe has the weights, and reads its encoder's
            description from here again.
        frames: T, frames per clip; what the checkpoint was made for, or with V-JEPA 2 another even number.
        image_size: S, as the checkpoint's preprocessing cuts it.
        pretrained: False leaves the weights random.

    Raises:
        PublishedError: it is none of `published.SAMPLING`'s models, or takes other clips, or is incomplete.
        HubError: the Hub does not give it.
        MissingExtraError: transformers is not installed.
    """
    folder = local_folder(source)
    if not (folder / CONFIG).is_file():
        raise PublishedError(
            f"{source} has no {CONFIG}: give a folder that transformers saved, or hf:owner/name."
        )
    transformers = require("transformers", extra="transformers", purpose="An encoder of transformers")
    options = {"local_files_only": True, "trust_remote_code": False}
    missing: list[str] = []
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        if config.model_type not in SAMPLING:
            raise PublishedError(f"{source} is a {config.model_type}, not one of {', '.join(SAMPLING)}.")
        processor: Any = transformers.AutoVideoProcessor.from_pretrained(folder, **options)
        if pretrained:
            model, report = transformers.AutoModel.from_pretrained(
                folder, config=config, use_safetensors=True, output_loading_info=True, **options
            )
            missing = [key for key in report["missing_keys"] if not key.startswith(_UNUSED)]
        else:
            model = transformers.AutoModel.from_config(config)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()[:40])
        raise PublishedError(
            f"transformers {transformers.__version__} cannot load {source}: {reason}"
        ) from error
    if missing:
        raise PublishedError(
            f"{source} lacks {len(missing)} of its weights, as {missing[0]}: fetch it again."
        )
    _check_clips(source, config, frames, image_size)
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(-1, 3, image_size, image_size)
    done = processor(
        [pixels], do_resize=False, do_center_crop=False, do_sample_frames=False, return_tensors="pt"
    )
    black, white = done[model.main_input_name][0, :, :, :1, :1]
    return PublishedEncoder(cast("PreTrainedModel", model), frames, image_size, black, white)


def _check_clips(source: str | Path, config: Any, frames: int, image_size: int) -> None:
    """Refuse clips that the weights were not made for."""
    any_even = config.model_type == "vjepa2" and frames > 0 and frames % 2 == 0
    made_for = getattr(config, "num_frames", None) or config.frames_per_clip
    size = config.crop_size if config.model_type == "vjepa2" else config.image_size
    if image_size != size or not (frames == made_for or any_even):
        raise PublishedError(
            f"{source} takes clips of {made_for} frames of {size} pixels, not {frames} of {image_size}: set "
            f"encoder.frames={made_for} and encoder.image_size={size}."
        )
