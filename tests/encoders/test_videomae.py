"""VideoMAE in our encoder equals transformers' own, and every key is accounted for."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fibo_robot.encoders import (
    EncoderError,
    VideoEncoder,
    WeightsError,
    WeightsReport,
    create_video_encoder,
)
from fibo_robot.encoders.videomae import from_transformers

transformers: Any = import_module("transformers") if find_spec("transformers") else None

pytestmark = pytest.mark.transformers

# vit_micro's width and depth, on 4 frames of 32 pixels.
SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "tubelet_size": 2,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "decoder_hidden_size": 64,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 128,
    "num_labels": 3,
}


def videomae(kind: str, **options: object) -> Any:
    """A model with random weights, biases and norms included."""
    model = getattr(transformers, kind)(transformers.VideoMAEConfig(**SIZES, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def encoder(weights: Path | bool = False, **options: object) -> VideoEncoder:
    given = {"frames": 4, "tubelet": 2, "image_size": 32, "patch_size": 8, "mode": "joint", **options}
    return create_video_encoder("vit_micro", layout="videomae", pretrained=weights, **given).eval()


def report_of(encoder: VideoEncoder) -> WeightsReport:
    assert encoder.weights_report is not None
    return encoder.weights_report


def saved(model: nn.Module, folder: Path) -> Path:
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


def normalised(clips: torch.Tensor) -> torch.Tensor:
    """As transformers' VideoMAEImageProcessor does by default."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (clips - mean.view(3, 1, 1)) / std.view(3, 1, 1)


@torch.no_grad()
def test_tokens_equal_those_of_transformers(tmp_path: Path) -> None:
    model = videomae("VideoMAEModel")
    ours = encoder(saved(model, tmp_path))
    clips = torch.rand(2, 4, 3, 32, 32)
    expected = model(normalised(clips)).last_hidden_state
    torch.testing.assert_close(ours(clips).tokens, expected, rtol=1e-5, atol=1e-5)
    report = report_of(ours)
    assert report.missing == ("vit.fc_norm.weight", "vit.fc_norm.bias")  # VideoMAEModel does not pool
    assert report.unexpected == report.new == report.resized == ()
    assert len(report.loaded) == len(ours.state_dict()) - 2


@torch.no_grad()
def test_a_fine_tuned_model_gives_the_same_scores(tmp_path: Path) -> None:
    model = videomae("VideoMAEForVideoClassification")
    ours = encoder(saved(model, tmp_path))
    clips = torch.rand(2, 4, 3, 32, 32)
    scores = model.classifier(ours(clips).pooled)
    torch.testing.assert_close(scores, model(normalised(clips)).logits, rtol=1e-5, atol=1e-5)
    assert report_of(ours).missing == ()
    assert set(report_of(ours).unexpected) == {"classifier.weight", "classifier.bias"}


def test_a_pretraining_file_gives_its_encoder_and_names_the_rest(tmp_path: Path) -> None:
    model = videomae("VideoMAEForPreTraining", use_mean_pooling=False)
    report = report_of(encoder(saved(model, tmp_path), attention="castling"))
    assert report.missing == ("vit.fc_norm.weight", "vit.fc_norm.bias")
    assert {key.partition(".core.")[2] for key in report.new} == {"branch_scale", "dwconv.weight"}
    others = {"mask_token", "videomae", "decoder", "encoder_to_decoder"}
    assert {key.split(".")[0] for key in report.unexpected} <= others


def test_files_of_older_versions_name_biases_otherwise(tmp_path: Path) -> None:
    state = videomae("VideoMAEModel").state_dict()
    older = {k.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): v for k, v in state.items()}
    first, second = from_transformers(state), from_transformers(older)
    assert first.keys() == second.keys() and older.keys() != state.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    q, k, v = first["vit.blocks.1.attn.qkv.bias"].chunk(3)
    assert q.any() and not k.any() and v.any()


def test_order_of_frames_and_places_is_in_the_positions() -> None:
    model = encoder()
    assert model.positions.shape == (1, 2, 16, 128) and "positions" not in model.state_dict()
    assert model.num_prefix_tokens == 0 and model(torch.rand(1, 4, 3, 32, 32)).tokens.shape == (1, 32, 128)
    clip = torch.rand(1, 4, 3, 32, 32)
    assert not torch.allclose(model(clip).pooled, model(clip.flip(1)).pooled, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"mode": "divided"}, EncoderError, "mode=joint"),
        ({"pool": "token"}, EncoderError, "pool=avg"),
        ({"weights": True}, WeightsError, "file"),
    ],
)
def test_what_videomae_is_not_is_refused(options: dict, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        encoder(**options)


def test_another_architecture_or_layout_is_refused(tmp_path: Path) -> None:
    path = saved(videomae("VideoMAEModel"), tmp_path)
    with pytest.raises(WeightsError, match="another architecture"):
        encoder(path, tubelet=1)
    with pytest.raises(WeightsError, match="timm's ViT key names"):
        create_video_encoder("vit_micro", pretrained=path)
