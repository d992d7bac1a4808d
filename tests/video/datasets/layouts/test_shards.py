"""Clips that are no video files: folders of pictures, and videos inside tar files."""

import io
import json
import pickle
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fibo_robot.video.datasets.check import check_clip, check_clips, find_clips
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import ClipTableError
from fibo_robot.video.decode import VideoDecodeError, VideoReader
from fibo_robot.video.inference.views import read_views, square_crops
from fibo_robot.video.reading.clip import open_clip
from fibo_robot.video.reading.frames import FrameFolder
from fibo_robot.video.reading.stored import tar_members
from fibo_robot.video.training.clips import ClipDataset
from fibo_robot.video.training.sampling import ClipSampling, Cropping
from tests.video import clips


def write_frames(folder: Path, frames: np.ndarray, name: str = "{:05d}.png", first: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(frames, start=first):
        Image.fromarray(picture).save(folder / name.format(number))
    return folder


@pytest.mark.parametrize(
    ("name", "first"),
    [("{:05d}.png", 1), ("img_{:05d}.jpg", 1), ("frame{}.JPEG", 0), ("{:06d}.png", 996)],
)
def test_folder_of_pictures_reads_like_a_video(tmp_path: Path, name: str, first: int) -> None:
    folder = write_frames(tmp_path / "clip", clips.numbered_frames(12, 24, 40), name, first)
    (folder / "notes.txt").write_text("not a picture")
    reader = open_clip(folder, frame_rate=12)
    assert len(reader) == 12 and reader.fps == 12 and not reader.variable_rate
    np.testing.assert_allclose(reader.timestamps, np.arange(12) / 12)
    frames = reader.read([11, 0, 3, 3])
    assert frames.shape == (4, 24, 40, 3) and frames.dtype == np.uint8
    assert clips.frame_numbers(frames) == [11, 0, 3, 3]
    with pytest.raises(IndexError, match=r"0\.\.11"):
        reader.read([12])


def test_flow_beside_the_pictures_is_left_out_and_other_kinds_are_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", clips.numbered_frames(5, 16, 16), "img_{:05d}.png")
    write_frames(folder, clips.numbered_frames(4, 16, 16), "flow_x_{:05d}.png")
    assert len(FrameFolder(folder)) == 5
    write_frames(folder, clips.numbered_frames(4, 16, 16), "depth_{:05d}.png")
    with pytest.raises(VideoDecodeError, match="several kinds"):
        FrameFolder(folder)


def test_pictures_may_be_every_third_but_none_may_be_missing(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", clips.numbered_frames(10, 16, 16))
    for number in range(1, 11):
        if number % 3 != 1:
            (folder / f"{number:05d}.png").unlink()
    assert clips.frame_numbers(FrameFolder(folder).read(range(4))) == [0, 3, 6, 9]
    (folder / "00004.png").unlink()
    with pytest.raises(VideoDecodeError, match=r"frame 4 is missing after 00001\.png"):
        FrameFolder(folder)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_damaged_pictures_are_errors(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    folder = write_frames(tmp_path / "clip", noise, "{:05d}." + suffix)
    last = folder / f"00004.{suffix}"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    with pytest.raises(VideoDecodeError, match=last.name):
        FrameFolder(folder)
    unchecked = FrameFolder(folder, verify=False)
    assert unchecked.read([0, 2]).shape == (2, 32, 32, 3)
    with pytest.raises(VideoDecodeError, match=last.name):
        unchecked.read([3])
    Image.fromarray(noise[0, :16]).save(last)
    with pytest.raises(VideoDecodeError, match=r"32x16 pixels.*32x32"):
        FrameFolder(folder)
    with pytest.raises(VideoDecodeError, match="no pictures"):
        FrameFolder(tmp_path)


def test_class_folders_may_hold_folders_of_pictures(tmp_path: Path) -> None:
    for label in ("run", "jump"):
        write_frames(tmp_path / "train" / label / "clip_1", clips.numbered_frames(6, 32, 32))
    clips.write_video(tmp_path / "train" / "run" / "clip_2.mp4", clips.numbered_frames(6, 64, 64))
    table = read_clips(tmp_path)
    assert [(clip.path.name, clip.label) for clip in table.clips] == [
        ("clip_1", "jump"),
        ("clip_1", "run"),
        ("clip_2.mp4", "run"),
    ]
    data = ClipDataset(table.clips, table.labels, ClipSampling(frames=3), Cropping(), 16, training=False)
    item = data[1, 0]
    assert isinstance(item, tuple)
    pictures, label = item
    assert pictures.shape == (3, 3, 16, 16) and table.labels[label] == "run"
    assert clips.frame_numbers(pictures.numpy()) == [1, 3, 5]
    cut = partial(square_crops, cropping=Cropping(), size=16)
    assert read_views(table.clips[0].path, ClipSampling(frames=2), cut, views=2).shape[0] == 2

    row = check_clip(table.clips[0].path, frame_rate=12)
    assert (row.frames, row.fps, row.height, row.codec, row.reader) == (6, 12.0, 32, "png", "pictures")
    assert row.size_bytes > 0 and row.problem == ""


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("video")
    path = clips.write_video(folder / "v.mp4", clips.numbered_frames(12, 64, 80), options={"g": "4"})
    return path.read_bytes()


class Trap:
    """Unpickling it would raise."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickled member was opened",))


def test_shards_are_decoded_where_they_lie(tmp_path: Path, video: bytes) -> None:
    shards = tmp_path / "shards, with a comma"
    small = clips.write_video(tmp_path / "small.mkv", clips.numbered_frames(5, 48, 48)).read_bytes()
    write_shard(
        shards / "train-000000.tar",
        {"a/0001.cls": b"3\n", "a/0001.mp4": video, "a/0001.pyd": pickle.dumps(Trap()), "0002.mkv": small,
         "0002.json": json.dumps({"label": "jump", "split": "val"}).encode(), "0002.txt": b"a caption"},
    )  # fmt: skip
    write_shard(shards / "test-000000.tar", {"x.mp4": video, "x.txt": "spülen".encode()})
    before = sorted(tmp_path.rglob("*"))
    table = read_clips(shards)
    assert [(clip.path.relative_to(shards).as_posix(), clip.label, clip.split) for clip in table.clips] == [
        ("test-000000.tar/x.mp4", "spülen", "test"),
        ("train-000000.tar/a/0001.mp4", "3", "train"),
        ("train-000000.tar/0002.mkv", "jump", "val"),
    ]
    assert "webdataset shards: 2 tar files" in table.description

    first, _, small_one = (VideoReader(clip.path) for clip in table.clips)
    assert clips.frame_numbers(first.read([11, 2, 7])) == [11, 2, 7]
    assert clips.frame_numbers(small_one.read([4, 0])) == [4, 0]
    by_decord = VideoReader(table.clips[0].path, backend="decord")
    assert np.abs(by_decord.read(range(12)).astype(int) - first.read(range(12))).max() <= 1
    assert by_decord.backend == "decord"
    assert sorted(tmp_path.rglob("*")) == before  # nothing was extracted

    files, _ = find_clips(shards)
    rows = check_clips(files, tmp_path / "checked.csv")
    assert [(row.frames, row.size_bytes, row.problem) for row in rows] == [
        (12, len(video), ""),
        (12, len(video), ""),
        (5, len(small), ""),
    ]


def test_one_tar_file_is_a_data_set_and_folders_are_splits(tmp_path: Path, video: bytes) -> None:
    shard = write_shard(tmp_path / "val" / "0.tar", {"./k.mp4": video, "./k.cls": b"run"})
    (one,) = read_clips(shard).clips
    assert (one.label, one.split) == ("run", "")
    (one,) = read_clips(tmp_path).clips
    assert (one.label, one.split) == ("run", "val")
    assert len(VideoReader(one.path)) == 12


def test_damaged_video_in_a_shard_is_an_error_for_that_clip(tmp_path: Path, video: bytes) -> None:
    shard = write_shard(
        tmp_path / "0.tar", {"bad.mp4": video[:500], "bad.cls": b"0", "good.mp4": video, "good.cls": b"0"}
    )
    bad, good = (clip.path for clip in read_clips(shard).clips)
    with pytest.raises(VideoDecodeError, match=r"bad\.mp4"):
        VideoReader(bad)
    assert len(VideoReader(good)) == 12
    with pytest.raises(VideoDecodeError, match=r"none\.mp4: no such file"):
        VideoReader(shard / "none.mp4")


def test_what_is_wrong_with_a_shard_is_said(tmp_path: Path, video: bytes) -> None:
    with pytest.raises(ClipTableError, match=r"k has no label.*k\.json has caption"):
        read_clips(write_shard(tmp_path / "1.tar", {"k.mp4": video, "k.json": b'{"caption": "run"}'}))
    with pytest.raises(ClipTableError, match=r"k\.json: the field 'label' must be one name.*\[1, 5\]"):
        read_clips(write_shard(tmp_path / "5.tar", {"k.mp4": video, "k.json": b'{"label": [1, 5]}'}))
    with pytest.raises(ClipTableError, match="no JSON"):
        read_clips(write_shard(tmp_path / "2.tar", {"k.mp4": video, "k.json": b"{"}))
    with pytest.raises(ClipTableError, match="leads out"):
        read_clips(write_shard(tmp_path / "3.tar", {"../k.mp4": video, "../k.cls": b"0"}))
    with pytest.raises(ClipTableError, match="no videos"):
        read_clips(write_shard(tmp_path / "4.tar", {"k.jpg": b"", "k.cls": b"0"}))
    cut = write_shard(tmp_path / "5.tar", {"k.cls": b"0", "k.mp4": video})
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(ClipTableError, match=r"5\.tar.*cut off|5\.tar.*not a readable"):
        read_clips(cut)
    whole = write_shard(tmp_path / "whole.tar", {name: video for name in ("a.mp4", "b.mp4", "c.mp4")})
    with tarfile.open(whole) as archive:
        second = archive.getmembers()[1].offset
    content = bytearray(whole.read_bytes())
    for number, length in enumerate((second, second + 100)):  # between two entries, and within a header
        (tmp_path / f"cut{number}.tar").write_bytes(content[:length])
        with pytest.raises(VideoDecodeError, match=r"cut off after 1 entries"):
            tar_members(tmp_path / f"cut{number}.tar")
    content[second] ^= 255
    whole.write_bytes(content)
    with pytest.raises(VideoDecodeError, match=r"damaged after 1 entries"):
        tar_members(whole)
    (tmp_path / "6.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(ClipTableError, match="unpack it if it is compressed"):
        read_clips(tmp_path / "6.tar")
