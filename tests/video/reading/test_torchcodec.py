"""torchcodec as a backend: PyAV's frames or none, and a clear word where something is missing."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fibo_robot.extras import MissingExtraError
from fibo_robot.video.decode import VideoDecodeError, VideoReader
from fibo_robot.video.reading import libraries
from fibo_robot.video.reading.libraries import torchcodec_refusal
from fibo_robot.video.reading.scan import scan
from tests.video import clips
from tests.video.odd_clips import BROKEN, READABLE
from tests.video.reading.test_reader import CODECS

NUMBERS = [7, 3, 3, 39, 22, 0]


@pytest.fixture
def forgotten():
    libraries._torchcodec_decoders.cache_clear()
    yield
    libraries._torchcodec_decoders.cache_clear()


@pytest.mark.torchcodec
@pytest.mark.parametrize("name", CODECS)
def test_frames_come_by_number_in_any_order(tmp_path: Path, name: str) -> None:
    codec, options = CODECS[name]
    rate = 25 if name.endswith(".mpg") else 30
    frames = clips.numbered_frames(40, 64, 80)
    path = clips.write_video(tmp_path / name, frames, codec=codec, options=options, rate=rate)
    if torchcodec_refusal(scan(path)) is not None:
        pytest.skip("left to PyAV")
    for numbers in (NUMBERS, [17], list(range(40))):
        reader = VideoReader(path, verify=False, backend="torchcodec")
        assert clips.frame_numbers(reader.read(numbers)) == numbers
        assert reader.backend == "torchcodec"


@pytest.mark.data
@pytest.mark.torchcodec
@pytest.mark.parametrize("name", READABLE)
def test_odd_clips_that_it_takes_have_the_frames_of_pyav(shared_data: Path, name: str) -> None:
    path = shared_data / "video" / "odd" / name
    if torchcodec_refusal(scan(path)) is not None:
        pytest.skip("left to PyAV")
    count, height, width = READABLE[name]
    numbers = np.unique(np.linspace(0, count - 1, 7).astype(int))
    reader = VideoReader(path, backend="torchcodec")
    frames = np.concatenate([reader.read([number]) for number in numbers[::-1]])[::-1]
    assert reader.backend == "torchcodec" and len(reader) == count
    assert frames.shape == (len(numbers), height, width, 3)
    assert np.abs(frames.astype(int) - VideoReader(path, backend="av").read(numbers)).max() <= 1


@pytest.mark.data
def test_what_it_would_get_wrong_is_left_to_pyav(shared_data: Path) -> None:
    # Found by reading every odd clip with bare torchcodec: see docs/video.md.
    wrong = {
        *("RATRACE_wave_f_nm_np1_fr_goo_37.avi", "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi"),
        *("TrumanShow_wave_f_nm_np1_fr_med_26.avi", "h264_10bits.mp4", "mpeg2.mpg"),
    }
    odd = shared_data / "video" / "odd"
    taken = {name for name in READABLE if torchcodec_refusal(scan(odd / name)) is None}
    assert taken.isdisjoint(wrong)
    assert {"av1_video.mkv", "vp9.webm", "tiny_16x16.mp4", "video_90.mov", "hevc.mp4"} <= taken


@pytest.mark.data
@pytest.mark.torchcodec
def test_broken_clips_stay_broken(shared_data: Path) -> None:
    for name, reason in BROKEN.items():
        with pytest.raises(VideoDecodeError, match=reason):
            VideoReader(shared_data / "video" / "odd" / name, backend="torchcodec")


@pytest.mark.torchcodec
def test_bytes_are_read_from_memory(tmp_path: Path) -> None:
    path = clips.write_video(tmp_path / "clip.mp4", clips.numbered_frames(40, 64, 64))
    reader = VideoReader(path.read_bytes(), backend="torchcodec")
    path.unlink()
    assert clips.frame_numbers(reader.read(NUMBERS)) == NUMBERS and reader.backend == "torchcodec"


def test_without_torchcodec_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    path = clips.write_video(tmp_path / "clip.mp4", clips.numbered_frames(3, 64, 64))
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(MissingExtraError, match=r"fibo-robot\[torchcodec\]"):
        VideoReader(path, backend="torchcodec")
    assert len(VideoReader(path).read(range(3))) == 3


def test_without_ffmpeg_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    path = clips.write_video(tmp_path / "clip.mp4", clips.numbered_frames(3, 64, 64))
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(ffmpeg_major_version=None))
    with pytest.raises(VideoDecodeError, match="apt-get install ffmpeg"):
        VideoReader(path, backend="torchcodec")
