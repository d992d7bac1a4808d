"""A classifier with fresh weights, for the tests beside it."""

from pathlib import Path

import pytest

from fibo_robot.encoders import create_video_encoder
from fibo_robot.training.checkpoint import save_checkpoint
from fibo_robot.video.classifier import VideoClassifier
from tests.video.command_line import ENCODER, LABELS


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
