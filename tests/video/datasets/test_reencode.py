"""`fibo data reencode`: the same frames at the same times, small and with keyframes close together."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.video.datasets import reencode as module
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.reencode import Encoding, ReencodeError, encode_clip, reencode
from fibo_robot.video.decode import VideoReader
from fibo_robot.video.reading.scan import scan
from tests.video import clips

SMALL = Encoding(side=48, gop=5, crf=10)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Clips with one keyframe each in class folders, a list, and a file that is neither."""
    folder = tmp_path / "data"
    for name, codec in (("run/a.mp4", "libx264"), ("run/b.avi", "mpeg4"), ("jump/c.webm", "libvpx")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        clips.write_video(folder / name, clips.numbered_frames(23, 64, 96), codec=codec, options={"g": "250"})
    (folder / "clips.csv").write_text("path,label\nrun/a.mp4,run\nrun/b.avi,run\njump/c.webm,jump\n")
    (folder / "notes.pdf").write_text("words")
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(f.relative_to(folder)): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


def test_frames_and_lists_stay_and_the_source_is_untouched(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    done = reencode(data, tmp_path / "small", SMALL, workers=2)
    assert (done.clips, done.lists, done.left_behind, done.failures) == (3, 1, 1, {})
    assert contents(data) == before
    table = read_clips(tmp_path / "small")
    assert [clip.label for clip in table.clips] == ["run", "run", "jump"]
    for clip in table.clips:
        reader = VideoReader(clip.path)
        assert reader.read([0]).shape == (1, 48, 72, 3)
        assert clips.frame_numbers(reader.read(range(23))) == list(range(23))
        content = scan(clip.path)
        assert content.seekable and len(content.start_pts) >= 23 / 5
    assert done.target_bytes == sum(clip.path.stat().st_size for clip in table.clips)


def test_small_clips_are_not_enlarged_and_sides_become_even() -> None:
    assert Encoding(side=256).size(95, 127) == (94, 126)
    assert Encoding(side=256).size(720, 1280) == (256, 454)
    assert Encoding(side=16).size(640, 360) == (28, 16)
    assert Encoding(side=16).size(2000, 16) == (2000, 16)


def test_uneven_times_stay(tmp_path: Path) -> None:
    pts = [0, 1, 2, 3, 30, 31, 60]
    frames = clips.numbered_frames(7, 64, 64)
    source = clips.write_video(tmp_path / "a.mp4", frames, pts=pts, options={"bf": "0"})
    encode_clip(source, tmp_path / "b.mp4", SMALL)
    copy = VideoReader(tmp_path / "b.mp4")
    np.testing.assert_allclose(copy.timestamps, np.array(pts) / 30, atol=1e-4)
    assert clips.frame_numbers(copy.read(range(7))) == list(range(7))


@pytest.mark.data
@pytest.mark.parametrize("name", ["video_90.mov", "gif.gif", "odd_size_127x95.avi", "one_frame.mp4"])
def test_odd_clips_are_written_upright_with_all_their_frames(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    source = VideoReader(shared_data / "video" / "odd" / name)
    encode_clip(source.path, tmp_path / name, Encoding(side=1000, crf=5))
    copy = VideoReader(tmp_path / name)
    assert len(copy) == len(source)
    height, width = copy.read([0]).shape[1:3]
    original = source.read([0])[0].shape
    assert (height, width) == (original[0] // 2 * 2, original[1] // 2 * 2)


def test_what_is_written_is_kept_and_what_has_changed_is_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "small"
    encoded: list[str] = []
    plain = module.encode_clip

    def interrupted(source: Path, copy: Path, encoding: Encoding) -> None:
        encoded.append(source.name)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        plain(source, copy, encoding)

    monkeypatch.setattr(module, "encode_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reencode(data, target, SMALL)
    assert sorted(f.name for f in target.rglob("*.*") if f.is_file()) == sorted(
        ["clips.csv", "reencode.json", *encoded[:2]]
    )
    reencode(data, target, SMALL)
    assert encoded[2:] == [encoded[2]] * 2
    os.utime(data / "run" / "a.mp4")
    reencode(data, target, SMALL)
    assert encoded[4:] == ["a.mp4"]


def test_other_settings_and_other_folders_are_refused(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "small"
    reencode(data, target, SMALL)
    with pytest.raises(ReencodeError, match=r"other settings.*another folder"):
        reencode(data, target, Encoding())
    with pytest.raises(ReencodeError, match="holds something else"):
        reencode(target, data, SMALL)
    (tmp_path / "link").symlink_to(data)
    for inside in (data, data / "small", tmp_path, tmp_path / "link"):
        with pytest.raises(ReencodeError, match="elsewhere"):
            reencode(data, inside, SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReencodeError, match="no videos"):
        reencode(tmp_path / "empty", tmp_path / "out", SMALL)
    with pytest.raises(ReencodeError, match="no folder"):
        reencode(data / "clips.csv", tmp_path / "out", SMALL)


def test_the_command_names_what_it_cannot_read_and_what_to_measure(data: Path, tmp_path: Path) -> None:
    (data / "run" / "b.avi").write_bytes(b"no video")
    table = f"path,label\n{data / 'run' / 'a.mp4'},run\njump/c.webm,jump\n"
    (data / "clips.csv").write_text(table)
    target = tmp_path / "small"
    arguments = ["data", "reencode", str(data), str(target), "--side", "32", "--gop", "4", "--crf", "20"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 3, done.output
    assert "b.avi: no video could be read" in done.output and "2 clips in" in done.output
    assert "1 clips by whole paths, which lead to the originals" in done.output
    assert f"fibo bench decoding --clips {data} --reencoded {target}" in done.output
    assert json.loads((target / "reencode.json").read_text()) == {"side": 32, "gop": 4, "crf": 20}
    assert not (target / "run" / "b.avi").exists()
