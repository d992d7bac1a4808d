"""Clips that are some seconds of a longer video: in the table, in training, and in testing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import ClipTableError, LabelledClip
from fibo_robot.video.decode import VideoDecodeError
from fibo_robot.video.reading.clip import open_clip
from fibo_robot.video.reading.excerpt import Span
from fibo_robot.video.training.clips import BrokenClip, ClipDataset
from fibo_robot.video.training.data import VideoData
from fibo_robot.video.training.sampling import ClipSampling, Cropping
from tests.video import clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, 10 frames each, that tell their number."""
    folder = tmp_path_factory.mktemp("long")
    clips.write_video(folder / "long.mp4", clips.numbered_frames(40, 64, 64), rate=10, options={"g": "8"})
    return folder


def write(folder: Path, rows: str) -> Path:
    table = folder / "clips.csv"
    table.write_text(f"path,label,start,stop\n{rows}")
    return table


def test_rows_of_a_table_give_seconds(folder: Path) -> None:
    table = write(folder, "long.mp4,wave,0.5,1.5\nlong.mp4,sit,2,3.25\nlong.mp4,all,,\n")
    found = read_clips(table).clips
    assert [clip.span for clip in found] == [Span(0.5, 1.5), Span(2, 3.25), None]
    assert [clip.name.name for clip in found] == ["long.mp4#t=0.5,1.5", "long.mp4#t=2,3.25", "long.mp4"]


@pytest.mark.parametrize("cells", ["1,", ",1", "2,1", "1,1", "-1,2", "a,2", "nan,2", "0,nan"])
def test_seconds_that_are_no_stretch_are_refused_with_their_line(folder: Path, cells: str) -> None:
    table = write(folder, f"long.mp4,wave,0,1\nlong.mp4,wave,{cells}\n")
    with pytest.raises(ClipTableError, match=r"line 3.*start and stop, in seconds"):
        read_clips(table)


def test_an_excerpt_is_a_clip_of_its_own(folder: Path) -> None:
    reader = open_clip(folder / "long.mp4", span=Span(1.0, 2.0))
    assert len(reader) == 10 and reader.duration == pytest.approx(1.0) and reader.fps == pytest.approx(10)
    assert clips.frame_numbers(reader.read([9, 0, 0])) == [19, 10, 10]
    assert clips.frame_numbers(np.stack(list(reader))) == list(range(10, 20))
    assert clips.frame_numbers(reader[-2:]) == [18, 19]
    assert clips.frame_numbers(reader.frames_between(0.5, 0.7)) == [15, 16]
    with pytest.raises(IndexError, match=r"0\.\.9"):
        reader.read([10])


def test_a_stretch_ends_with_its_video_and_must_begin_in_it(folder: Path) -> None:
    path = folder / "long.mp4"
    assert len(open_clip(path, span=Span(3.5, 9))) == 5
    with pytest.raises(VideoDecodeError, match=r"long\.mp4: no frame .* 4 and 9 s; the clip lasts 4\.00 s"):
        open_clip(path, span=Span(4, 9))


def test_a_check_names_stretches_that_begin_too_late(folder: Path, tmp_path: Path) -> None:
    write(folder, "long.mp4,wave,3.9,5\nlong.mp4,sit,4,5\nlong.mp4,all,,\n")
    done = CliRunner().invoke(app, ["data", "check", str(folder), "--output", str(tmp_path / "checked.csv")])
    assert done.exit_code == 3, done.output
    assert "long.mp4#t=4,5: begins behind the end of its video, which lasts 4.00 s" in done.output
    assert "#t=3.9" not in done.output and "0 unreadable" in done.output


