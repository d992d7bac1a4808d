"""Encoders of transformers behind the attentive probe: the tokens that transformers gives, never trained."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fibo_robot.encoders.normalise import EncoderError
from fibo_robot.training.config import compose_config
from fibo_robot.training.overrides import train_from_overrides
from fibo_robot.video import load_classifier
from fibo_robot.video.published import PublishedError
from fibo_robot.video.published_encoder import published_encoder
from tests.video.published_models import FAMILIES, save_published

pytestmark = pytest.mark.transformers


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    return {family: save_published(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_transformers(published: dict[str, Path], family: str) -> None:
    import transformers

    clip = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    model: Any = transformers.AutoModel.from_pretrained(published[family]).eval()
    processor: Any = transformers.AutoVideoProcessor.from_pretrained(published[family])
    pixels = processor(list(clip), return_tensors="pt", do_resize=False, do_center_crop=False)
    encoder = published_encoder(published[family], frames=4, image_size=32).eval()
    given = torch.from_numpy(clip).permute(0, 3, 1, 2)[None]
    with torch.inference_mode():
        expected = model(**pixels).last_hidden_state
        tokens, pooled = encoder(given)
        torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(encoder(given.float() / 255).tokens, expected, rtol=0, atol=1e-4)
    assert pooled.shape == (1, encoder.embed_dim)


def test_a_probe_on_v_jepa_2_trains_and_is_loaded(
    published: dict[str, Path], motion_clips: Path, tmp_path: Path
) -> None:
    run = train_from_overrides(
        [
            "experiment=attentive_probe",
            "encoder=transformers_video",
            f"encoder.source={published['vjepa2']}",
            "encoder.frames=6",
            "encoder.image_size=32",
            f"data.root={motion_clips}",
            "data.batch_size=2",
            "data.steps_per_epoch=2",
            "data.num_workers=0",
            "trainer.accelerator=cpu",
            "trainer.max_epochs=1",
            "logger=none",
            f"run_dir={tmp_path / 'run'}",
        ]
    )
    stored = load_file(run / "model.safetensors")
    before = load_file(published["vjepa2"] / "model.safetensors")
    frozen = {
        name.removeprefix("encoder.model."): value for name, value in stored.items() if "encoder." in name
    }
    shared = [name for name in frozen if f"vjepa2.{name}" in before]
    assert len(shared) > 10 and all(torch.equal(frozen[name], before[f"vjepa2.{name}"]) for name in shared)
    model = load_classifier(run)
    clips = torch.zeros(1, 6, 3, 32, 32, dtype=torch.uint8)
    assert model(clips).shape == (1, 2)
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())


def test_other_clips_and_other_models_are_refused(published: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PublishedError, match=r"4 frames of 32 pixels.*encoder\.frames=4"):
        published_encoder(published["videomae"], frames=8, image_size=32)
    with pytest.raises(PublishedError, match=r"encoder\.image_size=32"):
        published_encoder(published["vjepa2"], frames=4, image_size=64)
    with pytest.raises(PublishedError, match=r"no config\.json"):
        published_encoder(tmp_path, frames=4, image_size=32)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(PublishedError, match="is a bert, not one of videomae"):
        published_encoder(tmp_path, frames=4, image_size=32)
    encoder = published_encoder(published["videomae"], frames=4, image_size=32, pretrained=False)
    with pytest.raises(EncoderError, match=r"\(B, 4, 3, 32, 32\)"):
        encoder(torch.zeros(1, 8, 3, 32, 32))


def test_encoders_of_the_experiment_can_be_exchanged() -> None:
    given = {
        "videomae_base": ["encoder.pretrained=w"],
        "transformers_video": ["encoder.source=w"],
        "dinov2_frames": [],
    }
    for encoder, more in given.items():
        overrides = ["experiment=attentive_probe", f"encoder={encoder}", "data.root=clips", *more]
        config = compose_config(overrides)
        assert config.data.sampling.frames == 16
        assert ("mode" in config.encoder) == (encoder != "transformers_video")


def test_a_checkpoint_without_all_its_weights_is_refused(published: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(published["videomae"], tmp_path / "part")
    weights = load_file(tmp_path / "part" / "model.safetensors")
    del weights["videomae.encoder.layer.1.layernorm_before.weight"]
    save_file(weights, tmp_path / "part" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PublishedError, match=r"lacks 1 of its weights, as encoder\.layer\.1"):
        published_encoder(tmp_path / "part", frames=4, image_size=32)
