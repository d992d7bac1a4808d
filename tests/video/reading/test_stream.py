"""Reading frames one after another: the same as reading them by number, in one pass."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fibo_robot.video.decode import VideoDecodeError, VideoReader
from fibo_robot.video.reading import reader as reader_module
from fibo_robot.video.reading.clip import open_clip
from fibo_robot.video.reading.frames import FrameFolder
from tests.video import clips
from tests.video.odd_clips import READABLE
from tests.video.reading.test_reader import CODECS


@pytest.mark.parametrize("name", CODECS)
def test_a_stream_gives_the_frames_in_their_order(tmp_path: Path, name: str) -> None:
    codec, options = CODECS[name]
    rate = 25 if name.endswith(".mpg") else 30
    frames = clips.numbered_frames(40, 64, 80)
    path = clips.write_video(tmp_path / name, frames, codec=codec, options=options, rate=rate)
    reader = VideoReader(path)
    assert [clips.frame_numbers(frame[None])[0] for frame in reader.stream([7, 3, 3, 39, 22])] == [
        3,
        7,
        22,
        39,
    ]
    assert len(list(reader.stream(range(40)))) == 40


@pytest.mark.data
@pytest.mark.parametrize("name", READABLE)
def test_odd_clips_stream_as_they_are_read(shared_data: Path, name: str) -> None:
    reader = VideoReader(shared_data / "video" / "odd" / name, backend="av")
    numbers = np.unique(np.linspace(0, len(reader) - 1, 4).astype(int))
    frames = np.stack(list(reader.stream(numbers)))
    assert frames.shape[1:3] == READABLE[name][1:]
    for number, frame in zip(numbers, frames):
        np.testing.assert_array_equal(reader.read([number])[0], frame)


def test_a_stream_that_meets_damage_says_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3)).astype(np.uint8)
    path = clips.write_video(tmp_path / "clip.mp4", noise)
    content = bytearray(path.read_bytes())
    for position in np.random.default_rng(1).integers(len(content) // 4, len(content) // 2, 50):
        content[position] ^= 0xA5
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match="damaged"):
        list(VideoReader(path, verify=False).stream(range(60)))


def test_a_stream_goes_on_without_skipping_where_skipping_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips.write_video(tmp_path / "clip.mp4", clips.numbered_frames(20, 64, 64))
    reader = VideoReader(path)
    plain = reader_module.decode

    def fails_late(path, container, stream, wanted=None):
        for number, frame in enumerate(plain(path, container, stream, wanted)):
            if wanted is not None and number == 6:
                raise VideoDecodeError("skipping failed")
            yield frame

    monkeypatch.setattr(reader_module, "decode", fails_late)
    frames = np.stack(list(reader.stream(range(0, 20, 2))))
    assert clips.frame_numbers(frames) == list(range(0, 20, 2))


def test_two_pictures_of_one_number_are_refused(tmp_path: Path) -> None:
    for name in ("1.jpg", "001.jpg", "2.jpg"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    with pytest.raises(VideoDecodeError, match=r"001\.jpg and 1\.jpg are both frame 1"):
        FrameFolder(tmp_path)


def test_a_clip_as_models_take_it_is_counted_at_an_even_rate(tmp_path: Path) -> None:
    pts = [0, 1, 2, 3, 30, 60, 90]
    frames = clips.numbered_frames(7, 64, 64)
    reader = open_clip(clips.write_video(tmp_path / "v.mp4", frames, pts=pts, options={"bf": "0"}))
    clip = reader.clip(np.array([0, 1, 2, 3]))  # the even grid has a step of half a second
    assert clip.shape == (4, 3, 64, 64)
    assert clips.frame_numbers(clip.numpy()) == [0, 3, 4, 4]