def test_clips_for_training_and_for_validation_are_warned_of(folder: Path, recwarn) -> None:
    def set_up(rows: str) -> VideoData:
        table = folder / "split.csv"
        table.write_text(f"path,label,split,start,stop\nlong.mp4,a,train,0,2\nlong.mp4,b,train,2,3\n{rows}")
        data = VideoData(str(table), ClipSampling(frames=4), Cropping(), 32)
        data.setup("fit")
        return data

    set_up("long.mp4,a,test,3,4\n")  # another stretch of the same video
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"2 of 3 clips to validate on .* \(the first: .*long.mp4#t=1.5,2.5"):
        set_up("long.mp4,a,test,1.5,2.5\nlong.mp4,b,test,,\nlong.mp4,a,test,3,4\n")


@pytest.mark.parametrize("cache_side", [None, 64])
def test_training_sees_the_stretch_alone(folder: Path, cache_side: int | None) -> None:
    path = folder / "long.mp4"
    listed = [LabelledClip(path, ("a",), span=Span(2, 3)), LabelledClip(path, ("b",), span=Span(7, 8))]
    data = ClipDataset(
        listed, ["a", "b"], ClipSampling(frames=10), Cropping(), 64, training=False, cache_side=cache_side
    )
    clip, label = data[0]
    assert label == 0 and clips.frame_numbers(clip.numpy()) == list(range(20, 30))
    broken = data[1, 0]
    assert isinstance(broken, BrokenClip) and broken.path.name == "long.mp4#t=7,8"


def test_a_data_set_is_asked_like_a_list(folder: Path) -> None:
    path = folder / "long.mp4"
    data = ClipDataset([LabelledClip(path, ("b",)), LabelledClip(path, ("a",), span=Span(9, 10))], ["a", "b"])
    clip, label = data[0]
    assert clip.shape == (8, 3, 224, 224) and clip.dtype == torch.uint8 and label == 1
    assert torch.equal(data[-2][0], clip)
    with pytest.raises(IndexError):
        data[2]
    with pytest.raises(VideoDecodeError, match="9 and 10 s"):
        data[1]
    batch, labels = next(iter(DataLoader(data, batch_size=2, sampler=[0, 0])))
    assert torch.equal(batch, torch.stack([clip, clip])) and labels.tolist() == [1, 1]


def test_a_training_set_asked_like_a_list_follows_torchs_seed(folder: Path) -> None:
    data = ClipDataset([LabelledClip(folder / "long.mp4", ("a",))], ["a"], image_size=32, training=True)
    torch.manual_seed(3)
    first, second = data[0][0], data[0][0]
    torch.manual_seed(3)
    assert torch.equal(data[0][0], first) and not torch.equal(first, second)


def test_repeated_draws_share_their_frames_but_not_their_crop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    noise = np.repeat(generator.integers(0, 255, (1, 64, 64, 3)), 12, axis=0).astype(np.uint8)
    noise[:, 0] = clips.numbered_frames(12, 1, 64)[:, 0]
    path = clips.write_video(folder / "noise.mp4", noise, options={"crf": "0"})
    data = ClipDataset(
        [LabelledClip(path, ("a",))], ["a"], ClipSampling(frames=3), Cropping(), 32, training=True, repeats=2
    )
    chosen: list[list[int]] = []
    plain = ClipSampling.random

    def noted(self: ClipSampling, count: int, generator: np.random.Generator) -> np.ndarray:
        chosen.append(plain(self, count, generator).tolist())
        return np.array(chosen[-1])

    monkeypatch.setattr(ClipSampling, "random", noted)
    items = data.__getitems__([(0, 6), (0, 7), (0, 8), (0, 9)])
    pictures = [item[0] for item in items if not isinstance(item, BrokenClip)]
    assert len(chosen) == 2 and chosen[0] != chosen[1]  # decoded once per pair
    assert not torch.equal(pictures[0], pictures[1])
    for draw, picture in zip((6, 7, 8, 9), pictures, strict=True):  # whoever they share a batch with
        alone = data[0, draw]
        assert not isinstance(alone, BrokenClip) and torch.equal(alone[0], picture)
