"""The attentive probe: a frozen encoder, four blocks, and a query that sees the order of frames."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fibo_robot.encoders import create_video_encoder
from fibo_robot.encoders.video import VideoMode
from fibo_robot.training.module import parameter_groups
from fibo_robot.training.overrides import train_from_overrides
from fibo_robot.video import load_classifier
from fibo_robot.video.attentive_probe import AttentiveProbe, ProbeError, QueryBlock

TINY = [
    "experiment=attentive_probe",
    "encoder.name=vit_micro",
    "encoder.image_size=32",
    "encoder.patch_size=8",
    "encoder.frames=4",
    "encoder.pool=avg",
    "encoder.pretrained=false",
    "data.batch_size=4",
    "data.steps_per_epoch=2",
    "data.cache_side=32",
    "data.num_workers=0",
    "optimizer.lr=2e-3",
    "optimizer.warmup_steps=0",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "logger=none",
]


def probe(mode: VideoMode = "frames", **options) -> AttentiveProbe:
    torch.manual_seed(0)
    return AttentiveProbe(
        lambda: create_video_encoder("vit_micro", mode=mode, frames=4, image_size=32, patch_size=8),
        ["a", "b"],
        **options,
    )


def clips() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 4, 3, 32, 32)).astype(np.uint8))


@pytest.fixture(scope="module")
def trained(motion_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "run"
    return train_from_overrides([*TINY, f"data.root={motion_clips}", f"run_dir={folder}"])


def test_only_the_probe_is_trained(trained: Path) -> None:
    stored = load_file(trained / "model.safetensors")
    # An encoder from scratch begins with these at zero, and any step of training would move them.
    encoder = [name for name in stored if re.match(r"encoder\.vit\.blocks\..*bias$", name)]
    probe = [name for name in stored if re.match(r"probe\..*bias$", name)]
    assert encoder and not any(stored[name].any() for name in encoder)
    assert probe and all(stored[name].any() for name in probe)


def test_a_trained_probe_is_loaded(trained: Path) -> None:
    model = load_classifier(trained)
    assert isinstance(model, AttentiveProbe) and model.labels == ["left", "right"]
    assert not any(module.training for module in model.modules())
    stored = load_file(trained / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
    assert model(clips()).shape == (2, 2)


def test_the_encoder_gets_no_gradient_and_stays_in_evaluation_mode() -> None:
    model = probe().train()
    assert model.training and model.probe.training and not model.encoder.training
    model(clips()).sum().backward()
    with_gradient = {name for name, value in model.named_parameters() if value.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if not name.startswith("encoder.")}
    for layer_decay in (None, 0.75):
        groups = parameter_groups(model, 0.1, layer_decay)
        grouped = {id(value) for group in groups for value in group["params"]}
        assert grouped == {id(value) for value in model.parameters() if value.requires_grad}
    undecayed = [group for group in parameter_groups(model, 0.1) if group["weight_decay"] == 0]
    query = model.get_parameter("probe.3.query")
    assert any(value is query for group in undecayed for value in group["params"])


def test_the_probe_has_the_blocks_of_the_protocol() -> None:
    model, width = probe(), 128
    # Of a block: qkv, projection, an MLP of 4 times the width, biases, two norms; of the last a query, too.
    block = 12 * width**2 + 13 * width
    counted = [sum(value.numel() for value in part.parameters()) for part in model.probe]
    assert counted == [block, block, block, block + width]
    assert probe(depth=1).get_parameter("probe.0.query").shape == (1, 1, width)


@pytest.mark.parametrize("mode", ["frames", "joint"])
def test_the_order_of_frames_reaches_the_scores(mode: VideoMode) -> None:
    model, given = probe(mode).eval(), clips()
    forwards, backwards = model(given), model(given.flip(1))
    if mode == "frames":  # without the probe, the encoder's mean is blind to it
        same = model.encoder(given).pooled, model.encoder(given.flip(1)).pooled
        torch.testing.assert_close(*same)
    else:
        torch.nn.init.normal_(model.encoder.temporal_embed)
        forwards, backwards = model(given), model(given.flip(1))
    assert (forwards - backwards).abs().max() > 1e-4


def test_the_query_block_is_attention_by_hand() -> None:
    block = probe().probe[-1].eval()
    assert isinstance(block, QueryBlock)
    tokens = torch.randn(3, 7, 128)
    keys = block.norm1(tokens)
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    q = (block.query @ weight[:128].T + bias[:128]).expand(3, -1, -1)
    k, v = keys @ weight[128:256].T + bias[128:256], keys @ weight[256:].T + bias[256:]
    q, k, v = (x.unflatten(-1, (2, 64)).transpose(1, 2) for x in (q, k, v))
    mixed = ((q @ k.transpose(-1, -2) / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)
    gathered = block.query + mixed @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    expected = (gathered + block.mlp(block.norm2(gathered)))[:, 0]
    torch.testing.assert_close(block(tokens), expected, rtol=1e-4, atol=1e-5)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ProbeError, match="num_heads 3, the width 128"):
        probe(num_heads=3)
    with pytest.raises(ProbeError, match="depth is 0"):
        probe(depth=0)
