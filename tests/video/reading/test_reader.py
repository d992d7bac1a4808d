"""Decoding: the right frames from readable files, one clear error from the others."""

from pathlib import Path

import numpy as np
import pytest

from fibo_robot.errors import FiboError
from fibo_robot.video.decode import VideoDecodeError, VideoReader
from fibo_robot.video.reading import reader
from tests.video import clips
from tests.video.odd_clips import BROKEN, READABLE


@pytest.mark.data
def test_every_odd_clip_has_an_expected_result(shared_data: Path) -> None:
    names = {file.name for file in (shared_data / "video" / "odd").iterdir()}
    assert names == set(READABLE) | set(BROKEN)


@pytest.mark.data
@pytest.mark.parametrize("name", READABLE)
def test_odd_clip_gives_the_same_frames_from_both_readers(shared_data: Path, name: str) -> None:
    path = shared_data / "video" / "odd" / name
    reader = VideoReader(path)
    count, height, width = READABLE[name]
    assert len(reader) == count
    assert reader.fps > 0 and reader.timestamps.shape == (count,)
    indices = np.unique(np.linspace(0, count - 1, 5).astype(int))
    frames = reader.read(indices[::-1])
    assert frames.shape == (len(indices), height, width, 3) and frames.dtype == np.uint8
    by_av = VideoReader(path, backend="av").read(indices)[::-1]
    assert np.abs(frames.astype(int) - by_av).max() <= 1


@pytest.mark.data
def test_a_run_that_is_read_first_needs_what_the_first_packet_says(shared_data: Path) -> None:
    # An old x264's 4:4:4 pictures: whoever seeks before he has seen its version decodes others.
    path = shared_data / "video" / "odd" / "cockatoo.mp4"
    reader = VideoReader(path, verify=False)
    np.testing.assert_array_equal(reader.read([250, 251]), VideoReader(path, backend="av").read([250, 251]))


@pytest.mark.data
@pytest.mark.parametrize("name", BROKEN)
def test_broken_clip_gives_one_clear_message(shared_data: Path, name: str) -> None:
    with pytest.raises(VideoDecodeError, match=BROKEN[name]) as raised:
        VideoReader(shared_data / "video" / "odd" / name)
    assert isinstance(raised.value, FiboError)
    assert name in str(raised.value) and "\n" not in str(raised.value)


CODECS = {
    "h264_gop8.mp4": ("libx264", {"g": "8", "bf": "3"}),
    "h264_open_gop.mp4": ("libx264", {"x264-params": "keyint=8:open_gop=1:bframes=3"}),
    "h264_intra_refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=20"}),
    "h264.mkv": ("libx264", {"g": "8", "bf": "3"}),
    "h264.ts": ("libx264", {"g": "8", "bf": "3"}),
    "h264.flv": ("libx264", {"g": "8", "bf": "3"}),
    "h264.avi": ("libx264", {"g": "8", "bf": "0"}),
    "hevc_open_gop.mp4": ("libx265", {"x265-params": "keyint=8:log-level=none"}),
    "vp8.webm": ("libvpx", {"g": "8"}),
    "vp9.webm": ("libvpx-vp9", {"g": "8"}),
    "mpeg4_b.avi": ("mpeg4", {"g": "8", "bf": "2"}),
    "mpeg2_b.mpg": ("mpeg2video", {"g": "8", "bf": "2"}),
}


@pytest.mark.parametrize("name", CODECS)
def test_frames_come_by_number_in_any_order(tmp_path: Path, name: str) -> None:
    codec, options = CODECS[name]
    rate = 25 if name.endswith(".mpg") else 30
    path = clips.write_video(
        tmp_path / name, clips.numbered_frames(40, 64, 80), codec=codec, options=options, rate=rate
    )
    wanted = [39, 3, 17, 17, 24, 8, 0, 23]
    reader = VideoReader(path)
    assert len(reader) == 40
    assert clips.frame_numbers(reader.read(wanted)) == wanted
    for number in (22, 9, 38):
        assert clips.frame_numbers(VideoReader(path, verify=False).read([number])) == [number]


