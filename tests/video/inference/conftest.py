"""Classifiers and a video for the tests beside it."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from fibo_robot.encoders import create_video_encoder
from fibo_robot.training.checkpoint import save_checkpoint
from fibo_robot.video.classifier import VideoClassifier
from tests.video import clips
from tests.video.command_line import ENCODER, LABELS
from tests.video.inference.stand_ins import RATE, Brightness


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with fresh weights, as training would leave it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = VideoClassifier(lambda: create_video_encoder(**ENCODER), LABELS)
    encoder = {"_target_": "fibo_robot.encoders.create_video_encoder", "_partial_": True, **ENCODER}
    config = {
        "classifier": {
            "classifier": {
                "_target_": "fibo_robot.video.classifier.VideoClassifier",
                "_partial_": True,
                "encoder": encoder,
            }
        }
    }
    meta = {"kind": "classifier", "labels": LABELS, "sampling": {"frames": 4}, "cropping": {}}
    save_checkpoint(folder, model.state_dict(), config, meta)
    return folder


@pytest.fixture
def classifier() -> Iterator[VideoClassifier]:
    """Says `falling` or `rising`, which it knows from the pictures alone."""
    model = VideoClassifier(
        lambda: create_video_encoder("vit_micro", mode="frames", frames=4, image_size=16, patch_size=8),
        ["falling", "rising"],
    ).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "forward", Brightness().forward)
        yield model


@pytest.fixture(scope="module")
def rise_and_fall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds that get brighter for three seconds and darker for three."""
    levels = np.concatenate([np.linspace(40, 200, 30), np.linspace(200, 40, 30)])
    frames = np.broadcast_to(levels[:, None, None, None], (60, 64, 96, 3)).astype(np.uint8)
    return clips.write_video(
        tmp_path_factory.mktemp("long") / "long.mp4", frames, rate=RATE, options={"g": "10"}
    )


@pytest.fixture
def small_files() -> Callable[[int], AbstractContextManager[None]]:
    """`with small_files(n)`: no file may grow beyond n bytes, as on a disk that is full."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
