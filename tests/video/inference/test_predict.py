"""Views of a clip: the frames that reading each view alone would give, in one pass through the file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fibo_robot.video.decode import VideoReader
from fibo_robot.video.inference.views import read_views, square_crops
from fibo_robot.video.reading import reader as reader_module
from fibo_robot.video.training.clips import crop_and_resize
from fibo_robot.video.training.sampling import ClipSampling, Cropping
from tests.video import clips


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (90, 64, 96, 3)).astype(np.uint8)
    return clips.write_video(tmp_path_factory.mktemp("views") / "clip.mp4", frames, options={"g": "12"})


@pytest.mark.parametrize("sampling", [ClipSampling("dense", 8, 4), ClipSampling("uniform", 8)])
def test_views_are_those_of_reading_each_alone(noise: Path, sampling: ClipSampling) -> None:
    views, crops, cropping = 4, 3, Cropping(test_side=0.875)
    expected = []
    reader = VideoReader(noise, backend="av")
    for numbers in sampling.views(len(reader), views):
        frames = torch.from_numpy(reader.read(numbers)).permute(0, 3, 1, 2)
        expected += [crop_and_resize(frames, box, 32) for box in cropping.test(64, 96, crops)]
    found = read_views(noise, sampling, lambda picture: square_crops(picture, cropping, 32, crops), views)
    assert found.shape == (12, 8, 3, 32, 32)
    assert torch.equal(found, torch.stack(expected))


def test_views_decode_no_frame_twice(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    plain = reader_module.decode
    monkeypatch.setattr(reader_module, "decode", lambda *a: (decoded.append(f.pts) or f for f in plain(*a)))
    read_views(noise, ClipSampling("dense", 8, 4), lambda p: square_crops(p, Cropping(), 16), views=10)
    assert len(decoded) == len(set(decoded)) <= 90


def test_crops_of_a_picture_are_squares_along_its_longer_side() -> None:
    picture = np.arange(96, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    left, middle, right = square_crops(picture, Cropping(), 64, 3)
    assert (left[0, 0, 0], middle[0, 0, 0], right[0, 0, 0]) == (0, 16, 32)
