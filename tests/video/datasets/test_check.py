"""Checking a data set: one row per clip, and an interrupted check continues."""

from pathlib import Path

import pytest
from PIL import Image

from fibo_robot.video.datasets import check
from fibo_robot.video.datasets.check import check_clip, check_clips, find_clips
from fibo_robot.video.datasets.table import ClipTableError
from tests.video.odd_clips import BROKEN, READABLE


def test_rows_tell_what_a_clip_holds(motion_clips: Path) -> None:
    row = check_clip(motion_clips / "left_0.mp4")
    assert (row.frames, row.fps, row.height, row.width, row.codec) == (12, 30.0, 32, 32, "h264")
    assert row.problem == ""
    assert "no such file" in check_clip(motion_clips / "absent.mp4").problem


def test_known_rows_are_not_read_again(motion_clips: Path, tmp_path: Path) -> None:
    files, description = find_clips(motion_clips)
    assert len(files) == 24 and "clips.csv" in description
    table = tmp_path / "checked.csv"
    first = check_clips(files[:3], table)
    text = table.read_text()
    table.write_text(text.replace("h264", "seen"))  # rows that are kept show this
    again = check_clips(files[:4], table)
    assert [row.codec for row in again] == ["seen", "seen", "seen", "h264"]
    assert again[0].frames == first[0].frames == 12


def test_what_was_mended_is_read_again(motion_clips: Path, tmp_path: Path) -> None:
    whole = (motion_clips / "left_0.mp4").read_bytes()
    clip = tmp_path / "clip.mp4"
    for content, is_whole in ((bytes(len(whole)), False), (whole, True)):  # as long as before
        clip.write_bytes(content)
        (row,) = check_clips([clip], tmp_path / "checked.csv")
        assert (row.problem == "") is is_whole


def test_pictures_are_checked_again_for_another_frame_rate(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
    table = tmp_path / "checked.csv"
    rates = [check_clips([tmp_path], table, frame_rate=rate)[0].fps for rate in (30.0, 15.0)]
    assert rates == [30.0, 15.0]


def test_another_table_is_not_overwritten(motion_clips: Path) -> None:
    with pytest.raises(ClipTableError, match="another --output"):
        check_clips([motion_clips / "left_0.mp4"], motion_clips / "clips.csv")


@pytest.mark.data
def test_check_agrees_with_the_odd_clips(shared_data: Path) -> None:
    folder = shared_data / "video" / "odd"
    for name in ("gif.gif", "video_90.mov", "mpeg2.mpg"):
        row = check.check_clip(folder / name)
        assert (row.frames, row.height, row.width) == READABLE[name]
    for name, reason in BROKEN.items():
        assert reason in check.check_clip(folder / name).problem
