"""`fibo video-test` from the outside: what it tests on, what it writes, and its exit status."""

import json
import shutil
from pathlib import Path

import pytest

from fibo_robot.errors import FiboError
from tests.video.command_line import run


def test_video_test_writes_rates_and_pictures(checkpoint: Path, motion_clips: Path, tmp_path: Path) -> None:
    status, out, _ = run(
        "video-test",
        checkpoint,
        "--data",
        motion_clips,
        "--split",
        "test",
        "--views",
        2,
        "--output",
        tmp_path / "t",
    )
    assert status == 0 and "top-1" in out and "8 videos" in out
    result = json.loads((tmp_path / "t" / "test.json").read_text())
    assert result["top1"]["low"] <= result["top1"]["value"] <= result["top1"]["high"]


def test_video_test_refuses_classes_it_does_not_know(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("path,label\na.mp4,jump\n")
    with pytest.raises(FiboError, match="jump"):
        run("video-test", checkpoint, "--data", tmp_path)


def test_only_the_test_split_is_tested_unless_another_is_named(
    checkpoint: Path, motion_clips: Path, tmp_path: Path
) -> None:
    _, out, _ = run("video-test", checkpoint, "--data", motion_clips, "--output", tmp_path / "t")
    assert "8 videos (split test)" in out
    assert json.loads((tmp_path / "t" / "test.json").read_text())["videos"] == 8
    _, out, _ = run(
        "video-test", checkpoint, "--data", motion_clips, "--split", "train", "--output", tmp_path
    )
    assert "16 videos (split train)" in out


def test_without_a_test_split_the_splits_are_named(
    checkpoint: Path, motion_clips: Path, tmp_path: Path
) -> None:
    table = (motion_clips / "clips.csv").read_text().replace(",test", ",val")
    (tmp_path / "clips.csv").write_text(table)
    with pytest.raises(FiboError, match=r"no split for testing: say with --split.*train \(16\), val \(8\)"):
        run("video-test", checkpoint, "--data", tmp_path)


def test_clips_that_nothing_splits_are_all_tested(
    checkpoint: Path, motion_clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "left").mkdir()
    for number in (0, 2, 4):
        shutil.copy(motion_clips / f"left_{number}.mp4", tmp_path / "left")
    status, out, _ = run("video-test", checkpoint, "--data", tmp_path, "--output", tmp_path / "t")
    assert status == 0 and "3 videos (all)" in out
    (tmp_path / "left" / "left_2.mp4").write_bytes(b"no video")
    status, out, errors = run("video-test", checkpoint, "--data", tmp_path, "--output", tmp_path / "t")
    assert status == 3 and "2 videos" in out and "left_2.mp4" in errors


def test_results_that_cannot_be_written_are_said(
    checkpoint: Path, motion_clips: Path, tmp_path: Path, small_files
) -> None:
    # In this process: the limit holds for the memory that processes share, too.
    arguments = ("--data", motion_clips, "--output", tmp_path / "t", "--workers", 0)
    with small_files(2000), pytest.raises(FiboError, match=r"cannot be written to .*File too large"):
        run("video-test", checkpoint, *arguments)
