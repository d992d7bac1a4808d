"""A reader as a sequence of frames, by time, and of bytes and open files."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fibo_robot.video.decode import VideoDecodeError, VideoReader
from fibo_robot.video.reading.errors import FrameTimeError
from fibo_robot.video.reading.frames import FrameFolder
from fibo_robot.video.reading.interface import ClipReader
from tests.video import clips


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames that tell their number, 30 a second."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return clips.write_video(path, clips.numbered_frames(40, 64, 80), options={"g": "8", "bf": "3"})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder of pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, frame in enumerate(clips.numbered_frames(40, 64, 80)):
        Image.fromarray(frame).save(folder / f"{number:05d}.png")
    return folder


@pytest.fixture(params=["file", "folder"])
def reader(request: pytest.FixtureRequest, video: Path, pictures: Path) -> ClipReader:
    return VideoReader(video) if request.param == "file" else FrameFolder(pictures)


@pytest.mark.parametrize("number", [0, 17, 39, -1, -40, np.int64(5)])
def test_one_frame_is_found_as_in_a_list(reader: ClipReader, number: int) -> None:
    frame = reader[number]
    assert frame.shape == (64, 80, 3) and frame.dtype == np.uint8
    assert clips.frame_numbers(frame[None]) == [range(40)[number]]


@pytest.mark.parametrize("number", [40, -41])
def test_a_frame_beyond_the_ends_is_refused(reader: ClipReader, number: int) -> None:
    with pytest.raises(IndexError, match=r"0\.\.39"):
        reader[number]


@pytest.mark.parametrize("key", ["1", 1.5, [1, 2], np.arange(3), ...])
def test_other_keys_are_refused_in_a_sentence(reader: ClipReader, key) -> None:
    with pytest.raises(TypeError, match=r"whole number or a slice.*read\(numbers\)"):
        reader[key]


@pytest.mark.parametrize("numbers", [[1.5], [[1, 2]], [True, False], 3])
def test_numbers_are_not_rounded_or_flattened(reader: ClipReader, numbers) -> None:
    with pytest.raises(TypeError, match="whole numbers in a row"):
        reader.read(numbers)


@pytest.mark.parametrize(
    "part", [slice(3, 7), slice(None, None, 9), slice(-3, None), slice(None, None, -13), slice(30, 99)]
)
def test_a_slice_holds_what_it_holds_of_a_list(reader: ClipReader, part: slice) -> None:
    assert clips.frame_numbers(reader[part]) == list(range(40))[part]


def test_an_empty_slice_is_no_frames_of_the_right_size(reader: ClipReader) -> None:
    assert reader[9:9].shape == (0, 64, 80, 3)


def test_iteration_goes_through_all_frames_and_can_be_repeated(reader: ClipReader) -> None:
    for _ in range(2):
        assert clips.frame_numbers(np.stack(list(reader))) == list(range(40))


def test_a_stretch_of_time_includes_its_start_and_not_its_end(reader: ClipReader) -> None:
    assert clips.frame_numbers(reader.frames_between(0, 0.1)) == [0, 1, 2]
    # Frame 6 appears at 6/30 s, and floats of it lie on either side.
    assert clips.frame_numbers(reader.frames_between(0.2, 8 / 30)) == [6, 7]
    assert clips.frame_numbers(reader.frames_between(1.3, 1000)) == [39]
    assert reader.frames_between(0.201, 0.21).shape == (0, 64, 80, 3)
    assert len(reader.frames_between(-5, float("inf"))) == 40


@pytest.mark.parametrize(("start", "stop"), [(1, 1), (2, 1), (float("nan"), 1), (0, float("nan"))])
def test_a_stretch_of_no_length_is_refused(reader: ClipReader, start: float, stop: float) -> None:
    with pytest.raises(FrameTimeError, match="after the first"):
        reader.frames_between(start, stop)


def test_times_of_frames_decide_not_their_numbers(tmp_path: Path) -> None:
    frames, pts = clips.numbered_frames(7, 64, 64), [0, 1, 2, 3, 30, 31, 60]
    path = clips.write_video(tmp_path / "uneven.mp4", frames, pts=pts, options={"bf": "0"})
    assert clips.frame_numbers(VideoReader(path).frames_between(1, 2)) == [4, 5]


@pytest.mark.parametrize("backend", ["av", "decord"])
def test_bytes_and_open_files_give_the_frames_of_the_file(video: Path, backend) -> None:
    content = video.read_bytes()
    expected = VideoReader(video, backend=backend).read(range(40))
    with video.open("rb") as stream:
        readers = [VideoReader(given, backend=backend) for given in (content, BytesIO(content), stream)]
    for reader in readers:  # the file is closed by now
        assert reader.backend == VideoReader(video, backend=backend).backend
        np.testing.assert_array_equal(reader.read(range(40)), expected)
        np.testing.assert_array_equal(reader.read([31, 2]), expected[[31, 2]])
    assert readers[2].path == video


def test_bytes_that_are_no_video_are_refused_in_a_sentence(video: Path, tmp_path: Path) -> None:
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n" + str(video).encode() + b"\n#EXT-X-ENDLIST\n"
    for content in (b"", b"plain words " * 50, playlist, video.read_bytes()[:2000]):
        with pytest.raises(VideoDecodeError, match=r"^video in memory: [^\n]*$"):
            VideoReader(content)
    at_its_end = BytesIO(b"x")
    at_its_end.read()
    with pytest.raises(VideoDecodeError, match=r"seek\(0\)"):
        VideoReader(at_its_end)
    text = tmp_path / "list.txt"
    text.write_text("words")
    with text.open() as stream, pytest.raises(VideoDecodeError, match="binary mode"):
        VideoReader(stream)  # pyright: ignore[reportArgumentType]


def test_a_file_that_was_written_over_is_read_anew(tmp_path: Path) -> None:
    path = clips.write_video(tmp_path / "clip.mp4", clips.numbered_frames(5, 64, 64))
    assert len(VideoReader(path)) == 5
    clips.write_video(path, clips.numbered_frames(9, 64, 64))
    assert len(VideoReader(path)) == 9


def test_what_is_no_video_at_all_is_refused_in_a_sentence(video: Path) -> None:
    for other in (3, None):
        with pytest.raises(VideoDecodeError, match="A video is a path, the bytes of one"):
            VideoReader(other)  # pyright: ignore[reportArgumentType]
    with video.open(encoding="utf-8") as text, pytest.raises(VideoDecodeError, match="opened as text"):
        VideoReader(text)  # pyright: ignore[reportArgumentType]
    with video.open("rb") as closed:
        pass
    with pytest.raises(VideoDecodeError, match="closed"):
        VideoReader(closed)
    with pytest.raises(VideoDecodeError, match=r"no backend 'opencv'; it is av, decord, torchcodec"):
        VideoReader(video, backend="opencv")  # pyright: ignore[reportArgumentType]