@pytest.mark.parametrize("bframes", ["0", "3"])
def test_skipping_pictures_nobody_needs_changes_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bframes: str
) -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 255, (64, 200, 3)).astype(np.uint8)
    moving = np.stack([noise[:, 3 * t : 3 * t + 80] for t in range(40)])
    path = clips.write_video(
        tmp_path / "clip.mp4", moving, options={"g": "15", "bf": bframes, "sc_threshold": "0"}
    )
    decoded = []
    plain = reader.decode
    monkeypatch.setattr(reader, "decode", lambda *a: (decoded.append(f) or f for f in plain(*a)))
    wanted = [2, 7, 12, 22, 37]
    frames = VideoReader(path, verify=False).read(wanted)
    # From the keyframes 0, 15 and 30; without B-frames every picture on the way is a reference.
    on_the_way = len(range(13)) + len(range(15, 23)) + len(range(30, 38))
    assert len(decoded) == on_the_way if bframes == "0" else len(decoded) < on_the_way
    every = VideoReader(path, backend="decord").read(range(40))
    assert np.abs(frames.astype(int) - every[wanted]).max() <= 1


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (48, 48), (18, 320), (90, 54), (128, 66)])
def test_small_and_narrow_pictures_decode(tmp_path: Path, size: tuple[int, int]) -> None:
    path = clips.write_video(tmp_path / "small.mp4", clips.numbered_frames(10, *size))
    frames = VideoReader(path).read(range(10))
    assert frames.shape == (10, *size, 3)
    assert clips.frame_numbers(frames) == list(range(10))


def test_variable_frame_rate_is_told_by_timestamps(tmp_path: Path) -> None:
    pts = [0, 1, 2, 3, 30, 31, 60]
    path = clips.write_video(
        tmp_path / "vfr.mp4", clips.numbered_frames(7, 64, 64), pts=pts, options={"bf": "0"}
    )
    reader = VideoReader(path)
    assert reader.variable_rate
    np.testing.assert_allclose(reader.timestamps, np.array(pts) / 30, atol=1e-3)
    assert clips.frame_numbers(reader.read(range(7))) == list(range(7))


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    real = clips.write_video(
        tmp_path / "clip.gif", clips.numbered_frames(6, 64, 64), codec="gif", pixel_format="rgb8"
    )
    lying = tmp_path / "lying.mp4"
    lying.write_bytes(real.read_bytes())
    assert len(VideoReader(lying)) == 6


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"1\n00:00:01,000 --> 00:00:02,000\nwords\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"plain words " * 50,
    ],
    ids=["playlist", "concat", "subtitles", "picture", "text"],
)
def test_files_that_are_no_video_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lying.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match=r"lying\.mp4"):
        VideoReader(path)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError, match="no such file"):
        VideoReader(tmp_path / "missing.mp4")
    with pytest.raises(VideoDecodeError, match="not a file"):
        VideoReader(tmp_path)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm"])
def test_cut_off_file_is_an_error_not_a_shorter_clip(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3)).astype(np.uint8)
    faststart = {"movflags": "faststart"} if name.endswith("mp4") else {}
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = clips.write_video(tmp_path / name, noise, codec=codec, container_options=faststart)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(VideoDecodeError, match="cut off"):
        VideoReader(path)


def test_damage_that_a_decoder_would_hide_is_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3)).astype(np.uint8)
    path = clips.write_video(tmp_path / "clip.mp4", noise)
    content = bytearray(path.read_bytes())
    for position in np.random.default_rng(1).integers(len(content) // 4, len(content) // 2, 50):
        content[position] ^= 0xA5
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match="damaged"):
        VideoReader(path)
    with pytest.raises(VideoDecodeError, match="damaged"):
        VideoReader(path, verify=False).read([1, 30, 59])


def test_index_outside_the_clip_is_refused(tmp_path: Path) -> None:
    reader = VideoReader(clips.write_video(tmp_path / "clip.mp4", clips.numbered_frames(5, 64, 64)))
    with pytest.raises(IndexError, match=r"0\.\.4"):
        reader.read([5])
    with pytest.raises(IndexError, match=r"0\.\.4"):
        reader.read([-1])
