"""Multi-view testing: rates, intervals and what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fibo_robot.encoders import create_video_encoder
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import LabelledClip
from fibo_robot.video.decode import VideoDecodeError
from fibo_robot.video.inference.evaluation import VideoTest, evaluate_videos


def example() -> VideoTest:
    # Three videos, two views, three classes: the first view of the second video alone would be wrong.
    scores = np.log(
        np.array(
            [
                [[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]],
                [[0.5, 0.4, 0.1], [0.1, 0.8, 0.1]],
                [[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]],
            ]
        )
    ).astype(np.float32)
    return VideoTest(["a", "b", "c"], [Path("1"), Path("2"), Path("3")], np.array([0, 1, 1]), scores)


def test_views_are_averaged_before_the_decision() -> None:
    test = example()
    assert test.top(1).value == pytest.approx(2 / 3)
    assert test.top(2).value == 1
    assert test.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert test.to_dict()["per_class"]["b"] == {
        "videos": 2,
        "accuracy": 0.5,
        "predicted": {"a": 1, "b": 1},
    }
    assert test.to_dict()["per_class"]["c"] == {"videos": 0, "accuracy": None, "predicted": {}}


def test_interval_of_a_perfect_test_is_not_a_point() -> None:
    # Wilson's lower end for n of n is n / (n + z^2), by hand.
    scores = np.zeros((36, 1, 2), np.float32)
    scores[..., 0] = 1
    perfect = VideoTest(["a", "b"], [Path(str(n)) for n in range(36)], np.zeros(36, int), scores)
    rate = perfect.top(1)
    assert (rate.value, rate.high) == (1, 1)
    assert rate.low == pytest.approx(36 / (36 + 1.96**2), abs=1e-4)


def test_results_are_saved_with_every_view(motion_clips: Path, tmp_path: Path) -> None:
    classifier = VideoClassifier(
        lambda: create_video_encoder("vit_micro", mode="frames", frames=2, image_size=32, patch_size=16),
        ["left", "right"],
    ).eval()
    clips = [*read_clips(motion_clips).part("test")[:3], LabelledClip(tmp_path / "absent.mp4", "left")]
    test = evaluate_videos(classifier, clips, views=2, crops=3)
    assert test.scores.shape == (3, 6, 2)
    assert list(test.failures) == [str(tmp_path / "absent.mp4")]
    test.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "test.json").read_text())["videos"] == 3
    np.testing.assert_array_equal(load_file(tmp_path / "out" / "scores.safetensors")["scores"], test.scores)
    assert (tmp_path / "out" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(VideoDecodeError, match="None of 1"):
        evaluate_videos(classifier, clips[3:])
