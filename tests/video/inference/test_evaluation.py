"""Multi-view testing: rates, intervals and what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fibo_robot.encoders import create_video_encoder
from fibo_robot.errors import FiboError
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import LabelledClip
from fibo_robot.video.decode import VideoDecodeError
from fibo_robot.video.inference.evaluation import evaluate_videos
from fibo_robot.video.inference.predict import view_scores
from fibo_robot.video.inference.results import VideoTest
from fibo_robot.video.inference.views import read_views


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
    clips = [*read_clips(motion_clips).part("test")[:3], LabelledClip(tmp_path / "absent.mp4", ("left",))]
    test = evaluate_videos(classifier, clips, views=2, crops=3)
    assert test.scores.shape == (3, 6, 2)
    assert list(test.failures) == [str(tmp_path / "absent.mp4")]
    test.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "test.json").read_text())["videos"] == 3
    np.testing.assert_array_equal(load_file(tmp_path / "out" / "scores.safetensors")["scores"], test.scores)
    assert (tmp_path / "out" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(VideoDecodeError, match="None of 1"):
        evaluate_videos(classifier, clips[3:])
    torch.nn.init.constant_(next(classifier.parameters()), torch.nan)
    with pytest.raises(FiboError, match="no finite numbers"):
        evaluate_videos(classifier, clips[:1])


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 2), (100, 1)])
def test_batches_and_processes_change_no_score(
    motion_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, workers: int
) -> None:
    torch.manual_seed(0)
    classifier = VideoClassifier(
        lambda: create_video_encoder("vit_micro", mode="frames", frames=2, image_size=32, patch_size=16),
        ["left", "right"],
    ).eval()
    clips = read_clips(motion_clips).part("test")[:4]
    clips.insert(1, LabelledClip(tmp_path / "absent.mp4", ("left",)))
    there = [clip.path for clip in clips if clip.path.exists()]
    expected = [
        view_scores(classifier, read_views(path, classifier.sampling, classifier.squares, 3))
        for path in there
    ]
    seen: list[int] = []
    forward = classifier.forward

    def counted(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return forward(batch)

    monkeypatch.setattr(classifier, "forward", counted)
    test = evaluate_videos(classifier, clips, views=3, batch_size=batch_size, workers=workers)
    assert seen == {1: [1] * 12, 4: [4, 4, 4], 100: [12]}[batch_size]
    assert test.paths == there
    np.testing.assert_allclose(test.scores, torch.stack(expected).numpy(), rtol=1e-4, atol=1e-5)


def test_what_no_video_can_be_tested_with_is_said_in_a_sentence(
    motion_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = VideoClassifier(
        lambda: create_video_encoder("vit_micro", mode="frames", frames=2, image_size=32, patch_size=16),
        ["left", "right"],
    ).eval()

    def refuse(picture: np.ndarray, crops: int = 1) -> torch.Tensor:
        raise FiboError("too small to cut.")

    monkeypatch.setattr(classifier, "squares", refuse)
    with pytest.raises(FiboError, match=r"^too small to cut\.$"):
        evaluate_videos(classifier, read_clips(motion_clips).part("test")[:2], workers=1)
