"""`fibo classify` and `fibo video-test` from the outside: outputs, reasons and exit status."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fibo_robot.errors import FiboError
from tests.video.clips import numbered_frames, write_video
from tests.video.command_line import LABELS, run
from tests.video.odd_clips import BROKEN, READABLE


@pytest.mark.data
def test_every_odd_clip_gives_labels_or_one_reason(
    checkpoint: Path, shared_data: Path, tmp_path: Path
) -> None:
    files = sorted((shared_data / "video" / "odd").iterdir())
    status, _, errors = run("classify", checkpoint, *files, "--json", tmp_path / "out.jsonl")
    rows = {
        Path(r["path"]).name: r for r in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }
    assert status == 3
    assert {name for name, row in rows.items() if "predictions" in row} == set(READABLE)
    assert {name for name, row in rows.items() if "error" in row} == set(BROKEN)
    for name in BROKEN:
        assert sum(name + ":" in line for line in errors.splitlines()) == 1, name


def test_folder_pattern_and_file_are_found(checkpoint: Path, motion_clips: Path, tmp_path: Path) -> None:
    status, _, errors = run("classify", checkpoint, motion_clips, "--json", tmp_path / "a.jsonl")
    assert status == 0 and "1 files are not named like videos" in errors
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 24
    status, out, _ = run("classify", checkpoint, motion_clips / "left_*.mp4", "--json", "-", "--top-k", 2)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and len(rows) == 12
    assert all(len(row["predictions"]) == 2 for row in rows)
    status, out, _ = run("classify", checkpoint, motion_clips / "left_0.mp4")
    assert status == 0 and "left_0.mp4" in out and "up" in out


def write_mixed_clips(folder: Path) -> tuple[int, set[str]]:
    """95 clips of many kinds and five broken ones; returns the number and the names of the broken."""
    kinds = {
        "h264.mp4": {},
        "mpeg4.avi": {"codec": "mpeg4"},
        "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
        "mpeg2.mpg": {"codec": "mpeg2video"},
        "lossless.mkv": {"codec": "ffv1"},
        "animation.gif": {"codec": "gif", "pixel_format": "rgb8"},
    }
    frames = numbered_frames(9, 48, 64)
    originals = [write_video(folder / name, frames, **how) for name, how in kinds.items()]
    for number in range(95 - len(kinds) - 4):
        original = originals[number % len(originals)]
        place = folder / f"player{number % 3}"
        place.mkdir(exist_ok=True)
        shutil.copy(original, place / f"{number:02d}{original.suffix}")
    write_video(folder / "one_frame.mp4", frames[:1])
    write_video(folder / "tiny.mp4", frames[:, :16, :16])
    write_video(folder / "UPPER CASE, ümlaut.MP4", frames)
    (folder / "pictures").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "pictures" / f"img_{number:05d}.png")
    whole = originals[0].read_bytes()
    broken = {
        "empty.mp4": b"",
        "cut_off.mp4": whole[: len(whole) // 2],
        "random.mkv": np.random.default_rng(0).bytes(5000),
        "text.mov": b"this is no video",
        "picture.avi": (folder / "pictures" / "img_00000.png").read_bytes(),
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    return 95, set(broken)


def test_folder_of_100_clips_of_which_five_are_broken(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    good, broken = write_mixed_clips(folder)
    status, _, errors = run("classify", checkpoint, folder, "--json", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert status == 3 and len(rows) == 100
    assert sum("predictions" in row for row in rows) == good
    assert {Path(row["path"]).name for row in rows if "error" in row} == broken
    reasons = [line for line in errors.splitlines() if any(name in line for name in broken)]
    assert len(reasons) == 5 and "5 of 100 files could not be classified" in errors
    assert "left out" not in errors


def test_folder_of_pictures_is_one_clip(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stroke"
    folder.mkdir()
    for number, frame in enumerate(numbered_frames(6, 40, 40)):
        Image.fromarray(frame).save(folder / f"{number:04d}.jpg")
    status, out, errors = run("classify", checkpoint, folder, "--json", "-")
    assert status == 0 and not errors
    assert json.loads(out)["path"] == str(folder)


def test_csv_has_a_row_per_label_and_a_reason_per_broken_file(
    checkpoint: Path, motion_clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"")
    status, _, _ = run(
        "classify", checkpoint, motion_clips / "left_0.mp4", tmp_path / "bad.mp4", "--csv", tmp_path / "o.csv"
    )
    with (tmp_path / "o.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert status == 3
    assert [row["rank"] for row in rows] == ["1", "2", "3", ""]
    assert "empty" in rows[3]["error"]


def test_more_views_and_crops_change_probabilities_only(checkpoint: Path, motion_clips: Path) -> None:
    one, many = (
        json.loads(run("classify", checkpoint, motion_clips / "left_0.mp4", "--json", "-", *more)[1])
        for more in ((), ("--views", 2, "--crops", 3))
    )
    assert (
        {p["label"] for p in one["predictions"]} == {p["label"] for p in many["predictions"]} == set(LABELS)
    )


def test_nothing_to_classify_is_an_error(checkpoint: Path, motion_clips: Path, tmp_path: Path) -> None:
    with pytest.raises(FiboError, match="No video found"):
        run("classify", checkpoint, tmp_path / "absent.mp4")
    with pytest.raises(FiboError, match="No checkpoint"):
        run("classify", tmp_path / "absent", motion_clips)
