"""The overlay: maps that are the attention's own, words that are the results', and a file of bounded cost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fibo_robot.attention import create_attention
from fibo_robot.attention.cores import DiagonalCore
from fibo_robot.attention.maps import received_attention
from fibo_robot.attention.sparse.reference import dense_mask
from fibo_robot.encoders import create_video_encoder
from fibo_robot.encoders.video import VideoMode
from fibo_robot.video import VideoReader
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.inference.overlay import (
    OverlayError,
    attention_map,
    draw,
    whole_video,
    write_overlay,
)
from fibo_robot.video.inference.predict import Score
from fibo_robot.video.inference.windows import SlidingWindow, WindowScores
from fibo_robot.video.training.sampling import Box
from tests.video.command_line import run


@pytest.mark.parametrize("name", ["softmax", "fibottention", "castling"])
def test_received_attention_is_the_column_sums_of_the_attention_matrix(name: str) -> None:
    core = create_attention(name, 32, 4, layer_index=1, num_prefix_tokens=1, grid=(2, 3, 3)).core.eval()
    q, k, v = torch.randn(3, 2, 4, 19, 8)
    if name == "softmax":
        matrix = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
    elif name == "castling":
        cosines = nn.functional.normalize(q, dim=-1) @ nn.functional.normalize(k, dim=-1).transpose(-1, -2)
        matrix = cosines / torch.pi + torch.eye(19) / 2
    else:
        assert isinstance(core, DiagonalCore)
        mask = dense_mask(core.offsets(19), 19, num_prefix_tokens=1)
        matrix = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    received = received_attention(core, q, k, v, num_prefix_tokens=1)
    torch.testing.assert_close(received, matrix[:, :, 1:].sum(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["joint", "divided", "frames"])
def test_the_map_has_a_value_for_every_patch_and_frame(mode: VideoMode) -> None:
    encoder = create_video_encoder("vit_micro", mode=mode, frames=4, tubelet=2, image_size=32, patch_size=8)
    heat = attention_map(encoder.eval(), torch.rand(4, 3, 32, 32))
    assert heat.shape == (2, 4, 4) and heat.min() == 0 and heat.max() == 1
    with pytest.raises(OverlayError, match="layer 9"):
        attention_map(encoder, torch.rand(4, 3, 32, 32), layer=9)


def test_the_overlay_is_the_video_with_something_on_it(
    checkpoint: Path,
    rise_and_fall: Path,
    tmp_path: Path,
) -> None:
    target = tmp_path / "out.mp4"
    status, _, _ = run(
        "classify", checkpoint, rise_and_fall, "--window", 3, "--stride", 2, "--overlay", target
    )
    assert status == 0
    plain, drawn = VideoReader(rise_and_fall), VideoReader(target)
    assert len(drawn) == len(plain) and drawn.fps == pytest.approx(plain.fps)
    numbers = [5, 20, 40, 55]
    pictures = drawn.read(numbers).astype(int)
    assert pictures.shape == (4, 384, 576, 3)
    change = np.abs(pictures - plain.read(numbers).mean((1, 2, 3), keepdims=True))
    assert change[:, 200:, 5:60].mean() < 5  # left of the square that the classifier saw, below the words
    assert change[:, 200:, 96:-96].max() > 30
    with pytest.raises(OverlayError, match=r"out\.mp4"):
        run("classify", checkpoint, rise_and_fall, "--overlay", tmp_path / "out.gif")


def test_the_model_runs_once_for_each_window(rise_and_fall: Path, tmp_path: Path) -> None:
    model = VideoClassifier(
        lambda: create_video_encoder("vit_micro", mode="frames", frames=4, image_size=16, patch_size=8),
        ["falling", "rising"],
    ).eval()
    passes = []
    model.encoder.register_forward_hook(lambda *_: passes.append(0))
    words = (Score("rising", 0.7), Score("falling", 0.3))
    windows = [WindowScores(start, end, words) for start, end in SlidingWindow(2.0, 0.5).spans(6.0)]
    write_overlay(model, rise_and_fall, tmp_path / "out.mp4", windows)
    assert len(VideoReader(tmp_path / "out.mp4")) == 60
    assert len(passes) == len(windows) == 9
    (one,) = whole_video(rise_and_fall, words)
    assert (one.start, one.end, one.scores) == (0, pytest.approx(6), words)


def black(height: int = 400, width: int = 600) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def test_the_square_that_was_seen_is_outlined() -> None:
    drawn = draw(black(), Box(0, 100, 400, 400), np.zeros((2, 2)), ()).astype(int)
    lit = np.all(drawn > 200, axis=-1)
    assert lit[200, 100] and lit[200, 499] and lit[0, 300] and lit[399, 300]
    assert not lit[:, :98].any() and not lit[:, 502:].any() and not lit[20:380, 110:490].any()
    whole = draw(black(400, 400), Box(0, 0, 400, 400), np.zeros((2, 2)), ())
    assert whole.max() < 10  # nothing is outside of it, so there is no line to draw


def text_columns(scores: tuple[Score, ...]) -> list[np.ndarray]:
    """Which columns of each line of words are lit, for lines 26 pixels apart."""
    drawn = draw(black(), Box(0, 100, 400, 400), np.zeros((2, 2)), scores)
    outside = np.all(drawn[:, :98] > 200, axis=-1)
    return [np.flatnonzero(outside[10 + 26 * line : 34 + 26 * line].any(0)) for line in range(3)]


def test_percentages_end_at_one_column_and_nothing_is_said_of_none() -> None:
    scores = (Score("jump", 0.97), Score("jump", 0.03), Score("run", 0.004))
    first, second, third = text_columns(scores)
    assert first[0] < second[0] - 3  # a digit more
    assert first[-1] == second[-1]  # the sign and the word stand below each other
    assert third.size == 0
