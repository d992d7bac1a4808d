"""VideoMAE's weights (arXiv 2203.12602), under Hugging Face transformers' key names, in our video encoder."""

import re
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fibo_robot.encoders.normalise import EncoderError
from fibo_robot.encoders.weights import WeightsError, WeightsReport, fit_weights, read_weights

_PREFIX = "videomae."  # of models with a head; VideoMAEModel alone has none
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_IN_LAYER = {
    "attention.output.dense": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_OUTSIDE = {"embeddings.patch_embeddings.projection": "embed.proj", "fc_norm": "vit.fc_norm"}
# Biases of queries and values: as files of before transformers 5 name them, and as later ones do.
_BIASES = {"q": ("q_bias", "query.bias"), "k": ("key.bias",), "v": ("v_bias", "value.bias")}


def check_videomae_options(mode: str, pool: str | None, pretrained: bool | str | Path) -> None:
    """Raise unless a video encoder of layout `videomae` can have these options."""
    if mode != "joint" or pool == "token":
        raise EncoderError("layout videomae attends jointly, without class token: set mode=joint, pool=avg.")
    if pretrained is True:
        raise WeightsError("VideoMAE weights are read from a file: give the path of model.safetensors.")


def to_videomae_layout(vit: VisionTransformer) -> None:
    """Make a fresh image ViT VideoMAE's trunk: no prefix tokens, no own positions, norm after pooling."""
    vit.cls_token = vit.reg_token = vit.pos_embed = None
    vit.num_prefix_tokens, vit.has_class_token, vit.num_reg_tokens = 0, False, 0
    vit.norm, vit.fc_norm = nn.Identity(), nn.LayerNorm(vit.embed_dim)
    known: Any = vit.pretrained_cfg
    configured: Any = vit
    configured.pretrained_cfg = {**known, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


def load_videomae(encoder: nn.Module, path: str | Path) -> WeightsReport:
    """Load a safetensors file of transformers' VideoMAE models into a `VideoEncoder` of layout `videomae`.

    VideoMAEModel, VideoMAEForVideoClassification and VideoMAEForPreTraining have one encoder; what they have
    beside it (classifier, decoder) is reported as unexpected. VideoMAE's keys have no bias: ours is zero,
    which makes no difference to softmax attention.

    Args:
        encoder: changed in place; it must have the file's width, depth, patches and tubelets.
        path: a `.safetensors` file.

    Raises:
        WeightsError: if the file is absent or unreadable, a shape does not fit, or nothing fits at all.
    """
    weights = from_transformers(read_weights(path))
    return fit_weights(encoder, weights, path, "transformers' VideoMAE key names")


def from_transformers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """VideoMAE's weights under a `VideoEncoder`'s key names; keys without a counterpart keep their own.

    Raises:
        WeightsError: a layer lacks its queries, keys or values.
    """
    ours: dict[str, Tensor] = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for key, value in state_dict.items():
        plain = key.removeprefix(_PREFIX)
        layer = _LAYER.fullmatch(plain)
        if layer is None:
            name, _, kind = plain.rpartition(".")
            ours[f"{_OUTSIDE[name]}.{kind}" if name in _OUTSIDE else key] = value
            continue
        number, inside = layer.groups()
        if inside.startswith("attention.attention."):
            attention.setdefault(number, {})[inside.removeprefix("attention.attention.")] = value
            continue
        name, _, kind = inside.rpartition(".")
        ours[f"vit.blocks.{number}.{_IN_LAYER[name]}.{kind}" if name in _IN_LAYER else key] = value
    for number, parts in attention.items():
        lacking = [name for name in ("query", "key", "value") if f"{name}.weight" not in parts]
        if lacking:
            raise WeightsError(f"Layer {number} of the VideoMAE weights lacks its {' and '.join(lacking)}.")
        ours[f"vit.blocks.{number}.attn.qkv.weight"] = torch.cat(
            [parts[f"{name}.weight"] for name in ("query", "key", "value")]
        )
        ours[f"vit.blocks.{number}.attn.qkv.bias"] = torch.cat(
            [_bias(parts, *_BIASES[name]) for name in ("q", "k", "v")]
        )
    return ours


def _bias(parts: dict[str, Tensor], *names: str) -> Tensor:
    found = [parts[name] for name in names if name in parts]
    return found[0] if found else parts["key.weight"].new_zeros(len(parts["key.weight"]))
